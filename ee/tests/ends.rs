//! Warnings before a limit, what follows for whoever keeps running into one, and how flows end.

mod common;

use std::time::Duration;

use common::guest::{self, Flow};
use common::{Options, World};
use ee::abi::Resource;
use ee::node::{SessionError, SessionId};
use nodeos::link::LinkId;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, FlowState, Request, TeamInfo};
use wire::id::{CapsuleId, Path};
use wire::tuple::{Budgets, DataPart, Part, Privilege};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Does as the first byte of a packet says. What it was warned of it tells when it is asked (`w`): a bit for each resource.
const GUEST: &str = r#"
    (global $warned (mut i32) (i32.const 0))
    (global $next (mut i32) (i32.const 0))
    (data (i32.const 256) "flowstupleboot")
    (func $say (param $s i32) (param $n i32)
        (i32.store (i32.const 512) (local.get $n))
        (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 4))))
    (func (export "on_warning") (param $r i32)
        (global.set $warned (i32.or (global.get $warned) (i32.shl (i32.const 1) (local.get $r)))))
    (func (export "on_capsule") (param i32 i32 i32 i32))
    (func (export "on_timer") (param $c i32) (param $t i32) (param $token i64)
        (drop (call $log (i32.const 2) (i32.const 266) (i32.const 4))))
    (func (export "on_stop") (drop (call $log (i32.const 2) (i32.const 256) (i32.const 5))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (local $op i32) (local $n i32)
        (if (i32.eq (local.get $what) (i32.const 2)) (then
            (drop (call $log (i32.const 2) (i32.const 64) (i32.const 8)))))
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (local.set $op (i32.load8_u (i32.const 0)))
        (if (i32.eq (local.get $op) (i32.const 119)) (then ;; w
            (call $say (local.get $s) (global.get $warned))
            (global.set $warned (i32.const 0))))
        (if (i32.eq (local.get $op) (i32.const 63)) (then ;; ?
            (call $say (local.get $s) (i32.wrap_i64 (call $budget_left (i32.load8_u (i32.const 1)))))))
        (if (i32.eq (local.get $op) (i32.const 116)) (then ;; t
            (drop (call $timer_set (i64.load (i32.const 8)) (i64.const 0) (i64.const 0)))))
        (if (i32.eq (local.get $op) (i32.const 109)) (then ;; m
            (call $say (local.get $s) (memory.grow (i32.const 1)))))
        (if (i32.eq (local.get $op) (i32.const 99)) (then ;; c
            (global.set $next (i32.add (global.get $next) (i32.const 1)))
            (i32.store (i32.const 512) (global.get $next))
            (drop (call $cache_put (i32.const 512) (i32.const 4) (i32.const 0) (i32.const 4) (i32.const 9000000)))))
        (if (i32.eq (local.get $op) (i32.const 115)) (then ;; s
            (drop (call $capsule_resize (local.get $c) (i32.const 100)))
            (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0)))))
        (if (i32.eq (local.get $op) (i32.const 98)) (then ;; b
            (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get $n) (i32.const 210000))))))
        (if (i32.eq (local.get $op) (i32.const 120)) (then ;; x
            (drop (call $capsule_read (local.get $c) (i32.const 0) (i32.const -1) (i32.const 2)))))
        (if (i32.eq (local.get $op) (i32.const 102)) (then ;; f
            (call $say (local.get $s) (call $flow_start (call $cap_lookup (i32.const 256) (i32.const 5)) (i32.const 4096)
                (call $data_read (i32.const 261) (i32.const 5) (i32.const 0) (i32.const 4096) (i32.const 8192))
                (i32.const 0)))))
        (if (i32.eq (local.get $op) (i32.const 33)) (then (unreachable))))
"#;

fn plain() -> Flow {
    guest::of("guest", GUEST)
}

/// A flow that carries two others of the same module.
fn family() -> (Flow, [Flow; 2]) {
    let children =
        [1, 2].map(|n| guest::flow(&format!("child{n}"), guest::module(GUEST), |body| body.nonce = [n; 16]));
    let parent = guest::flow("guest", guest::module(GUEST), |body| {
        let part = Part::of(&children[0].tuple).unwrap();
        body.protocols[0].data = vec![DataPart { name: "tuple".into(), part }];
        body.request.privileges = vec![Privilege { name: "flows".into(), optional: false }];
        body.request.budgets.memory = Some(700 << 10);
    });
    (parent, children)
}

fn with(team: &str) -> World {
    World::line_with(2, Options { team, ..Options::default() })
}

fn team(world: &mut World, node: usize, name: &str) -> TeamInfo {
    world.teams(node).into_iter().find(|t| t.name == name).expect("its team lives")
}

fn used(team: &TeamInfo, kind: &str) -> u64 {
    let budget = team.budgets.iter().find(|b| b.kind.name() == kind);
    budget.and_then(|b| b.used).expect("it is shown")
}

fn number(packet: &[u8]) -> i32 {
    i32::from_le_bytes(packet.try_into().expect("four bytes"))
}

fn ask(world: &mut World, node: usize, session: SessionId, packet: &[u8]) -> i32 {
    world.heard(node, session);
    world.say(node, session, packet);
    world.run(MILLI);
    number(&world.heard(node, session)[0])
}

/// What the guest was warned of since the last time.
fn warned(world: &mut World, node: usize, session: SessionId) -> Vec<Resource> {
    let bits = ask(world, node, session, b"w");
    (0..32).filter(|n| bits & 1 << n != 0).map(|n| Resource::of(n).unwrap()).collect()
}

const TIMER: [u8; 16] = [b't', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0];

#[test]
fn a_guest_is_warned_of_whatever_has_a_soft_threshold() {
    type Case<'a> = (&'a str, &'a [u8], usize, usize, Resource);
    let cases: [Case<'_>; 9] = [
        ("timers = 8", &TIMER, 5, 6, Resource::Timers),
        ("timers_total = 8", &TIMER, 5, 6, Resource::TimersTotal),
        ("cache_entries = 4", b"c", 2, 3, Resource::CacheEntries),
        // With the boot, the opening, a question after each.
        ("events_total = 24", b"-", 7, 9, Resource::EventsTotal),
        ("memory = \"500k\"", b"m", 1, 4, Resource::Memory),
        // The burst is some 40 frames; the event's capsule has a limit of four sends.
        ("rate = \"8kbit\"\nburst = \"4k\"", b"s", 10, 40, Resource::Bandwidth),
        ("packets = 6", b"s", 1, 6, Resource::Bandwidth),
        ("total_rate = \"8kbit\"", b"s", 10, 60, Resource::Bandwidth),
        ("event = \"2ms\"", b"b", 0, 1, Resource::Processor),
    ];
    for (config, packet, before, times, resource) in cases {
        let mut world = with(config);
        world.start(0, &plain());
        let session = world.session(0, "guest");
        for n in 1..=times {
            world.say(0, session, packet);
            world.run(MILLI);
            let warned = if n <= before || n == times { warned(&mut world, 0, session) } else { vec![] };
            assert!(n > before || warned.is_empty(), "{config}: {warned:?} after {n}");
            assert!(n < times || warned == [resource], "{config}: {warned:?} after {n}");
        }
        // It can ask how much is left, and is not warned again while it stays so.
        if resource != Resource::EventsTotal {
            let left = ask(&mut world, 0, session, &[b'?', resource as u8]);
            assert!(left >= 0, "{config}: {left}");
            assert_eq!(warned(&mut world, 0, session), [], "{config}");
        }
    }
    let mut world = with("sessions = 4");
    world.start(0, &plain());
    let sessions: Vec<SessionId> = (0..3).map(|_| world.session(0, "guest")).collect();
    world.run(MILLI);
    assert_eq!(warned(&mut world, 0, sessions[0]), [Resource::Sessions]);
    // Below half of the threshold it is forgotten.
    for _ in 0..2 {
        let now = world.time();
        sessions[1..].iter().for_each(|s| world.stations[0].node.session_close(now, *s));
        world.run(MILLI);
        let again: Vec<SessionId> = (0..2).map(|_| world.session(0, "guest")).collect();
        world.run(MILLI);
        assert_eq!(warned(&mut world, 0, sessions[0]), [Resource::Sessions]);
        let now = world.time();
        again.iter().for_each(|s| world.stations[0].node.session_close(now, *s));
        world.run(MILLI);
    }
}

#[test]
fn what_was_spent_on_the_way_is_told_at_the_start() {
    let flow = plain();
    let start = |config: &str| {
        let mut world = with(config);
        world.start(0, &flow);
        let session = world.session(0, "guest");
        world.say(0, session, b"s");
        world.run(SECOND);
        let session = world.session(1, "guest");
        (warned(&mut world, 1, session), team(&mut world, 1, "guest"))
    };
    let (nothing, first) = start("");
    assert_eq!(nothing, []);
    let cases = [("code", Resource::Code), ("download", Resource::Download), ("compile", Resource::Compile)];
    for (name, resource) in cases {
        let (most, unit) = (used(&first, name) * 5 / 4, if name == "compile" { "us" } else { "" });
        assert_eq!(start(&format!("{name} = \"{most}{unit}\"")).0, [resource]);
    }
}

#[test]
fn of_a_shared_account_whoever_takes_and_whose_it_is_are_warned() {
    let (parent, children) = family();
    let mut world = with("");
    world.put(0, &children[0].tuple);
    world.start(0, &parent);
    let other = world.start(0, &children[1]);
    let main = world.session(0, "guest");
    assert!(ask(&mut world, 0, main, b"f") > 0);
    world.run(SECOND);
    let [child, brother] = ["child1", "child2"].map(|name| world.session(0, name));
    assert_eq!(warned(&mut world, 0, main), []);
    let (mut pages, mut heard) = (0, vec![]);
    while heard.is_empty() {
        assert!(team(&mut world, 0, "guest").memory.1 * 100 < 75 * (700 << 10));
        assert!(ask(&mut world, 0, child, b"m") > 0);
        heard = warned(&mut world, 0, child);
        pages += 1;
        assert!(pages < 10);
    }
    let taker = team(&mut world, 0, "child1");
    assert!(taker.memory.1 * 100 < 75 * taker.memory.2, "its own bound is far");
    assert_eq!(heard, [Resource::Memory]);
    assert_eq!(warned(&mut world, 0, main), [Resource::Memory]);
    assert_eq!(warned(&mut world, 0, brother), [], "a team of its own");
    assert_eq!(world.state(0, other), Some(FlowState::Running));

    for (config, resource) in [("flows = 1", Resource::Flows), ("flows_total = 1", Resource::FlowsTotal)] {
        let mut world = with(config);
        world.put(0, &children[0].tuple);
        world.start(0, &parent);
        let main = world.session(0, "guest");
        assert!(ask(&mut world, 0, main, b"f") > 0);
        world.run(MILLI);
        assert_eq!(warned(&mut world, 0, main), [resource]);
    }
}

#[test]
fn who_is_limited_to_less_than_he_has_is_warned() {
    let mut world = with("timers = 8");
    let hash = world.start(0, &plain());
    let session = world.session(0, "guest");
    for _ in 0..4 {
        world.say(0, session, &TIMER);
    }
    world.run(MILLI);
    assert_eq!(warned(&mut world, 0, session), []);
    let budgets = Budgets { timers: Some(3), ..Budgets::default() };
    assert_eq!(world.control(0, Request::FlowLimit { flow: hash, budgets }), Answer::Done);
    assert_eq!(warned(&mut world, 0, session), [Resource::Timers]);
    assert_eq!(ask(&mut world, 0, session, &[b'?', Resource::Timers as u8]), 0);
}

#[test]
fn a_warning_that_finds_no_room_comes_later() {
    let mut world = with("queue = 4\ntimers = 4");
    world.start(0, &plain());
    let session = world.session(0, "guest");
    world.run(MILLI);
    let now = world.time();
    let node = &mut world.stations[0].node;
    // The queue is full when the third timer is set, and has no place behind it.
    let mut sent = 0;
    while node.session_send(now, session, &TIMER).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 4);
    world.run(SECOND);
    assert_eq!(warned(&mut world, 0, session), [Resource::Timers]);
}

#[test]
fn strikes_throttle_then_stop_then_ban() {
    let mut world = with("");
    let flow = plain();
    let hash = world.start(0, &flow);
    let (session, other) = (world.session(0, "guest"), world.start(0, &guest::ask("other", 1)));
    let strike = |world: &mut World| {
        world.say(0, session, b"x");
        world.run(50 * MILLI);
        world.count(0, "teams_throttled")
    };
    assert_eq!(strike(&mut world), 0);
    assert_eq!(strike(&mut world), 1);
    let shown = team(&mut world, 0, "guest");
    assert_eq!((shown.strikes, shown.shares.0, shown.throttled_us), (2, 100 / 8, 0));
    // Its events begin 10 ms after one another for a second from then on, and nobody else's.
    let from = world.now;
    for _ in 0..30 {
        world.say(0, session, b"-");
    }
    world.run(100 * MILLI);
    let events = team(&mut world, 0, "guest").events;
    assert!((19..=21).contains(&events.1), "{events:?}");
    world.run(300 * MILLI);
    let shown = team(&mut world, 0, "guest");
    assert_eq!(shown.events.1, 0);
    let held = shown.throttled_us;
    assert!((250_000..=310_000).contains(&held), "{held} of {}", world.now - from);
    assert_eq!(warned(&mut world, 0, session), [Resource::Processor]);
    world.run(SECOND);
    let shown = team(&mut world, 0, "guest");
    assert_eq!((shown.shares.0, shown.strikes), (100, 2));
    let before = world.now;
    for _ in 0..30 {
        world.say(0, session, b"-");
    }
    world.run(2 * MILLI);
    assert_eq!(team(&mut world, 0, "guest").events.1, 0, "it has its share again: {}", world.now - before);
    // Each further strike doubles the time, and the last one ends it, after its own clean-up.
    for (strikes, seconds) in (3..8).zip([2u64, 4, 8, 16, 32]) {
        assert_eq!(strike(&mut world), strikes - 1);
        assert_eq!(team(&mut world, 0, "guest").strikes, strikes as u32);
        world.run(Duration::from_secs(seconds) - 100 * MILLI);
        assert_eq!(team(&mut world, 0, "guest").shares.0, 12);
        world.run(100 * MILLI);
        assert_eq!(team(&mut world, 0, "guest").shares.0, 100);
    }
    assert!(!world.log(0).iter().any(|l| l.ends_with(": flows")));
    strike(&mut world);
    let why = world.why(0, hash);
    assert!(why.starts_with("guest: it kept asking"), "{why}");
    assert!(world.log(0).iter().any(|l| l.ends_with(": flows")), "it cleaned up: {:?}", world.log(0));
    assert_eq!((world.count(0, "teams_struck_out"), world.count(0, "guest_traps")), (1, 0));
    assert_eq!(world.stations[0].node.session_packet(session), Err(SessionError::Closed));
    assert_eq!(world.state(0, other), Some(FlowState::Running));
    assert_eq!(world.teams(0).len(), 2);
}

#[test]
fn what_ends_in_the_middle_of_its_throttling_leaves_nothing() {
    for kill in [false, true] {
        let mut world = with("");
        let empty = world.holds(0);
        let hash = world.start(0, &plain());
        let session = world.session(0, "guest");
        for _ in 0..3 {
            world.say(0, session, b"x");
        }
        world.run(30 * MILLI);
        assert_eq!(team(&mut world, 0, "guest").shares.0, 12);
        for _ in 0..9 {
            world.say(0, session, b"-");
        }
        world.run(MILLI);
        assert!(team(&mut world, 0, "guest").events.1 > 0);
        assert_eq!(world.stop(0, hash, kill), Answer::Done);
        assert!(matches!(world.state(0, hash), Some(FlowState::Ended(_))));
        let now = world.time();
        let deadline = world.stations[0].node.deadline(now);
        assert!(deadline.is_none_or(|at| at > now.mono), "{deadline:?}: nothing of it is due");
        world.run(SECOND);
        assert_eq!(world.holds(0), empty);
    }
}

/// Asked for again and again, a flow that traps, or wants too much, costs the node less and less.
#[test]
fn a_loop_of_crashes_costs_less_each_time() {
    const CRASH: &str = r#"
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0))))
        (func (export "on_capsule") (param i32 i32 i32 i32) (local $n i32) BODY)"#;
    let overuse =
        "(loop $l (drop (memory.grow (i32.const 1000))) (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $n) (i32.const 40))))";
    for body in ["(unreachable)", "(loop $l (br $l))", overuse] {
        let mut world = World::line(2);
        world.start(0, &guest::of("crash", &CRASH.replace("BODY", body)));
        let session = world.session(0, "crash");
        let compiled = world.compiled;
        let mut starts = Vec::new();
        // Ten minutes, five capsules a second.
        for _ in 0..10 {
            let asked = world.count(0, "translations_served");
            for _ in 0..300 {
                world.say(0, session, b"go");
                world.run(200 * MILLI);
            }
            starts.push((world.count(1, "flows_started"), world.count(0, "translations_served") - asked));
        }
        let (all, _) = *starts.last().unwrap();
        // 10, 20, 40 ... seconds after one another: six within ten minutes, and one more where it lives on for a while.
        assert!((4..=7).contains(&all), "{body}: {starts:?}");
        assert!(starts[4].0 + 2 >= all, "{body}: {starts:?}");
        assert_eq!(world.compiled - compiled, 1, "{body}: it is compiled once");
        assert!(starts.iter().all(|(_, asked)| *asked <= 8), "{body}: {starts:?}");
        assert!(starts[5..].iter().all(|(_, asked)| *asked <= 2), "{body}: {starts:?}");
        assert_eq!(world.count(1, "teams_struck_out"), all, "{body}");
        assert_eq!(world.teams(1).len(), 1, "{body}");
    }
}

#[test]
fn a_loop_of_what_may_not_be_had_costs_less_each_time() {
    for config in ["download = \"100\"", "events_total = 20"] {
        let mut world = with(config);
        world.start(0, &plain());
        // Capsules that the first node did not send, or its own team would run out of events, too.
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5];
        frame.resize(14 + HEADER_LEN, 0);
        let id = CapsuleId::compute(&plain().hash(), &Path::default(), 0, &[]);
        Capsule::emit_header(&mut frame[14..], &id, 0);
        let mut flows = Vec::new();
        for _ in 0..2 {
            for _ in 0..300 {
                world.hand(1, LinkId(0), &frame);
                world.run(200 * MILLI);
            }
            flows.push(world.count(1, "flows_ended"));
        }
        assert!((2..=4).contains(&flows[0]) && flows[1] <= flows[0] + 1, "{config}: {flows:?}");
        assert!(world.count(0, "translations_served") <= 12, "{config}");
    }
}

/// An operator may inject what was kept away; how often it was is remembered.
#[test]
fn injecting_does_not_make_a_crash_cheaper_for_neighbors() {
    let mut world = World::line(1);
    let flow = guest::of("crash", "(func (export \"on_boot\") (param i32) (unreachable))");
    for _ in 0..4 {
        let hash = world.inject(0, &flow);
        world.run(SECOND);
        assert!(world.why(0, hash).contains("trap"));
    }
    assert_eq!(world.compiled, 1);
    assert_eq!((world.count(0, "guest_traps"), world.count(0, "flows_started")), (4, 4));
}

#[test]
fn a_full_queue_of_a_subtree_loses_no_timer_and_no_end_of_a_session() {
    let (parent, children) = family();
    let mut world = with("queue = 4\nsessions = 2");
    world.put(0, &children[0].tuple);
    world.start(0, &parent);
    let main = world.session(0, "guest");
    assert!(ask(&mut world, 0, main, b"f") > 0);
    world.run(SECOND);
    // Each has a timer of 10 ms.
    let mut timer = TIMER;
    timer[8..].copy_from_slice(&10_000u64.to_le_bytes());
    let child = world.session(0, "child1");
    world.run(MILLI);
    for session in [main, child] {
        world.say(0, session, &timer);
    }
    world.run(MILLI);
    let lines = |world: &mut World, end: &str| world.log(0).iter().filter(|l| l.ends_with(end)).count();
    assert_eq!(lines(&mut world, ": boot"), 0);
    // Then all queues are filled, and nothing runs: the parent's bounds what waits for both.
    world.now += 20_000;
    let now = world.time();
    let node = &mut world.stations[0].node;
    let mut sent = [0; 2];
    for (session, sent) in [child, main].into_iter().zip(&mut sent) {
        while node.session_send(now, session, b"-") == Ok(()) {
            *sent += 1;
        }
    }
    assert_eq!(sent, [4, 4]);
    // The timers are due and find no room, the sessions end and make some.
    node.session_close(now, child);
    node.session_close(now, main);
    let dropped = world.count(0, "team_queue_full");
    world.run(100 * MILLI);
    assert_eq!(lines(&mut world, ": boot"), 2, "{:?}", world.log(0));
    assert_eq!(lines(&mut world, ": neighbor"), 2, "{:?}", world.log(0));
    assert_eq!(world.count(0, "team_queue_full"), dropped);
    // 4 and 4 packets, the timer and the end of each were handled, and the guests hold no session any more.
    for name in ["guest", "child1"] {
        let team = team(&mut world, 0, name);
        assert_eq!((team.events.1, used(&team, "sessions"), used(&team, "timers")), (0, 0, 0), "{name}");
    }
}
