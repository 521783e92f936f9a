//! Links that are cut and nodes that crash, at any moment of a search: the code comes again, the search comes
//! to its end, and nothing stays behind.

mod common;

use std::time::Duration;

use common::real::{self, ask, counter, find_flow, found, held, number, open, rest, start};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use wire::control::{FlowState, Request};
use wire::id::TupleHash;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn shape() -> Shape {
    Shape { rate: Some(12_500_000), delay: MILLI, ..Shape::default() }
}

/// Stops a flow wherever it runs. Then every node holds what it held before the flow came, all buffers are
/// back, and no frame is on its way.
fn nothing_is_left(sim: &mut Sim, hash: TupleHash, idle: &[(u64, u32, u32)], what: &str) {
    for at in 0..sim.nodes() {
        if find_flow(sim, at, &hash).is_some_and(|f| !matches!(f.state, FlowState::Ended(_))) {
            sim.control(at, Request::FlowStop { flow: hash, kill: false }).unwrap();
        }
    }
    sim.run_for(15 * SECOND);
    let after: Vec<_> = (0..sim.nodes()).map(|at| held(sim, at)).collect();
    assert_eq!(after, idle, "{what}: something stays behind");
    assert_eq!(sim.in_flight(), 0, "{what}");
}

fn idle(sim: &mut Sim) -> Vec<(u64, u32, u32)> {
    (0..sim.nodes()).map(|at| held(sim, at)).collect()
}

/// Injects hello at the first node and begins a search that is patient.
fn search(sim: &mut Sim) -> (sim::Session, TupleHash) {
    let module = real::module("hello");
    let hash = sim.inject(0, &real::tuple(&module, 1), &[&module]).unwrap();
    let session = open(sim, 0, &hash);
    sim.send(session, b"find interval 50 quiet 2000 rounds 2000").unwrap();
    (session, hash)
}

/// The middle of a line crashes `at` after the beginning of the search, and is back a while later; what it and
/// the third node were doing when it crashed.
fn crash(at: Duration, away: Duration) -> [Option<FlowState>; 2] {
    let what = format!("crash at {at:?} for {away:?}");
    let mut sim = Sim::new(&Lab::line(3).shaped(shape()), 1, Options::default()).unwrap();
    let idle = idle(&mut sim);
    let (session, hash) = search(&mut sim);
    sim.run_for(at);
    let doing = [1, 2].map(|node| find_flow(&mut sim, node, &hash).map(|flow| flow.state));
    sim.crash(1);
    sim.run_for(away);
    sim.restart(1).unwrap();
    let lines = rest(&mut sim, session, 60 * SECOND);
    let done = lines.last().unwrap_or_else(|| panic!("{what}: no answer"));
    assert!(done.contains(" nodes 3 ") && done.ends_with(" complete"), "{what}: {lines:?}");
    // The next search finds all three, and so the node has the code again.
    let again = ask(&mut sim, session, "find interval 50 quiet 2000 rounds 2000", 60 * SECOND);
    assert_eq!(found(&again).len(), 3, "{what}: {again:?}");
    let flow = find_flow(&mut sim, 1, &hash).expect("it is there");
    assert_eq!(flow.state, FlowState::Running, "{what}");
    // From the third node, if that one had it before the crash and spoke first.
    assert!(matches!(flow.source.as_deref(), Some("n1" | "n3")), "{what}: {:?}", flow.source);
    nothing_is_left(&mut sim, hash, &idle, &what);
    doing
}

/// Crashes at so many moments that every stage of both nodes' arrivals is met.
fn crashes(away: Duration) {
    let doing: Vec<_> = (0..100).map(|at| crash(at * MILLI, away)).collect();
    let stages = [FlowState::Tuple, FlowState::Download, FlowState::Compile, FlowState::Running];
    for stage in stages.map(Some).iter().chain([&None]) {
        for node in 0..2 {
            assert!(
                doing.iter().any(|d| d[node] == *stage),
                "nobody crashed in {stage:?} of node {}",
                node + 1
            );
        }
    }
}

#[test]
fn a_node_may_crash_at_any_moment_of_a_search() {
    crashes(300 * MILLI);
}

#[test]
fn a_node_may_be_back_at_once() {
    crashes(MILLI / 100);
}

#[test]
fn a_source_that_vanishes_is_given_up_and_nothing_is_kept() {
    let mut sim = Sim::new(&Lab::line(3).shaped(shape()), 1, Options::default()).unwrap();
    let idle = idle(&mut sim);
    let (session, hash) = search(&mut sim);
    let downloads = |sim: &mut Sim| {
        find_flow(sim, 2, &hash).is_some_and(|f| f.state == FlowState::Download && f.team.is_some())
    };
    assert!(sim.run_until(5 * SECOND, downloads), "the third node downloads");
    sim.run_for(3 * MILLI);
    assert!(downloads(&mut sim) && held(&mut sim, 2).0 > idle[2].0, "and is not done yet");
    sim.crash(1);
    sim.run_for(12 * SECOND);
    let flow = find_flow(&mut sim, 2, &hash).expect("it is remembered");
    assert_eq!(flow.state, FlowState::Ended("peer: n2 stopped answering".into()));
    assert_eq!((counter(&mut sim, 2, "downloads_given_up"), held(&mut sim, 2)), (1, idle[2]));
    sim.restart(1).unwrap();
    let lines = rest(&mut sim, session, 60 * SECOND);
    assert!(lines.last().unwrap().contains(" nodes 3 "), "{lines:?}");
    assert_eq!(find_flow(&mut sim, 2, &hash).unwrap().source.as_deref(), Some("n2"));
    nothing_is_left(&mut sim, hash, &idle, "a source that vanished");
}

#[test]
fn halves_that_meet_again_are_one_search() {
    for (seed, at) in (0..20).map(|n| (n, n as u32 * 10 * MILLI)) {
        let what = format!("cut at {at:?}");
        let lab = Lab::random(40, 3, seed).shaped(Shape { loss: 0.1, ..shape() });
        let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
        let idle = idle(&mut sim);
        let (session, hash) = search(&mut sim);
        sim.run_for(at);
        let far: Vec<usize> = (20..40).collect();
        sim.partition(&far);
        sim.run_for(5 * SECOND);
        sim.heal();
        let lines = rest(&mut sim, session, 120 * SECOND);
        let done = lines.last().unwrap();
        assert!(number(done, "nodes") == 40 && done.ends_with(" complete"), "{what}: {done}");
        nothing_is_left(&mut sim, hash, &idle, &what);
    }
}

#[test]
fn a_program_learns_that_its_node_is_gone() {
    let mut sim = Sim::new(&Lab::line(2).shaped(shape()), 1, Options::default()).unwrap();
    let session = start(&mut sim, 0, "hello");
    sim.crash(0);
    sim.restart(0).unwrap();
    assert!(sim.received(session).is_err() && sim.send(session, b"find").is_err());
}
