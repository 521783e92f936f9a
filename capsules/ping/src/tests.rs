//! ping on nodes in memory.

use bees_sdk::testing::{Link, Network};

use super::*;

const MS: u64 = 1000;

/// a - b - c, and the longer way a - d - e - c.
fn net(loss: f64) -> (Network<Ping>, [usize; 5]) {
    let mut net = Network::new(&DESCRIPTION, 1);
    let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|n| net.node(n, Ping::new()));
    let link = Link { delay_us: MS, loss };
    let links = [(a, b), (b, c), (a, d), (d, e), (e, c)].map(|(x, y)| net.link(x, y, link));
    (net, links)
}

fn ping(net: &mut Network<Ping>, request: &str, seconds: u64) -> Vec<String> {
    let session = net.open(0);
    net.send(session, request.as_bytes());
    let end = net.now() + seconds * 1000 * MS;
    net.run_until(end);
    net.received(session)
}

#[test]
fn like_ping() {
    let lines = ping(&mut net(0.0).0, "ping c count 2\n", 10);
    assert_eq!(
        lines,
        [
            "PING c: 64 bytes",
            "64 bytes from c: seq=1 hops=2 time=4.000 ms",
            "64 bytes from c: seq=2 hops=2 time=4.000 ms",
            "--- c ping statistics ---",
            "2 sent, 2 received, 0% loss, time 1008 ms",
            "rtt min/avg/max/mdev = 4.000/4.000/4.000/0.000 ms",
            "done sent 2 received 2",
        ]
    );
}

#[test]
fn a_new_way_is_found() {
    let (mut net, links) = net(0.0);
    let session = net.open(0);
    net.send(session, b"ping c count 12 interval 200 timeout 300");
    net.run_until(500 * MS);
    net.set_up(links[1], false);
    net.run_until(5000 * MS);
    let lines = net.received(session);
    assert!(lines.iter().any(|l| l.contains("hops=2")), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("no answer")), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("seq=12 hops=3")), "{lines:?}");
}

#[test]
fn losses_are_counted() {
    let lines = ping(&mut net(0.1).0, "ping c count 200 interval 20 timeout 100", 60);
    let missing = lines.iter().filter(|l| l.starts_with("no answer")).count();
    assert!((20..120).contains(&missing), "{missing}");
    assert_eq!(*lines.last().unwrap(), format!("done sent 200 received {}", 200 - missing));
}

#[test]
fn more_on_the_way_than_the_window() {
    let (mut net, links) = net(0.0);
    let session = net.open(0);
    net.send(session, b"ping c count 300 interval 1 timeout 5000");
    net.run_until(20 * MS);
    net.set_up(links[0], false);
    net.set_up(links[2], false);
    net.run_until(20_000 * MS);
    let lines = net.received(session);
    let got = lines.iter().filter(|l| l.contains("time=")).count();
    let missing = lines.iter().filter(|l| l.starts_with("no answer")).count();
    assert_eq!(got + missing, 300);
}

#[test]
fn who_is_not_there_is_not_found() {
    let (mut net, _) = net(0.0);
    assert_eq!(ping(&mut net, "ping z", 60), ["PING z: 64 bytes", "error z is not found"]);
    assert_eq!(ping(&mut net, "ping a", 1), ["error that is this node"]);
    assert!(ping(&mut net, "pong", 1)[0].starts_with("error usage"));
    assert!(ping(&mut net, "ping c count", 1)[0].starts_with("error "));
}

#[test]
fn stop_ends_with_statistics() {
    let (mut net, _) = net(0.0);
    let session = net.open(0);
    net.send(session, b"ping c count 1000");
    net.run_until(3500 * MS);
    net.send(session, b"stop");
    assert_eq!(net.received(session).last().unwrap(), "done sent 4 received 4");
    net.run_until(9000 * MS);
    assert_eq!(net.received(session).last().unwrap(), "done sent 4 received 4");
    assert_eq!(net.counters().depleted, 0);
}
