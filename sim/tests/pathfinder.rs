//! pathfinder, as it is shipped: after failures of links and nodes of a random graph everybody has the shortest way
//! again, what comes up and down arrives, and without its root it is gone. All single failures of larger graphs are
//! tried in memory: `capsules/pathfinder/src/graphs.rs`.

mod common;

use std::collections::VecDeque;
use std::time::Duration;

use common::real::{self, counter, lines, number, start, total, word};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Session, Sim};
use wire::control::{FlowState, Request};
use wire::tuple::{Body, Credentials, Privilege, Tuple};

const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 50;
/// Intervals after which everybody has the shortest way again (`capsules/pathfinder/README.md`), and one because the
/// code comes to a node that was started anew.
const BOUND: u32 = 3;

fn shape(loss: f64) -> Shape {
    Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss, ..Shape::default() }
}

/// Hops from the first node, without these nodes and links.
fn distances(lab: &Lab, dead: &[usize], down: &[usize]) -> Vec<Option<u64>> {
    let mut found = vec![None; lab.nodes.len()];
    found[0] = Some(0);
    let mut next = VecDeque::from([0]);
    while let Some(here) = next.pop_front() {
        for link in (0..lab.links.len()).filter(|l| !down.contains(l)).map(|l| &lab.links[l]) {
            for (from, to) in [(link.ends[0], link.ends[1]), (link.ends[1], link.ends[0])] {
                if from == here && !dead.contains(&to) && found[to].is_none() {
                    found[to] = found[here].map(|hops| hops + 1);
                    next.push_back(to);
                }
            }
        }
    }
    found
}

/// Each node's hops as its program is told.
fn told(sim: &mut Sim) -> Vec<Option<u64>> {
    (0..sim.nodes())
        .map(|at| {
            let session = sim.session(at, "pathfinder").ok()?;
            sim.send(session, b"show").unwrap();
            let line = answer(sim, session);
            sim.close(session);
            (word(&line, 1) != "outside").then(|| number(&line, "hops"))
        })
        .collect()
}

fn answer(sim: &mut Sim, session: Session) -> String {
    let mut told = vec![];
    sim.run_until(SECOND / 2, |sim| {
        told.extend(lines(sim, session));
        !told.is_empty()
    });
    told.pop().unwrap_or_else(|| panic!("no answer"))
}

fn say(sim: &mut Sim, session: Session, line: &str) {
    sim.send(session, line.as_bytes()).unwrap();
    assert_eq!(answer(sim, session), "ok", "{line}");
}

#[test]
fn after_failures_everybody_has_the_shortest_way_again() {
    for seed in 0..3 {
        let lab = Lab::random(NODES, 3, seed).shaped(shape(0.0));
        let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
        let root = start(&mut sim, 0, "pathfinder");
        say(&mut sim, root, "root");
        let whole = distances(&lab, &[], &[]);
        assert!(sim.run_until(20 * SECOND, |sim| told(sim) == whole), "seed {seed}: the first tree");
        for failure in 0..6 {
            let (mut dead, mut down) = (vec![], vec![]);
            match failure % 2 {
                0 => down.push((seed as usize + 7 * failure) % lab.links.len()),
                _ => dead.push(1 + (seed as usize + 11 * failure) % (NODES - 1)),
            }
            dead.iter().for_each(|&at| sim.crash(at));
            down.iter().for_each(|&link| sim.set_link(link, false));
            let wanted = distances(&lab, &dead, &down);
            // Who is cut off is not waited for: it ends after its time.
            let reached = |sim: &mut Sim| {
                let told = told(sim);
                wanted.iter().zip(told).all(|(wanted, told)| wanted.is_none() || *wanted == told)
            };
            assert!(sim.run_until(BOUND * SECOND, reached), "seed {seed}: failure {failure}");
            dead.iter().for_each(|&at| sim.restart(at).unwrap());
            down.iter().for_each(|&link| sim.set_link(link, true));
            assert!(
                sim.run_until(20 * SECOND, |sim| told(sim) == whole),
                "seed {seed}: after failure {failure}"
            );
        }
        for wrong in ["guest_traps", "guest_overruns", "teams_struck_out"] {
            assert_eq!(total(&mut sim, wrong), 0, "seed {seed}: {wrong}");
        }
    }
}

/// Pathfinder with an interval of ten seconds, and these privileges.
fn slow(module: &[u8], privileges: &[&str]) -> Vec<u8> {
    let mut protocol = sim::trial::protocol(module).expect("what is shipped describes itself");
    for param in protocol.params.iter_mut().filter(|param| param.name == "interval") {
        param.value = b"10000".to_vec();
    }
    let mut body = Body::new([1; 16], vec![protocol]);
    let privilege = |name: &&str| Privilege { name: name.to_string(), optional: true };
    body.request.privileges = privileges.iter().map(privilege).collect();
    Tuple { body, credentials: Credentials::None }.encode()
}

/// How long after its parent's death what the node across a ring of four says comes to the root again.
fn silence_after_a_death(privileges: &[&str], seed: u64) -> Duration {
    let lab = Lab::ring(4).shaped(shape(0.0));
    let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
    let module = real::module("pathfinder");
    let hash = sim.inject(0, &slow(&module, privileges), &[&module]).unwrap();
    let root = real::open(&mut sim, 0, &hash);
    say(&mut sim, root, "root");
    sim.run_for(62 * SECOND);
    let leaf = sim.session(2, "pathfinder").unwrap();
    sim.send(leaf, b"show").unwrap();
    let place = answer(&mut sim, leaf);
    let parent = if place.contains("parent n2 ") { 1 } else { 3 };
    assert!(place.contains("hops 2 "), "{place}");
    lines(&mut sim, root);
    sim.crash(parent);
    let mut passed = Duration::ZERO;
    while lines(&mut sim, root).iter().all(|line| word(line, 0) != "sink") {
        assert!(passed < 15 * SECOND, "{privileges:?}: it is not heard any more");
        sim.send(leaf, b"sink still here").unwrap();
        sim.run_for(SECOND / 10);
        passed += SECOND / 10;
    }
    passed
}

/// A node that may have its parent watched takes the other way when it is told of the death; else it waits for the next
/// number.
#[test]
fn a_parent_that_is_watched_is_not_waited_for() {
    for seed in 0..3 {
        let told = silence_after_a_death(&["bees.liveness"], seed);
        let alone = silence_after_a_death(&[], seed);
        println!("seed {seed}: heard again after {told:?}, {alone:?} without being told");
        assert!(told <= 4 * SECOND + SECOND / 2 && alone > told + 2 * SECOND, "{told:?} {alone:?}");
    }
}

#[test]
fn what_is_said_comes_up_and_down() {
    for loss in [0.0, 0.05] {
        let lab = Lab::random(NODES, 4, 1).shaped(shape(loss));
        let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
        let root = start(&mut sim, 0, "pathfinder");
        say(&mut sim, root, "root");
        let spread = |sim: &mut Sim| told(sim).iter().all(Option::is_some);
        assert!(sim.run_until(30 * SECOND, spread));
        let sessions: Vec<Session> = (1..NODES).map(|at| sim.session(at, "pathfinder").unwrap()).collect();
        for (at, session) in (1..).zip(&sessions) {
            say(&mut sim, *session, &format!("sink from {at}"));
        }
        say(&mut sim, root, "multicast to all");
        sim.run_for(SECOND);
        let up = lines(&mut sim, root).into_iter().filter(|l| word(l, 0) == "sink").count();
        let down: Vec<usize> = sessions.iter().map(|&s| lines(&mut sim, s).len()).collect();
        assert!(down.iter().all(|&n| n <= 1), "once: {down:?}");
        let reached = down.iter().sum::<usize>();
        // Up it is one capsule over some hops, down there are several ways.
        assert!(up == NODES - 1 || loss > 0.0 && up >= NODES / 2, "{up} of {NODES}, loss {loss}");
        assert!(
            reached == NODES - 1 || loss > 0.0 && reached >= NODES * 9 / 10,
            "{reached} of {NODES}, loss {loss}"
        );
    }
}

/// The flow is stopped at the root: it ends on all nodes, comes back to none, and every byte comes back.
#[test]
fn without_its_root_it_is_gone_from_all_nodes() {
    let lab = Lab::random(NODES, 3, 4).shaped(shape(0.02));
    let mut sim = Sim::new(&lab, 4, Options::default()).unwrap();
    let idle: Vec<_> = (0..NODES).map(|at| real::held(&mut sim, at)).collect();
    let root = start(&mut sim, 0, "pathfinder");
    say(&mut sim, root, "root");
    sim.run_for(15 * SECOND);
    let hash = real::flows(&mut sim, 0)[0].hash;
    let running = |sim: &mut Sim| {
        (0..NODES)
            .filter(|&at| {
                real::find_flow(sim, at, &hash).is_some_and(|f| !matches!(f.state, FlowState::Ended(_)))
            })
            .count()
    };
    assert_eq!(running(&mut sim), NODES);
    // Leaves go on talking to their parents meanwhile.
    let leaves: Vec<Session> = (1..NODES).map(|at| sim.session(at, "pathfinder").unwrap()).collect();
    sim.control(0, Request::FlowStop { flow: hash, kill: false }).unwrap();
    for _ in 0..30 {
        for leaf in &leaves {
            let _ = sim.send(*leaf, b"sink still here");
        }
        sim.run_for(SECOND / 2);
    }
    assert_eq!(running(&mut sim), 0);
    sim.run_for(60 * SECOND);
    assert_eq!(running(&mut sim), 0, "it came back");
    let after: Vec<_> = (0..NODES).map(|at| real::held(&mut sim, at)).collect();
    assert_eq!(after, idle, "something stays behind");
    assert!((1..NODES).all(|at| counter(&mut sim, at, "guest_traps") == 0));
}
