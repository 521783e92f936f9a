//! The protocols that are shipped, as `cargo xtask capsules` builds them, and what programs say to them.

use std::path::PathBuf;
use std::time::Duration;

use sim::{Session, Sim};
use wire::control::{Answer, FlowInfo, NodeInfo, Request, TeamInfo};
use wire::id::TupleHash;
use wire::tuple::{Body, Credentials, Privilege, Provider, Tuple};

const SECOND: Duration = Duration::from_secs(1);

/// A protocol's module.
pub fn module(name: &str) -> Vec<u8> {
    let built = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/capsules");
    let folder = std::env::var_os("BEES_CAPSULES").map_or_else(built, PathBuf::from);
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| {
        panic!("{}: {e}; build the protocols first: cargo xtask capsules", path.display())
    })
}

/// The tuple of a module as the module describes itself; with another nonce it is another flow.
pub fn tuple(module: &[u8], nonce: u8) -> Vec<u8> {
    sim::trial::tuple(module, nonce).expect("what is shipped is admitted and describes itself")
}

/// The same for a module with one companion.
pub fn tuple_of_two(
    module: &[u8],
    companion: &[u8],
    privileges: &[&str],
    params: &[(&str, &str)],
) -> Vec<u8> {
    let read =
        |module| sim::trial::protocol(module).expect("what is shipped is admitted and describes itself");
    let (mut main, companion) = (read(module), read(companion));
    main.companions[0].provider = Provider::Tuple(1);
    for param in &mut main.params {
        if let Some((_, value)) = params.iter().find(|(name, _)| *name == param.name) {
            param.value = value.as_bytes().to_vec();
        }
    }
    let privilege = |name: &&str| Privilege { name: name.to_string(), optional: true };
    let mut body = Body::new([1; 16], vec![main, companion]);
    body.request.privileges = privileges.iter().map(privilege).collect();
    Tuple { body, credentials: Credentials::None }.encode()
}

/// Injects a protocol at a node, waits until it runs there, and opens a session with it.
pub fn start(sim: &mut Sim, at: usize, name: &str) -> Session {
    let module = module(name);
    let hash = sim.inject(at, &tuple(&module, 1), &[&module]).unwrap();
    open(sim, at, &hash)
}

/// Opens a session with a flow as soon as it runs.
pub fn open(sim: &mut Sim, at: usize, flow: &TupleHash) -> Session {
    let mut session = None;
    let name = flow.to_string();
    sim.run_until(5 * SECOND, |sim| {
        session = sim.session(at, &name).ok();
        session.is_some()
    });
    session.unwrap_or_else(|| panic!("the flow does not run: {:?}", find_flow(sim, at, flow)))
}

/// The lines of a session since the last call.
pub fn lines(sim: &mut Sim, session: Session) -> Vec<String> {
    let packets = sim.received(session).expect("the session is open");
    packets.into_iter().map(|p| String::from_utf8(p).expect("protocols answer with text")).collect()
}

/// Makes a request and waits for the line that ends its answer, at most `limit`.
pub fn ask(sim: &mut Sim, session: Session, request: &str, limit: Duration) -> Vec<String> {
    sim.send(session, request.as_bytes()).unwrap();
    rest(sim, session, limit)
}

/// Waits for the line that ends an answer, at most `limit`.
pub fn rest(sim: &mut Sim, session: Session, limit: Duration) -> Vec<String> {
    let mut told = Vec::new();
    sim.run_until(limit, |sim| {
        told.extend(lines(sim, session));
        told.last().is_some_and(|line| ["done", "result", "sink", "ok", "error"].contains(&word(line, 0)))
    });
    told
}

/// A word of a line.
pub fn word(line: &str, at: usize) -> &str {
    line.split(' ').nth(at).unwrap_or("")
}

/// The number after a word of a line.
pub fn number(line: &str, name: &str) -> u64 {
    let mut words = line.split(' ').skip_while(|w| *w != name).skip(1);
    words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no number {name} in {line:?}"))
}

/// A node's line of a `find`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub node: String,
    pub hops: u64,
    pub via: String,
    pub round: u64,
}

/// The nodes that a `find` found, sorted by name.
pub fn found(lines: &[String]) -> Vec<Found> {
    let read = |line: &String| Found {
        node: word(line, 1).to_string(),
        hops: number(line, "hops"),
        via: word(line, 7).to_string(),
        round: number(line, "round"),
    };
    let mut found: Vec<Found> = lines.iter().filter(|l| word(l, 0) == "node").map(read).collect();
    found.sort();
    found
}

/// What a node says of itself.
pub fn node(sim: &mut Sim, at: usize) -> NodeInfo {
    match sim.control(at, Request::NodeShow) {
        Ok(Answer::Node(info)) => info,
        other => panic!("node {at}: {other:?}"),
    }
}

/// A node's counter.
pub fn counter(sim: &mut Sim, at: usize, name: &str) -> u64 {
    let counters = node(sim, at).counters;
    counters.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no counter {name}")).value
}

/// A counter summed over all nodes that run.
pub fn total(sim: &mut Sim, name: &str) -> u64 {
    let running: Vec<usize> = (0..sim.nodes()).filter(|&at| sim.node(at).is_some()).collect();
    running.into_iter().map(|at| counter(sim, at, name)).sum()
}

/// Flows that run on a node or did, the newest ends last.
pub fn flows(sim: &mut Sim, at: usize) -> Vec<FlowInfo> {
    match sim.control(at, Request::FlowShow { from: 0 }) {
        Ok(Answer::Flows(page)) => page.items,
        other => panic!("node {at}: {other:?}"),
    }
}

/// A flow on a node.
pub fn find_flow(sim: &mut Sim, at: usize, flow: &TupleHash) -> Option<FlowInfo> {
    flows(sim, at).into_iter().find(|f| f.hash == *flow)
}

/// The teams of a node.
pub fn teams(sim: &mut Sim, at: usize) -> Vec<TeamInfo> {
    match sim.control(at, Request::TeamShow { from: 0 }) {
        Ok(Answer::Teams(page)) => page.items,
        other => panic!("node {at}: {other:?}"),
    }
}

/// Bytes charged, packet buffers lent, flows: what must come back when a flow is gone.
pub fn held(sim: &mut Sim, at: usize) -> (u64, u32, u32) {
    let info = node(sim, at);
    (info.memory.0, info.buffers.0, info.flows.0)
}
