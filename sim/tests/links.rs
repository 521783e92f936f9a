//! Labs are protected unless they say otherwise: nodes that crash, links that are cut, UDP between neighbors,
//! and what a capture shows.

mod common;

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use common::real::{ask, counter, found, start, total};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use wire::control::{Answer, NeighborInfo, Request};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn shape(loss: f64) -> Shape {
    Shape { rate: Some(12_500_000), delay: MILLI, loss, ..Shape::default() }
}

fn neighbors(sim: &mut Sim, at: usize) -> Vec<NeighborInfo> {
    match sim.control(at, Request::NeighborShow).unwrap() {
        Answer::Neighbors(all) => all,
        other => panic!("{other:?}"),
    }
}

fn protected(sim: &mut Sim) -> bool {
    (0..sim.nodes()).all(|at| neighbors(sim, at).iter().all(|n| n.protection.name() == "protected"))
}

/// A capture that the test can look at.
#[derive(Clone, Default)]
struct Capture(Rc<RefCell<Vec<u8>>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Capture {
    fn has(&self, needle: &[u8]) -> bool {
        self.0.borrow().windows(needle.len()).any(|w| w == needle)
    }
}

/// Where capsules and sealed frames begin.
const CAPSULE: [u8; 6] = [0x88, 0xb5, 1, 0, 0xbe, 0xe5];
const SEALED: [u8; 6] = [0x88, 0xb5, 1, 0, 0xbe, 0xe6];

#[test]
fn a_lab_decides_what_a_capture_shows() {
    let mut lab = Lab::line(4).shaped(shape(0.0));
    lab.links[1].protect = Some(false);
    let mut open = lab.clone();
    open.defaults.protect = false;
    open.links[2].protect = Some(true);
    for (lab, sealed) in [(lab, [true, false, true]), (open, [false, false, true])] {
        let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
        let captures = [0, 1, 2].map(|link| {
            let capture = Capture::default();
            sim.capture(link, Box::new(capture.clone())).unwrap();
            capture
        });
        let session = start(&mut sim, 0, "hello");
        let lines = ask(&mut sim, session, "find", 30 * SECOND);
        assert_eq!(found(&lines).len(), 4, "{lines:?}");
        for (capture, sealed) in captures.iter().zip(sealed) {
            assert_eq!((capture.has(&SEALED), capture.has(&CAPSULE)), (sealed, !sealed));
        }
    }
}

#[test]
fn lossy_links_come_up_and_stay_up() {
    let lab = Lab::random(60, 4, 1).shaped(shape(0.1));
    let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
    assert!(sim.run_until(10 * SECOND, protected), "all links are up");
    println!("60 nodes, 10 % loss: all links protected after {} ms", sim.now().micros() / 1000);
    // Ten minutes: five changes of keys on each.
    sim.run_for(600 * SECOND);
    assert!(protected(&mut sim));
    assert_eq!(total(&mut sim, "links_down"), 0);
    let keys = total(&mut sim, "link_keys_made");
    let ends = 2 * lab.links.len() as u64;
    assert!((5 * ends..8 * ends).contains(&keys), "{keys} for {ends} ends");
}

#[test]
fn neighbors_behind_udp_shake_hands_with_a_cookie() {
    let mut lab = Lab::line(3).shaped(shape(0.05));
    lab.links.iter_mut().for_each(|l| l.udp = true);
    let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
    assert!(sim.run_until(10 * SECOND, protected));
    let session = start(&mut sim, 0, "hello");
    let lines = ask(&mut sim, session, "find", 30 * SECOND);
    assert_eq!(found(&lines).len(), 3, "{lines:?}");
}

/// There requests are padded to the length of their answers, and every packet to the least length.
#[test]
fn code_spreads_behind_udp_without_protection_too() {
    for loss in [0.0, 0.05] {
        let mut lab = Lab::line(3).shaped(shape(loss));
        lab.defaults.protect = false;
        lab.links.iter_mut().for_each(|l| l.udp = true);
        let capture = Capture::default();
        let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
        sim.capture(0, Box::new(capture.clone())).unwrap();
        let session = start(&mut sim, 0, "hello");
        let lines = ask(&mut sim, session, "find", 30 * SECOND);
        assert_eq!(found(&lines).len(), 3, "{loss}: {lines:?}");
        assert_eq!(total(&mut sim, "peer_unpadded"), 0);
        assert!(!capture.has(&SEALED));
    }
}

#[test]
fn a_node_that_crashed_is_protected_again_at_once() {
    let mut sim = Sim::new(&Lab::line(3).shaped(shape(0.0)), 1, Options::default()).unwrap();
    assert!(sim.run_until(SECOND, protected));
    for away in [MILLI, 20 * SECOND, 400 * SECOND] {
        sim.crash(1);
        sim.run_for(away);
        sim.restart(1).unwrap();
        let before = sim.now();
        assert!(sim.run_until(SECOND, protected), "away for {away:?}");
        let took = sim.now().since(before);
        assert!(took < 50 * MILLI, "away for {away:?}: {took:?}");
    }
    assert!(counter(&mut sim, 0, "links_down") >= 3);
}

#[test]
fn a_cut_that_lasts_takes_the_neighbor_and_healing_brings_it_back() {
    let mut sim = Sim::new(&Lab::line(2).shaped(shape(0.0)), 1, Options::default()).unwrap();
    let session = start(&mut sim, 0, "hello");
    ask(&mut sim, session, "find", 30 * SECOND);
    sim.set_link(0, false);
    ask(&mut sim, session, "find", 60 * SECOND);
    sim.run_for(300 * SECOND);
    assert!((0..2).all(|at| neighbors(&mut sim, at)[0].protection.name() == "handshake"));
    sim.heal();
    assert!(sim.run_until(5 * SECOND, protected));
    let lines = ask(&mut sim, session, "find", 30 * SECOND);
    assert_eq!(found(&lines).len(), 2, "{lines:?}");
}
