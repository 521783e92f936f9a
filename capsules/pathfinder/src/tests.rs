//! The protocol on nodes in memory, alone: what programs say and are told.

use bees_sdk::neighbor::News;
use bees_sdk::testing::{Link, Network, TestSession};

use super::*;

const LINK: Link = Link { delay_us: 1000, loss: 0.0 };
const SECOND: u64 = 1_000_000;

/// A ring, and a link from its first node to one more.
fn ring(nodes: usize, loss: f64) -> Network<Pathfinder> {
    let mut net = Network::new(&DESCRIPTION, 3);
    for at in 0..=nodes {
        net.node(&format!("n{at}"), Pathfinder::new());
    }
    for at in 0..nodes {
        net.link(at, (at + 1) % nodes, Link { loss, ..LINK });
    }
    net.link(0, nodes, Link { loss, ..LINK });
    net
}

fn ask(net: &mut Network<Pathfinder>, at: usize, line: &str) -> (TestSession, String) {
    let session = net.open(at);
    net.send(session, line.as_bytes());
    (session, net.received(session).pop().unwrap_or_default())
}

#[test]
fn leaves_reach_the_root_and_the_root_everybody_once() {
    let mut net = ring(8, 0.0);
    let (root, ok) = ask(&mut net, 0, "root");
    assert_eq!(ok, "ok");
    net.run_until(3 * SECOND);
    let sessions: Vec<TestSession> =
        (1..=8).map(|at| ask(&mut net, at, &format!("sink from {at}")).0).collect();
    net.run_until(net.now() + SECOND / 2);
    let mut told = net.received(root);
    told.sort();
    let mut wanted: Vec<String> =
        (1..8).map(|at: usize| format!("sink hops {} from {at}", at.min(8 - at))).collect();
    wanted.extend(["ok".into(), "sink hops 1 from 8".into()]);
    wanted.sort();
    assert_eq!(told, wanted);
    for n in 0..3 {
        net.send(root, format!("multicast word {n}").as_bytes());
        net.run_until(net.now() + SECOND / 4);
    }
    for session in sessions {
        assert_eq!(net.received(session), ["ok", "multicast word 0", "multicast word 1", "multicast word 2"]);
    }
    assert!(
        ask(&mut net, 4, "show").1.starts_with("place member parent n3 hops 4 ")
            || ask(&mut net, 4, "show").1.starts_with("place member parent n5 hops 4 ")
    );
    assert!(ask(&mut net, 0, "show").1.starts_with("place root hops 0 "));
    assert_eq!(net.counters().depleted, 0);
}

#[test]
fn requests_that_cannot_be_met_say_why() {
    let mut net = ring(3, 0.0);
    assert_eq!(ask(&mut net, 1, "sink x").1, "error NOT_FOUND");
    assert_eq!(ask(&mut net, 1, "multicast x").1, "error NOT_PERMITTED");
    assert_eq!(ask(&mut net, 1, "show").1, "place outside");
    assert!(ask(&mut net, 1, "dance").1.starts_with("error usage"));
    assert_eq!(ask(&mut net, 0, "root").1, "ok");
    assert_eq!(ask(&mut net, 0, &format!("multicast {}", "x".repeat(MAX_BYTES + 1))).1, "error TOO_LARGE");
    assert_eq!(ask(&mut net, 0, "sink to myself").1, "ok");
}

/// The root's node is cut off: the flow ends on all others, the near ones first, and what they say to their parents
/// meanwhile brings it back nowhere.
#[test]
fn without_the_root_the_flow_ends_from_the_inside_out() {
    let mut net = ring(8, 0.0);
    ask(&mut net, 0, "root");
    net.run_until(3 * SECOND);
    for at in 1..8usize {
        let serves = [(at + 1) % 8, at - 1].map(|n| net.serves(at, &format!("n{n}")));
        // The one in the middle has two ways of the same length.
        let parent = if at == 4 { serves[0] } else { at < 4 };
        assert_eq!(serves, [parent, !parent], "{at} does not give its parent the code");
    }
    for link in [0, 7, 8] {
        net.set_up(link, false);
    }
    let mut ended = [0; 9];
    for step in 0..100 {
        net.run_until(3 * SECOND + step * SECOND / 10);
        for (at, ended) in ended.iter_mut().enumerate().skip(1) {
            if *ended == 0 && net.has_ended(at) {
                *ended = step;
            }
        }
    }
    assert!(!net.has_ended(0) && ended[1..].iter().all(|&at| at > 0), "{ended:?}");
    for (inner, outer) in [(1, 2), (2, 3), (3, 4), (7, 6), (6, 5), (5, 4)] {
        assert!(ended[inner] < ended[outer], "{ended:?}");
    }
    // Expiry, and a quarter of an interval for each hop and the look at the clock.
    assert!(ended[4] <= 10 * 4 + 10 * 5 / 4 + 1, "{ended:?}");
}

/// A parent's death is believed, where the flow has the privilege, and what is said goes the other way at once.
#[test]
fn a_dead_parent_is_not_waited_for_where_it_is_watched() {
    for granted in [false, true] {
        let mut net = Network::new(&DESCRIPTION, 3);
        for at in 0..4 {
            net.node(&format!("n{at}"), Pathfinder::new());
            if granted {
                net.grant(at, "bees.liveness");
            }
        }
        // Two ways of the same length to the last one.
        for (a, b) in [(0, 1), (0, 2), (1, 3), (2, 3)] {
            net.link(a, b, LINK);
        }
        // As if their parameter had said so when they booted.
        let mut slow = Pathfinder::new();
        slow.tree.set_terms(Terms { interval: 10 * SECOND, expiry: 4, repeats: 1 });
        net.restart(0, slow);
        let (root, _) = ask(&mut net, 0, "root");
        net.run_until(62 * SECOND);
        let (_, place) = ask(&mut net, 3, "show");
        let parent = if place.contains("parent n1 ") { 1 } else { 2 };
        net.set_up(parent + 1, false);
        // Of one that it does not watch it is not told.
        net.neighbor_is(3, &format!("n{parent}"), News::Dead);
        net.neighbor_is(3, &format!("n{}", 3 - parent), News::Dead);
        ask(&mut net, 3, "sink by the other way");
        net.run_until(net.now() + SECOND);
        let heard = net.received(root);
        assert_eq!(heard.contains(&"sink hops 2 by the other way".into()), granted, "{heard:?}");
        let (_, place) = ask(&mut net, 3, "show");
        assert_eq!(place.contains(&format!("parent n{parent} ")), !granted, "{place}");
        let serves = [1, 2].map(|at| net.serves(3, &format!("n{at}")));
        assert_eq!(serves, if granted == (parent == 1) { [true, false] } else { [false, true] });
        // The next number comes by the way that is left in any case.
        net.run_until(net.now() + 12 * SECOND);
        assert!(ask(&mut net, 3, "show").1.contains(&format!("parent n{} ", 3 - parent)));
    }
}

/// Anybody may send anything: what is no capsule of ours changes nothing, and nothing goes on for ever.
#[test]
fn whatever_comes_is_survived() {
    let mut net = ring(4, 0.0);
    ask(&mut net, 0, "root");
    net.run_until(SECOND);
    let mut random = 7;
    for n in 0..20_000u64 {
        let mut payload = vec![];
        for _ in 0..n % 40 {
            random = node::mix(random);
            payload.push(random as u8);
        }
        let kind = (n % 4) as u8;
        if n % 3 > 0
            && let Some(first) = payload.first_mut()
        {
            *first = kind + 1;
        }
        net.inject((n % 4) as usize, 0, kind, &payload);
        if n % 100 == 0 {
            net.run_until(net.now() + SECOND / 100);
        }
    }
    let sent = net.counters().sent;
    net.run_until(net.now() + 10 * SECOND);
    // A node says a number some four times, to two or three neighbors.
    assert!(net.counters().sent - sent < 10 * 5 * 4 * 3 + 20_000, "{}", net.counters().sent - sent);
    assert!(ask(&mut net, 0, "show").1.starts_with("place root"));
}
