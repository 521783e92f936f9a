//! The largest module that is admitted travels like any other; a larger one does not even start.

mod common;

use std::time::Duration;

use common::guest::{self, Flow, answer, ask, question};
use common::real::{find_flow, held, open};
use ee::admit::bounds;
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim, SimError};
use wire::control::FlowState;

const SECOND: Duration = Duration::from_secs(1);

fn line() -> Sim {
    let shape = Shape { rate: Some(12_500_000), delay: SECOND / 1000, ..Shape::default() };
    Sim::new(&Lab::line(3).shaped(shape), 1, Options::default()).unwrap()
}

/// Asks the far end of the line.
fn crosses(flow: &Flow) -> Duration {
    let mut sim = line();
    let hash = sim.inject(0, &flow.tuple, &[&flow.module]).unwrap();
    let session = open(&mut sim, 0, &hash);
    // A name's first byte says who is asked; all names of a line begin alike, but the first node passes on.
    sim.send(session, &question(b'n', 7)).unwrap();
    let start = sim.now();
    let mut heard = Vec::new();
    sim.run_until(20 * SECOND, |sim| {
        heard.extend(sim.received(session).unwrap());
        !heard.is_empty()
    });
    println!("{:?} {:?}", heard, find_flow(&mut sim, 1, &hash));
    let took = sim.now().since(start);
    assert_eq!(heard, [answer(b'n', 9, 7)]);
    took
}

/// The question's module, with so much behind it that it has `len` bytes.
fn of_len(len: u64) -> Flow {
    let some = 190_000;
    let longer = guest::big(ask("ask", 9), some).module.len();
    guest::big(ask("ask", 9), some + len as usize - longer)
}

#[test]
fn bytes() {
    let flow = of_len(bounds::MODULE);
    assert_eq!(flow.module.len() as u64, bounds::MODULE);
    println!("{:?}", crosses(&flow));
    let mut sim = line();
    let before = held(&mut sim, 0);
    let over = of_len(bounds::MODULE + 1);
    match sim.inject(0, &over.tuple, &[&over.module]) {
        Err(e) => println!("refused {e}"),
        Ok(h) => {
            sim.run_for(SECOND);
            println!("{:?}", find_flow(&mut sim, 0, &h));
        }
    }
    println!("{before:?} {:?}", held(&mut sim, 0));
}

#[test]
fn work() {
    let fill = |n: usize| {
        let body =
            "(global.set $g (i32.mul (global.get $g) (i32.add (local.get 0) (i32.const 77777))))".repeat(200);
        let f = format!("(func (param i32) {body})").repeat(n);
        format!("{} (global $g (mut i32) (i32.const 1)) {f}", "")
    };
    let make = |n: usize| {
        // the ask handlers
        common::guest::module(&fill(n))
    };
    let mut n = 1;
    while ee::admit::admit(&make(n + 1)).is_ok() {
        n += 1;
    }
    println!("{n} functions, {} bytes, {:?}", make(n).len(), ee::admit::admit(&make(n + 1)));
    let flow = guest::flow("work", make(n), |_| ());
    let mut sim = line();
    let hash = sim.inject(0, &flow.tuple, &[&flow.module]).unwrap();
    sim.run_for(SECOND);
    println!("{:?}", find_flow(&mut sim, 0, &hash));
    let _ = (FlowState::Running, |e: SimError| e);
}
