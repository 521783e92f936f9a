//! Mobile code in simulated networks: it spreads, survives loss and crashes, and does so the same way in
//! every run.

mod common;

use std::time::Duration;

use common::{hops, round, start};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use wire::control::{Answer, Request};

const SECOND: Duration = Duration::from_secs(1);

fn lossy() -> Shape {
    Shape {
        rate: Some(12_500_000),
        delay: Duration::from_millis(1),
        jitter: Duration::from_micros(300),
        loss: 0.1,
        reorder: 0.05,
        duplicate: 0.02,
        ..Shape::default()
    }
}

/// Runs floods until a round has come to every node; how many were needed.
fn cover(sim: &mut Sim, seed_node: usize, most: u32) -> u32 {
    let session = start(sim, seed_node);
    let mut missing: Vec<usize> = (0..sim.nodes()).collect();
    for number in 1..=most {
        round(sim, session, number);
        sim.run_for(3 * SECOND);
        missing.retain(|&at| hops(sim, at, number).is_none());
        if missing.is_empty() {
            return number;
        }
    }
    panic!("after {most} rounds {} nodes are missing: {missing:?}", missing.len());
}

#[test]
fn code_travels_down_a_line() {
    let mut sim = Sim::new(&Lab::line(5), 1, Options::default()).unwrap();
    let session = start(&mut sim, 0);
    round(&mut sim, session, 7);
    let arrived = sim.run_until(10 * SECOND, |sim| hops(sim, 4, 7).is_some());
    assert!(arrived, "the code does not come to the end of the line");
    for at in 1..5 {
        assert_eq!(hops(&mut sim, at, 7), Some(at as u8));
    }
    assert_eq!(sim.stats().compiled, 1);
    let Answer::Flows(flows) = sim.control(4, Request::FlowShow { from: 0 }).unwrap() else {
        panic!("no flows")
    };
    assert_eq!(flows.items[0].source.as_deref(), Some("n4"));
    assert!(flows.items[0].arrival.bytes > 500, "{:?}", flows.items[0].arrival);
}

#[test]
fn udp_neighbors_do_the_same() {
    let mut lab = Lab::line(3);
    lab.links.iter_mut().for_each(|l| l.udp = true);
    let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
    let session = start(&mut sim, 0);
    round(&mut sim, session, 1);
    assert!(sim.run_until(10 * SECOND, |sim| hops(sim, 2, 1) == Some(2)));
}

#[test]
fn a_cut_stops_the_flood_and_healing_lets_it_go_on() {
    let mut sim = Sim::new(&Lab::ring(6), 3, Options::default()).unwrap();
    sim.partition(&[0, 1, 2]);
    let session = start(&mut sim, 1);
    round(&mut sim, session, 1);
    sim.run_for(5 * SECOND);
    let seen: Vec<_> = (0..6).map(|at| hops(&mut sim, at, 1)).collect();
    assert_eq!(seen, [Some(1), Some(0), Some(1), None, None, None]);
    sim.heal();
    // Neighbors on both sides must first prove who they are.
    sim.run_for(5 * SECOND);
    round(&mut sim, session, 2);
    sim.run_for(5 * SECOND);
    let seen: Vec<_> = (0..6).map(|at| hops(&mut sim, at, 2)).collect();
    assert_eq!(seen, [Some(1), Some(0), Some(1), Some(2), Some(3), Some(2)]);
}

#[test]
fn a_restarted_node_fetches_the_code_again() {
    let mut sim = Sim::new(&Lab::line(3), 4, Options::default()).unwrap();
    assert_eq!(cover(&mut sim, 0, 1), 1);
    sim.crash(1);
    assert!(sim.control(1, Request::NodeShow).is_err());
    let session = sim.session(0, "flood").unwrap();
    round(&mut sim, session, 2);
    sim.run_for(SECOND);
    assert_eq!(hops(&mut sim, 2, 2), None);
    sim.restart(1).unwrap();
    assert_eq!(hops(&mut sim, 1, 1), None, "a fresh node knows nothing");
    // Not even the keys of its links: what comes under the old ones is lost.
    sim.run_for(SECOND);
    round(&mut sim, session, 3);
    sim.run_for(5 * SECOND);
    assert_eq!((hops(&mut sim, 1, 3), hops(&mut sim, 2, 3)), (Some(1), Some(2)));
}

#[test]
fn every_node_is_reached_in_spite_of_loss() {
    let mut sim = Sim::new(&Lab::random(60, 4, 5).shaped(lossy()), 5, Options::default()).unwrap();
    cover(&mut sim, 17, 8);
    let lost: u64 = (0..sim.plan().links.len()).flat_map(|l| sim.link(l)).map(|c| c.lost).sum();
    assert!(lost > 0);
    assert_eq!(sim.stats().compiled, 1);
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed| {
        let options = Options { keep_log: true, ..Options::default() };
        let mut sim = Sim::new(&Lab::random(40, 4, 9).shaped(lossy()), seed, options).unwrap();
        let rounds = cover(&mut sim, 0, 8);
        (sim.trace(), sim.stats(), rounds, sim.take_log())
    };
    let (first, again, other) = (run(1), run(1), run(2));
    assert!(first == again, "two runs differ: {:?} {:?}", first.1, again.1);
    assert_ne!(first.0, other.0);
}

#[test]
fn captures_are_readable() {
    let path = std::env::temp_dir().join(format!("sim-{}.pcap", std::process::id()));
    let mut sim = Sim::new(&Lab::line(2), 1, Options::default()).unwrap();
    sim.capture(0, Box::new(std::fs::File::create(&path).unwrap())).unwrap();
    cover(&mut sim, 0, 1);
    sim.end_captures().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // Walks over the records: each says how long it is, and holds a capsule's EtherType.
    let (mut at, mut frames) = (24, 0);
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        assert_eq!(bytes[at + 28..at + 30], wire::ETHERTYPE.to_be_bytes());
        at += 16 + len;
        frames += 1;
    }
    assert_eq!(at, bytes.len());
    assert_eq!(frames, sim.stats().frames);
}
