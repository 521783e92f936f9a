//! The largest modules that are admitted travel like any other; larger ones do not even start.

mod common;

use std::time::Duration;

use common::guest::{self, Flow, answer, ask, question};
use common::real::{find_flow, held, open, teams};
use ee::admit::{Refusal, admit, bounds};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use wire::control::FlowState;

const SECOND: Duration = Duration::from_secs(1);
/// What the answers have in them.
const CONSTANT: u8 = 9;

/// Three nodes in a line whose names begin differently: the question is for the first byte of a name.
fn line() -> Sim {
    let shape = Shape { rate: Some(12_500_000), delay: SECOND / 1000, ..Shape::default() };
    let mut lab = Lab::line(3).shaped(shape);
    for (node, name) in lab.nodes.iter_mut().zip(["a", "b", "c"]) {
        node.name = name.into();
    }
    Sim::new(&lab, 1, Options::default()).unwrap()
}

/// Asks the far end of the line, which has to get the code for it; the node in the middle tells what it took.
fn crosses(flow: &Flow, what: &str) {
    let mut sim = line();
    let hash = sim.inject(0, &flow.tuple, &[&flow.module]).unwrap();
    let session = open(&mut sim, 0, &hash);
    sim.send(session, &question(b'c', 7)).unwrap();
    let start = sim.now();
    let mut heard = Vec::new();
    sim.run_until(20 * SECOND, |sim| {
        heard.extend(sim.received(session).unwrap());
        !heard.is_empty()
    });
    assert_eq!(heard, [answer(b'c', CONSTANT, 7)], "{what}");
    let took = sim.now().since(start);
    for at in 1..3 {
        let flow_there = find_flow(&mut sim, at, &hash).unwrap();
        assert!(flow_there.arrival.bytes > flow.module.len() as u64, "{what}: {:?}", flow_there.arrival);
    }
    println!("{what}: {} bytes, two hops, answer after {took:?}", flow.module.len());
}

/// Refused where it is injected, by a reason that says what and how much; neighbors never hear of it.
fn refused(flow: &Flow, why: &str) {
    // On unprotected links nodes have nothing to say to each other but this.
    let mut lab = Lab::line(3);
    lab.defaults.protect = false;
    let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
    let before = held(&mut sim, 0);
    let hash = sim.inject(0, &flow.tuple, &[&flow.module]).unwrap();
    sim.run_for(SECOND);
    let state = find_flow(&mut sim, 0, &hash).expect("it is remembered").state;
    assert!(matches!(&state, FlowState::Ended(text) if text.contains(why)), "{state:?}");
    assert!(sim.session(0, &hash.to_string()).is_err());
    sim.run_for(61 * SECOND);
    assert_eq!((held(&mut sim, 0), sim.stats().frames), (before, 0));
}

/// The question's module, with so much behind it that it has `len` bytes.
fn of_len(len: u64) -> Flow {
    let some = 190_000;
    let longer = guest::big(ask("ask", CONSTANT), some).module.len();
    guest::big(ask("ask", CONSTANT), some + len as usize - longer)
}

#[test]
fn the_longest_module_crosses_the_line_and_a_byte_more_is_refused() {
    let longest = of_len(bounds::MODULE);
    assert_eq!(longest.module.len() as u64, bounds::MODULE);
    crosses(&longest, "the longest module");
    let text = format!("a module of {} bytes, {} are admitted", bounds::MODULE + 1, bounds::MODULE);
    refused(&of_len(bounds::MODULE + 1), &text);
}

/// A flow that goes to all neighbors' neighbors when a program says something, with so many functions besides
/// that are hard to compile.
fn of_functions(functions: usize) -> Flow {
    let body = "(global.set $sum (i32.div_u (global.get $sum) (i32.load (global.get $sum))))".repeat(100);
    let work = format!("(func {body})").repeat(functions);
    guest::of("work", &format!("{PASS_ON} (global $sum (mut i32) (i32.const 1)) {work}"))
}

const PASS_ON: &str = r#"
    (func $pass_on (param $c i32) (param $flags i32)
        (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (local.get $flags))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.eq (local.get $what) (i32.const 1)) (then (call $pass_on (local.get $c) (i32.const 0)))))
    (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
        (call $pass_on (local.get $c) (i32.const 2)))"#;

#[test]
fn the_most_work_for_the_compiler_crosses_the_line_and_a_function_more_is_refused() {
    let mut functions = 1;
    let over = loop {
        match admit(&of_functions(functions + 1).module) {
            Ok(_) => functions += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(over, Refusal::Bound { limit: bounds::MODULE_WEIGHT, .. }), "{over}");
    let most = of_functions(functions);
    let mut sim = line();
    let hash = sim.inject(0, &most.tuple, &[&most.module]).unwrap();
    let session = open(&mut sim, 0, &hash);
    sim.send(session, b"go").unwrap();
    let there = |sim: &mut Sim| find_flow(sim, 2, &hash).is_some_and(|f| f.state == FlowState::Running);
    assert!(sim.run_until(20 * SECOND, there), "{:?}", find_flow(&mut sim, 1, &hash));
    let team = teams(&mut sim, 2).into_iter().find(|t| t.flow == Some(hash)).unwrap();
    println!("the most work: {} bytes, a team of {} bytes", most.module.len(), team.memory.1);
    refused(&of_functions(functions + 1), &over.to_string());
}
