//! hello, as it is shipped: whoever can be reached answers, whatever is lost on the way, within a stated
//! number of rounds and the same way in every run.
//!
//! `cargo test -p sim --test hello -- --nocapture` prints the figures; `cargo xtask soak` runs more seeds.

mod common;

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::real::{self, ask, found, number, start, total, word};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim, Stats};

const SECOND: Duration = Duration::from_secs(1);

/// Rounds in which everybody has answered and the search is complete, the code's own journey included.
/// `capsules/hello/README.md` states it.
const MOST_ROUNDS: u64 = 30;

/// 10 % of the frames are lost in each direction; the rest are links of 100 Mbit/s.
fn lossy() -> Shape {
    Shape {
        rate: Some(12_500_000),
        delay: Duration::from_millis(1),
        jitter: Duration::from_micros(300),
        loss: 0.1,
        ..Shape::default()
    }
}

/// What a search in 500 nodes came to.
struct Search {
    lines: Vec<String>,
    trace: [u8; 32],
    stats: Stats,
    sent: u64,
    given_up: u64,
    most_memory: u64,
}

/// Three, four or five links for each node on average, all budgets as a node has them.
fn search(seed: u64) -> Search {
    let lab = Lab::random(500, 3 + (seed % 3) as usize, seed).shaped(lossy());
    let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
    let session = start(&mut sim, 0, "hello");
    let lines = ask(&mut sim, session, "find", 120 * SECOND);
    for wrong in ["guest_traps", "guest_overruns", "teams_struck_out", "team_queue_full", "send_dropped"] {
        assert_eq!(total(&mut sim, wrong), 0, "seed {seed}: {wrong}");
    }
    let teams: Vec<_> = (0..sim.nodes()).flat_map(|at| real::teams(&mut sim, at)).collect();
    assert!(teams.iter().all(|t| t.strikes == 0), "seed {seed}: strikes");
    let hellos = teams.iter().filter(|t| t.name == "hello");
    Search {
        lines,
        trace: sim.trace(),
        stats: sim.stats(),
        sent: total(&mut sim, "capsules_sent"),
        given_up: total(&mut sim, "downloads_given_up"),
        most_memory: hellos.map(|t| t.memory.1).max().unwrap_or(0),
    }
}

/// Searches with all these seeds and checks and prints what came of it.
fn searches(seeds: std::ops::Range<u64>) {
    let (next, results) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = search(seed);
                    results.lock().unwrap().push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(seed, _)| *seed);
    assert_eq!(results.len() as u64, seeds.end - seeds.start);
    let (mut rounds, mut ends, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for (seed, search) in &results {
        let found = found(&search.lines);
        let done = search.lines.last().map_or("", String::as_str);
        let last = found.iter().map(|f| f.round).max().unwrap_or(0);
        assert!(done.ends_with(" complete"), "seed {seed}: {done:?}");
        assert_eq!((found.len(), number(done, "nodes")), (500, 500), "seed {seed}");
        assert!(number(done, "rounds") <= MOST_ROUNDS, "seed {seed}: {done:?}");
        rounds.push(last);
        ends.push(number(done, "rounds"));
        times.push(number(done, "ms"));
    }
    let mean = |values: &[u64]| values.iter().sum::<u64>() as f64 / values.len() as f64;
    let most = |values: &[u64]| values.iter().max().copied().unwrap_or(0);
    let sum = |of: fn(&Search) -> u64| results.iter().map(|(_, s)| of(s)).sum::<u64>();
    println!("{} searches among 500 nodes, 10 % loss: all nodes found, all searches complete", results.len());
    for (what, values) in
        [("rounds to the last answer", &rounds), ("rounds to the end", &ends), ("milliseconds", &times)]
    {
        println!("{what:<26} mean {:>7.1}  max {:>6}", mean(values), most(values));
    }
    println!(
        "{} capsules per search; {} sources given up in all; a node's hello never held more than {} bytes",
        sum(|s| s.sent) / results.len() as u64,
        sum(|s| s.given_up),
        results.iter().map(|(_, s)| s.most_memory).max().unwrap_or(0),
    );
}

#[test]
fn all_of_five_hundred_nodes_answer_in_a_stated_number_of_rounds() {
    searches(0..100);
}

#[test]
#[ignore = "takes ten minutes of processor time"]
fn all_of_five_hundred_nodes_answer_in_a_thousand_more_graphs() {
    searches(100..1100);
}

#[test]
fn one_seed_is_one_run() {
    let [first, again, other] = [4, 4, 5].map(search);
    assert!(first.lines == again.lines, "{:?} {:?}", first.lines.last(), again.lines.last());
    assert_eq!((first.trace, first.stats, first.sent), (again.trace, again.stats, again.sent));
    assert_ne!(first.trace, other.trace);
}

/// Who can be reached from node 0 over links that are up.
fn connected(lab: &Lab, down: &[usize]) -> Vec<String> {
    let mut reached = vec![0];
    let mut at = 0;
    while let Some(&here) = reached.get(at) {
        at += 1;
        for (_, link) in lab.links.iter().enumerate().filter(|(l, _)| !down.contains(l)) {
            let [a, b] = link.ends;
            for (from, to) in [(a, b), (b, a)] {
                if from == here && !reached.contains(&to) {
                    reached.push(to);
                }
            }
        }
    }
    let mut names: Vec<String> = reached.iter().map(|&n| lab.nodes[n].name.clone()).collect();
    names.sort();
    names
}

#[test]
fn exactly_the_connected_nodes_answer() {
    let mut sizes = Vec::new();
    for seed in 0..10 {
        let lab = Lab::random(80, 3, seed).shaped(lossy());
        let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
        // Every third link is down: the graph falls apart.
        let down: Vec<usize> =
            (0..lab.links.len()).filter(|l| (*l as u64 + seed).is_multiple_of(3)).collect();
        down.iter().for_each(|&l| sim.set_link(l, false));
        let session = start(&mut sim, 0, "hello");
        let lines = ask(&mut sim, session, "find", 120 * SECOND);
        let names: Vec<String> = found(&lines).into_iter().map(|f| f.node).collect();
        assert_eq!(names, connected(&lab, &down), "seed {seed}: {:?}", lines.last());
        // Silent neighbors were waited for.
        assert_eq!(word(lines.last().unwrap(), 7), "incomplete");
        sizes.push(names.len());
    }
    assert!(sizes.iter().any(|&n| n > 10) && sizes.iter().all(|&n| n < 80), "{sizes:?}");
}

/// Runs a lab file's demonstration.
fn demonstration(file: &str, module: &[u8]) -> (Sim, Vec<String>) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../emulab").join(file);
    let lab = Lab::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut sim = Sim::new(&lab, 1, Options::default()).unwrap();
    let wanted = &lab.injects[0];
    assert_eq!(wanted.protocol, "hello");
    let hash = sim.inject(wanted.node, &real::tuple(module, 1), &[module]).unwrap();
    let session = real::open(&mut sim, wanted.node, &hash);
    let lines = ask(&mut sim, session, "find", 30 * SECOND);
    (sim, lines)
}

/// What `bees lab demo` shows of this file on hosted nodes and in QEMU.
#[test]
fn a_lab_file_gives_the_answer_that_hosted_nodes_give() {
    let (_, lines) = demonstration("line3.toml", &real::module("hello"));
    let answers = found(&lines);
    let answers: Vec<_> = answers.iter().map(|f| (f.node.as_str(), f.hops, f.via.as_str())).collect();
    assert_eq!(answers, [("a", 0, "-"), ("b", 1, "a"), ("c", 2, "b")]);
    let done = lines.last().unwrap();
    assert!(done.contains(" nodes 3 ") && done.ends_with(" complete"), "{done}");
}

#[test]
fn a_constant_that_was_drawn_a_moment_ago_comes_back_from_the_far_end() {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let tag = format!("tag-{random:016x}");
    let out = std::env::temp_dir().join(format!("sim-{tag}"));
    let built = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "-p", "xtask", "--", "capsules", "--out"])
        .arg(&out)
        .env("HELLO_TAG", &tag)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status();
    let module = std::fs::read(out.join("hello.wasm"));
    let _ = std::fs::remove_dir_all(&out);
    assert!(built.unwrap().success(), "the tagged module could not be built");
    let module = module.unwrap();
    assert_ne!(module, real::module("hello"));
    let (mut sim, lines) = demonstration("line3.toml", &module);
    for line in lines.iter().filter(|l| word(l, 0) == "node") {
        assert!(line.ends_with(&format!(" tag {tag}")), "{line} lacks {tag}");
    }
    assert_eq!(found(&lines).len(), 3);
    for (at, source) in [(1, "a"), (2, "b")] {
        let flow = real::flows(&mut sim, at).remove(0);
        assert_eq!(flow.source.as_deref(), Some(source));
        assert!(flow.arrival.bytes > module.len() as u64, "{:?}", flow.arrival);
    }
}
