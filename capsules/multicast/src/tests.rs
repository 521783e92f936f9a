//! Groups on nodes in memory: who gets what, over which links, while capsules are lost and links fail.

use std::collections::{BTreeMap, BTreeSet};

use bees_sdk::node::mix;
use bees_sdk::testing::{Link, Network, TestSession};

use super::*;

const SECOND: u64 = 1_000_000;

struct Net {
    net: Network<Multicast>,
    links: Vec<(usize, usize, usize)>,
    source: TestSession,
    members: BTreeMap<usize, TestSession>,
}

impl Net {
    /// A connected random graph; the source is node 0.
    fn random(nodes: usize, more: usize, seed: u64, loss: f64) -> Self {
        let mut random = mix(seed);
        let mut draw = |n: usize| {
            random = mix(random);
            random as usize % n
        };
        let mut pairs = BTreeSet::new();
        (1..nodes).for_each(|at| _ = pairs.insert((draw(at), at)));
        while pairs.len() < nodes - 1 + more {
            let (a, b) = (draw(nodes), draw(nodes));
            if a != b {
                pairs.insert((a.min(b), a.max(b)));
            }
        }
        Self::new(nodes, pairs.into_iter().collect(), seed, loss)
    }

    fn new(nodes: usize, pairs: Vec<(usize, usize)>, seed: u64, loss: f64) -> Self {
        let mut net = Network::new(&DESCRIPTION, seed);
        (0..nodes).for_each(|at| _ = net.node(&format!("n{at}"), Multicast::new()));
        let link = |(a, b)| (a, b, net.link(a, b, Link { delay_us: 1000, loss }));
        let links = pairs.into_iter().map(link).collect();
        let source = net.open(0);
        net.send(source, b"source g");
        assert_eq!(net.received(source), ["ok"]);
        Self { net, links, source, members: BTreeMap::new() }
    }

    fn pass(&mut self, time: u64) {
        self.net.run_until(self.net.now() + time);
    }

    fn join(&mut self, at: usize, terms: &str) {
        let session = match self.members.get(&at) {
            Some(session) => *session,
            None => self.net.open(at),
        };
        self.members.insert(at, session);
        let before = self.net.received(session).len();
        self.net.send(session, format!("join g {terms}").as_bytes());
        assert_eq!(self.net.received(session)[before], "ok");
    }

    fn send(&mut self, payload: &str) {
        self.net.send(self.source, format!("send g {payload}").as_bytes());
        let told = self.net.received(self.source);
        assert!(told.last().unwrap().starts_with("ok "), "{told:?}");
    }

    /// The payloads that a member got, in the order in which they came.
    fn got(&mut self, at: usize) -> Vec<String> {
        let told = self.net.received(self.members[&at]);
        told.iter()
            .filter(|l| l.starts_with("data g "))
            .map(|l| l.splitn(5, ' ').nth(4).unwrap().into())
            .collect()
    }

    fn sum(&self, nodes: usize, count: impl Fn(&Counts) -> u32) -> u32 {
        (0..nodes).map(|at| count(&self.net.protocol(at).counts)).sum()
    }
}

#[test]
fn only_members_get_what_they_want_over_links_that_lead_there() {
    //     1 - 2 - 3
    //   /
    // 0 - 4 - 5
    let mut g = Net::new(6, vec![(0, 1), (1, 2), (2, 3), (0, 4), (4, 5)], 1, 0.0);
    g.pass(SECOND);
    g.join(3, "sport");
    g.join(2, "x:6e657773");
    g.join(0, "");
    g.pass(SECOND);
    for payload in ["sport 1", "news 1", "weather 1"] {
        g.send(payload);
    }
    g.pass(SECOND);
    assert_eq!(g.got(3), ["sport 1"]);
    assert_eq!(g.got(2), ["news 1"]);
    assert_eq!(g.got(0), ["sport 1", "news 1", "weather 1"]);
    // 0-1 and 1-2 carry two each, 2-3 one, the others nothing.
    assert_eq!(g.sum(6, |c| c.forwarded), 5);
    assert_eq!((g.sum(6, |c| c.unwanted), g.sum(6, |c| c.duplicates)), (0, 0));
    assert_eq!(g.net.counters().depleted, 0);
    // The one who wants sport leaves; the links that were for it alone are pruned before the next is sent.
    let session = g.members[&3];
    g.net.send(session, b"leave g");
    g.pass(SECOND / 20);
    g.send("sport 2");
    g.pass(SECOND);
    assert_eq!((g.got(3).len(), g.sum(6, |c| c.forwarded)), (1, 5));
    // And when a program just goes away.
    let session = g.members[&2];
    g.net.close(session);
    g.pass(SECOND / 20);
    g.send("news 2");
    g.pass(SECOND);
    assert_eq!((g.sum(6, |c| c.forwarded), g.sum(6, |c| c.unwanted)), (5, 0));
}

#[test]
fn a_rate_holds_for_the_link_and_for_the_program() {
    let mut g = Net::new(3, vec![(0, 1), (1, 2)], 1, 0.0);
    g.pass(SECOND);
    g.join(1, "a@10");
    g.join(2, "a@5");
    g.pass(SECOND);
    for _ in 0..1000 {
        g.send("a");
        g.pass(10_000);
    }
    let (near, far) = (g.got(1).len(), g.got(2).len());
    assert!((95..=105).contains(&near), "{near}");
    assert!((45..=55).contains(&far), "{far}");
    assert_eq!(g.sum(1, |c| c.forwarded) as usize, near);
}

/// With a tenth of all capsules lost, and a link that fails now and then: everybody gets nearly all of what it wants, once
/// each; nothing comes to who left; what nobody wants is not carried.
#[test]
fn loss_and_failures() {
    let nodes = 40;
    for seed in 0..6 {
        let mut g = Net::random(nodes, 25, seed, 0.1);
        g.pass(4 * SECOND);
        let topics = ["a", "b", "c"];
        for at in (1..nodes).step_by(3) {
            g.join(at, topics[at % 3 % topics.len()]);
            g.join(at, topics[at % topics.len()]);
        }
        g.pass(3 * SECOND);
        let mut random = mix(seed);
        let mut sent = BTreeMap::new();
        for round in 0..600 {
            if round % 100 == 50 {
                random = mix(random);
                let (.., link) = g.links[random as usize % g.links.len()];
                g.net.set_up(link, false);
            }
            if round % 100 == 99 {
                g.links.clone().iter().for_each(|(.., link)| g.net.set_up(*link, true));
            }
            let topic = ["a", "b", "c", "d"][round % 4];
            g.send(&format!("{topic}{round}"));
            sent.entry(topic).or_insert_with(Vec::new).push(format!("{topic}{round}"));
            g.pass(SECOND / 20);
        }
        g.pass(SECOND);
        let (mut most, mut all) = (0, 0);
        for at in (1..nodes).step_by(3) {
            let topic = topics[at % topics.len()];
            let got = g.got(at);
            let unlike: Vec<_> = got.iter().filter(|p| !p.starts_with(topic)).collect();
            assert!(unlike.is_empty(), "seed {seed}: n{at} got {unlike:?}");
            let once: BTreeSet<_> = got.iter().collect();
            assert_eq!(once.len(), got.len(), "seed {seed}: n{at} got one twice");
            (most, all) = (most + sent[topic].len(), all + got.len());
        }
        // A payload has some four hops to go, each with a tenth of losses.
        assert!(all * 100 >= most * 45, "seed {seed}: {all} of {most}");
        // Each d was sent; nobody carried one.
        let carried = g.sum(nodes, |c| c.forwarded);
        let (unwanted, twice) = (g.sum(nodes, |c| c.unwanted), g.sum(nodes, |c| c.duplicates));
        println!(
            "seed {seed}: {all} of {most} delivered, {carried} carried, {unwanted} unwanted, {twice} twice"
        );
        // Only what crosses a lost leave, or comes while there are two ways.
        assert!(unwanted * 50 <= carried, "seed {seed}: {unwanted} of {carried}");
        assert!(twice * 7 <= carried, "seed {seed}: {twice} of {carried}");
        // Everybody leaves: nothing comes to anybody any more, and after the expiry at the latest nothing is carried, whatever
        // was lost of the leaving.
        for at in (1..nodes).step_by(3) {
            let session = g.members[&at];
            g.net.send(session, b"leave g");
        }
        let had: Vec<usize> = (1..nodes).step_by(3).map(|at| g.got(at).len()).collect();
        for _ in 0..130 {
            topics.iter().for_each(|t| g.send(t));
            g.pass(SECOND / 20);
        }
        let before = g.sum(nodes, |c| c.forwarded);
        for _ in 0..40 {
            topics.iter().for_each(|t| g.send(t));
            g.pass(SECOND / 20);
        }
        let had_later: Vec<usize> = (1..nodes).step_by(3).map(|at| g.got(at).len()).collect();
        assert_eq!(had, had_later, "seed {seed}: something came after the leaving");
        assert_eq!(g.sum(nodes, |c| c.forwarded), before, "seed {seed}: it is still carried");
        assert_eq!(g.net.counters().depleted, 0, "seed {seed}");
    }
}

/// After a link has failed payloads come by another way within an interval and a half.
#[test]
fn another_way_is_found() {
    // A ring of six.
    let mut g = Net::new(6, (0..6).map(|at| (at, (at + 1) % 6)).collect(), 1, 0.0);
    g.pass(2 * SECOND);
    g.join(2, "");
    g.pass(SECOND);
    g.send("before");
    g.pass(SECOND / 10);
    g.net.set_up(g.links[1].2, false);
    g.pass(3 * SECOND / 2);
    g.send("after");
    g.pass(SECOND);
    assert_eq!(g.got(2), ["before", "after"]);
    // Node 1 does not know yet that nobody hears it any more.
    assert_eq!(g.sum(6, |c| c.forwarded), 2 + 4 + 2);
}

#[test]
fn what_is_silent_is_forgotten() {
    let mut g = Net::new(3, vec![(0, 1), (1, 2)], 1, 0.0);
    g.pass(SECOND);
    g.join(2, "");
    g.pass(SECOND);
    // The member's node falls silent.
    g.net.set_up(g.links[1].2, false);
    g.pass(7 * SECOND);
    g.send("x");
    g.pass(SECOND);
    assert_eq!((g.sum(3, |c| c.forwarded), g.got(2).len()), (0, 0));
    assert!(g.net.received(g.members[&2]).contains(&"lost g".into()));
    // It comes back, and so does what it wanted.
    g.net.set_up(g.links[1].2, true);
    g.pass(2 * SECOND);
    g.send("y");
    g.pass(SECOND);
    assert_eq!(g.got(2), ["y"]);
    // The source goes: nothing is left of the group but its member.
    let source = g.source;
    g.net.close(source);
    g.pass(8 * SECOND);
    let known = |g: &Net, at: usize| g.net.protocol(at).groups.iter().filter(|g| g.id != 0).count();
    assert_eq!((known(&g, 0), known(&g, 1), known(&g, 2)), (0, 0, 1));
    let session = g.members[&2];
    g.net.send(session, b"leave g");
    assert_eq!(known(&g, 2), 0);
}

#[test]
fn a_group_has_one_source() {
    let mut g = Net::new(2, vec![(0, 1)], 1, 0.0);
    g.pass(SECOND);
    let other = g.net.open(1);
    g.net.send(other, b"source g");
    assert_eq!(g.net.received(other), ["error the group has a source"]);
    g.net.send(other, b"send g x");
    assert!(g.net.received(other)[1].starts_with("error this program is not"));
    // Two that began while they could not hear each other: one stays.
    g.net.set_up(g.links[0].2, false);
    g.pass(7 * SECOND);
    g.net.send(other, b"source g");
    g.net.set_up(g.links[0].2, true);
    g.pass(4 * SECOND);
    let deposed = [g.source, other].map(|s| g.net.received(s).contains(&"deposed g".to_string()));
    assert!(deposed[0] ^ deposed[1], "{deposed:?}");
}

/// A program that was the source ends, and another one at the same node begins at once or a little later, in the same second
/// of the clock: what the network still says of the first neither stops nor deposes the second.
#[test]
fn a_source_is_followed_by_another_at_its_node() {
    for seed in 0..12 {
        for pause in [0, 1, 10, 200, 400, 1500] {
            let mut g = Net::new(3, vec![(0, 1), (1, 2)], seed, 0.0);
            g.join(2, "");
            g.pass(SECOND / 10);
            let first = g.source;
            g.net.close(first);
            g.pass(pause * 1000);
            g.source = g.net.open(0);
            g.net.send(g.source, b"source g");
            assert_eq!(g.net.received(g.source), ["ok"], "seed {seed}, {pause} ms later");
            g.pass(3 * SECOND);
            g.send("second");
            g.pass(SECOND);
            let told = g.net.received(g.source);
            assert!(!told.contains(&"deposed g".into()), "seed {seed}, {pause} ms later: {told:?}");
            assert_eq!(g.got(2), ["second"], "seed {seed}, {pause} ms later");
        }
    }
}

#[test]
fn bounds_are_told() {
    let mut g = Net::new(1, vec![], 1, 0.0);
    let session = g.net.open(0);
    let mut ask = |line: &str| {
        let before = g.net.received(session).len();
        g.net.send(session, line.as_bytes());
        g.net.received(session)[before].clone()
    };
    for (line, why) in [
        ("join", "usage"),
        ("join g a b c d e", "more than 4 terms"),
        ("join g seventeen-letters", "a term is"),
        ("join g a@0", "a term is"),
        ("leave g", "not a member"),
        ("dance g", "know only"),
        (&format!("join {}", "g".repeat(33)), "usage"),
    ] {
        let told = ask(line);
        assert!(told.starts_with("error ") && told.contains(why), "{line}: {told}");
    }
    for at in 1..8 {
        assert_eq!(ask(&format!("source g{at}")), "ok");
    }
    assert!(ask("source g8").contains("no room"));
    assert!(ask("join g8").contains("no room"));
    let source = g.source;
    let mut send = |payload: &[u8]| {
        let before = g.net.received(source).len();
        g.net.send(source, &[b"send g ", payload].concat());
        g.net.received(source)[before].clone()
    };
    assert_eq!(send(&[0xff; MAX_BYTES]), "ok 1");
    assert!(send(&[0; MAX_BYTES + 1]).contains("more than 1200"));
    for at in 0..16 {
        let member = g.net.open(0);
        g.net.send(member, b"join g");
        let told = g.net.received(member);
        assert_eq!(told[0], "ok", "{at}");
    }
    let member = g.net.open(0);
    g.net.send(member, b"join g");
    assert!(g.net.received(member)[0].contains("no room: there are 16"));
}

/// A node has links to more neighbors than there is room for: who is left out is told.
#[test]
fn who_finds_no_room_on_the_way_is_told() {
    let mut g = Net::new(19, (1..19).map(|at| (0, at)).collect(), 1, 0.0);
    g.pass(SECOND);
    (1..19).for_each(|at| g.join(at, ""));
    g.pass(2 * SECOND);
    let crowded = (1..19).filter(|at| g.net.received(g.members[at]).contains(&"crowded g".into())).count();
    assert_eq!(crowded, 2);
    g.send("x");
    g.pass(SECOND);
    let got: usize = (1..19).map(|at| g.got(at).len()).sum();
    assert_eq!((got, g.net.counters().depleted), (16, 0));
}

#[test]
fn what_a_neighbor_makes_up_is_no_panic() {
    let mut g = Net::new(2, vec![(0, 1)], 1, 0.0);
    g.pass(SECOND);
    g.join(0, "");
    let mut random = 1;
    for _ in 0..20_000 {
        random = mix(random);
        let len = random as usize % 80;
        let mut payload = vec![];
        while payload.len() < len {
            random = mix(random);
            payload.extend(random.to_le_bytes());
        }
        payload.truncate(len);
        if let Some(first) = payload.first_mut() {
            *first = 1 + (random % 4) as u8;
        }
        g.net.inject(0, 0, (random >> 8) as u8 % 5, &payload);
    }
    // Of a group that is not this one nothing is passed on.
    assert_eq!(g.got(0).len(), 0);
    g.send("x");
    assert_eq!(g.got(0), ["x"]);
}
