//! The health agent, as it is shipped: how long it takes to be everywhere, how many reports are lost while nodes come
//! and go, how long it takes to be nowhere, and what that costs on the links, beside what polling would.
//!
//! `cargo test -p sim --test health -- --nocapture` prints the figures.

mod common;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use common::real::{self, find_flow, lines, module, number, open, total, tuple_of_two, word};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::random::Random;
use sim::{Options, Session, Sim};
use wire::control::{FlowState, Request};
use wire::id::TupleHash;

const SECOND: Duration = Duration::from_secs(1);
/// Seconds between two reports of a node: the flow's parameter.
const POLL: f64 = 5.0;
/// Steady state is watched for so long, then so long with churn.
const WATCHED: u32 = 60;
/// A frame without payload: what an Ethernet link carries at least. Headers before a payload, of UDP and TCP.
const BARE: f64 = 60.0;
const UDP_HEAD: f64 = 42.0;
const TCP_HEAD: f64 = 54.0;

struct Agent {
    lab: Lab,
    sim: Sim,
    hash: TupleHash,
    server: Session,
}

impl Agent {
    fn new(nodes: usize, seed: u64) -> Self {
        let shape = Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss: 0.001, ..Shape::default() };
        let lab = Lab::random(nodes, 4, seed).shaped(shape);
        let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
        let (main, way) = (module("health"), module("pathfinder"));
        let tuple = tuple_of_two(&main, &way, &["sensors", "node-key"], &[("health-retention", "600")]);
        let hash = sim.inject(0, &tuple, &[&main, &way]).unwrap();
        let server = open(&mut sim, 0, &hash);
        Self { lab, sim, hash, server }
    }

    fn ask(&mut self, request: &str, end: &str) -> Vec<String> {
        self.sim.send(self.server, request.as_bytes()).unwrap();
        let mut told = Vec::new();
        let sim = &mut self.sim;
        let server = self.server;
        let answered = sim.run_until(SECOND, |sim| {
            told.extend(lines(sim, server));
            told.iter().any(|line| word(line, 0) == end)
        });
        assert!(answered, "{request}: {told:?}");
        told
    }

    /// The lines since the last call.
    fn told(&mut self) -> Vec<String> {
        let packets = self.sim.received(self.server).unwrap_or_else(|error| {
            panic!("{error}: {:?}", find_flow(&mut self.sim, 0, &self.hash).map(|flow| flow.state))
        });
        packets.into_iter().flat_map(String::from_utf8).collect()
    }

    /// So many seconds pass; the bytes of a report, in the mean of those that the program was told. It reads all the
    /// time, so it is told of all.
    fn watch(&mut self, seconds: u32) -> f64 {
        let (mut reports, mut bytes) = (0, 0.0);
        for _ in 0..10 * seconds {
            self.sim.run_for(SECOND / 10);
            for line in self.told() {
                assert_eq!(word(&line, 0), "report", "{line}");
                (reports, bytes) = (reports + 1, bytes + report_bytes(&line));
            }
        }
        bytes / f64::from(reports)
    }

    /// The nodes of which the server tells the newest report.
    fn listed(&mut self) -> usize {
        let (mut nodes, mut from) = (HashSet::new(), 0);
        loop {
            self.sim.send(self.server, format!("list {from}").as_bytes()).unwrap();
            let (mut more, mut done) = (None, false);
            self.sim.run_until(SECOND, |sim| {
                for line in lines(sim, self.server) {
                    match word(&line, 0) {
                        "age" => drop(nodes.insert(word(&line, 3).to_string())),
                        "more" => more = word(&line, 1).parse().ok(),
                        "done" => done = true,
                        _ => {}
                    }
                }
                done || more.is_some()
            });
            match more {
                Some(at) if !done => from = at,
                _ => {
                    assert!(done, "the list has no end after {} nodes", nodes.len());
                    break nodes.len();
                }
            }
        }
    }

    /// The counters of the server's protocol.
    fn stats(&mut self) -> (u64, u64, u64) {
        lines(&mut self.sim, self.server);
        let told = self.ask("stats", "done");
        let line = told.into_iter().find(|line| word(line, 0) == "done").unwrap();
        for wrong in ["forged", "malformed", "crowded", "untold"] {
            assert_eq!(number(&line, wrong), 0, "{line}");
        }
        (number(&line, "nodes"), number(&line, "reports"), number(&line, "lost"))
    }

    fn running(&mut self) -> usize {
        let alive: Vec<usize> = (0..self.sim.nodes()).filter(|&at| self.sim.node(at).is_some()).collect();
        let hash = self.hash;
        let runs =
            |sim: &mut Sim, at| find_flow(sim, at, &hash).is_some_and(|f| f.state == FlowState::Running);
        alive.into_iter().filter(|&at| runs(&mut self.sim, at)).count()
    }

    /// Waits until so many nodes run it, looking ten times a second; how long that took.
    fn until(&mut self, nodes: usize, most: Duration) -> Duration {
        let begun = self.sim.now();
        while self.running() != nodes {
            assert!(self.sim.now().since(begun) < most, "{} of {nodes} run it", self.running());
            self.sim.run_for(SECOND / 10);
            // The session may be over.
            let _ = self.sim.received(self.server);
        }
        self.sim.now().since(begun)
    }

    /// The mean of the hops to the server.
    fn mean_hops(&self) -> f64 {
        let mut found = vec![None; self.lab.nodes.len()];
        found[0] = Some(0u32);
        let mut next = VecDeque::from([0]);
        while let Some(here) = next.pop_front() {
            for link in &self.lab.links {
                for (from, to) in [(link.ends[0], link.ends[1]), (link.ends[1], link.ends[0])] {
                    if from == here && found[to].is_none() {
                        found[to] = found[here].map(|hops| hops + 1);
                        next.push_back(to);
                    }
                }
            }
        }
        found.iter().flatten().sum::<u32>() as f64 / found.len() as f64
    }
}

/// Bytes of a report's capsule payload as `capsules/health/src/format.rs` packs it, from its line.
fn report_bytes(line: &str) -> f64 {
    let mut words = line.split(' ').skip_while(|w| *w != "key").skip(2);
    let mut bytes = 2 + 1 + word(line, 1).len() + 4 + 8 + 1 + 32 + 64;
    while let (Some(name), Some(_)) = (words.next(), words.next()) {
        bytes += 1 + name.len() + 8;
    }
    bytes as f64
}

fn scenario(nodes: usize, seed: u64) {
    let mut agent = Agent::new(nodes, seed);
    let idle: Vec<_> = (0..nodes).map(|at| real::held(&mut agent.sim, at)).skip(1).collect();
    agent.ask("serve", "ok");
    let spread = agent.until(nodes, 60 * SECOND);
    agent.ask("watch", "ok");

    // Nothing happens: what it costs.
    agent.watch(15);
    let (_, reports_before, lost_before) = agent.stats();
    let before = agent.sim.stats();
    let payload = agent.watch(WATCHED);
    let steady = agent.sim.stats();
    let (known, reports, lost) = agent.stats();
    assert_eq!(known as usize, nodes);
    let (reports, lost) = (reports - reports_before, lost - lost_before);
    let due = nodes as f64 * f64::from(WATCHED) / POLL;
    assert!(
        (reports + lost) as f64 > due * 0.95 && lost as f64 <= due * 0.05,
        "{reports} of {due}, {lost} lost"
    );
    let per_node = |bytes: u64| bytes as f64 / nodes as f64 / f64::from(WATCHED);
    let bytes = per_node(steady.bytes - before.bytes);
    let listed = agent.listed();
    assert!(listed >= nodes.min(250), "{listed} of {nodes} nodes are listed");

    // Every second one node of a hundred crashes, and is back some six seconds later.
    let mut chance = Random::new(seed, 99);
    let mut away = VecDeque::new();
    let each = nodes / 100;
    for _ in 0..WATCHED {
        for _ in 0..each {
            let at = 1 + chance.bits() as usize % (nodes - 1);
            if agent.sim.node(at).is_some() {
                agent.sim.crash(at);
                away.push_back(at);
            }
        }
        while away.len() > 5 * each {
            agent.sim.restart(away.pop_front().unwrap()).unwrap();
        }
        agent.watch(1);
    }
    away.into_iter().for_each(|at| agent.sim.restart(at).unwrap());
    let (_, churned, churn_lost) = agent.stats();
    let (churned, churn_lost) = (churned - reports - reports_before, churn_lost - lost - lost_before);
    agent.until(nodes, 20 * SECOND);
    assert!(churn_lost as f64 <= due * 0.2, "{churn_lost} of {due} lost");

    // The server's operator stops it.
    let hash = agent.hash;
    agent.sim.control(0, Request::FlowStop { flow: hash, kill: false }).unwrap();
    let vanish = agent.until(0, 60 * SECOND);
    agent.sim.run_for(60 * SECOND);
    assert_eq!(agent.running(), 0, "it came back");
    let after: Vec<_> = (0..nodes).map(|at| real::held(&mut agent.sim, at)).skip(1).collect();
    assert!(after == idle, "something stays behind");
    for wrong in ["guest_traps", "guest_overruns", "teams_throttled", "teams_struck_out"] {
        assert_eq!(total(&mut agent.sim, wrong), 0, "{wrong}");
    }

    // Polling: the server asks every node over the shortest way, as often, for the same bytes.
    let hops = agent.mean_hops();
    let udp = hops * (BARE + UDP_HEAD + payload) / POLL;
    // Three segments to open, a request and its answer, four to close.
    let tcp = hops * (7.0 * BARE + BARE + TCP_HEAD + payload) / POLL;
    println!(
        "{nodes} nodes, {} links, {hops:.1} hops on average, reports of {payload:.0} bytes every {POLL} s: \
         everywhere after {:.1} s; {reports} reports, {lost} lost; {listed} listed; with churn {churned}, {churn_lost} lost; \
         nowhere {:.1} s after its end; {bytes:.0} bytes/s and node on links, polling {udp:.0} (UDP), {tcp:.0} (TCP)",
        agent.lab.links.len(),
        spread.as_secs_f64(),
        vanish.as_secs_f64(),
    );
}

#[test]
fn a_hundred_nodes_report_and_forget() {
    scenario(100, 1);
}

/// The server has the usual budgets: it tells who watches of all nodes, and lists those for which there is memory.
#[test]
fn a_thousand_nodes_report_and_forget() {
    scenario(1000, 1);
}

/// A program that does not read holds nobody up, and is told how much it was not told.
#[test]
fn who_does_not_read_is_told_how_much_it_missed() {
    let mut agent = Agent::new(30, 3);
    agent.ask("serve", "ok");
    agent.until(30, 20 * SECOND);
    let slow = open(&mut agent.sim, 0, &agent.hash);
    agent.sim.send(slow, b"watch").unwrap();
    agent.sim.run_for(60 * SECOND);
    let untold = |agent: &mut Agent| number(agent.ask("stats", "done").last().unwrap(), "untold");
    let missed = untold(&mut agent);
    assert!(missed > 100, "{missed}");
    // What is left of the room may do for a shorter line meanwhile; it is told in between, too, what was missed before.
    let mut all = lines(&mut agent.sim, slow);
    assert!((60..200).contains(&all.len()), "{}", all.len());
    agent.sim.run_for(10 * SECOND);
    let after = lines(&mut agent.sim, slow);
    assert_eq!((word(&after[0], 0), word(&after[1], 0)), ("missed", "report"), "{}", after[0]);
    assert!(after.len() > 30 && after[1..].iter().all(|line| word(line, 0) == "report"));
    all.extend(after);
    assert!(all[1..].iter().all(|line| ["report", "missed"].contains(&word(line, 0))));
    let told = all.iter().filter(|line| word(line, 0) == "missed").map(|line| number(line, "missed"));
    assert_eq!(told.sum::<u64>(), untold(&mut agent));
    let told = agent.ask("stats", "done").pop().unwrap();
    assert!(number(&told, "nodes") == 30 && number(&told, "lost") < 10, "{told}");
    assert_eq!(total(&mut agent.sim, "teams_throttled"), 0);
}

/// Where it may not read sensors it carries what others say.
#[test]
fn without_the_privilege_nobody_reports() {
    let lab = Lab::line(4);
    let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
    let (main, way) = (module("health"), module("pathfinder"));
    let hash = sim.inject(0, &tuple_of_two(&main, &way, &[], &[]), &[&main, &way]).unwrap();
    let server = open(&mut sim, 0, &hash);
    let mut agent = Agent { lab, sim, hash, server };
    agent.ask("serve", "ok");
    agent.until(4, 20 * SECOND);
    agent.sim.run_for(10 * SECOND);
    assert_eq!(agent.stats(), (0, 0, 0));
}
