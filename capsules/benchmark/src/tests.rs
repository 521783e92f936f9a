//! benchmark on nodes in memory.

use bees_sdk::testing::{Link, Network};

use super::*;

const MS: u64 = 1000;

fn line(n: usize, loss: f64) -> Network<Benchmark> {
    let mut net = Network::new(&DESCRIPTION, 2);
    for i in 0..n {
        net.node(&format!("n{i}"), Benchmark::new());
    }
    for i in 1..n {
        net.link(i - 1, i, Link { delay_us: MS, loss });
    }
    net
}

fn send(net: &mut Network<Benchmark>, request: &str) -> Vec<String> {
    let session = net.open(0);
    net.send(session, request.as_bytes());
    let end = net.now() + 60_000 * MS;
    net.run_until(end);
    net.received(session)
}

/// The number behind a word.
fn value(line: &str, word: &str) -> u64 {
    let mut words = line.split(' ');
    words.find(|w| *w == word).unwrap_or_else(|| panic!("no {word} in {line}"));
    words.next().unwrap().parse().unwrap()
}

#[test]
fn all_arrives_at_the_asked_rate() {
    let mut net = line(4, 0.0);
    let lines = send(&mut net, "send n3 count 5000 rate 2000 size 200");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0]
            .starts_with("result target n3 sent 5000 received 5000 duplicates 0 reordered 0 relays 2 us ")
    );
    assert!((1990..2010).contains(&value(&lines[0], "rate")), "{lines:?}");
    let at_sink = net.open(3);
    net.send(at_sink, b"sink");
    assert_eq!(net.received(at_sink), ["sink streams 1 received 5000"]);
    assert_eq!(net.counters().depleted, 0);
}

#[test]
fn slow_and_unlimited_rates() {
    let lines = send(&mut line(2, 0.0), "send n1 count 5 rate 10");
    assert_eq!(value(&lines[0], "rate"), 10);
    let lines = send(&mut line(2, 0.0), "send n1 count 6400 rate 0");
    assert!(value(&lines[0], "rate") > 60_000, "{lines:?}");
}

#[test]
fn losses_are_counted_and_the_report_comes_through() {
    let lines = send(&mut line(4, 0.1), "send n3 count 2000 rate 10000");
    let received = value(&lines[0], "received");
    assert!((1300..1600).contains(&received), "{lines:?}");
}

#[test]
fn a_way_set_by_hand_is_used() {
    let mut net = line(3, 0.0);
    for (at, via) in [(0, "n1"), (1, "n2")] {
        let session = net.open(at);
        net.send(session, format!("route n2 via {via}").as_bytes());
        assert_eq!(net.received(session), ["ok"]);
    }
    // No way back was learned by a seek: the sink's report goes back to the relay, which has none.
    let session = net.open(1);
    net.send(session, b"route n0 via n0");
    let lines = send(&mut net, "send n2 count 10");
    assert!(lines[0].contains("sent 10 received 10 "), "{lines:?}");
    assert_eq!(net.counters().sent, 2 * 10 + 2 + 2);
}

#[test]
fn errors_are_told() {
    let mut net = line(2, 0.0);
    assert_eq!(send(&mut net, "send n0"), ["error that is this node"]);
    assert_eq!(send(&mut net, "send nobody"), ["error nobody is not found"]);
    assert_eq!(send(&mut net, "route n1 via n7"), ["error no such neighbor"]);
    assert!(send(&mut net, "send n1 loud")[0].starts_with("error "));
    assert!(send(&mut net, "dance")[0].starts_with("error "));
}

#[test]
fn a_loop_of_ways_ends() {
    let mut net = line(3, 0.0);
    for (at, via) in [(0, "n1"), (1, "n2"), (2, "n1")] {
        let session = net.open(at);
        net.send(session, format!("route nowhere via {via}").as_bytes());
    }
    let header = Header {
        what: What::Data,
        counter: 0,
        target: node::short_hash(b"nowhere"),
        source: 1,
        stream: 1,
        sequence: 0,
    };
    net.inject(0, 0, Kind::Data as u8, &header.pack());
    net.run_until(10_000 * MS);
    assert_eq!(net.counters().sent, u64::from(MAX_HOPS));
}
