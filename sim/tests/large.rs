//! Five hundred nodes: fast enough to be run often, small enough to fit.

mod common;

use std::time::Duration;

use common::{hops, round, start};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};

/// Ten rounds of floods through 500 nodes with 10 % loss: every node must have the code by then.
fn flood(seed: u64) -> ([u8; 32], sim::Stats, usize) {
    let shape = Shape { delay: Duration::from_millis(1), loss: 0.1, ..Shape::default() };
    let mut sim = Sim::new(&Lab::random(500, 5, seed).shaped(shape), seed, Options::default()).unwrap();
    let session = start(&mut sim, 0);
    let mut reached = vec![false; sim.nodes()];
    for number in 1..=10 {
        round(&mut sim, session, number);
        sim.run_for(Duration::from_secs(2));
        for (at, reached) in reached.iter_mut().enumerate() {
            *reached |= hops(&mut sim, at, number).is_some();
        }
    }
    (sim.trace(), sim.stats(), reached.iter().filter(|&&r| r).count())
}

#[test]
fn five_hundred_nodes_twice_the_same() {
    let (first, again) = (flood(1), flood(1));
    assert_eq!(first.2, 500);
    assert_eq!(first.1.compiled, 1);
    assert!(first == again, "{:?} {:?}", first.1, again.1);
}
