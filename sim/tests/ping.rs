//! scratch
mod common;
use common::real::{ask, counter, start};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use std::time::Duration;
const SECOND: Duration = Duration::from_secs(1);
fn line(n: usize, loss: f64) -> Sim {
    let shape = Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss, ..Shape::default() };
    Sim::new(&Lab::line(n).shaped(shape), 1, Options::default()).unwrap()
}
#[test]
fn scratch() {
    for loss in [0.0, 0.1] {
        let mut sim = line(3, loss);
        let s = start(&mut sim, 0, "ping");
        println!("{:#?}", ask(&mut sim, s, "ping n3 count 5 interval 100", 60 * SECOND));
        println!(
            "{:#?}",
            ask(&mut sim, s, "ping n3 count 200 interval 10", 60 * SECOND)
                .iter()
                .rev()
                .take(5)
                .collect::<Vec<_>>()
        );
        println!("{:#?}", ask(&mut sim, s, "ping nobody", 60 * SECOND));
    }
    for (loss, dup) in [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.1, 0.1)] {
        let mut sim = line(4, 0.0);
        let s = start(&mut sim, 0, "benchmark");
        println!("{:#?}", ask(&mut sim, s, "send n4 count 10", 60 * SECOND));
        let sink = sim.session(3, "benchmark").unwrap();
        println!("{:#?}", ask(&mut sim, sink, "sink", 60 * SECOND));
        sim.set_shape(
            1,
            Shape { loss, duplicate: dup, reorder: dup, delay: SECOND / 1000, ..Shape::default() },
        );
        let b = sim.link(1);
        let c: Vec<_> = (0..4).map(|at| counter(&mut sim, at, "capsules_sent")).collect();
        println!("{:#?}", ask(&mut sim, s, "send n4 count 5000 rate 2000 size 200", 60 * SECOND));
        println!("{:#?}", ask(&mut sim, sink, "sink", 60 * SECOND));
        println!(
            "{b:?}\n{:?} {c:?} {:?}",
            sim.link(1),
            (0..4).map(|at| counter(&mut sim, at, "capsules_sent")).collect::<Vec<_>>()
        );
    }
}
