//! Who runs when, and what it is charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nodeos::buf::BufPool;
use nodeos::platform::{Meter, NoSensors, Still};
use wire::control::{Answer, FlowState, Request};
use wire::id::{PartHash, TupleHash};
use wire::tuple::{Body, CapsuleType, Credentials, Part, Privilege, Protocol, Tuple};

use super::*;
use crate::config::{ADMIN, NodeConfig};
use crate::flow::Flow;
use crate::{Engine, Metering, Platform};

/// Of a packet: `l` is long, `s` is short, `t` traps in its second slice.
const GUEST: &str = r#"(module (memory (export "memory") 1 1) (func (export "bees_abi_1"))
    (global (export "bees_inbox") i32 (i32.const 0))
    (func (export "on_session") (param i32 i32 i32 i32) (local $n i32) (local $most i32)
        (if (i32.ne (local.get 2) (i32.const 1)) (then (return)))
        (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 115)) (then (return)))
        (local.set $most (select (i32.const 9000) (i32.const 3000)
            (i32.eq (i32.load8_u (i32.const 0)) (i32.const 108))))
        (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $n) (local.get $most))))
        (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 116)) (then (unreachable)))))"#;

fn flow(nonce: u8) -> (Vec<u8>, Vec<u8>) {
    flow_of(nonce, GUEST, &[crate::cap::BACKGROUND])
}

/// A flow that does something when it boots, and nothing when a packet comes.
fn plain(nonce: u8, boot: &str) -> (Vec<u8>, Vec<u8>) {
    let guest = format!(
        r#"(module (import "bees" "timer_set" (func $timer_set (param i64 i64 i64) (result i32)))
        (memory (export "memory") 1 1) (func (export "bees_abi_1"))
        (global (export "bees_inbox") i32 (i32.const 0))
        (func (export "on_boot") (param i32) {boot})
        (func (export "on_timer") (param i32 i32 i64))
        (func (export "on_session") (param i32 i32 i32 i32)))"#
    );
    flow_of(nonce, &guest, &[])
}

fn flow_of(nonce: u8, guest: &str, privileges: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let module = wat::parse_str(guest).unwrap();
    let protocol = Protocol {
        capsules: vec![CapsuleType { name: "k".into(), limits: Default::default(), derives: vec![] }],
        session: true,
        ..Protocol::new(&format!("p{nonce}"), Part::of(&module).unwrap())
    };
    let asked = privileges.iter().map(|name| Privilege { name: (*name).into(), optional: false });
    let mut body = Body::new([nonce; 16], vec![protocol]);
    body.request.privileges = asked.collect();
    (module, Tuple { body, credentials: Credentials::None }.encode())
}

/// Flows in the middle of an event, and teams with something to do, found by looking at all of them.
fn looked_up(node: &Node) -> (usize, usize) {
    let suspended = |f: &&Flow| matches!(&f.stage, Stage::Running { sandbox, .. } if sandbox.is_suspended());
    let busy = |id: &TeamId| {
        let held = node.teams.get(*id).and_then(held_until).is_some();
        !held && node.sched.queued(*id) > 0
    };
    let flows = node.flows.iter().map(|(_, flow)| flow);
    (flows.filter(suspended).count(), node.teams.iter().map(|(id, _)| id).filter(busy).count())
}

#[test]
fn who_is_in_the_middle_of_an_event_is_counted_through_all_ends() {
    let mut now = Now::mono(Instant(0));
    let mut node =
        node(Arc::new(Still), Metering::Fuel, "event = \"10us\"\nbackground = \"200us\"\nqueue = 4");
    let (mut seed, mut seen, mut ends) = (1u64, [0usize; 2], 0);
    let mut sessions = std::collections::HashMap::new();
    let mut random = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    for _ in 0..3000 {
        let nonce = 1 + random(4) as u8;
        let (module, tuple) = flow(nonce);
        let hash = TupleHash::of(&tuple);
        match (node.flows.by_hash(&hash), random(40)) {
            (None, _) => drop(injected(&mut node, now, (module, tuple))),
            (Some(_), kill @ 0..2) => {
                ends += 1;
                let stop = Request::FlowStop { flow: hash, kill: kill == 1 };
                assert_eq!(node.control(now, ADMIN, stop), Answer::Done);
            }
            (Some(handle), 2) => {
                let team = node.flow_and_team(handle).unwrap().1;
                node.throttle(now, team, Duration::from_millis(30));
            }
            (Some(handle), n @ 3..12) => {
                let packet = if n == 3 {
                    b"t"
                } else if n < 8 {
                    b"l"
                } else {
                    b"s"
                };
                if node.sessions.count(handle) == 0
                    && let Ok(session) = node.session_open(now, &format!("p{nonce}"))
                {
                    sessions.insert(nonce, session);
                }
                if let Some(session) = sessions.get(&nonce) {
                    let _ = node.session_send(now, *session, packet);
                }
            }
            _ => {
                now.mono.0 += random(5000);
                node.poll(now);
            }
        }
        let (suspended, busy) = looked_up(&node);
        assert_eq!((node.suspended, node.sched.busy()), (suspended, busy));
        let only = suspended > 0 && suspended == busy;
        assert_eq!(node.only_long_work(), only);
        seen[usize::from(only)] += 1;
    }
    assert!(seen[0] > 100 && seen[1] > 100 && ends > 50, "{seen:?}, {ends} ends");
    assert!(node.counters.get(Count::Traps) > 0 && node.counters.get(Count::Throttled) == 0);
}

/// Whoever looks at the time sees that a microsecond has passed; and, once so many have looked, that the processor
/// was somebody else's for twenty milliseconds.
#[derive(Default)]
struct Taken {
    time: AtomicU64,
    looks: AtomicU64,
}

const AWAY: u64 = 20_000;

impl Meter for Taken {
    fn count(&self) -> u64 {
        let away = self.looks.fetch_sub(1, Relaxed) == 1;
        self.time.fetch_add(if away { AWAY } else { 1 }, Relaxed)
    }

    fn per_micro(&self) -> u64 {
        1
    }
}

fn node(meter: Arc<dyn Meter>, metering: Metering, config: &str) -> Node {
    let platform = Platform {
        name: "test",
        meter,
        interrupter: Arc::new(Still),
        entropy: Arc::new(Still),
        sensors: Arc::new(NoSensors),
        engine: Engine::new(metering).unwrap(),
        buffers: BufPool::new(64),
        disk: None,
    };
    let config = format!("[node]\nname = \"b\"\n[team]\n{config}");
    Node::new(&NodeConfig::parse(&config).unwrap(), platform, Now::mono(Instant(0))).unwrap()
}

fn started(node: &mut Node, now: Now, flow: (Vec<u8>, Vec<u8>)) -> Handle {
    let hash = injected(node, now, flow);
    while node.poll(now) {}
    node.flows.by_hash(&hash).expect("it runs")
}

/// Everything is done for a flow but its first event.
fn injected(node: &mut Node, now: Now, (module, tuple): (Vec<u8>, Vec<u8>)) -> TupleHash {
    let (hash, part) = (TupleHash::of(&tuple), PartHash::of(&module));
    let put = Request::PartPut { part, total: module.len() as u32, offset: 0, bytes: module };
    assert_eq!(node.control(now, ADMIN, put), Answer::Done);
    assert_eq!(node.control(now, ADMIN, Request::FlowInject { tuple }), Answer::Injected(hash));
    while let Some(job) = node.job() {
        let done = job.run();
        node.job_done(now, done);
    }
    hash
}

#[test]
fn what_others_had_of_the_processor_is_not_charged() {
    let (meter, now) = (Arc::new(Taken::default()), Now::mono(Instant(0)));
    let mut node = node(meter.clone(), Metering::Epoch, "event = \"300us\"");
    let handle = started(&mut node, now, plain(1, ""));
    let team = node.flow_and_team(handle).unwrap().1;
    let session = node.session_open(now, "p1").unwrap();
    while node.poll(now) {}
    let mut all = Vec::new();
    // Wherever it happens: while the guest works, before or after.
    for looks in 1..40 {
        let before = node.teams.get(team).unwrap().counters.units;
        node.session_send(now, session, b"x").unwrap();
        meter.looks.store(looks, Relaxed);
        while node.poll(now) {}
        meter.looks.store(0, Relaxed);
        all.push(node.teams.get(team).unwrap().counters.units - before);
    }
    assert!(all.iter().all(|units| *units <= 600), "{all:?}");
    assert!(all.contains(&600), "it never happened while the guest worked: {all:?}");
    assert!(node.unchargeable() > AWAY - 600, "it is the root's");
}

#[test]
fn who_has_no_room_for_what_is_due_is_not_looked_at_again_and_again() {
    let mut now = Now::mono(Instant(0));
    let mut node = node(Arc::new(Still), Metering::Fuel, "queue = 2");
    let set = "(drop (call $timer_set (i64.const 1000) (i64.const 0) (i64.const 0)))";
    let handle = started(&mut node, now, plain(1, set));
    let session = node.session_open(now, "p1").unwrap();
    while node.poll(now) {}
    assert_eq!(node.wakes.first(), Some(&(Instant(1000), handle)));
    now.mono.0 = 5000;
    while node.session_send(now, session, b"x").is_ok() {}
    assert!(!node.has_room(handle));
    // Nothing runs yet: its turn comes with its own next event, or a little later.
    assert!(!node.timers_due(now));
    assert_eq!(node.wakes.first(), Some(&(now.mono + NO_ROOM, handle)));
    assert!(!node.run_teams(now) && node.has_room(handle));
    assert_eq!(node.wakes.first(), Some(&(Instant(1000), handle)));
    let before = node.teams.iter().map(|(_, team)| team.counters.events).sum::<u64>();
    assert!(!node.timers_due(now) && node.wakes.is_empty());
    while node.poll(now) {}
    assert_eq!(node.teams.iter().map(|(_, team)| team.counters.events).sum::<u64>(), before + 1);
}

/// A queue that was long gives its slots back. A team without memory for new ones loses no timer.
#[test]
fn what_is_due_is_not_lost_for_want_of_memory() {
    let mut now = Now::mono(Instant(0));
    let mut node = node(Arc::new(Still), Metering::Fuel, "queue = 200");
    let set = "(drop (call $timer_set (i64.const 9000) (i64.const 0) (i64.const 0)))
        (drop (call $timer_set (i64.const 9000) (i64.const 0) (i64.const 1)))";
    let handle = started(&mut node, now, plain(1, set));
    let session = node.session_open(now, "p1").unwrap();
    while node.session_send(now, session, b"x").is_ok() {}
    while node.poll(now) {}
    let (_, team) = node.flow_and_team(handle).unwrap();
    let account = node.teams.get(team).unwrap().account().clone();
    let _all = account.charge(account.left()).unwrap();
    let events = |node: &Node| node.teams.get(team).unwrap().counters.events;
    let before = events(&node);
    now.mono.0 = 10_000;
    assert!(node.session_send(now, session, b"x").is_err(), "it has no memory for anything else");
    for _ in 0..5 {
        while node.poll(now) {}
        now.mono = now.mono + NO_ROOM;
    }
    assert_eq!(events(&node) - before, 2, "one after the other");
}

#[test]
fn no_more_flows_are_looked_at_for_what_is_due_than_a_poll_has_time_for() {
    let mut now = Now::mono(Instant(0));
    let mut node = node(Arc::new(Still), Metering::Fuel, "");
    let set = "(drop (call $timer_set (i64.const 1000) (i64.const 0) (i64.const 0)))";
    let flows = TEAMS_PER_POLL as u8 + 8;
    for nonce in 1..=flows {
        started(&mut node, now, plain(nonce, set));
    }
    now.mono.0 = 5000;
    assert!(node.timers_due(now), "there are more");
    assert_eq!(node.sched.len(), TEAMS_PER_POLL);
    assert!(!node.timers_due(now));
    assert_eq!((node.sched.len(), node.wakes.len()), (flows.into(), 0));
}

/// A flow that is refused many timers with each packet and then ends itself, and wants to end in its clean-up, too.
const LEAVER: &str = r#"(module
    (import "bees" "timer_set" (func $timer_set (param i64 i64 i64) (result i32)))
    (import "bees" "flow_end" (func $flow_end (result i32)))
    (memory (export "memory") 1 1) (func (export "bees_abi_1"))
    (global (export "bees_inbox") i32 (i32.const 0))
    (func (export "on_stop") (drop (call $flow_end)))
    (func (export "on_session") (param i32 i32 i32 i32) (local $n i32)
        (if (i32.ne (local.get 2) (i32.const 1)) (then (return)))
        (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (drop (call $timer_set (i64.const 1000000) (i64.const 0) (i64.const 0)))
            (br_if $l (i32.lt_u (local.get $n) (i32.const 70))))
        (drop (call $flow_end))))"#;

#[test]
fn who_ends_itself_is_judged_first_and_does_not_say_why_others_ended_it() {
    let mut now = Now::mono(Instant(0));
    let mut node = node(Arc::new(Still), Metering::Fuel, "timers = 2");
    let ended = |node: &Node| node.flows.ended().last().map(|info| info.state.clone());
    for strikes in 1..4 {
        let handle = started(&mut node, now, flow_of(1, LEAVER, &[]));
        let hash = node.flows.get(handle).unwrap().hash;
        let session = node.session_open(now, "p1").unwrap();
        node.session_send(now, session, b"x").unwrap();
        while node.poll(now) {}
        assert_eq!(ended(&node), Some(FlowState::Ended("stopped by itself".into())));
        let conduct = node.bans.resume(now.mono, hash, None).expect("it is remembered");
        assert_eq!(conduct.strikes(), strikes);
        node.bans.remember(hash, None, conduct);
        // Its third life would begin throttled.
        now.mono = now.mono + Duration::from_secs(3);
    }
    let handle = started(&mut node, now, flow_of(2, LEAVER, &[]));
    let end = End { graceful: true, ..End::failed(Erred::Guest, "struck out") };
    let why = FlowState::Ended(end.why.clone());
    node.end_flow(now, handle, end);
    assert_eq!(ended(&node), Some(why));
}
