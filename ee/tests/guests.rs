//! Guests of every kind on a node where another flow goes on: whatever one does, the other loses no packet,
//! and when it has ended every byte that it had is back.

mod common;

use std::time::Duration;

use common::guest::{self, answer, ask, flow, question};
use common::hostile::attacks;
use common::{Fate, Options, Random, World};
use ee::node::SessionId;
use wire::control::{Answer, Erred, FlowState, Request};
use wire::id::PartHash;
use wire::tuple::{Companion, Coupling, Provider, Tuple, Validity};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A flow from a over b to c whose packets must not be lost.
struct Victim {
    session: SessionId,
    sent: u32,
}

impl Victim {
    fn start(world: &mut World) -> Self {
        world.start(0, &ask("victim", 5));
        let session = world.session(0, "victim");
        let mut victim = Self { session, sent: 0 };
        // The first one brings the code; on the way it may have to wait.
        victim.pings(world, 1);
        world.run(SECOND);
        victim.pings(world, 20);
        victim
    }

    /// Sends a ping every five milliseconds; each must be answered before the next.
    #[track_caller]
    fn pings(&mut self, world: &mut World, count: u32) {
        for _ in 0..count {
            self.sent += 1;
            world.say(0, self.session, &question(b'c', self.sent));
            let limit = if self.sent == 1 { SECOND } else { 5 * MILLI };
            world.run(limit);
            let heard = world.heard(0, self.session);
            assert_eq!(heard, [answer(b'c', 5, self.sent)], "ping {}: {:?}", self.sent, world.log(1));
        }
    }
}

#[test]
fn hostile_guests_are_stopped_and_the_victim_goes_on() {
    // A link carries more than one team may send.
    let options = Options { team: "rate = \"20mbit\"", link: "rate = \"1gbit\"", ..Options::default() };
    for attack in attacks() {
        let name = attack.name;
        let mut world = World::line_with(3, options);
        let mut victim = Victim::start(&mut world);
        let before = world.holds(1);
        let moved = attack.counter.map(|counter| (counter, world.count(1, counter)));
        let hash = world.inject(1, &attack.flow());
        world.run(10 * MILLI);
        victim.pings(&mut world, 200);
        let state = world.state(1, hash).unwrap();
        match (attack.end, state) {
            (Some(end), FlowState::Ended(why)) => assert!(why.contains(end), "{name}: {why}"),
            (None, FlowState::Running) => {
                let strikes = world.teams(1)[2].strikes;
                assert!(strikes < 8, "{name}");
                assert_eq!(world.stop(1, hash, false), Answer::Done);
                world.run(5 * MILLI);
            }
            (end, state) => panic!("{name}: expected {end:?}, is {state:?}, {:?}", world.teams(1)),
        }
        if let Some((counter, before)) = moved {
            assert!(world.count(1, counter) > before, "{name}: {counter}");
        }
        // What it sent to others is theirs; here nothing of it is left.
        assert_eq!(world.holds(1), before, "{name}");
        victim.pings(&mut world, 20);
    }
}

#[test]
fn a_guest_that_traps_on_a_capsule_takes_nobody_along() {
    let mut world = World::line(3);
    let mut victim = Victim::start(&mut world);
    let trap = r#"(func (export "on_capsule") (param i32 i32 i32 i32) (unreachable))
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0))))"#;
    let hash = world.start(0, &guest::of("trap", trap));
    let before = world.holds(1);
    let session = world.session(0, "trap");
    world.say(0, session, b"go");
    world.run(SECOND);
    assert!(world.why(1, hash).starts_with("guest: guest trapped"), "{:?}", world.log(1));
    assert_eq!((world.count(1, "guest_traps"), world.holds(1)), (1, before));
    // For ten seconds it does not come back, however often it is sent.
    for _ in 0..9 {
        world.say(0, session, b"go");
        victim.pings(&mut world, 10);
        world.run(SECOND);
    }
    assert_eq!(world.count(1, "guest_traps"), 1);
    // Then it does, and is kept away for longer.
    world.run(5 * SECOND);
    world.say(0, session, b"go");
    world.run(SECOND);
    assert_eq!(world.count(1, "guest_traps"), 2);
    for _ in 0..18 {
        world.say(0, session, b"go");
        world.run(SECOND);
    }
    assert_eq!((world.count(1, "guest_traps"), world.holds(1)), (2, before));
    victim.pings(&mut world, 10);
}

/// A flow that its operator stopped stays away, even if its guest fails while it is being stopped.
#[test]
fn what_the_operator_stops_stays_away_until_injected() {
    for handlers in
        ["", "(func (export \"on_stop\") (unreachable))", "(func (export \"on_stop\") (loop $l (br $l)))"]
    {
        let mut world = World::line(2);
        let send = r#"(func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0))))"#;
        let flow = guest::of("sticky", &format!("{send}{handlers}"));
        let hash = world.start(0, &flow);
        let session = world.session(0, "sticky");
        let empty = world.holds(1);
        world.say(0, session, b"go");
        world.run(SECOND);
        assert_eq!(world.state(1, hash), Some(FlowState::Running));
        assert_eq!(world.stop(1, hash, false), Answer::Done);
        for _ in 0..40 {
            world.say(0, session, b"go");
            world.run(SECOND);
        }
        assert!(matches!(world.state(1, hash), Some(FlowState::Ended(_))), "{handlers}");
        assert_eq!(world.holds(1), empty);
        world.start(1, &flow);
    }
}

/// A thousand flows that do a bit of everything, ended at any moment in any way: each byte, buffer, flow
/// and team comes back.
#[test]
fn a_thousand_ends_give_every_byte_back() {
    let module = guest::module(guest::BUSY);
    let mut world = World::line(2);
    // Once for the compiled code, which stays, and for what the nodes keep of their own.
    let first = world.start(0, &flow("busy", module.clone(), |b| b.nonce = [0xff; 16]));
    world.stop(0, first, true);
    world.run(SECOND);
    let empty = [world.holds(0), world.holds(1)];
    let mut random = Random::new(3);
    let mut ends = [0; 4];
    for cycle in 0..1000u32 {
        let flow = flow("busy", module.clone(), |b| b.nonce[..4].copy_from_slice(&cycle.to_le_bytes()));
        let hash = world.inject(0, &flow);
        let session = (random.below(4) > 0).then(|| {
            world.run(Duration::from_micros(random.below(3000) as u64));
            let now = world.time();
            let id = world.stations[0].node.session_open(now, &hash.to_string()).ok()?;
            for _ in 0..random.below(5) {
                let _ = world.stations[0].node.session_send(now, id, &vec![1; random.below(9000)]);
            }
            Some(id)
        });
        world.run(Duration::from_micros(random.below(40_000) as u64));
        let now = world.time();
        if random.below(3) == 0
            && let Some(Some(id)) = session
        {
            world.stations[0].node.session_close(now, id);
        }
        for node in [0, 1] {
            match world.state(node, hash) {
                Some(FlowState::Ended(_)) => ends[3] += 1,
                None => ends[2] += 1,
                Some(_) => {
                    let kill = random.below(2) == 0;
                    match world.stop(node, hash, kill) {
                        Answer::Done => ends[usize::from(kill)] += 1,
                        // It ended by itself after it was looked at.
                        _ => {
                            assert!(matches!(world.state(node, hash), Some(FlowState::Ended(_)) | None));
                            ends[3] += 1;
                        }
                    }
                }
            }
        }
        if cycle % 16 == 15 {
            // What it said to the other node may have started it there once more.
            world.run(20 * MILLI);
            for node in [0, 1] {
                let Answer::Flows(page) = world.control(node, Request::FlowShow { from: 0 }) else {
                    panic!()
                };
                for info in page.items.iter().filter(|f| !matches!(f.state, FlowState::Ended(_))) {
                    world.stop(node, info.hash, true);
                }
            }
            world.run(3 * SECOND);
            assert_eq!([world.holds(0), world.holds(1)], empty, "after cycle {cycle}");
        }
    }
    assert!(ends.iter().all(|n| *n > 10), "stopped, killed, never there, ended by themselves: {ends:?}");
}

/// A flow that is ended while it compiles: nobody waits, nothing is compiled for nobody.
#[test]
fn a_flow_that_ends_while_it_waits_leaves_no_job() {
    let mut world = World::line(1);
    let empty = world.holds(0);
    let now = world.time();
    for n in 0..50u8 {
        let flow = guest::big(ask("ask", n), 100_000);
        let node = &mut world.stations[0].node;
        let (part, total) = (flow.part(), flow.module.len() as u32);
        for (piece, offset) in flow.module.chunks(40_000).zip((0..).step_by(40_000)) {
            let put = Request::PartPut { part, total, offset, bytes: piece.to_vec() };
            assert_eq!(node.control(now, "admin", put), Answer::Done);
        }
        let tuple = flow.tuple.clone();
        assert_eq!(node.control(now, "admin", Request::FlowInject { tuple }), Answer::Injected(flow.hash()));
        assert_eq!(
            node.control(now, "admin", Request::FlowStop { flow: flow.hash(), kill: true }),
            Answer::Done
        );
    }
    assert!(world.stations[0].node.job().is_none());
    assert_eq!(world.holds(0), empty);
}

#[test]
fn the_injection_door() {
    let mut world = World::line_with(1, Options { node: "flows = 4", ..Options::default() });
    let empty = world.holds(0);
    let error = |answer: Answer| match answer {
        Answer::Error(error) => (error.erred, error.text),
        other => panic!("{other:?}"),
    };
    let inject = |tuple: Vec<u8>| Request::FlowInject { tuple };
    let good = ask("good", 1);
    for garbage in
        [vec![], vec![0; 10], good.tuple[1..].to_vec(), [&good.tuple[..], &[0]].concat(), vec![9; 20_000]]
    {
        assert_eq!(error(world.control(0, inject(garbage))).0, Erred::Operator);
    }
    // A tuple whose module was not put before.
    assert_eq!(world.control(0, inject(good.tuple.clone())), Answer::Injected(good.hash()));
    let why = world.why(0, good.hash());
    assert!(
        why.starts_with("operator: part") && why.ends_with("was not put before the flow was injected"),
        "{why}"
    );
    assert_eq!(world.holds(0), empty);
    // Twice the same.
    let hash = world.start(0, &good);
    let again = error(world.control(0, inject(good.tuple.clone())));
    assert_eq!(again, (Erred::Operator, "this flow is here already".into()));
    world.stop(0, hash, true);
    assert_eq!(world.holds(0), empty);
    // Parts that are not what they are said to be.
    let part = PartHash::of(b"abc");
    let put = |total, offset, bytes: &[u8]| Request::PartPut { part, total, offset, bytes: bytes.to_vec() };
    for bad in [
        put(3, 0, b"abd"),
        put(0, 0, b""),
        put(3, 1, b"bc"),
        put(3, 2, b"cd"),
        put(u32::MAX, 0, b"a"),
        put(9, u32::MAX, b"abc"),
    ] {
        assert_eq!(error(world.control(0, bad)).0, Erred::Operator);
    }
    assert_eq!(error(world.stop(0, hash, true)).0, Erred::Operator);
    assert_eq!(error(world.control(0, Request::FlowTuple { flow: hash })).0, Erred::Operator);
    // Tuples that this node does not let in.
    let refused = |world: &mut World, flow: guest::Flow| {
        world.inject(0, &flow);
        world.run(SECOND);
        // Its part waits for another tuple, for a minute.
        world.run(60 * SECOND);
        let why = world.why(0, flow.hash());
        assert_eq!(world.holds(0), empty, "{why}");
        why
    };
    let module = &good.module;
    let late =
        flow("late", module.clone(), |b| b.validity = Validity { from: None, until: Some(common::WALL - 1) });
    assert!(refused(&mut world, late).starts_with("principal:"));
    let hungry = flow("hungry", module.clone(), |b| b.request.budgets.memory = Some(1000));
    assert!(refused(&mut world, hungry).contains("memory"));
    let companion = flow("companion", module.clone(), |b| {
        let (interface, provider) = ("second".into(), Provider::System("nobody/1".into()));
        b.protocols[0].companions = vec![Companion { interface, coupling: Coupling::Capsules, provider }];
    });
    assert!(refused(&mut world, companion).starts_with("node: the flow uses the interface nobody/1, which"));
    let broken = flow("broken", module[..module.len() - 3].to_vec(), |_| ());
    assert!(refused(&mut world, broken).starts_with("principal: module refused"));
    let tuple = Tuple::decode(&good.tuple).unwrap();
    let mut long = tuple.clone();
    long.body.protocols[0].code.len = 1 << 20;
    assert_eq!(
        world.control(0, inject(long.encode())),
        Answer::Injected(guest::Flow { tuple: long.encode(), module: vec![] }.hash())
    );
    assert_eq!(world.holds(0), empty);
    // No more than the table holds.
    for n in 0..4 {
        world.start(0, &flow("many", module.clone(), |b| b.nonce = [n; 16]));
    }
    let full = error(world.try_inject(0, &flow("many", module.clone(), |b| b.nonce = [4; 16])));
    assert_eq!(full.0, Erred::Node);
}

/// Parts that no tuple names are kept for a minute, and there is a bound on them.
#[test]
fn parts_without_a_tuple_go_away() {
    let mut world = World::line(1);
    let empty = world.holds(0);
    let mut refused = 0;
    for n in 0..100_000u32 {
        let part = PartHash::of(&n.to_le_bytes());
        let put = Request::PartPut { part, total: 2, offset: 0, bytes: vec![1] };
        let now = world.time();
        refused += u32::from(world.stations[0].node.control(now, "admin", put) != Answer::Done);
    }
    assert!(refused > 80_000, "a record has its price, too");
    assert!(world.info(0).memory.0 <= (4 << 20) + empty.0);
    world.run(61 * SECOND);
    assert_eq!(world.holds(0), empty);
}

/// Packets of a program wait at the team's expense, and no further than its memory goes.
#[test]
fn programs_that_write_faster_than_a_flow_reads() {
    let mut world = World::line_with(1, Options { team: "queue = 1000", ..Options::default() });
    let slow = r#"(func (export "on_session") (param i32 i32 i32 i32))"#;
    let flow = flow("slow", guest::module(slow), |b| b.request.budgets.memory = Some(400_000));
    let hash = world.start(0, &flow);
    let session = world.session(0, "slow");
    // The slots of its queue stay.
    let now = world.time();
    while world.stations[0].node.session_send(now, session, &[7; 16_000]).is_ok() {}
    world.run(SECOND);
    let before = world.holds(0);
    let now = world.time();
    let node = &mut world.stations[0].node;
    let sent = (0..1000).take_while(|_| node.session_send(now, session, &[7; 16_000]).is_ok()).count();
    assert!((5..30).contains(&sent), "{sent}");
    assert!(world.teams(0)[1].memory.0 <= 400_000);
    world.run(SECOND);
    assert_eq!(world.holds(0), before);
    // The queue of a killed flow is given back as well.
    let now = world.time();
    while world.stations[0].node.session_send(now, session, &[7; 16_000]).is_ok() {}
    world.stop(0, hash, true);
    assert_eq!(world.holds(0).0, before.0 - (before.0 - world.teams(0)[0].memory.0));
}

/// A guest whose program does not read is refused, and told when there is room: nothing is lost, and the node is not
/// filled with answers.
#[test]
fn programs_that_do_not_read() {
    let chatty = r#"
        (global $s (mut i32) (i32.const 0))
        (func $all (local $error i32)
            (loop $more
                (i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1)))
                (br_if $more (i32.eqz (local.tee $error
                    (call $session_reply (global.get $s) (i32.const 512) (i32.const 16000))))))
            (i32.store (i32.const 512) (i32.sub (i32.load (i32.const 512)) (i32.const 1)))
            (if (i32.ne (local.get $error) (i32.const -7)) (then (unreachable))))
        (func (export "on_session") (param $c i32) (param $session i32) (param $what i32) (param $len i32)
            (global.set $s (local.get $session))
            (if (i32.and (i32.eq (local.get $what) (i32.const 3)) (i32.ne (local.get $c) (i32.const 0)))
                (then (unreachable)))
            (if (i32.or (i32.eqz (local.get $what)) (i32.eq (local.get $what) (i32.const 3))) (then (call $all))))"#;
    let mut world = World::line(1);
    world.start(0, &guest::of("chatty", chatty));
    let before = world.teams(0)[1].memory.0;
    let session = world.session(0, "chatty");
    world.run(100 * MILLI);
    let full = world.teams(0)[1].memory.0;
    assert!(full > before + 48_000 && full < before + 80_000, "{before} to {full}");
    let mut heard: Vec<u32> = Vec::new();
    for _ in 0..20 {
        let now = world.time();
        assert_eq!(world.stations[0].node.session_send(now, session, b"-"), Ok(()), "the session goes on");
        let packets = world.heard(0, session);
        assert!(packets.len() <= 4, "{}", packets.len());
        heard.extend(packets.iter().map(|p| u32::from_le_bytes(p[..4].try_into().unwrap())));
        world.run(10 * MILLI);
        assert!(world.teams(0)[1].memory.0 < before + 80_000);
    }
    assert!(heard.len() >= 60 && heard.iter().copied().eq(1..=heard.len() as u32), "{heard:?}");
}

/// Sessions that are opened and closed faster than the guest is told: none stays open in the guest.
#[test]
fn every_session_that_ends_is_told() {
    let count = r#"
        (global $open (mut i32) (i32.const 0))
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (if (i32.eq (local.get $what) (i32.const 0)) (then (global.set $open (i32.add (global.get $open) (i32.const 1)))))
            (if (i32.eq (local.get $what) (i32.const 2)) (then (global.set $open (i32.sub (global.get $open) (i32.const 1)))))
            (if (i32.eq (local.get $what) (i32.const 1)) (then
                (i32.store8 (i32.const 512) (global.get $open))
                (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 1))))))"#;
    let mut world = World::line_with(1, Options { team: "queue = 10", ..Options::default() });
    world.start(0, &guest::of("count", count));
    for _ in 0..100 {
        let now = world.time();
        let node = &mut world.stations[0].node;
        let open: Vec<SessionId> = (0..12).filter_map(|_| node.session_open(now, "count").ok()).collect();
        for id in &open {
            while node.session_send(now, *id, b"x").is_ok() {}
        }
        open.into_iter().for_each(|id| node.session_close(now, id));
        world.run(10 * MILLI);
    }
    let session = world.session(0, "count");
    world.say(0, session, b"?");
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [[1]]);
}

/// A panic's line, and the function's name without one, are shown of a flow that runs again, and of one that is gone.
#[test]
fn how_a_guest_failed_is_shown_also_when_it_is_gone() {
    let mut world = World::line(2);
    let failing = r#"(data (i32.const 200) "p panicked at lib.rs:7")
        (func $deep (param i32) (drop (i32.load (i32.const -4))))
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
            (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 108)) (then (loop $l (br $l))))
            (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 100)) (then (call $deep (i32.const 1))))
            (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0))))
        (func (export "on_capsule") (param i32 i32 i32 i32)
            (drop (call $log (i32.const 0) (i32.const 200) (i32.const 22)))
            (drop (call $log (i32.const 2) (i32.const 64) (i32.const 12)))
            (unreachable))"#;
    let flow = guest::of("p", failing);
    let hash = world.start(0, &flow);
    let crashes = |world: &mut World, at: usize| world.flow(at, hash).unwrap().crashes;
    let session = world.session(0, "p");
    world.say(0, session, b"go");
    world.run(SECOND);
    let [panic] = &crashes(&mut world, 1)[..] else { panic!("{:?}", world.log(1)) };
    assert_eq!(
        (panic.during.as_str(), panic.said.as_deref()),
        ("capsule all", Some("p panicked at lib.rs:7"))
    );
    let line = "guest trapped, in capsule all: p panicked at lib.rs:7";
    assert_eq!(panic.to_string(), line);
    assert_eq!(world.why(1, hash), format!("guest: {line}"));
    assert!(world.log(1).iter().any(|l| l.contains(line)), "{:?}", world.log(1));

    world.say(0, session, b"deep");
    world.run(SECOND);
    let [trap] = &crashes(&mut world, 0)[..] else { panic!("{:?}", world.log(0)) };
    assert!(trap.why.contains("out of bounds") && trap.why.ends_with("in deep"), "{trap}");
    assert_eq!((trap.during.as_str(), &trap.said), ("session", &None));
    for times in 2..6 {
        assert_eq!(world.inject(0, &flow), hash);
        assert!(world.run_until(SECOND, |w| w.state(0, hash) == Some(FlowState::Running)));
        assert_eq!(crashes(&mut world, 0).len(), (times - 1).min(3), "of the lives before");
        let session = world.session(0, "p");
        world.say(0, session, b"loop");
        world.run(SECOND);
        let all = crashes(&mut world, 0);
        assert_eq!(all.len(), times.min(3));
        assert!(all.last().unwrap().why.contains("deadline") && all.is_sorted_by_key(|c| c.at_us));
    }
}

/// A timer that fires into a full queue fires later.
#[test]
fn timers_survive_a_full_queue() {
    let once = r#"
        (global $s (mut i32) (i32.const 0))
        (func (export "on_session") (param $c i32) (param $session i32) (param $what i32) (param $len i32)
            (global.set $s (local.get $session))
            (if (i32.eq (local.get $what) (i32.const 1)) (then
                (drop (call $timer_set (i64.const 0) (i64.const 0) (i64.const 0))))))
        (func (export "on_timer") (param i32 i32 i64)
            (drop (call $session_reply (global.get $s) (i32.const 0) (i32.const 1))))"#;
    let mut world = World::line_with(1, Options { team: "queue = 4\ntimers = 16", ..Options::default() });
    world.start(0, &guest::of("once", once));
    let session = world.session(0, "once");
    world.run(MILLI);
    for _ in 0..3 {
        let now = world.time();
        for _ in 0..4 {
            world.stations[0].node.session_send(now, session, b"x").unwrap();
        }
        world.run(MILLI);
    }
    world.run(SECOND);
    assert_eq!(world.heard(0, session).len(), 12);
}

/// More flows than the operator's client can read at once: the list comes in pages that fit a message.
#[test]
fn lists_fit_their_messages() {
    let mut world =
        World::line_with(1, Options { node: "flows = 100\nmemory = \"64M\"", ..Options::default() });
    let module = guest::module("");
    for n in 0..70 {
        let privilege = |i: u32| wire::tuple::Privilege { name: format!("{i:064}"), optional: true };
        world.inject(
            0,
            &flow(&format!("{n:064}"), module.clone(), |b| {
                b.request.privileges = (0..32).map(privilege).collect()
            }),
        );
    }
    world.run(SECOND);
    let mut seen = 0;
    let mut from = 0;
    loop {
        let answer = world.control(0, Request::FlowShow { from });
        assert!(wire::control::encode(&answer).len() <= wire::control::MAX_MESSAGE);
        let Answer::Flows(page) = answer else { panic!() };
        seen += page.items.len();
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(seen, 70);
    for request in [
        Request::NodeShow,
        Request::LinkShow,
        Request::NeighborShow,
        Request::ProtocolShow,
        Request::Log { from: 0 },
        Request::TeamShow { from: 0 },
    ] {
        let answer = world.control(0, request);
        assert!(wire::control::encode(&answer).len() <= wire::control::MAX_MESSAGE);
    }
}

/// Teams may send their rate and no more; what the link cannot carry is dropped and counted.
#[test]
fn floods_are_held_to_their_rate() {
    let options = Options { team: "rate = \"8mbit\"\nburst = \"8k\"", ..Options::default() };
    let mut world = World::line_with(2, options);
    let floods = attacks().into_iter().find(|a| a.name == "floods").unwrap();
    world.tap(|frame| if frame.to == 1 { Fate::Lose } else { Fate::Pass });
    world.start(0, &floods.flow());
    world.run(SECOND / 5);
    let before = world.teams(0)[1].sent.0;
    world.run(SECOND);
    let sent = world.teams(0)[1].sent.0 - before;
    assert!((900_000..1_100_000).contains(&sent), "{sent} bytes in a second");
}
