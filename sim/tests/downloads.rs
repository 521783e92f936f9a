//! Downloads whose sources come and go: what was received stays, and whoever has the flow is asked for the rest.

mod common;

use std::time::Duration;

use common::real::{self, counter, find_flow, found, held, number, open, rest};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Session, Sim};
use wire::control::{Arrival, FlowState, Request};
use wire::id::TupleHash;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Bytes per second of a link on which a download takes a good part of a second.
const SLOW: u64 = 100_000;

fn fast(loss: f64) -> Shape {
    Shape { rate: Some(12_500_000), delay: MILLI, loss, ..Shape::default() }
}

fn slow() -> Shape {
    Shape { rate: Some(SLOW), ..fast(0.0) }
}

/// n1, n2, n3 and n4 in a ring: n3 has the flow from n2 and from n4, over slow links.
fn ring() -> Sim {
    let mut lab = Lab::ring(4).shaped(fast(0.0));
    // Also the nodes' own queues have that rate, or the links would lose.
    lab.links[1].shape = slow();
    lab.links[2].shape = slow();
    Sim::new(&lab, 1, Options::default()).unwrap()
}

/// Injects hello at the first node and begins a search that is patient.
fn search(sim: &mut Sim) -> (Session, TupleHash) {
    let module = real::module("hello");
    let hash = sim.inject(0, &real::tuple(&module, 1), &[&module]).unwrap();
    let session = open(sim, 0, &hash);
    sim.send(session, b"find interval 250 quiet 2000 rounds 2000").unwrap();
    (session, hash)
}

fn state(sim: &mut Sim, at: usize, hash: &TupleHash) -> Option<FlowState> {
    find_flow(sim, at, hash).map(|flow| flow.state)
}

/// Until the third node is in the middle of a part: some of it is there, most of it is not.
fn in_the_middle(sim: &mut Sim, hash: &TupleHash) {
    let downloads = |sim: &mut Sim| state(sim, 2, hash) == Some(FlowState::Download);
    assert!(sim.run_until(5 * SECOND, downloads), "the third node downloads");
    sim.run_for(100 * MILLI);
    assert!(downloads(sim), "and is not done yet");
}

/// Bytes that were sent to the third node so far.
fn sent_to_third(sim: &Sim) -> u64 {
    // The ring's third link begins at n3.
    sim.link(1)[0].bytes + sim.link(2)[1].bytes
}

/// Until the third node runs the flow, without ever having begun anew. How the flow got there.
fn runs(sim: &mut Sim, hash: &TupleHash) -> Arrival {
    let ended = |sim: &mut Sim| matches!(state(sim, 2, hash), Some(FlowState::Ended(_)));
    let done = |sim: &mut Sim| ended(sim) || state(sim, 2, hash) == Some(FlowState::Running);
    assert!(sim.run_until(20 * SECOND, done), "{:?}", state(sim, 2, hash));
    assert_eq!(state(sim, 2, hash), Some(FlowState::Running));
    assert_eq!((counter(sim, 2, "downloads_given_up"), counter(sim, 2, "flows_ended")), (0, 0));
    find_flow(sim, 2, hash).unwrap().arrival
}

/// The bytes of tuple and module, as the third node counts them: each once.
fn length() -> u64 {
    let module = real::module("hello");
    (real::tuple(&module, 1).len() + module.len()) as u64
}

fn complete(sim: &mut Sim, session: Session, nodes: u64) {
    let lines = rest(sim, session, 120 * SECOND);
    let done = lines.last().expect("an answer");
    assert!(number(done, "nodes") == nodes && done.ends_with(" complete"), "{lines:?}");
    assert_eq!(found(&lines).len() as u64, nodes);
}

/// Stops the flow wherever it runs; then every node holds what it held before.
fn nothing_is_left(sim: &mut Sim, hash: TupleHash, idle: &[(u64, u32, u32)]) {
    for at in 0..sim.nodes() {
        if state(sim, at, &hash).is_some_and(|state| !matches!(state, FlowState::Ended(_))) {
            sim.control(at, Request::FlowStop { flow: hash, kill: false }).unwrap();
        }
    }
    sim.run_for(15 * SECOND);
    let after: Vec<_> = (0..sim.nodes()).map(|at| held(sim, at)).collect();
    assert_eq!(after, idle, "something stays behind");
}

fn idle(sim: &mut Sim) -> Vec<(u64, u32, u32)> {
    (0..sim.nodes()).map(|at| held(sim, at)).collect()
}

#[test]
fn a_cut_link_loses_nothing_that_was_received() {
    let mut sim = ring();
    let idle = idle(&mut sim);
    let (session, hash) = search(&mut sim);
    in_the_middle(&mut sim, &hash);
    sim.set_link(1, false);
    let arrival = runs(&mut sim, &hash);
    let sent = sent_to_third(&sim);
    // What was under way on the link that was cut is lost, and the search itself and the seals are not nothing.
    assert!(sent < 2 * length(), "{sent} bytes for {}", length());
    assert_eq!(arrival.bytes, length());
    println!("a link cut in the middle: {sent} bytes sent for {}, {} repeated", length(), arrival.retries);
    sim.heal();
    complete(&mut sim, session, 4);
    nothing_is_left(&mut sim, hash, &idle);
}

#[test]
fn a_previous_hop_may_be_killed() {
    let mut sim = ring();
    let idle = idle(&mut sim);
    let (session, hash) = search(&mut sim);
    in_the_middle(&mut sim, &hash);
    let first = find_flow(&mut sim, 2, &hash).unwrap().source.unwrap();
    let hop = if first == "n2" { 1 } else { 3 };
    sim.crash(hop);
    assert_eq!(runs(&mut sim, &hash).bytes, length());
    sim.restart(hop).unwrap();
    complete(&mut sim, session, 4);
    nothing_is_left(&mut sim, hash, &idle);
}

/// The only source forgets everything, and gets it again: the third node goes on where it stopped.
#[test]
fn a_source_that_starts_anew_is_used_again() {
    let mut lab = Lab::line(3).shaped(fast(0.0));
    lab.links[1].shape = slow();
    let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
    let idle = idle(&mut sim);
    let (session, hash) = search(&mut sim);
    in_the_middle(&mut sim, &hash);
    sim.crash(1);
    sim.run_for(300 * MILLI);
    sim.restart(1).unwrap();
    let arrival = runs(&mut sim, &hash);
    let sent = sim.link(1)[0].bytes;
    println!("a source that started anew: {sent} bytes sent for {}, {} repeated", length(), arrival.retries);
    assert!(sent < 2 * length(), "{sent} bytes for {}", length());
    assert_eq!(arrival.bytes, length());
    complete(&mut sim, session, 3);
    nothing_is_left(&mut sim, hash, &idle);
}

/// A router that starts anew in the middle of a flow knows nothing of it; the next capsule that comes by brings it back,
/// and so it is at the node where the flow was injected. What its guests had in memory, and its sessions, are gone.
#[test]
fn a_flow_comes_back_to_a_node_that_starts_anew() {
    for restarted in [1, 0] {
        let mut sim = Sim::new(&Lab::line(3).shaped(fast(0.0)), 1, Options::default()).unwrap();
        let idle = idle(&mut sim);
        let (session, hash) = search(&mut sim);
        complete(&mut sim, session, 3);
        sim.crash(restarted);
        sim.run_for(SECOND);
        sim.restart(restarted).unwrap();
        sim.run_for(SECOND);
        assert_eq!(state(&mut sim, restarted, &hash), None, "it does not come back unasked");
        // Somebody at the other end uses the flow.
        let session = open(&mut sim, 2, &hash);
        sim.send(session, b"find interval 250 quiet 2000 rounds 2000").unwrap();
        complete(&mut sim, session, 3);
        let flow = find_flow(&mut sim, restarted, &hash).unwrap();
        assert_eq!((flow.state, flow.arrival.bytes), (FlowState::Running, length()));
        nothing_is_left(&mut sim, hash, &idle);
    }
}

#[test]
fn two_sources_are_faster_than_one() {
    let took = |cut: Option<usize>| {
        let mut sim = ring();
        cut.into_iter().for_each(|link| sim.set_link(link, false));
        let (_, hash) = search(&mut sim);
        runs(&mut sim, &hash).download_us
    };
    let (both, one) = (took(None), took(Some(1)));
    println!("{} bytes at {SLOW} bytes/s: {one} us from one source, {both} us from two", length());
    assert!(both * 10 < one * 7, "{both} us from two, {one} us from one");
}

#[test]
fn every_fifth_frame_may_be_lost() {
    for seed in 0..20 {
        let lab = Lab::ring(5).shaped(fast(0.2));
        let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
        let idle = idle(&mut sim);
        let (session, hash) = search(&mut sim);
        complete(&mut sim, session, 5);
        assert_eq!(real::total(&mut sim, "downloads_given_up"), 0, "seed {seed}");
        nothing_is_left(&mut sim, hash, &idle);
    }
}
