//! Another team's guests mean harm on the middle node of a line: no ping through it is lost, and nothing of
//! them stays behind. What each of them meets on its node is the business of the tests of `ee`.

mod common;

use std::time::Duration;

use common::hostile::{Attack, attacks};
use common::real::{self, ask, counter, find_flow, rest, start, teams};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Session, Sim};
use wire::control::{FlowState, Request};
use wire::id::TupleHash;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The node that is attacked, between the two that ping.
const MIDDLE: usize = 1;
/// 100 Mbit/s: what a link carries, and all that a team may send on it.
const LINK: u64 = 12_500_000;

/// The victim: ping, at home on all three nodes.
fn victim() -> (Sim, Session) {
    let shape = Shape { rate: Some(LINK), delay: MILLI, ..Shape::default() };
    let mut sim = Sim::new(&Lab::line(3).shaped(shape), 1, Options::default()).unwrap();
    let session = start(&mut sim, 0, "ping");
    let first = ask(&mut sim, session, "ping n3 count 1 timeout 5000", 30 * SECOND);
    assert_eq!(first.last().unwrap(), "done sent 1 received 1", "{first:?}");
    (sim, session)
}

/// Bytes that others than the victim hold on a node, buffers lent, teams beside the victim's.
fn of_others(sim: &mut Sim, at: usize) -> (u64, u32, usize) {
    let teams = teams(sim, at);
    let root = teams.iter().find(|t| t.parent.is_none()).expect("there is a root").memory.0;
    let victim = teams.iter().find(|t| t.name == "ping").expect("the victim lives").memory.0;
    (root - victim, real::node(sim, at).buffers.0, teams.len() - 2)
}

/// The attacker's flow comes to the middle node while pings pass through; returns what it sent in all.
fn attack_under_pings(sim: &mut Sim, session: Session, attack: &Attack) -> (TupleHash, u64) {
    let name = attack.name;
    let sent = |sim: &Sim| sim.link(0)[1].bytes + sim.link(1)[0].bytes;
    let before = sent(sim);
    sim.send(session, b"ping n3 count 60 interval 5 timeout 2000").unwrap();
    sim.run_for(10 * MILLI);
    let flow = attack.flow();
    let hash = sim.inject(MIDDLE, &flow.tuple, &[&flow.module]).unwrap();
    let told = rest(sim, session, 30 * SECOND);
    assert_eq!(told.last().unwrap(), "done sent 60 received 60", "{name}: {told:?}");
    (hash, sent(sim) - before)
}

/// Stops the flow wherever it runs, and checks that nothing of it is left.
fn nothing_is_left(sim: &mut Sim, hash: TupleHash, before: &[(u64, u32, usize)], name: &str) {
    for at in 0..sim.nodes() {
        if find_flow(sim, at, &hash).is_some_and(|f| !matches!(f.state, FlowState::Ended(_))) {
            sim.control(at, Request::FlowStop { flow: hash, kill: false }).unwrap();
        }
    }
    sim.run_for(5 * SECOND);
    let after: Vec<_> = (0..sim.nodes()).map(|at| of_others(sim, at)).collect();
    assert_eq!(after, before, "{name}: something stays behind");
}

#[test]
fn no_ping_is_lost_whatever_another_team_does() {
    let all = attacks();
    for kind in ["loops", "grows", "timer-storm", "floods", "divides-by-zero", "lie-read"] {
        assert!(all.iter().any(|a| a.name == kind), "no attack {kind} is left");
    }
    for attack in &all {
        let name = attack.name;
        let (mut sim, session) = victim();
        let before: Vec<_> = (0..3).map(|at| of_others(&mut sim, at)).collect();
        let harm = ["guest_traps", "guest_overruns", "teams_struck_out"];
        let count = |sim: &mut Sim| harm.map(|c| counter(sim, MIDDLE, c)).iter().sum::<u64>();
        let (hash, _) = attack_under_pings(&mut sim, session, attack);
        match find_flow(&mut sim, MIDDLE, &hash).expect("it is remembered").state {
            FlowState::Ended(why) => {
                assert!(why.starts_with("guest:"), "{name}: {why}");
                assert!(count(&mut sim) > 0, "{name}");
            }
            state => assert_eq!((state, count(&mut sim)), (FlowState::Running, 0), "{name}"),
        }
        nothing_is_left(&mut sim, hash, &before, name);
        let told = ask(&mut sim, session, "ping n3 count 10 interval 10", 30 * SECOND);
        assert_eq!(told.last().unwrap(), "done sent 10 received 10", "{name}: {told:?}");
    }
}

/// Offers both links ten times what they carry, in events that are short enough.
const STEADY: &str = r#"
    (func (export "on_boot") (param i32)
        (drop (call $timer_set (i64.const 1000) (i64.const 1000) (i64.const 0))))
    (func (export "on_timer") (param $c i32) (param $t i32) (param $token i64) (local $n i32)
        (drop (call $capsule_resize (local.get $c) (i32.const 1400)))
        (local.set $n (i32.const 90))
        (loop $again
            (drop (call $capsule_multicast (local.get $c)
                (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 1)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))"#;

#[test]
fn no_ping_is_lost_while_another_team_fills_the_links() {
    let attack = Attack { name: "steady", handlers: STEADY.into(), end: None, counter: None };
    let (mut sim, session) = victim();
    let before: Vec<_> = (0..3).map(|at| of_others(&mut sim, at)).collect();
    let (hash, sent) = attack_under_pings(&mut sim, session, &attack);
    assert_eq!(find_flow(&mut sim, MIDDLE, &hash).unwrap().state, FlowState::Running);
    let team = teams(&mut sim, MIDDLE).into_iter().find(|t| t.flow == Some(hash)).unwrap();
    // In 0.29 s it sent nearly all that both links carry, and was refused the rest.
    assert!(sent > LINK / 2 && team.refused > 1000, "{sent} bytes, {team:?}");
    println!("{sent} bytes of a flood beside 60 pings, {} sends refused", team.refused);
    nothing_is_left(&mut sim, hash, &before, attack.name);
}
