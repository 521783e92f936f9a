//! telemetry, as it is shipped: what each hop wrote down is what happened, and is complete under loss.

mod common;

use std::time::Duration;

use common::real::{ask, module, open, tuple, word};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use wire::tuple::{Privilege, Tuple};

const SECOND: Duration = Duration::from_secs(1);

fn traces(privileges: &[&str], loss: f64, request: &str) -> Vec<String> {
    let shape = Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss, ..Shape::default() };
    let mut sim = Sim::new(&Lab::line(4).shaped(shape), 1, Options::default()).unwrap();
    let module = module("telemetry");
    let mut flow = Tuple::decode(&tuple(&module, 1)).unwrap();
    let privilege = |name: &&str| Privilege { name: name.to_string(), optional: true };
    flow.body.request.privileges = privileges.iter().map(privilege).collect();
    let hash = sim.inject(0, &flow.encode(), &[&module]).unwrap();
    let session = open(&mut sim, 0, &hash);
    ask(&mut sim, session, request, 300 * SECOND)
}

#[test]
fn every_hop_says_when_and_where_to() {
    let lines = traces(&["queues"], 0.0, "trace n4");
    let hops: Vec<&String> = lines.iter().filter(|l| l.starts_with("hop ")).collect();
    let names: Vec<&str> = hops.iter().map(|l| word(l, 2)).collect();
    assert_eq!(names, ["n1", "n2", "n3", "n4", "n3", "n2", "n1"], "{lines:?}");
    let next: Vec<&str> = hops.iter().map(|l| l.rsplit(' ').next().unwrap()).collect();
    assert_eq!(next, ["n2", "n3", "n4", "n3", "n2", "n1", "-"]);
    assert!(hops[..6].iter().all(|l| l.contains(" waiting 0 ")), "{lines:?}");
    // All clocks of the simulator are one: each hop takes a millisecond, and what the frame's bytes take.
    let arrived: Vec<u64> = hops.iter().map(|l| word(l, 4).parse().unwrap()).collect();
    assert!(arrived.windows(2).all(|pair| (1000..1100).contains(&(pair[1] - pair[0]))), "{lines:?}");
    let us: u64 = word(&lines[lines.len() - 9], 7).parse().unwrap();
    assert_eq!(us, arrived[6] - arrived[0], "{lines:?}");
    assert_eq!(lines.last().unwrap(), "done sent 1 received 1");
}

#[test]
fn without_the_privilege_nothing_is_said_of_queues() {
    let lines = traces(&[], 0.0, "trace n3");
    assert!(lines.iter().filter(|l| l.starts_with("hop ")).all(|l| l.contains(" waiting - ")), "{lines:?}");
    assert_eq!(lines.len(), 7);
}

#[test]
fn what_is_lost_is_sent_again() {
    let lines = traces(&["queues"], 0.05, "trace n4 count 50");
    assert_eq!(lines.iter().filter(|l| l.starts_with("hop 3 n4 ")).count(), 50, "{lines:?}");
    assert!(lines.last().unwrap().ends_with(" received 50"), "{lines:?}");
}
