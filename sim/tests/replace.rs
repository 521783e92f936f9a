//! A new version rolls through a network with the traffic: what the links do not lose is not lost, and nothing comes
//! twice; and back.
//!
//! `cargo test -p sim --test replace -- --nocapture` prints how long it took.

mod common;

use std::time::Duration;

use common::guest::{self, Flow};
use common::real::{counter, find_flow, total};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Session, Sim};
use wire::control::FlowState;
use wire::id::TupleHash;
use wire::replace::Replacement;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 30;

/// Passes each number on that it has not seen, and counts those that it sees for the first time and again. Tells a program
/// both, and its VERSION. It hands over what it has seen.
const RELAY: &str = r#"
    (func $seen (param $n i32) (result i32) (local $at i32) (local $bit i32)
        (local.set $at (i32.add (i32.const 2048) (i32.shr_u (local.get $n) (i32.const 3))))
        (local.set $bit (i32.shl (i32.const 1) (i32.and (local.get $n) (i32.const 7))))
        (if (i32.and (i32.load8_u (local.get $at)) (local.get $bit)) (then
            (i32.store (i32.const 1028) (i32.add (i32.load (i32.const 1028)) (i32.const 1)))
            (return (i32.const 1))))
        (i32.store8 (local.get $at) (i32.or (i32.load8_u (local.get $at)) (local.get $bit)))
        (i32.store (i32.const 1024) (i32.add (i32.load (i32.const 1024)) (i32.const 1)))
        (i32.const 0))
    (func $pass (param $c i32) (param $flags i32)
        (if (call $seen (i32.load (i32.const 0))) (then (return)))
        (drop (call $capsule_resize (local.get $c) (i32.const 4)))
        (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 0) (i32.const 4)))
        (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (local.get $flags))))
    (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
        (call $pass (local.get $c) (i32.const 2)))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (if (i32.eq (local.get $len) (i32.const 4)) (then (call $pass (local.get $c) (i32.const 0)) (return)))
        (i32.store (i32.const 1032) (i32.const VERSION))
        (drop (call $session_reply (local.get $s) (i32.const 1024) (i32.const 12))))
    (func (export "on_handover") (result i32) (call $handover_write (i32.const 1024) (i32.const 2048)))
    (func (export "on_takeover") (param $c i32) (param $len i32) (result i32)
        (i32.ne (call $handover_read (i32.const 0) (i32.const 1024) (i32.const 2048)) (i32.const 2048)))"#;

fn version(number: u8, nonce: u8, old: Option<TupleHash>) -> Flow {
    let module = guest::module(&RELAY.replace("VERSION", &number.to_string()));
    guest::flow("relay", module, |body| {
        body.nonce = [nonce; 16];
        body.replaces = old;
        let how = Replacement { handover: true, types: vec![((0, 0), (0, 0))] };
        body.extensions.extend(old.map(|_| how.extension()));
    })
}

/// What a node says: numbers seen for the first time, again, and its version.
fn told(sim: &mut Sim, at: usize) -> Option<[u32; 3]> {
    let session = sim.session(at, "relay").ok()?;
    sim.send(session, b"?").ok()?;
    let mut answer = None;
    sim.run_until(SECOND, |sim| {
        answer = sim.received(session).ok().and_then(|packets| packets.into_iter().next());
        answer.is_some()
    });
    sim.close(session);
    let answer = answer?;
    Some(std::array::from_fn(|n| u32::from_le_bytes(answer[n * 4..n * 4 + 4].try_into().unwrap())))
}

fn runs(sim: &mut Sim, at: usize, flow: &Flow) -> bool {
    find_flow(sim, at, &flow.hash()).is_some_and(|f| f.state == FlowState::Running)
}

/// Whatever nodes dropped, for who looks for it.
fn losses(sim: &mut Sim) -> Vec<(usize, &'static str, u64)> {
    let names = [
        "capsules_waiting_dropped",
        "capsules_refused",
        "capsules_without_successor",
        "capsules_neighbor_denied",
        "team_queue_full",
        "send_dropped",
        "downloads_given_up",
        "replacements_failed",
        "flows_started",
        "flows_refused",
        "guest_traps",
        "guest_overruns",
    ];
    let each = |at: usize| names.map(|name| (at + 1, name));
    let all: Vec<_> = (0..sim.nodes()).filter(|at| sim.node(*at).is_some()).flat_map(each).collect();
    let counted = all.into_iter().map(|(at, name)| (at, name, counter(sim, at - 1, name)));
    counted.filter(|(_, name, n)| *n > if *name == "flows_started" { 3 } else { 0 }).collect()
}

/// The first node's program sends a number every so often.
struct Load {
    session: Session,
    next: u32,
    every: Duration,
}

impl Load {
    fn run(&mut self, sim: &mut Sim, time: Duration) {
        let end = sim.now() + time;
        while sim.now() < end {
            sim.send(self.session, &self.next.to_le_bytes()).unwrap();
            self.next += 1;
            sim.run_for(self.every);
        }
    }

    /// Runs until each of these nodes has a version; how long that took.
    fn until(&mut self, sim: &mut Sim, nodes: &[usize], flow: &Flow, what: &str) -> Duration {
        let begun = sim.now();
        while !nodes.iter().all(|at| runs(sim, *at, flow)) {
            assert!(sim.now() < begun + 10 * SECOND, "{what}: it does not get everywhere");
            self.run(sim, self.every * 5);
        }
        sim.now().since(begun)
    }
}

/// The first version at all nodes, and the session of the program at the first.
fn start(lab: &Lab, seed: u64) -> (Sim, Flow, Load) {
    let shape = Shape { rate: Some(12_500_000), delay: MILLI, ..Shape::default() };
    let mut sim = Sim::new(&lab.clone().shaped(shape), seed, Options::default()).unwrap();
    let one = version(1, 1, None);
    sim.inject(0, &one.tuple, &[&one.module]).unwrap();
    assert!(sim.run_until(5 * SECOND, |sim| runs(sim, 0, &one)));
    let session = sim.session(0, "relay").unwrap();
    sim.send(session, &0u32.to_le_bytes()).unwrap();
    let everywhere = |sim: &mut Sim| (0..NODES).all(|at| runs(sim, at, &one));
    assert!(sim.run_until(20 * SECOND, everywhere));
    // What waits at the front of a new version is what came since the first of its capsules set out, of which a node
    // keeps 32: with some nine milliseconds for each hop no more than this may come.
    (sim, one, Load { session, next: 1, every: 10 * MILLI })
}

/// Along a line there is one way for each number: whatever is lost or doubled on it shows.
#[test]
fn a_new_version_rolls_along_a_line_and_nothing_is_lost() {
    let (mut sim, one, mut load) = start(&Lab::line(NODES), 1);
    let all: Vec<usize> = (0..NODES).collect();
    load.run(&mut sim, SECOND / 2);
    let two = version(2, 2, Some(one.hash()));
    sim.inject(0, &two.tuple, &[&two.module]).unwrap();
    let there = load.until(&mut sim, &all, &two, "there");
    load.run(&mut sim, SECOND / 2);
    // Back: the modules of the first version, in a tuple that names the second.
    let three = version(1, 3, Some(two.hash()));
    sim.inject(0, &three.tuple, &[&three.module]).unwrap();
    let back = load.until(&mut sim, &all, &three, "back");
    load.run(&mut sim, SECOND / 2);
    sim.run_for(2 * SECOND);
    for at in 0..NODES {
        assert_eq!(told(&mut sim, at), Some([load.next, 0, 1]), "node {}: {:?}", at + 1, losses(&mut sim));
        assert!(!runs(&mut sim, at, &one) && !runs(&mut sim, at, &two), "node {}", at + 1);
    }
    assert_eq!(total(&mut sim, "flows_replaced"), 2 * NODES as u64);
    for wrong in
        ["replacements_failed", "capsules_without_successor", "capsules_waiting_dropped", "guest_traps"]
    {
        assert_eq!(total(&mut sim, wrong), 0, "{wrong}");
    }
    println!("{} numbers past {NODES} nodes; there in {there:?}, back in {back:?}", load.next);
}

/// In a network with many ways each node hears every number once, and again over the other ways; nodes that fail in the
/// middle come back with the version that their neighbors have.
#[test]
fn nodes_may_fail_while_a_new_version_rolls() {
    for seed in 0..3 {
        let (mut sim, one, mut load) = start(&Lab::random(NODES, 6, seed), seed);
        load.run(&mut sim, SECOND / 5);
        let two = version(2, 2, Some(one.hash()));
        sim.inject(0, &two.tuple, &[&two.module]).unwrap();
        load.run(&mut sim, 10 * MILLI);
        let fail = [7, 15, 23];
        let lab = Lab::random(NODES, 6, seed);
        let near = |at: usize| {
            let of =
                move |l: &sim::lab::Link| l.ends.contains(&at).then(|| l.ends[usize::from(l.ends[0] == at)]);
            lab.links.iter().filter_map(of).collect::<Vec<_>>()
        };
        // Whoever can be reached while they are away.
        let mut reached = vec![0];
        let mut at = 0;
        while let Some(node) = reached.get(at).copied() {
            let more = near(node).into_iter().filter(|n| !fail.contains(n) && !reached.contains(n));
            let more: Vec<usize> = more.collect();
            reached.extend(more);
            at += 1;
        }
        assert!(reached.len() > NODES / 2);
        fail.iter().for_each(|at| sim.crash(*at));
        load.run(&mut sim, SECOND / 2);
        fail.iter().for_each(|at| sim.restart(*at).unwrap());
        let all: Vec<usize> = (0..NODES).collect();
        load.until(&mut sim, &all, &two, "with failures");
        load.run(&mut sim, SECOND / 2);
        sim.run_for(2 * SECOND);
        for at in 0..NODES {
            let [seen, _, version] = told(&mut sim, at).expect("it runs");
            assert_eq!(version, 2, "seed {seed}, node {}", at + 1);
            assert!(!runs(&mut sim, at, &one), "seed {seed}, node {}", at + 1);
            if reached.contains(&at) {
                assert_eq!(seen, load.next, "seed {seed}, node {}: {:?}", at + 1, losses(&mut sim));
            }
        }
    }
}
