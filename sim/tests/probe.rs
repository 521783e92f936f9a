//! probe, as it is shipped: where its flow asks for sensors and gets them it reads them, else it is a mere router.

mod common;

use std::time::Duration;

use common::real::{ask, module, open, tuple};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use wire::tuple::{Privilege, Tuple};

const SECOND: Duration = Duration::from_secs(1);

fn table(privileges: &[&str], loss: f64) -> Vec<String> {
    let shape = Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss, ..Shape::default() };
    let mut sim = Sim::new(&Lab::line(4).shaped(shape), 1, Options::default()).unwrap();
    let module = module("probe");
    let mut flow = Tuple::decode(&tuple(&module, 1)).unwrap();
    let privilege = |name: &&str| Privilege { name: name.to_string(), optional: true };
    flow.body.request.privileges = privileges.iter().map(privilege).collect();
    let hash = sim.inject(0, &flow.encode(), &[&module]).unwrap();
    let session = open(&mut sim, 0, &hash);
    let mut lines = ask(&mut sim, session, "read memory-limit-bytes fan1-rpm", 60 * SECOND);
    assert!(lines.pop().unwrap().contains(" nodes 4 "), "{lines:?}");
    lines.sort();
    lines
}

#[test]
fn sensors_are_read_where_they_are_granted() {
    for loss in [0.0, 0.05] {
        let rows =
            (1..=4).map(|n| format!("node n{n} hops {} memory-limit-bytes 16777216 fan1-rpm -", n - 1));
        assert_eq!(table(&["sensors"], loss), rows.collect::<Vec<_>>());
    }
}

#[test]
fn without_the_privilege_it_is_a_mere_router() {
    let rows = (1..=4).map(|n| format!("node n{n} hops {} router", n - 1));
    assert_eq!(table(&[], 0.0), rows.collect::<Vec<_>>());
}
