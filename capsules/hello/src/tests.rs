//! hello on nodes in memory.

use bees_sdk::node::mix;
use bees_sdk::testing::{Link, Network, TestSession};

use super::*;

const MS: u64 = 1000;

fn line(n: usize, loss: f64) -> Network<Hello> {
    let mut net = Network::new(&DESCRIPTION, 1);
    for i in 0..n {
        net.node(&format!("n{i}"), Hello::new());
    }
    for i in 1..n {
        net.link(i - 1, i, Link { delay_us: MS, loss });
    }
    net
}

/// Connected: a random tree, and half as many further links.
fn graph(n: usize, loss: f64, seed: u64) -> Network<Hello> {
    let mut net = Network::new(&DESCRIPTION, seed);
    let mut random = mix(seed ^ 0x5eed);
    let mut below = |n: usize| {
        random = mix(random);
        (random % n as u64) as usize
    };
    for i in 0..n {
        net.node(&format!("node-{i}"), Hello::new());
    }
    for i in 1..n {
        net.link(below(i), i, Link { delay_us: MS + below(4000) as u64, loss });
    }
    for _ in 0..n / 2 {
        let (a, b) = (below(n), below(n));
        if a != b {
            net.link(a, b, Link { delay_us: MS + below(4000) as u64, loss });
        }
    }
    net
}

fn find(net: &mut Network<Hello>, at: usize, request: &str, seconds: u64) -> Vec<String> {
    let session: TestSession = net.open(at);
    net.send(session, request.as_bytes());
    let end = net.now() + seconds * 1000 * MS;
    net.run_until(end);
    net.received(session)
}

/// Rounds, nodes and the last word of `done`.
fn done(lines: &[String]) -> (u32, usize, String) {
    let words: Vec<_> = lines.last().expect("an answer").split(' ').collect();
    assert_eq!(words[0], "done", "{lines:?}");
    (words[2].parse().unwrap(), words[4].parse().unwrap(), words[7].to_string())
}

#[test]
fn three_in_a_line_answer_and_the_list_is_closed() {
    let mut net = line(3, 0.0);
    let lines = find(&mut net, 0, "find\n", 10);
    assert_eq!(lines[0], "node n0 hops 0 us 0 via - round 1");
    assert_eq!(lines[1], "node n1 hops 1 us 2000 via n0 round 1");
    assert_eq!(lines[2], "node n2 hops 2 us 4000 via n1 round 1");
    assert_eq!(lines[3], "done rounds 2 nodes 3 ms 252 complete");
    assert_eq!(lines.len(), 4);
    assert_eq!(net.counters().depleted, 0);
}

#[test]
fn a_node_alone_is_done_at_once() {
    let mut net = line(1, 0.0);
    assert_eq!(find(&mut net, 0, "", 1).last().unwrap(), "done rounds 1 nodes 1 ms 0 complete");
}

#[test]
fn the_hop_limit_holds_and_ends_well() {
    let mut net = line(6, 0.0);
    let lines = find(&mut net, 1, "find hops 2", 10);
    assert_eq!(done(&lines), (2, 4, "complete".into()));
    // n4 would have been asked through n3, and was not.
    assert!(!lines.iter().any(|l| l.contains("n4")), "{lines:?}");
}

#[test]
fn a_dead_neighbor_is_waited_for_and_then_told() {
    let mut net = line(4, 0.0);
    net.set_up(2, false);
    let lines = find(&mut net, 0, "find quiet 8 interval 100", 10);
    let (rounds, nodes, how) = done(&lines);
    assert_eq!((nodes, how.as_str()), (3, "incomplete"));
    assert!((8..=12).contains(&rounds), "{rounds}");
}

#[test]
fn a_node_that_comes_late_is_found() {
    let mut net = line(4, 0.0);
    net.set_up(2, false);
    let session = net.open(0);
    net.send(session, b"find");
    net.run_until(3000 * MS);
    net.set_up(2, true);
    net.run_until(10_000 * MS);
    assert_eq!(done(&net.received(session)).1, 4);
}

#[test]
fn a_restarted_node_is_found_again_and_loses_nothing() {
    let mut net = graph(60, 0.1, 3);
    let session = net.open(0);
    net.send(session, b"find");
    for i in 1..30 {
        net.run_until(i * 20 * MS);
        net.restart(i as usize, Hello::new());
    }
    net.run_until(60_000 * MS);
    assert_eq!(done(&net.received(session)).1, 60);
}

#[test]
fn requests_are_checked() {
    let mut net = line(2, 1.0);
    let session = net.open(0);
    net.send(session, b"dance");
    net.send(session, b"find hops");
    net.send(session, b"find sideways 3");
    net.send(session, b"find");
    net.send(session, b"find");
    let lines = net.received(session);
    assert!(lines[..3].iter().all(|l| l.starts_with("error ")), "{lines:?}");
    assert!(lines[4].contains("under way"), "{lines:?}");
    net.close(session);
    let again = net.open(0);
    net.send(again, b"find");
    assert_eq!(net.received(again), ["node n0 hops 0 us 0 via - round 1"]);
}

#[test]
fn nonsense_is_ignored() {
    let mut net = graph(20, 0.0, 5);
    let session = net.open(0);
    net.send(session, b"find");
    let mut random = 9;
    for i in 0..20_000 {
        let mut payload = vec![0; (mix(i) % 400) as usize];
        for b in &mut payload {
            random = mix(random);
            *b = random as u8;
        }
        if let Some(first) = payload.first_mut() {
            *first = (i % 3) as u8;
        }
        net.inject((i % 20) as usize, 0, (i % 3) as u8, &payload);
    }
    net.run_until(20_000 * MS);
    assert_eq!(done(&net.received(session)).1, 20);
}

#[test]
fn two_searches_at_once_do_not_mix() {
    let mut net = graph(40, 0.1, 11);
    let (a, b) = (net.open(0), net.open(39));
    net.send(a, b"find");
    net.send(b, b"find interval 180");
    net.run_until(60_000 * MS);
    for session in [a, b] {
        assert_eq!(done(&net.received(session)), (done(&net.received(session)).0, 40, "complete".into()));
    }
}

/// README.md states this bound.
const MOST_ROUNDS: u32 = 20;

#[test]
fn five_hundred_nodes_answer_in_a_stated_number_of_rounds() {
    let seeds: u64 = std::env::var("HELLO_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(100);
    let (mut most, mut sum, mut sent) = (0, 0, 0);
    for seed in 0..seeds {
        let mut net = graph(500, 0.1, seed);
        let lines = find(&mut net, 0, "find", 60);
        let (rounds, nodes, how) = done(&lines);
        assert_eq!((nodes, how.as_str()), (500, "complete"), "seed {seed}, {rounds} rounds");
        let mut names: Vec<_> = lines.iter().filter(|l| l.starts_with("node ")).collect();
        names.sort();
        names.dedup_by_key(|l| l.split(' ').nth(1).unwrap_or("").to_string());
        assert_eq!(names.len(), 500);
        assert!(rounds <= MOST_ROUNDS, "seed {seed}: {rounds} rounds");
        assert_eq!(net.counters().depleted, 0);
        (most, sum) = (most.max(rounds), sum + rounds);
        sent += net.counters().sent;
    }
    println!(
        "rounds: {} on average, {most} at most; {} capsules per search",
        sum as f64 / seeds as f64,
        sent / seeds
    );
}

#[test]
fn equal_seeds_make_equal_runs() {
    let run = |seed| find(&mut graph(100, 0.1, seed), 0, "find", 60);
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
}
