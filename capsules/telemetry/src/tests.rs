//! telemetry on nodes in memory.

use bees_sdk::node::mix;
use bees_sdk::testing::{Link, Network, TestSession};

use super::*;

const MS: u64 = 1000;

fn line(n: usize, loss: f64) -> Network<Telemetry> {
    let mut net = Network::new(&DESCRIPTION, 1);
    for i in 0..n {
        net.node(&format!("n{i}"), Telemetry::new());
    }
    for i in 1..n {
        net.link(i - 1, i, Link { delay_us: MS, loss });
    }
    net
}

fn ask(net: &mut Network<Telemetry>, at: usize, request: &str) -> Vec<String> {
    let session: TestSession = net.open(at);
    net.send(session, request.as_bytes());
    let end = net.now() + 60_000 * MS;
    net.run_until(end);
    net.received(session)
}

#[test]
fn every_hop_there_and_back_is_written_down() {
    let mut net = line(3, 0.0);
    net.grant(1, "queues");
    net.set_waiting(1, 7);
    assert_eq!(
        ask(&mut net, 0, "trace n2"),
        [
            "trace n2 round 2 hops 4 us 4000 missed 0",
            "hop 0 n0 arrived 250000 stay 0 waiting - next n1",
            "hop 1 n1 arrived 251000 stay 0 waiting 7 next n2",
            "hop 2 n2 arrived 252000 stay 0 waiting - next n1",
            "hop 3 n1 arrived 253000 stay 0 waiting 7 next n0",
            "hop 4 n0 arrived 254000 stay 0 waiting - next -",
            "done sent 1 received 1",
        ]
    );
    assert_eq!(net.counters().depleted, 0);
}

/// A neighbor's name may have any bytes, and who wrote a record may have any name.
#[test]
fn a_name_is_one_word_whatever_its_bytes() {
    let mut net = Network::new(&DESCRIPTION, 1);
    for name in ["n0", "grö%er", "-", "n3"] {
        net.node(name, Telemetry::new());
    }
    (1..4).for_each(|i| _ = net.link(i - 1, i, Link { delay_us: MS, loss: 0.0 }));
    let session = net.open(0);
    net.send(session, b"trace n3");
    net.run_until(1000 * MS);
    let lines = net.received(session);
    let words = |at: usize| lines[at].split(' ').collect::<Vec<_>>();
    assert!((1..8).all(|at| words(at).len() == 11), "{lines:?}");
    assert_eq!((words(1)[10], words(2)[2], words(2)[10]), ("gr%c3%b6%25er", "gr%c3%b6%25er", "%2d"));
    assert_eq!((words(3)[2], words(7)[10]), ("%2d", "-"));
    // A record of a name that would be read as more of the line.
    let mut buffer = [0; Record::MAX];
    let record = Record { name: b"a b\n", arrived: 1, stay: 2, waiting: UNKNOWN, next: b"" };
    let record = record.pack(&mut buffer).to_vec();
    net.send(session, b"trace n3");
    net.run_until(1100 * MS);
    let request = net.protocol(0).request.number;
    let header = Header {
        phase: Phase::Back,
        hops: 3,
        limit: 64,
        missed: 0,
        origin: node::short_hash(b"n0"),
        target: node::short_hash(b"n3"),
        request,
        round: 1,
    };
    net.inject(0, 0, 1, &[&header.pack()[..], &record].concat());
    let lines = net.received(session);
    assert!(lines.iter().any(|line| line.starts_with("hop 0 a%20b%0a arrived 1 stay 2 ")), "{lines:?}");
}

#[test]
fn lost_traces_are_sent_again() {
    let mut net = line(5, 0.1);
    let lines = ask(&mut net, 0, "trace n4 count 20");
    assert_eq!(lines.iter().filter(|l| l.starts_with("trace n4 ")).count(), 20, "{lines:?}");
    // Each came there and back the way that there is.
    assert_eq!(lines.iter().filter(|l| l.starts_with("hop 4 n4 ")).count(), 20, "{lines:?}");
    assert_eq!(lines.iter().filter(|l| l.starts_with("hop 8 n0 ")).count(), 20, "{lines:?}");
    assert!(lines.last().unwrap().ends_with(" received 20"), "{lines:?}");
}

/// What finds no room is left out and counted, and a capsule goes no farther than it may.
#[test]
fn a_long_way_is_cut_short() {
    let mut net = line(40, 0.0);
    net.set_param(0, "hops", "255");
    let lines = ask(&mut net, 0, "trace n39");
    let first = lines.first().unwrap();
    assert!(first.starts_with("trace n39 round 2 hops 78 "), "{lines:?}");
    let missed: usize = first.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(missed > 0 && lines.len() == 1 + 79 - missed + 1, "{lines:?}");
    let mut net = line(40, 0.0);
    net.set_param(0, "hops", "30");
    assert_eq!(ask(&mut net, 0, "trace n39"), ["error n39 is not found"]);
}

#[test]
fn requests_are_checked_and_end_with_their_session() {
    let mut net = line(2, 0.0);
    let session = net.open(0);
    let long = format!("trace {}", "x".repeat(100));
    for bad in ["", "trace", "ping n1", "trace n1 count", "trace n1 size 3", "trace n0", &long] {
        net.send(session, bad.as_bytes());
    }
    net.send(session, b"trace n1 count 3");
    net.send(session, b"trace n1");
    let lines = net.received(session);
    assert!(lines.len() == 8 && lines.iter().all(|l| l.starts_with("error ")), "{lines:?}");
    net.close(session);
    assert_eq!(ask(&mut net, 0, "trace nobody"), ["error nobody is not found"]);
    assert_eq!(ask(&mut net, 0, "trace n1").len(), 5);
}

#[test]
fn nonsense_is_ignored() {
    let mut net = line(3, 0.0);
    let session = net.open(0);
    net.send(session, b"trace n2 count 5");
    let mut random = 9;
    for i in 0..2000 {
        let mut payload = vec![0; (mix(i) % 200) as usize];
        for b in &mut payload {
            random = mix(random);
            *b = random as u8;
        }
        if let Some(first) = payload.first_mut() {
            *first = (i % 5) as u8;
        }
        net.inject((i % 3) as usize, 0, (i % 2) as u8, &payload);
    }
    net.run_until(30_000 * MS);
    assert_eq!(net.received(session).last().unwrap(), "done sent 5 received 5");
}
