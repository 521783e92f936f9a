//! Labs whose nodes know nobody at the start: shipped protocols work as soon as they have found each other, and again when
//! one of them was away.

mod common;

use std::time::Duration;

use common::real::{ask, counter, found, number, rest, start};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use wire::control::{Answer, Request};

const SECOND: Duration = Duration::from_secs(1);

fn strangers(mut lab: Lab, protect: bool, loss: f64) -> Lab {
    lab.defaults.protect = protect;
    lab.links.iter_mut().for_each(|link| link.discover = true);
    lab.shaped(Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss, ..Shape::default() })
}

fn neighbors(sim: &mut Sim, at: usize) -> Vec<String> {
    let Answer::Neighbors(all) = sim.control(at, Request::NeighborShow).unwrap() else { panic!("neighbors") };
    let mut names: Vec<String> = all.into_iter().filter(|n| n.discovered).map(|n| n.name).collect();
    names.sort();
    names
}

fn hops(sim: &mut Sim, at: usize) -> Vec<(String, u8)> {
    let Answer::Known(page) = sim.control(at, Request::KnownShow { from: 0 }).unwrap() else {
        panic!("nodes")
    };
    let mut all: Vec<(String, u8)> = page.items.into_iter().map(|node| (node.name, node.hops)).collect();
    all.sort();
    all
}

#[test]
fn strangers_ping_through_each_other() {
    for protect in [false, true] {
        let mut sim = Sim::new(&strangers(Lab::line(3), protect, 0.0), 1, Options::default()).unwrap();
        sim.run_for(4 * SECOND);
        let mark = if protect { "" } else { "~" };
        assert_eq!(neighbors(&mut sim, 1), [format!("{mark}n1"), format!("{mark}n3")]);
        assert_eq!(hops(&mut sim, 0), [("n2".into(), 1), ("n3".into(), 2)]);
        let session = start(&mut sim, 0, "ping");
        let lines = ask(&mut sim, session, "ping n3 count 5 interval 100 timeout 5000", 60 * SECOND);
        assert!(lines.iter().any(|line| line.contains("5 sent, 5 received, 0% loss")), "{lines:?}");

        // The one in the middle is away for longer than its adverts are good for.
        sim.crash(1);
        sim.run_for(10 * SECOND);
        assert_eq!((neighbors(&mut sim, 0), hops(&mut sim, 0)), (vec![], vec![]));
        sim.restart(1).unwrap();
        sim.run_for(5 * SECOND);
        assert_eq!(hops(&mut sim, 0), [("n2".into(), 1), ("n3".into(), 2)]);
        let lines = ask(&mut sim, session, "ping n3 count 5 interval 100 timeout 5000", 60 * SECOND);
        assert!(lines.iter().any(|line| line.contains("5 sent, 5 received, 0% loss")), "{lines:?}");
    }
}

/// Every tenth frame is lost: adverts, too. What everybody knows is who is there, and how far.
#[test]
fn a_ring_of_strangers_knows_all_of_itself() {
    for seed in 0..5 {
        let mut sim =
            Sim::new(&strangers(Lab::ring(8), seed % 2 == 0, 0.1), seed, Options::default()).unwrap();
        sim.run_for(30 * SECOND);
        for at in 0..8usize {
            let far = |other: usize| (at.abs_diff(other)).min(8 - at.abs_diff(other)) as u8;
            let all: Vec<_> = (0..8)
                .filter(|other| *other != at)
                .map(|other| (format!("n{}", other + 1), far(other)))
                .collect();
            assert_eq!(hops(&mut sim, at), all, "seed {seed}, node {at}");
            assert_eq!(counter(&mut sim, at, "peer_bad_adverts"), 0);
        }
        let session = start(&mut sim, 0, "hello");
        sim.send(session, b"find interval 250 quiet 2000 rounds 400").unwrap();
        let lines = rest(&mut sim, session, 120 * SECOND);
        assert_eq!((number(lines.last().unwrap(), "nodes"), found(&lines).len()), (8, 8), "{lines:?}");
    }
}
