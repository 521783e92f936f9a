//! A few nodes in virtual time, joined by wires that the test may listen to and change.
//!
//! [`World::line`] makes `a - b - c ...`; [`World::run`] lets time pass; [`World::tap`] sees every frame
//! before it arrives. Compile jobs take [`World::compile_us`]. Guest code is counted (fuel), so two runs are
//! the same.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod guest;
pub mod host;
pub mod hostile;
pub mod puppet;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use authagent::keys::SigningKey;
use ee::blob::SharedDisk;
use ee::config::{ADMIN, NodeConfig};
use ee::node::SessionId;
use ee::{Engine, Job, Metering, Node, Platform};
use nodeos::buf::BufPool;
use nodeos::link::LinkId;
use nodeos::platform::{Entropy, EntropyError, Instant, Interrupter, Meter, NoSensors, Now};
use nodeos::store::RamDisk;
use wire::capsule::Capsule;
use wire::control::{Answer, FlowInfo, FlowState, MAX_PIECE, NodeInfo, Request, TeamInfo};
use wire::id::{CapsuleId, PartHash, TupleHash};

/// How long a frame is on a wire, in microseconds.
pub const WIRE_US: u64 = 500;
/// What a node needs for the events of one poll that has more to do, in microseconds.
const BUSY_US: u64 = 100;
/// Seconds since 1970 at the start.
pub const WALL: u64 = 1_800_000_000;

/// One engine for all tests of a process.
pub fn engine() -> Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(Metering::Fuel).unwrap());
    ENGINE.clone()
}

/// Virtual time as a meter.
#[derive(Default)]
struct Clock(AtomicU64);

impl Meter for Clock {
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed) * self.per_micro()
    }
    fn per_micro(&self) -> u64 {
        1000
    }
}

/// Fuel stops guests.
struct Counted;

impl Interrupter for Counted {
    fn arm(&self, _: u64) {}
    fn disarm(&self) {}
}

/// Different bytes every time, the same in every run.
struct Sequence(AtomicU64);

impl Entropy for Sequence {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        for byte in out {
            let n = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            *byte = (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[0];
        }
        Ok(())
    }
}

/// A platform for one node, with its own supply of `buffers`.
pub fn platform(buffers: usize, seed: u64) -> Platform {
    Platform {
        name: "test",
        meter: Arc::new(Clock::default()),
        interrupter: Arc::new(Counted),
        entropy: Arc::new(Sequence(AtomicU64::new(seed))),
        sensors: Arc::new(NoSensors),
        engine: engine(),
        buffers: BufPool::new(buffers),
        disk: None,
    }
}

/// The moment `us` microseconds after the start.
pub fn at(us: u64) -> Now {
    Now { mono: Instant(us), wall: Some(WALL + us / 1_000_000) }
}

/// What differs from the defaults.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Keys of `[node]`.
    pub node: &'a str,
    /// Keys of `[team]`.
    pub team: &'a str,
    /// Keys of every `[[link]]`.
    pub link: &'a str,
    /// Further links and neighbors of every node: the end of its configuration.
    pub more: &'a str,
    /// Packet buffers of each node.
    pub buffers: usize,
    /// Nodes have identities; whose key a node (first) takes for that of its neighbor (second).
    pub keys: Option<fn(usize, usize) -> Option<usize>>,
    /// Bytes of every node's disk; 0: they have none.
    pub disk: usize,
    /// Nobody's configuration names a neighbor; with keys, everybody knows those of all.
    pub strangers: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { node: "", team: "", link: "", more: "", buffers: 512, keys: None, disk: 0, strangers: false }
    }
}

/// The configuration of a node of a line: wire `n` joins node `n` (end 0) to the next (end 1).
fn config(at: usize, n: usize, options: &Options<'_>) -> NodeConfig {
    let Options { node, team, link, more, keys, .. } = options;
    let mut text = format!("[node]\nname = \"{}\"\n{node}\n", name(at));
    if keys.is_some() {
        text += &format!("identity = \"{}\"\n", &*identity(at).to_hex());
    }
    text += &format!("[team]\n{team}\n");
    let before = (at > 0).then(|| (at - 1, at - 1, 1));
    let after = (at + 1 < n).then_some((at, at + 1, 0));
    for (wire, peer, end) in before.into_iter().chain(after) {
        text +=
            &format!("[[link]]\nname = \"w{wire}\"\nmac = \"02:00:00:00:{wire:02x}:{end:02x}\"\n{link}\n");
        if options.strangers {
            continue;
        }
        text += &format!(
            "[[neighbor]]\nname = \"{}\"\nlink = \"w{wire}\"\nmac = \"02:00:00:00:{wire:02x}:{:02x}\"\n",
            name(peer),
            1 - end,
        );
        if let Some(key) = keys.and_then(|of| of(at, peer)) {
            text += &format!("key = \"{}\"\n", identity(key).public());
        }
    }
    if let Some(of) = keys.filter(|_| options.strangers) {
        let known = (0..n).filter(|peer| *peer != at).filter_map(|peer| Some((peer, of(at, peer)?)));
        let known = known.map(|(peer, key)| format!("{} = \"{}\"", name(peer), identity(key).public()));
        let known = known.collect::<Vec<_>>().join(", ");
        text += &format!("[discovery]\nprotect = true\nkeys = {{ {known} }}\n");
    }
    NodeConfig::parse(&(text + more)).unwrap()
}

/// The identity of a node of a line.
pub fn identity(at: usize) -> SigningKey {
    SigningKey::from_seed(&[0x30 + at as u8; 32])
}

fn name(at: usize) -> char {
    char::from(b'a' + at as u8)
}

/// A frame on its way.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The sending node.
    pub from: usize,
    /// The receiving node.
    pub to: usize,
    /// The receiving node's link.
    pub link: LinkId,
    /// The bytes, which a tap may change.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The capsule that it carries.
    pub fn capsule(&self) -> Option<(CapsuleId, &[u8])> {
        let capsule = Capsule::parse(self.bytes.get(14..)?).ok()?;
        let payload = self.bytes.get(14 + capsule.payload_at..)?.get(..capsule.payload_len)?;
        Some((capsule.id, payload))
    }

    /// Gives the capsule another identifier.
    pub fn set_id(&mut self, id: &CapsuleId) {
        let (_, payload) = self.capsule().expect("a capsule");
        let payload = payload.to_vec();
        Capsule::emit_header(&mut self.bytes[14..], id, payload.len());
    }

    /// Puts another payload in, which may be of another length.
    pub fn set_payload(&mut self, payload: &[u8]) {
        let (id, _) = self.capsule().expect("a capsule");
        self.bytes.truncate(14);
        self.bytes.extend(vec![0; wire::capsule::HEADER_LEN]);
        Capsule::emit_header(&mut self.bytes[14..], &id, payload.len());
        self.bytes.extend(payload);
    }
}

/// What becomes of a frame that a tap saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives as it is now.
    Pass,
    /// It is lost.
    Lose,
}

type Tap = Box<dyn FnMut(&mut Frame) -> Fate>;

/// Something that happens later.
enum Later {
    Frame(Frame),
    Job(usize, Box<Job>),
    Wake(usize),
}

/// One node and its surroundings.
pub struct Station {
    /// The node.
    pub node: Node,
    /// Its packet buffers.
    pub buffers: BufPool,
    /// For each link: the node and link at the other end.
    peers: Vec<Option<(usize, LinkId)>>,
    /// A node that is down neither hears nor speaks.
    pub down: bool,
    wake: Option<u64>,
    config: NodeConfig,
    /// What outlives the node.
    pub disk: Option<SharedDisk>,
}

/// Nodes, wires and the time.
pub struct World {
    /// The nodes.
    pub stations: Vec<Station>,
    /// Microseconds since the start.
    pub now: u64,
    /// How long a compilation takes.
    pub compile_us: u64,
    /// Compilations so far.
    pub compiled: usize,
    /// Frames delivered so far.
    pub delivered: u64,
    later: BinaryHeap<Reverse<(u64, u64)>>,
    what: std::collections::HashMap<u64, Later>,
    turn: u64,
    tap: Option<Tap>,
}

impl World {
    /// Nodes `a`, `b`, `c` ... in a line, with default budgets.
    pub fn line(n: usize) -> Self {
        Self::line_with(n, Options::default())
    }

    /// The same with these options.
    pub fn line_with(n: usize, options: Options<'_>) -> Self {
        let stations = (0..n).map(|i| {
            // A node's link to the node before comes first.
            let before = (i > 0).then(|| Some((i - 1, LinkId(u16::from(i > 1)))));
            let after = (i + 1 < n).then_some(Some((i + 1, LinkId(0))));
            let mut peers: Vec<_> = before.into_iter().chain(after).collect();
            let config = config(i, n, &options);
            peers.resize(config.links.len(), None);
            station(config, peers, &options, i as u64)
        });
        Self {
            stations: stations.collect(),
            now: 1_000_000,
            compile_us: 3000,
            compiled: 0,
            delivered: 0,
            later: BinaryHeap::new(),
            what: Default::default(),
            turn: 0,
            tap: None,
        }
    }

    /// The power fails at a node, and comes back: what was not on its disk is lost.
    pub fn reboot(&mut self, at: usize) {
        let lost = |later: &Later| matches!(later, Later::Job(node, _) | Later::Wake(node) if *node == at);
        self.what.retain(|_, later| !lost(later));
        let now = self.time();
        let station = &mut self.stations[at];
        let disk = station.disk.clone();
        // Another start has other random bytes.
        let platform = Platform { disk, ..platform(512, self.now) };
        station.buffers = platform.buffers.clone();
        station.node = Node::new(&station.config, platform, now).unwrap();
        station.wake = None;
        self.settle(at);
    }

    /// Sees every frame before it arrives, until the next call.
    pub fn tap(&mut self, tap: impl FnMut(&mut Frame) -> Fate + 'static) {
        self.tap = Some(Box::new(tap));
    }

    /// Frames arrive as they are sent again.
    pub fn untap(&mut self) {
        self.tap = None;
    }

    /// The node's time.
    pub fn time(&self) -> Now {
        at(self.now)
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time.as_micros() as u64;
        for node in 0..self.stations.len() {
            self.settle(node);
        }
        while let Some(&Reverse((due, number))) = self.later.peek().filter(|e| e.0.0 <= end) {
            self.later.pop();
            self.now = self.now.max(due);
            match self.what.remove(&number) {
                Some(Later::Frame(frame)) => self.arrive(frame),
                Some(Later::Job(node, job)) => {
                    self.compiled += 1;
                    let done = job.run();
                    let now = self.time();
                    self.stations[node].node.job_done(now, done);
                    self.settle(node);
                }
                Some(Later::Wake(node)) if self.stations[node].wake == Some(due) => {
                    self.stations[node].wake = None;
                    self.settle(node);
                }
                _ => {}
            }
        }
        self.now = end;
    }

    /// Lets time pass until something is so; `false` when it is not within `limit`.
    pub fn run_until(&mut self, limit: Duration, mut is_so: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit.as_micros() as u64;
        while !is_so(self) {
            if self.now >= end {
                return false;
            }
            self.run(Duration::from_millis(1));
        }
        true
    }

    /// A frame arrives at a node, whoever sent it.
    pub fn hand(&mut self, to: usize, link: LinkId, bytes: &[u8]) {
        let now = self.time();
        let station = &mut self.stations[to];
        if let Some(buf) = station.buffers.copy_of(bytes) {
            station.node.frame(now, link, buf);
        }
    }

    fn arrive(&mut self, mut frame: Frame) {
        let fate = self.tap.as_mut().map_or(Fate::Pass, |tap| tap(&mut frame));
        if fate == Fate::Lose || self.stations[frame.to].down {
            return;
        }
        self.delivered += 1;
        self.hand(frame.to, frame.link, &frame.bytes);
        self.settle(frame.to);
    }

    /// Everything that a node does now.
    pub fn settle(&mut self, at: usize) {
        let now = self.time();
        let station = &mut self.stations[at];
        if station.down {
            return;
        }
        let more = station.node.poll(now);
        let mut later = Vec::new();
        for link in 0..station.peers.len() {
            // What goes to nobody of the line waits for the test to take it.
            let Some((to, peer_link)) = station.peers[link] else { continue };
            while let Some(frame) = station.node.transmit(now, LinkId(link as u16)) {
                let frame = Frame { from: at, to, link: peer_link, bytes: frame.to_vec() };
                later.push((self.now + WIRE_US, Later::Frame(frame)));
            }
        }
        while let Some(job) = station.node.job() {
            later.push((self.now + self.compile_us, Later::Job(at, Box::new(job))));
        }
        while station.node.log_line().is_some() {}
        let deadline = station.node.deadline(now).map(|t| t.micros().max(self.now + BUSY_US));
        let wake = if more { Some(self.now + BUSY_US) } else { deadline };
        station.wake = wake;
        later.extend(wake.map(|t| (t, Later::Wake(at))));
        for (time, what) in later {
            self.turn += 1;
            self.later.push(Reverse((time, self.turn)));
            self.what.insert(self.turn, what);
        }
    }

    /// What the administrator asks of a node.
    pub fn control(&mut self, node: usize, request: Request) -> Answer {
        let now = self.time();
        let answer = self.stations[node].node.control(now, ADMIN, request);
        self.settle(node);
        answer
    }

    /// Puts a module and injects the tuple that names it.
    pub fn inject(&mut self, node: usize, flow: &guest::Flow) -> TupleHash {
        match self.try_inject(node, flow) {
            Answer::Injected(hash) => hash,
            other => panic!("injection: {other:?}"),
        }
    }

    /// The same; the answer to the injection.
    pub fn try_inject(&mut self, node: usize, flow: &guest::Flow) -> Answer {
        self.put(node, &flow.module);
        self.control(node, Request::FlowInject { tuple: flow.tuple.clone() })
    }

    /// Puts a part.
    pub fn put(&mut self, node: usize, bytes: &[u8]) {
        let (part, total) = (PartHash::of(bytes), bytes.len() as u32);
        for (piece, offset) in bytes.chunks(MAX_PIECE).zip((0..).step_by(MAX_PIECE)) {
            let answer = self.control(node, Request::PartPut { part, total, offset, bytes: piece.to_vec() });
            assert_eq!(answer, Answer::Done);
        }
    }

    /// Injects a flow and waits until it runs there.
    pub fn start(&mut self, node: usize, flow: &guest::Flow) -> TupleHash {
        let hash = self.inject(node, flow);
        let running =
            self.run_until(Duration::from_secs(2), |w| w.state(node, hash) == Some(FlowState::Running));
        assert!(running, "{:?}: {:?}", self.state(node, hash), self.log(node));
        hash
    }

    /// Ends a flow at a node.
    pub fn stop(&mut self, node: usize, flow: TupleHash, kill: bool) -> Answer {
        self.control(node, Request::FlowStop { flow, kill })
    }

    /// Every flow that a node shows: those that are there, then those that ended, oldest first.
    pub fn flows(&mut self, node: usize) -> Vec<FlowInfo> {
        let (mut all, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let Answer::Flows(page) = self.control(node, Request::FlowShow { from }) else {
                panic!("no flows")
            };
            all.extend(page.items);
            next = page.next;
        }
        all
    }

    /// A flow as a node shows it; if it ended, as it was the last time.
    pub fn flow(&mut self, node: usize, hash: TupleHash) -> Option<FlowInfo> {
        let mut all = self.flows(node);
        all.retain(|f| f.hash == hash);
        let there = all.iter().position(|f| !matches!(f.state, FlowState::Ended(_)));
        match there {
            Some(at) => Some(all.swap_remove(at)),
            None => all.pop(),
        }
    }

    /// What a flow does at a node.
    pub fn state(&mut self, node: usize, hash: TupleHash) -> Option<FlowState> {
        self.flow(node, hash).map(|f| f.state)
    }

    /// Why a flow ended.
    pub fn why(&mut self, node: usize, hash: TupleHash) -> String {
        match self.state(node, hash) {
            Some(FlowState::Ended(why)) => why,
            other => panic!("the flow has not ended: {other:?}"),
        }
    }

    /// The node itself.
    pub fn info(&mut self, node: usize) -> NodeInfo {
        match self.control(node, Request::NodeShow) {
            Answer::Node(info) => info,
            other => panic!("{other:?}"),
        }
    }

    /// One of a node's counters.
    pub fn count(&mut self, node: usize, name: &str) -> u64 {
        let counters = self.info(node).counters;
        counters.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no counter {name}")).value
    }

    /// A node's teams, the root first.
    pub fn teams(&mut self, node: usize) -> Vec<TeamInfo> {
        match self.control(node, Request::TeamShow { from: 0 }) {
            Answer::Teams(page) => page.items,
            other => panic!("{other:?}"),
        }
    }

    /// What a node holds: bytes, packet buffers, flows, teams.
    pub fn holds(&mut self, node: usize) -> (u64, u32, u32, usize) {
        let teams = self.teams(node).len();
        let info = self.info(node);
        (info.memory.0, info.buffers.0, info.flows.0, teams)
    }

    /// What each flow of a node that runs one module is charged for its code.
    pub fn code_bytes(&mut self, node: usize) -> u64 {
        match self.control(node, Request::ProtocolShow) {
            Answer::Protocols(list) => list.iter().map(|p| p.compiled).sum(),
            other => panic!("{other:?}"),
        }
    }

    /// A node's log.
    pub fn log(&mut self, node: usize) -> Vec<String> {
        match self.control(node, Request::Log { from: 0 }) {
            Answer::Log(lines) => lines.into_iter().map(|l| l.text).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Opens a session.
    pub fn session(&mut self, node: usize, flow: &str) -> SessionId {
        let now = self.time();
        let id = self.stations[node].node.session_open(now, flow).unwrap();
        self.settle(node);
        id
    }

    /// A program sends a packet.
    pub fn say(&mut self, node: usize, session: SessionId, packet: &[u8]) {
        let now = self.time();
        self.stations[node].node.session_send(now, session, packet).unwrap();
        self.settle(node);
    }

    /// The packets for a program since the last call.
    pub fn heard(&mut self, node: usize, session: SessionId) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.stations[node].node.session_packet(session).unwrap()).collect()
    }
}

fn station(
    config: NodeConfig,
    peers: Vec<Option<(usize, LinkId)>>,
    options: &Options<'_>,
    seed: u64,
) -> Station {
    let disk = (options.disk > 0).then(|| Arc::new(Mutex::new(RamDisk::new(options.disk))) as SharedDisk);
    let platform = Platform { disk: disk.clone(), ..platform(options.buffers, seed) };
    let node = Node::new(&config, platform.clone(), at(0)).unwrap();
    Station { node, buffers: platform.buffers, peers, down: false, wake: None, config, disk }
}

/// Numbers that look random and are the same in every run (xorshift64*).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence for this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.number()) * bound as u128) >> 64) as usize
    }

    /// An array of bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| (self.number() >> 40) as u8)
    }
}
