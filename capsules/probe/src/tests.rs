//! probe on nodes in memory.

use bees_sdk::node::mix;
use bees_sdk::testing::{Link, Network, TestSession};

use super::*;

const MS: u64 = 1000;

fn line(n: usize, loss: f64) -> Network<Probe> {
    let mut net = Network::new(&DESCRIPTION, 1);
    for i in 0..n {
        net.node(&format!("n{i}"), Probe::new());
        net.set_sensor(i, "temp-millicelsius", 40_000 + i as i64);
        net.set_sensor(i, "uptime-microseconds", -7);
    }
    for i in 1..n {
        net.link(i - 1, i, Link { delay_us: MS, loss });
    }
    net
}

fn read(net: &mut Network<Probe>, at: usize, request: &str) -> Vec<String> {
    let session: TestSession = net.open(at);
    net.send(session, request.as_bytes());
    let end = net.now() + 30_000 * MS;
    net.run_until(end);
    net.received(session)
}

#[test]
fn who_may_read_reads_and_the_others_are_routers() {
    let mut net = line(4, 0.0);
    net.grant(0, "sensors");
    net.grant(3, "sensors");
    let lines = read(&mut net, 0, "read temp-millicelsius fan1-rpm");
    assert_eq!(
        lines,
        [
            "node n0 hops 0 temp-millicelsius 40000 fan1-rpm -",
            "node n1 hops 1 router",
            "node n2 hops 2 router",
            "node n3 hops 3 temp-millicelsius 40003 fan1-rpm -",
            "done rounds 11 nodes 4 ms 2750",
        ]
    );
    assert_eq!(net.counters().depleted, 0);
    // The tuple's own sensors, and a value below zero.
    assert_eq!(read(&mut net, 3, "")[0], "node n3 hops 0 uptime-microseconds -7");
}

#[test]
fn losses_are_made_good_in_later_rounds() {
    let mut net = line(6, 0.1);
    (0..6).for_each(|i| net.grant(i, "sensors"));
    let lines = read(&mut net, 0, "read temp-millicelsius");
    for i in 0..6 {
        let row = format!("node n{i} hops {i} temp-millicelsius {}", 40_000 + i);
        assert_eq!(lines.iter().filter(|l| **l == row).count(), 1, "{lines:?}");
    }
    assert_eq!(lines.len(), 7);
}

#[test]
fn requests_are_checked_and_end_with_their_session() {
    let mut net = line(2, 0.0);
    let session = net.open(0);
    let long = format!("read {}", "x".repeat(200));
    for bad in ["write x", "read 1 2 3 4 5", &long] {
        net.send(session, bad.as_bytes());
    }
    net.send(session, b"read");
    net.send(session, b"read");
    let lines = net.received(session);
    assert!(lines.iter().filter(|l| l.starts_with("error ")).count() == 4, "{lines:?}");
    net.close(session);
    let again = net.open(0);
    net.send(again, b"read");
    assert_eq!(net.received(again), ["node n0 hops 0 router"]);
}

#[test]
fn nonsense_is_ignored() {
    let mut net = line(6, 0.0);
    let session = net.open(0);
    net.send(session, b"read");
    let mut random = 9;
    for i in 0..1000 {
        let mut payload = vec![0; (mix(i) % 200) as usize];
        for b in &mut payload {
            random = mix(random);
            *b = random as u8;
        }
        if let Some(first) = payload.first_mut() {
            *first = (i % 3) as u8;
        }
        net.inject((i % 6) as usize, 0, (i % 2) as u8, &payload);
    }
    net.run_until(20_000 * MS);
    assert_eq!(net.received(session).iter().filter(|l| l.ends_with(" router")).count(), 6);
}
