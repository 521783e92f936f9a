//! Flows are made, run and ended again and again, in all ways and at any moment, and in the end two nodes hold what
//! they held before: by their accounts, by their tables, and by the bytes that the process has from the heap.
//!
//! `cargo xtask soak` does it a hundred thousand times (`--include-ignored`); the ordinary tests as often as a few
//! seconds allow.

mod common;

use std::time::Duration;

use common::guest::{self, Flow, flow};
use common::{Options, Random, World};
use peak_alloc::PeakAlloc;
use wire::budget::Kind;
use wire::control::{Answer, FlowState, Request, TeamInfo};
use wire::id::TupleHash;
use wire::tuple::{DataPart, Part, Privilege};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What the heap may differ by: logs and other rings are full of lines of other lengths.
const SLACK: usize = 64 << 10;
/// Flows at once.
const ALIVE: usize = 4;
/// What does not come back.
const SPENT: [Kind; 5] =
    [Kind::EventsTotal, Kind::TimersTotal, Kind::FlowsTotal, Kind::Download, Kind::Compile];

/// In the background for ever, as soon as a program says something.
const LONG: &str = r#"
    (func (export "on_capsule") (param i32 i32 i32 i32))
    (func (export "on_session") (param i32 i32 i32 i32) (loop $l (br $l)))"#;

/// Starts the flow whose tuple it carries.
const PARENT: &str = r#"
    (data (i32.const 256) "flowstuple")
    (func (export "on_flow") (param i32 i32))
    (func (export "on_boot") (param $c i32)
        (drop (call $flow_start (call $cap_lookup (i32.const 256) (i32.const 5)) (i32.const 4096)
            (call $data_read (i32.const 261) (i32.const 5) (i32.const 0) (i32.const 4096) (i32.const 8192))
            (i32.const 1))))"#;

/// The modules, compiled once.
struct Modules {
    busy: Vec<u8>,
    /// It needs several round trips to be fetched.
    heavy: Vec<u8>,
    long: Vec<u8>,
    parent: Vec<u8>,
}

fn privileged(body: &mut wire::tuple::Body, nonce: u32, names: &[&str]) {
    body.nonce[..4].copy_from_slice(&nonce.to_le_bytes());
    let privilege = |name: &&str| Privilege { name: name.to_string(), optional: false };
    body.request.privileges = names.iter().map(privilege).collect();
}

impl Modules {
    fn new() -> Self {
        let busy = guest::module(guest::BUSY);
        let heavy = guest::big(flow("heavy", busy.clone(), |_| ()), 12_000).module;
        Self { busy, heavy, long: guest::module(LONG), parent: guest::module(PARENT) }
    }

    /// A flow that was not there before, and the parts that it needs.
    fn any(&self, random: &mut Random, nonce: u32) -> (Flow, Vec<Vec<u8>>) {
        let (module, names): (_, &[&str]) = match random.below(10) {
            0 | 1 => (&self.heavy, &["blobs"]),
            2 => (&self.long, &["background"]),
            3 => return self.family(nonce),
            _ => (&self.busy, &["blobs"]),
        };
        (flow("any", module.clone(), |body| privileged(body, nonce, names)), vec![module.clone()])
    }

    fn family(&self, nonce: u32) -> (Flow, Vec<Vec<u8>>) {
        let child = flow("child", self.busy.clone(), |body| privileged(body, nonce, &["blobs"]));
        let parent = flow("parent", self.parent.clone(), |body| {
            privileged(body, nonce, &["flows"]);
            let data =
                |name: &str, bytes: &[u8]| DataPart { name: name.into(), part: Part::of(bytes).unwrap() };
            body.protocols[0].data = vec![data("tuple", &child.tuple), data("code", &child.module)];
        });
        let parts = vec![self.parent.clone(), child.tuple.clone(), child.module];
        (parent, parts)
    }
}

/// What is free when nothing runs: of each node its bytes, buffers, flows, teams, and every account of the root
/// but those of what is spent; and the heap.
type Held = ([((u64, u32, u32, usize), Vec<(String, u64)>); 2], usize);

fn held(world: &mut World) -> Held {
    let root = |team: &TeamInfo| {
        let kept = team.budgets.iter().filter(|b| !SPENT.contains(&b.kind));
        kept.filter_map(|b| Some((b.kind.name().to_string(), b.used?))).collect::<Vec<_>>()
    };
    let nodes = [0, 1].map(|node| (world.holds(node), root(&world.teams(node)[0])));
    (nodes, HEAP.current_usage())
}

/// Ends whatever runs, and lets everything lapse that is kept for a while.
fn quiet(world: &mut World) {
    for _ in 0..3 {
        for node in [0, 1] {
            for info in world.flows(node) {
                if !matches!(info.state, FlowState::Ended(_)) {
                    world.stop(node, info.hash, true);
                }
            }
        }
        // What one said to the other node may start it there once more.
        world.run(Duration::from_millis(40));
    }
    world.run(Duration::from_secs(70));
}

#[derive(Debug, Default)]
struct Ends {
    stopped: u32,
    killed: u32,
    /// They had ended by then, or were never there.
    before: u32,
}

fn one(world: &mut World, modules: &Modules, random: &mut Random, nonce: u32) -> TupleHash {
    let (flow, parts) = modules.any(random, nonce);
    parts.iter().for_each(|part| world.put(0, part));
    let hash = match world.control(0, Request::FlowInject { tuple: flow.tuple.clone() }) {
        Answer::Injected(hash) => hash,
        other => panic!("{other:?}"),
    };
    if random.below(4) > 0 {
        world.run(Duration::from_micros(random.below(4000) as u64));
        let now = world.time();
        let node = &mut world.stations[0].node;
        if let Ok(id) = node.session_open(now, &hash.to_string()) {
            for _ in 0..random.below(4) {
                // Refused where it is too much.
                let _ = node.session_send(now, id, &vec![1; random.below(6000)]);
            }
            if random.below(3) == 0 {
                node.session_close(now, id);
            }
        }
    }
    world.run(Duration::from_micros(random.below(6000) as u64));
    hash
}

/// Cycles in rounds; after the first two, when all tables have their size, each ends as the second did.
fn cycles(rounds: u32, each: u32) {
    let modules = Modules::new();
    let mut world = World::line_with(2, Options { team: "background = \"100ms\"", ..Options::default() });
    let (mut random, mut ends, mut alive) = (Random::new(11), Ends::default(), Vec::new());
    let mut first: Option<Held> = None;
    for round in 0..rounds {
        for cycle in 0..each {
            alive.push(one(&mut world, &modules, &mut random, round * each + cycle));
            while alive.len() > random.below(ALIVE) {
                let hash = alive.swap_remove(random.below(alive.len()));
                for node in [0, 1] {
                    let kill = random.below(2) == 0;
                    match world.stop(node, hash, kill) {
                        Answer::Done if kill => ends.killed += 1,
                        Answer::Done => ends.stopped += 1,
                        _ => ends.before += 1,
                    }
                }
            }
        }
        alive.clear();
        quiet(&mut world);
        let now = held(&mut world);
        eprintln!("round {round}: {} bytes of heap", now.1);
        match &first {
            Some((nodes, heap)) => {
                assert_eq!(&now.0, nodes, "after round {round}");
                assert!(now.1 <= heap + SLACK, "after round {round}: {} bytes of heap, {heap} before", now.1);
            }
            None if round == 1 => first = Some(now),
            None => {}
        }
    }
    let heap = first.map_or(0, |(_, heap)| heap);
    eprintln!(
        "{} cycles, {ends:?}; heap: {heap} bytes after two rounds, {} in the end",
        rounds * each,
        HEAP.current_usage()
    );
    assert!(ends.stopped > each && ends.killed > each && ends.before > each / 4, "{ends:?}");
}

#[test]
fn thousands_of_cycles_leave_nothing() {
    cycles(5, 1000);
}

#[test]
#[ignore = "takes minutes; cargo xtask soak"]
fn a_hundred_thousand_cycles_leave_nothing() {
    cycles(20, 5000);
}
