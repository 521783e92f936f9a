//! The tree over random graphs, in memory: what it is after every failure, and when.
//!
//! `cargo test -p pathfinder -- --nocapture` prints the figures.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bees_sdk::node::mix;

use crate::format::Configuration;
use crate::tree::{Due, Role, TICKS, Terms, Tree};

const INTERVAL: u64 = 1_000_000;
const TICK: u64 = INTERVAL / TICKS;
const TERMS: Terms = Terms { interval: INTERVAL, expiry: 4, repeats: 1 };
/// Intervals after which every node has the shortest way again, where nothing is lost.
const BOUND: u64 = 2;
/// Intervals after which every node has a way again, at a loss of 10 % of the capsules.
const LOSSY_BOUND: u64 = 4;

#[derive(Clone)]
struct World {
    trees: Vec<Tree>,
    alive: Vec<bool>,
    links: Vec<(usize, usize, bool)>,
    /// A neighbor's number is its link's, from 1.
    ports: Vec<Vec<u32>>,
    queue: BinaryHeap<Reverse<Happening>>,
    now: u64,
    count: u64,
    random: u64,
    loss: f64,
    /// When each node lost the root.
    lost: Vec<Option<u64>>,
    sent: u64,
}

/// When it happens, its number, at which node, and what.
type Happening = (u64, u64, usize, What);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// It looks at the clock.
    Tick,
    /// This arrives by this port.
    Word(u32, Bytes),
    /// It learns that the neighbor behind this port is dead.
    Dead(u32),
}

/// A configuration that can be put in order.
type Bytes = (u8, u64, u32, u32, u32);

impl World {
    /// A random tree and further links between random nodes; node 0 is the root.
    fn random(nodes: usize, links: usize, seed: u64, loss: f64) -> Self {
        let mut world = Self {
            trees: vec![Tree::new(); nodes],
            alive: vec![true; nodes],
            links: vec![],
            ports: vec![vec![]; nodes],
            queue: BinaryHeap::new(),
            now: 0,
            count: 0,
            random: mix(seed),
            loss,
            lost: vec![None; nodes],
            sent: 0,
        };
        for at in 0..nodes {
            world.trees[at].set_terms(TERMS);
            // The root's looks at the clock begin at 0, the others' whenever.
            let first = if at == 0 { TICK } else { world.draw(TICK) };
            world.push(first, at, What::Tick);
            if at > 0 {
                let to = world.draw(at as u64) as usize;
                world.link(at, to);
            }
        }
        while world.links.len() < links {
            let (a, b) = (world.draw(nodes as u64) as usize, world.draw(nodes as u64) as usize);
            if a != b && !world.links.iter().any(|&(c, d, _)| (c, d) == (a, b) || (c, d) == (b, a)) {
                world.link(a, b);
            }
        }
        let word = world.trees[0].become_root(0, 1);
        world.say(0, &word, 0);
        world
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = mix(self.random);
        self.random % below
    }

    fn link(&mut self, a: usize, b: usize) {
        self.links.push((a, b, true));
        self.ports[a].push(self.links.len() as u32);
        self.ports[b].push(self.links.len() as u32);
    }

    fn other(&self, at: usize, port: u32) -> usize {
        let (a, b, _) = self.links[port as usize - 1];
        if a == at { b } else { a }
    }

    fn is_up(&self, at: usize, port: u32) -> bool {
        self.links[port as usize - 1].2 && self.alive[self.other(at, port)] && self.alive[at]
    }

    fn push(&mut self, time: u64, at: usize, what: What) {
        self.count += 1;
        self.queue.push(Reverse((time, self.count, at, what)));
    }

    fn say(&mut self, at: usize, c: &Configuration, but: u32) {
        for port in self.ports[at].clone() {
            let lost = (self.draw(1_000_000) as f64) < self.loss * 1e6;
            let delay = 1_000 + self.draw(9_000);
            self.sent += 1;
            if port != but && !lost && self.is_up(at, port) {
                let bytes = (c.hops, c.epoch, c.sequence, c.age_ms, c.interval_ms);
                self.push(self.now + delay, self.other(at, port), What::Word(port, bytes));
            }
        }
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse((time, _, at, what))) = self.queue.peek().cloned() {
            if time > end {
                break;
            }
            self.queue.pop();
            self.now = time;
            if !self.alive[at] {
                continue;
            }
            let moved = match what {
                What::Tick => {
                    self.push(time + TICK, at, What::Tick);
                    match self.trees[at].tick(time) {
                        Due::Nothing => {}
                        Due::Say(word) => self.say(at, &word, 0),
                        Due::Lost => self.lost[at] = Some(time),
                    }
                    false
                }
                What::Word(from, (hops, epoch, sequence, age_ms, interval_ms)) => {
                    let word = Configuration { hops, epoch, sequence, age_ms, interval_ms };
                    let heard = self.trees[at].hear(time, from, &word);
                    if let Some(word) = heard.say {
                        self.say(at, &word, from);
                    }
                    heard.moved
                }
                What::Dead(port) => self.trees[at].neighbor_lost(port),
            };
            if moved {
                self.way(at).unwrap_or_else(|| panic!("a circle at {at}"));
            }
        }
        self.now = end;
    }

    /// Hops along the parents, whether they live or not, to where there is no parent; `None`: a circle.
    fn way(&self, from: usize) -> Option<(usize, usize)> {
        let mut at = from;
        for hops in 0..=self.trees.len() {
            match self.trees[at].parent() {
                Some(port) => at = self.other(at, port),
                None => return Some((at, hops)),
            }
        }
        None
    }

    fn distances(&self) -> Vec<Option<usize>> {
        let mut found = vec![None; self.trees.len()];
        let mut next = VecDeque::new();
        if self.alive[0] {
            found[0] = Some(0);
            next.push_back(0);
        }
        while let Some(at) = next.pop_front() {
            for &port in &self.ports[at] {
                let to = self.other(at, port);
                if self.is_up(at, port) && found[to].is_none() {
                    found[to] = found[at].map(|hops| hops + 1);
                    next.push_back(to);
                }
            }
        }
        found
    }

    /// Whether every node that can reach the root has a way there of living nodes; if `shortest`, the shortest.
    fn is_whole(&self, shortest: bool) -> bool {
        let found = self.distances();
        let good = |at: usize, hops: usize| {
            let (mut node, mut steps) = (at, 0);
            while let Some(port) = self.trees[node].parent().filter(|p| self.is_up(node, *p)) {
                (node, steps) = (self.other(node, port), steps + 1);
                assert!(steps <= self.trees.len(), "a circle at {at}");
            }
            node == 0 && (!shortest || steps == hops && usize::from(self.trees[at].hops()) == hops)
        };
        found.iter().enumerate().all(|(at, hops)| hops.is_none_or(|hops| good(at, hops)))
    }

    /// Runs and says after how many looks (from now on) everything was whole for good.
    fn settle(&mut self, intervals: u64, shortest: bool) -> u64 {
        let mut whole_since = None;
        for look in 0..=intervals * TICKS {
            // A moment before the root may speak: what it said last has come everywhere.
            let phase = TICK * 9 / 10;
            let next = self.now + 1 + (phase + TICK - (self.now + 1) % TICK) % TICK;
            self.run_until(next);
            match self.is_whole(shortest) {
                true => whole_since = whole_since.or(Some(look)),
                false => whole_since = None,
            }
        }
        whole_since.unwrap_or(u64::MAX)
    }
}

/// When a node that has its parent watched learns of its death, in an interval of ten seconds: after two to three pokes of
/// a second, and a little.
const ANNOUNCED: (u64, u64) = (INTERVAL / 5, INTERVAL * 2 / 5);

impl World {
    /// Breaks a link, or a node but the root; with `announced` those that have lost their parents by that learn of it.
    fn fail(&mut self, failure: usize, announced: bool) {
        let dead = failure.checked_sub(self.links.len()).map(|node| node + 1);
        match dead {
            None => self.links[failure].2 = false,
            Some(node) => self.alive[node] = false,
        }
        for at in 0..self.trees.len() {
            if let Some(port) = self.trees[at].parent().filter(|port| announced && !self.is_up(at, *port)) {
                let delay = ANNOUNCED.0 + self.draw(ANNOUNCED.1 - ANNOUNCED.0);
                self.push(self.now + delay, at, What::Dead(port));
            }
        }
    }

    /// Whether whoever has lost its parent by a failure has another neighbor that is as near to the root.
    fn has_others(&self) -> bool {
        (0..self.trees.len()).filter(|at| self.alive[*at]).all(|at| {
            let near = |port: &u32| {
                let other = self.other(at, *port);
                self.is_up(at, *port) && self.trees[other].hops() < self.trees[at].hops()
            };
            self.trees[at]
                .parent()
                .is_none_or(|parent| self.is_up(at, parent) || self.ports[at].iter().any(near))
        })
    }

    /// After how long everybody has a way again, and keeps one for two intervals.
    fn has_way_after(&mut self) -> u64 {
        let (begin, mut since) = (self.now, None);
        while self.now < begin + 2 * INTERVAL {
            match self.is_whole(false) {
                true => since = since.or(Some(self.now - begin)),
                false => since = None,
            }
            self.run_until(self.now + INTERVAL / 50);
        }
        since.expect("two intervals are enough")
    }
}

/// Where every child of what failed has another way as short, all have a way again as soon as they know; elsewhere with
/// the next number, as without being told.
#[test]
fn who_is_told_of_a_death_does_not_wait_for_the_next_number() {
    let (mut told, mut alone, mut tried) = (vec![], vec![], 0);
    for seed in 0..3 {
        let mut world = World::random(200, 500, seed, 0.0);
        world.settle(12, true);
        for failure in (0..world.links.len() + world.trees.len() - 1).step_by(3) {
            let step = world.draw(INTERVAL);
            world.run_until(world.now + step);
            let (mut with, mut without) = (world.clone(), world.clone());
            with.fail(failure, true);
            without.fail(failure, false);
            if with.is_whole(false) {
                continue;
            }
            tried += 1;
            let redundant = with.has_others();
            let (a, b) = (with.has_way_after(), without.has_way_after());
            assert!(a.max(b) <= INTERVAL * 5 / 4, "seed {seed}, failure {failure}: {a} {b}");
            if redundant {
                assert!(a <= ANNOUNCED.1 + INTERVAL / 25, "seed {seed}, failure {failure}: {a}");
                told.push(a);
                alone.push(b);
            }
        }
    }
    let mean = |all: &[u64]| all.iter().sum::<u64>() as f64 / all.len() as f64 / INTERVAL as f64;
    println!(
        "{tried} failures that cut a way, {} of them with others as short: a way again after {:.2} intervals, {:.2} without being told",
        told.len(),
        mean(&told),
        mean(&alone)
    );
    assert!(told.len() > 50 && mean(&told) < mean(&alone) * 0.8);
}

/// The worst of all single failures of a graph, in quarters of an interval: of links, of nodes.
fn failures(seed: u64, loss: f64, every: usize) -> (u64, u64, usize) {
    let (bound, shortest) = if loss > 0.0 { (LOSSY_BOUND, false) } else { (BOUND, true) };
    let mut world = World::random(200, 300 + 50 * (seed % 5) as usize, seed, loss);
    world.settle(12, shortest);
    let (mut worst, mut tried) = ([0, 0], 0);
    let begin = seed as usize % every;
    for failure in (begin..world.links.len() + world.trees.len() - 1).step_by(every) {
        // Another moment of the interval each time.
        let step = world.draw(INTERVAL);
        world.run_until(world.now + step);
        let mut broken = world.clone();
        let kind = usize::from(failure >= world.links.len());
        match kind {
            0 => broken.links[failure].2 = false,
            // All but the root.
            _ => broken.alive[failure - world.links.len() + 1] = false,
        }
        let took = broken.settle(bound, shortest);
        assert!(took <= bound * TICKS, "seed {seed}, failure {failure}: not whole in {bound} intervals");
        worst[kind] = worst[kind].max(took);
        tried += 1;
    }
    (worst[0], worst[1], tried)
}

fn all_failures(seeds: std::ops::Range<u64>, loss: f64, every: usize) {
    let (mut worst, mut tried) = ((0, 0), 0);
    for seed in seeds.clone() {
        let (links, nodes, n) = failures(seed, loss, every);
        (worst, tried) = ((worst.0.max(links), worst.1.max(nodes)), tried + n);
    }
    println!(
        "{} graphs of 200 nodes, loss {loss}: {tried} failures, whole after at most {}/{TICKS} (links), {}/{TICKS} (nodes) intervals",
        seeds.end - seeds.start,
        worst.0,
        worst.1,
    );
}

#[test]
fn after_every_failure_everybody_has_the_shortest_way_within_two_intervals() {
    all_failures(0..3, 0.0, 1);
}

#[test]
fn under_loss_everybody_has_a_way_again_within_four() {
    all_failures(0..5, 0.1, 4);
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn more_graphs() {
    all_failures(100..140, 0.0, 1);
    all_failures(100..140, 0.1, 1);
}

/// Without the root nobody keeps the tree alive, however many there are to repeat what it said.
#[test]
fn a_dead_root_is_lost_from_the_inside_out() {
    for seed in 0..20 {
        let mut world = World::random(200, 350, seed, 0.0);
        world.settle(8, true);
        let parents: Vec<Option<usize>> =
            (0..200).map(|at| world.trees[at].parent().map(|port| world.other(at, port))).collect();
        let depth = world.trees.iter().map(|t| u64::from(t.hops())).max().unwrap();
        world.alive[0] = false;
        let (died, sent) = (world.now, world.sent);
        world.run_until(died + (u64::from(TERMS.expiry) * TICKS + depth + 1) * TICK);
        for (at, parent) in parents.iter().enumerate().skip(1) {
            let lost = world.lost[at].unwrap_or_else(|| panic!("seed {seed}: {at} holds on"));
            assert_eq!(world.trees[at].role(), Role::Outside);
            if let Some(parent) = parent.filter(|p| *p != 0) {
                assert!(world.lost[parent] < Some(lost), "seed {seed}: {at} before its parent");
            }
        }
        let still = world.sent;
        world.run_until(world.now + 10 * INTERVAL);
        assert_eq!(world.sent, still, "nobody says anything any more");
        // What was being said when it died, and its repetition.
        assert!(still - sent <= 2 * 700 * 2, "{}", still - sent);
    }
}

/// What is cut off loses the root, comes back, and no number that was used there before confuses it.
#[test]
fn a_part_that_is_cut_off_comes_back() {
    for seed in 0..10 {
        let mut world = World::random(60, 60, seed, 0.0);
        world.settle(8, true);
        let cut: Vec<usize> = (0..world.links.len()).filter(|l| *l as u64 % 5 == seed % 5).collect();
        cut.iter().for_each(|&l| world.links[l].2 = false);
        world.settle(20, true);
        let found = world.distances();
        assert!(found.iter().any(Option::is_none), "seed {seed}: nothing was cut off");
        for (at, hops) in found.iter().enumerate().skip(1) {
            assert_eq!(world.trees[at].parent().is_some(), hops.is_some(), "seed {seed}: {at}");
        }
        cut.iter().for_each(|&l| world.links[l].2 = true);
        // Node after node, each of which waits for a repetition.
        assert!(world.settle(12, true) <= 12 * TICKS, "seed {seed}");
        // The root starts anew: its epoch is greater.
        let word = world.trees[0].become_root(world.now, 2);
        world.say(0, &word, 0);
        assert!(world.settle(BOUND, true) <= BOUND * TICKS, "seed {seed}");
        assert!(world.trees.iter().all(|t| t.epoch() == word.epoch));
    }
}
