//! The agent and its companion on nodes in memory: who reports, what the server believes, how it all ends.

use bees_sdk::testing::{Link, Member, Network, TestSession};

use super::*;

const SECOND: u64 = 1_000_000;

/// A line of nodes n0 - n1 - ..., of which those in `readers` may read sensors and sign.
fn line(nodes: usize, readers: &[usize], loss: f64) -> Network<Health> {
    let mut net = Network::new(&DESCRIPTION, 5);
    for at in 0..nodes {
        let way = Member::new("pathfinder", &pathfinder::DESCRIPTION, pathfinder::Pathfinder::new());
        net.team(&format!("n{at}"), Health::new(), vec![way]);
        if readers.contains(&at) {
            net.grant(at, "sensors");
            net.grant(at, "node-key");
        }
        net.set_sensor(at, "temp-millicelsius", 1000 * at as i64 - 1500);
        net.set_sensor(at, "fan-rpm", 1200);
    }
    for at in 1..nodes {
        net.link(at - 1, at, Link { delay_us: 1000, loss });
    }
    net
}

fn ask(net: &mut Network<Health>, session: TestSession, request: &str) -> Vec<String> {
    let before = net.received(session).len();
    net.send(session, request.as_bytes());
    net.received(session).split_off(before)
}

fn number(line: &str, name: &str) -> u64 {
    let mut words = line.split(' ').skip_while(|w| *w != name).skip(1);
    words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no number {name} in {line:?}"))
}

#[test]
fn everybody_who_may_reports_and_the_others_carry() {
    let mut net = line(5, &[0, 2, 4], 0.0);
    let session = net.open(0);
    assert_eq!(ask(&mut net, session, "serve"), ["ok"]);
    net.run_until(12 * SECOND);
    let mut table = ask(&mut net, session, "list");
    let done = table.pop().unwrap();
    assert!(
        done.starts_with("done nodes 3 ") && done.contains(" lost 0 stale 0 forged 0 malformed 0 "),
        "{done}"
    );
    table.sort_by_key(|line| number(line, "hops"));
    for (line, at) in table.iter().zip([0u64, 2, 4]) {
        let told = format!(" report n{at} hops {at} sequence ");
        assert!(line.starts_with("age ") && line.contains(&told), "{line}");
        let temperature = 1000 * at as i64 - 1500;
        assert!(line.ends_with(&format!(" fan-rpm 1200 temp-millicelsius {temperature}")), "{line}");
        assert!(!line.contains(" key -"), "{line}");
        assert!(number(line, "age") <= 5, "{line}");
    }
    assert_eq!(table.len(), 3);
    assert_eq!(net.counters().depleted, 0);
}

#[test]
fn watchers_are_told_at_once_and_losses_are_counted() {
    let mut net = line(4, &[3], 0.2);
    let session = net.open(0);
    assert_eq!(ask(&mut net, session, "serve"), ["ok"]);
    assert_eq!(ask(&mut net, session, "watch"), ["ok"]);
    net.run_until(200 * SECOND);
    let reports: Vec<u64> = net.received(session)[2..].iter().map(|l| number(l, "sequence")).collect();
    assert!(reports.is_sorted() && reports.len() > 10, "{reports:?}");
    let done = ask(&mut net, session, "stats").remove(0);
    assert_eq!(number(&done, "reports"), reports.len() as u64);
    assert_eq!(number(&done, "lost"), reports.last().unwrap() - reports[0] + 1 - reports.len() as u64);
}

#[test]
fn ignored_sensors_are_not_reported() {
    let mut net = line(1, &[0], 0.0);
    net.set_param(0, "ignored-features", "fan temp-x");
    let session = net.open(0);
    ask(&mut net, session, "serve");
    net.run_until(6 * SECOND);
    let table = ask(&mut net, session, "list");
    assert!(table[0].contains(" temp-millicelsius ") && !table[0].contains("fan"), "{table:?}");
}

/// The server's node falls silent: the agent ends everywhere, and does not come back.
#[test]
fn without_the_server_it_vanishes_from_the_inside_out() {
    let mut net = line(5, &[0, 4], 0.0);
    let session = net.open(0);
    ask(&mut net, session, "serve");
    net.run_until(10 * SECOND);
    assert!((1..5).all(|at| !net.serves(at, &format!("n{}", at - 1)) && !net.has_ended(at)));
    net.set_up(0, false);
    let mut order = vec![];
    while order.len() < 4 {
        net.run_until(net.now() + SECOND / 20);
        order.extend((1..5).filter(|at| net.has_ended(*at) && !order.contains(at)).collect::<Vec<_>>());
        assert!(net.now() < 18 * SECOND, "{order:?}");
    }
    assert_eq!(order, [1, 2, 3, 4]);
}

/// What a node alone could make the server believe.
#[test]
fn what_is_not_a_nodes_own_new_report_is_not_believed() {
    let mut net = line(2, &[0, 1], 0.0);
    let session = net.open(0);
    ask(&mut net, session, "serve");
    ask(&mut net, session, "watch");
    net.run_until(11 * SECOND);
    let sent = |sequence: u32, name: &[u8]| {
        let mut report = vec![1, 0, name.len() as u8];
        report.extend(name);
        report.extend(sequence.to_le_bytes());
        report.extend([0; 9]);
        report
    };
    let counts = |net: &mut Network<Health>| {
        let line = ask(net, session, "stats").remove(0);
        ["stale", "forged", "malformed"].map(|name| number(&line, name))
    };
    let before = counts(&mut net);
    assert_eq!(before, [0, 0, 0]);
    let sink = |net: &mut Network<Health>, report: &[u8]| {
        net.inject_for(0, "pathfinder", 0, 1, &[&[2, 0], report].concat());
    };
    // Unsigned under a name that signs; an old number; not a report; one that is cut off.
    sink(&mut net, &sent(1000, b"n1"));
    assert_eq!(counts(&mut net), [0, 1, 0]);
    sink(&mut net, &sent(1, b"n1"));
    assert_eq!(counts(&mut net), [1, 1, 0]);
    sink(&mut net, b"x");
    sink(&mut net, &sent(5, b"n1")[..10]);
    assert_eq!(counts(&mut net), [1, 1, 2]);
    // A name that would be read as more of the line.
    for name in [&b"n1 hops 0"[..], b"n1\nreport", b"n\xff"] {
        sink(&mut net, &sent(1000, name));
    }
    assert_eq!(counts(&mut net), [1, 1, 5]);
    // Who never signed may report unsigned, unless the flow wants signatures.
    sink(&mut net, &sent(7, b"other"));
    assert!(
        net.received(session)
            .iter()
            .any(|l| l.starts_with("report other hops 1 sequence 7 lost 0 wall 0 key -"))
    );
    net.set_param(0, "algorithm", "ed25519");
    sink(&mut net, &sent(8, b"other"));
    assert_eq!(counts(&mut net), [1, 2, 5]);
}

#[test]
fn reports_survive_any_damage() {
    let mut report = vec![1, 0, 2, b'n', b'1', 1, 0, 0, 0];
    report.extend([0; 8]);
    report.extend([1, 3, b'f', b'a', b'n']);
    report.extend(7u64.to_le_bytes());
    let sound = format::Report::parse(&report).unwrap();
    assert_eq!(sound.sensors().collect::<Vec<_>>(), [(&b"fan"[..], 7)]);
    for len in 0..report.len() {
        assert_eq!(format::Report::parse(&report[..len]), None, "{len}");
    }
    let mut random = 1;
    for _ in 0..100_000 {
        let mut damaged = report.clone();
        random = node::mix(random);
        let at = random as usize % damaged.len();
        damaged[at] = (random >> 32) as u8;
        if let Some(read) = format::Report::parse(&damaged) {
            let _ = (read.sensors().count(), read.key(), read.key_head());
        }
    }
}
