//! The simulation itself: nodes, the links between them, and what happens next.
//!
//! Time moves from event to event: a frame arrives, a job is done, a node's deadline has come. Each event
//! is given to its node; then the node does what is due, and what it sends is given to its links.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ee::blob::SharedDisk;
use ee::config::NodeConfig;
use ee::engine::{Engine, Metering};
use ee::job::JobDone;
use ee::node::{Node, Platform};
use nodeos::buf::BufPool;
use nodeos::link::LinkId;
use nodeos::platform::{Instant, NoSensors, Now};
use nodeos::store::RamDisk;
use sha2::{Digest, Sha256};
use wire::control::LogEntry;

use crate::error::SimError;
use crate::frames::Frames;
use crate::jobs::{JobTimes, Worker};
use crate::lab::{Keys, Lab, Plan};
use crate::medium::{Counters, Direction, Fate, Shape};
use crate::pcap;
use crate::platform::{CountedOut, SeededEntropy, VirtualMeter};
use crate::queue::Queue;
use crate::random::Random;

/// Turns of one node at one moment; then time goes on by a microsecond, so that a node that is never done
/// does not stop the world.
const TURNS: usize = 256;
/// No wake-up is planned.
const NEVER: u64 = u64::MAX;
/// Which of the seed's streams are whose.
const KEYS: u64 = 0;
const LINKS: u64 = 1;
const ENTROPY: u64 = 1 << 40;

/// How a simulation is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time of day at the start, in seconds since 1970; `None`: nodes do not know it.
    pub wall: Option<u64>,
    /// Packet buffers of each node.
    pub buffers: usize,
    /// How long jobs take.
    pub jobs: JobTimes,
    /// Keep the nodes' log lines for [`Sim::take_log`].
    pub keep_log: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { wall: Some(1_767_225_600), buffers: 256, jobs: JobTimes::default(), keep_log: false }
    }
}

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Events of all kinds.
    pub events: u64,
    /// Frames that arrived.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that arrived where the node does not run, or had no packet buffer free.
    pub missed: u64,
    /// Modules that were compiled, each counted once however many nodes run it.
    pub compiled: usize,
}

/// A simulation.
pub struct Sim {
    seed: u64,
    options: Options,
    plan: Plan,
    engine: Engine,
    meter: Arc<VirtualMeter>,
    worker: Worker,
    pub(crate) stations: Vec<Station>,
    wires: Vec<Wire>,
    queue: Queue<What>,
    frames: Frames,
    done: Vec<Option<(u32, JobDone)>>,
    now_us: u64,
    stats: Stats,
    trace: Sha256,
    log: Vec<(usize, LogEntry)>,
}

/// Where a node runs, or ran.
pub(crate) struct Station {
    config: NodeConfig,
    pub(crate) node: Option<Node>,
    buffers: BufPool,
    /// What outlives the node.
    disk: Option<SharedDisk>,
    /// How often the node was started: what belongs to an earlier life is dropped.
    pub(crate) life: u32,
    /// When the node is to be woken next.
    wake_us: u64,
    /// When its worker has time for the next job.
    worker_us: u64,
}

/// One link.
struct Wire {
    directions: [Direction; 2],
    capture: Option<pcap::Writer<Box<dyn Write>>>,
    capture_error: Option<io::Error>,
}

/// What happens.
enum What {
    /// A frame reaches a NIC.
    Frame { node: u32, nic: u16, slot: u32 },
    /// A node's deadline.
    Wake { node: u32 },
    /// A job is done.
    Job { node: u32, slot: u32 },
}

impl Sim {
    /// Makes the lab's nodes and starts them at time 0.
    pub fn new(lab: &Lab, seed: u64, options: Options) -> Result<Self, SimError> {
        let mut keys = Random::new(seed, KEYS);
        let mut key = || {
            let mut bytes = [0; 32];
            keys.fill(&mut bytes);
            bytes
        };
        let identities = lab.nodes.iter().map(|_| key()).collect();
        let plan = lab.plan(&Keys { admin: SOME_KEY, identities, ..Keys::default() })?;
        let engine = Engine::new(Metering::Fuel)?;
        let mut chance = Random::new(seed, LINKS);
        let mut wire = |link: &crate::lab::LinkPlan| Wire {
            directions: [0, 1].map(|_| Direction::new(link.shape, chance.bits())),
            capture: None,
            capture_error: None,
        };
        let wires = plan.links.iter().map(&mut wire).collect();
        let mut stations = Vec::with_capacity(plan.nodes.len());
        for node in &plan.nodes {
            let mut config = NodeConfig::parse(&node.config)
                .map_err(|error| SimError::Config { node: node.name.clone(), error })?;
            // Nobody logs in from outside: programs call the nodes themselves.
            config.control = None;
            let buffers = BufPool::new(options.buffers);
            let disk =
                node.disk.map(|bytes| Arc::new(Mutex::new(RamDisk::new(bytes as usize))) as SharedDisk);
            let (life, wake_us, worker_us) = (0, NEVER, 0);
            stations.push(Station { config, node: None, buffers, disk, life, wake_us, worker_us });
        }
        let mut sim = Self {
            seed,
            options,
            plan,
            engine,
            meter: Arc::default(),
            worker: Worker::default(),
            stations,
            wires,
            queue: Queue::default(),
            frames: Frames::default(),
            done: Vec::new(),
            now_us: 0,
            stats: Stats::default(),
            trace: Sha256::new(),
            log: Vec::new(),
        };
        (0..sim.stations.len()).try_for_each(|at| sim.restart(at))?;
        Ok(sim)
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        Instant(self.now_us)
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.stations.len()
    }

    /// Addresses and configurations.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A node, if it runs.
    pub fn node(&self, at: usize) -> Option<&Node> {
        self.stations.get(at)?.node.as_ref()
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        Stats { compiled: self.worker.compiled(), ..self.stats }
    }

    /// Frames on their way.
    pub fn in_flight(&self) -> usize {
        self.frames.len()
    }

    /// SHA-256 over all frames that arrived, when and where: equal for equal runs.
    pub fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    /// The nodes' log lines since the last call, if [`Options::keep_log`] is set.
    pub fn take_log(&mut self) -> Vec<(usize, LogEntry)> {
        std::mem::take(&mut self.log)
    }

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until `condition` holds, and at most `time`; whether it holds. It is asked whenever
    /// all that happens at one moment has happened.
    pub fn run_until(&mut self, time: Duration, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        let limit = (self.now() + time).micros();
        loop {
            if condition(self) {
                return true;
            }
            let Some((at, what)) = self.queue.pop(limit) else { break };
            self.set_now(at);
            self.happen(what);
            while let Some((_, what)) = self.queue.pop(at) {
                self.happen(what);
            }
        }
        self.set_now(limit);
        false
    }

    /// Takes a node away without a farewell, with all that it knows.
    pub fn crash(&mut self, at: usize) {
        self.stations[at].node = None;
    }

    /// Starts a node, afresh if it runs.
    pub fn restart(&mut self, at: usize) -> Result<(), SimError> {
        let now = self.time();
        let life = u64::from(self.stations[at].life);
        let random = Random::new(self.seed, ENTROPY + ((at as u64) << 20) + life);
        let station = &mut self.stations[at];
        station.buffers = BufPool::new(self.options.buffers);
        let platform = Platform {
            name: "sim",
            meter: self.meter.clone(),
            interrupter: Arc::new(CountedOut),
            entropy: Arc::new(SeededEntropy::new(random)),
            sensors: Arc::new(NoSensors),
            engine: self.engine.clone(),
            buffers: station.buffers.clone(),
            disk: station.disk.clone(),
        };
        let fail = |error| SimError::Config { node: station.config.node.name.clone(), error };
        station.node = Some(Node::new(&station.config, platform, now).map_err(fail)?);
        station.life += 1;
        station.wake_us = NEVER;
        station.worker_us = self.now_us;
        self.settle(at);
        Ok(())
    }

    /// Changes how both directions of a link behave.
    pub fn set_shape(&mut self, link: usize, shape: Shape) {
        self.wires[link].directions.iter_mut().for_each(|d| d.set_shape(shape));
    }

    /// Cuts a link, or heals it.
    pub fn set_link(&mut self, link: usize, up: bool) {
        self.wires[link].directions.iter_mut().for_each(|d| d.set_up(up));
    }

    /// Cuts all links between the nodes named and the others.
    pub fn partition(&mut self, nodes: &[usize]) {
        let inside = |node| nodes.contains(&node);
        for (wire, link) in self.wires.iter_mut().zip(&self.plan.links) {
            if inside(link.ends[0].node) != inside(link.ends[1].node) {
                wire.directions.iter_mut().for_each(|d| d.set_up(false));
            }
        }
    }

    /// Heals all links.
    pub fn heal(&mut self) {
        (0..self.wires.len()).for_each(|link| self.set_link(link, true));
    }

    /// What both directions of a link did so far; the first is the one from the link's first end.
    pub fn link(&self, link: usize) -> [Counters; 2] {
        [0, 1].map(|end: usize| self.wires[link].directions[end].counters())
    }

    /// Writes the frames that arrive over a link from now on to a capture file.
    pub fn capture(&mut self, link: usize, out: Box<dyn Write>) -> io::Result<()> {
        self.wires[link].capture = Some(pcap::Writer::new(out)?);
        Ok(())
    }

    /// Ends all captures. An error is the first that one of them met.
    pub fn end_captures(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for wire in &mut self.wires {
            let flushed = wire.capture.take().map_or(Ok(()), |mut capture| capture.flush());
            result = result.and(wire.capture_error.take().map_or(flushed, Err));
        }
        result
    }

    /// The time as nodes see it.
    pub(crate) fn time(&self) -> Now {
        Now { mono: self.now(), wall: self.options.wall.map(|at_start| at_start + self.now_us / 1_000_000) }
    }

    fn set_now(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.meter.set(now_us);
    }

    fn happen(&mut self, what: What) {
        self.stats.events += 1;
        match what {
            What::Frame { node, nic, slot } => self.arrive(node as usize, nic, slot),
            What::Wake { node } => {
                let station = &mut self.stations[node as usize];
                // Woken earlier, or restarted, meanwhile: this wake-up is no longer wanted.
                if station.wake_us == self.now_us {
                    station.wake_us = NEVER;
                    self.settle(node as usize);
                }
            }
            What::Job { node, slot } => {
                let now = self.time();
                let station = &mut self.stations[node as usize];
                let Some((life, done)) = self.done[slot as usize].take() else { return };
                if let Some(node_) = station.node.as_mut().filter(|_| station.life == life) {
                    node_.job_done(now, done);
                    self.settle(node as usize);
                }
            }
        }
    }

    fn arrive(&mut self, at: usize, nic: u16, slot: u32) {
        let now = self.time();
        let bytes = self.frames.get(slot);
        let station = &mut self.stations[at];
        let frame = station.node.as_mut().zip(station.buffers.copy_of(bytes));
        let Some((node, frame)) = frame else {
            self.stats.missed += 1;
            return self.frames.free(slot);
        };
        self.stats.frames += 1;
        self.stats.bytes += bytes.len() as u64;
        self.trace.update(self.now_us.to_le_bytes());
        self.trace.update((at as u32).to_le_bytes());
        self.trace.update(nic.to_le_bytes());
        self.trace.update((bytes.len() as u32).to_le_bytes());
        self.trace.update(bytes);
        if let Some((link, _)) = self.plan.nodes[at].nics[usize::from(nic)].wire {
            self.wires[link].record(self.now_us, bytes);
        }
        self.frames.free(slot);
        node.frame(now, LinkId(nic), frame);
        self.settle(at);
    }

    /// Lets a node do what is due, takes out what it gives, and plans when to come back.
    pub(crate) fn settle(&mut self, at: usize) {
        let now = self.time();
        let mut again = true;
        for _ in 0..TURNS {
            let Some(node) = &mut self.stations[at].node else { return };
            again = node.poll(now);
            self.transmit(at, now);
            self.take_jobs(at);
            if !again {
                break;
            }
        }
        let Some(node) = &mut self.stations[at].node else { return };
        while let Some(line) = node.log_line() {
            if self.options.keep_log {
                self.log.push((at, line));
            }
        }
        let due = if again { Some(self.now()) } else { node.deadline(now) };
        // What is due now was just done, or waits for time to pass.
        let Some(due) = due.map(|due| due.micros().max(self.now_us + 1)) else { return };
        let station = &mut self.stations[at];
        if due < station.wake_us {
            station.wake_us = due;
            self.queue.push(due, What::Wake { node: at as u32 });
        }
    }

    fn transmit(&mut self, at: usize, now: Now) {
        let Some(node) = &mut self.stations[at].node else { return };
        for (nic, plan) in self.plan.nodes[at].nics.iter().enumerate() {
            while let Some(frame) = node.transmit(now, LinkId(nic as u16)) {
                // Nobody is on the management network here.
                let Some((link, end)) = plan.wire else { continue };
                let to = self.plan.links[link].ends[1 - end];
                let mut deliver = |time| {
                    let slot = self.frames.put(&frame);
                    let what = What::Frame { node: to.node as u32, nic: to.nic as u16, slot };
                    self.queue.push(time, what);
                };
                match self.wires[link].directions[end].send(self.now_us, frame.len()) {
                    Fate::Arrives(time) => deliver(time),
                    Fate::Twice(first, second) => {
                        deliver(first);
                        deliver(second);
                    }
                    Fate::Lost | Fate::Dropped | Fate::Down => {}
                }
            }
        }
    }

    fn take_jobs(&mut self, at: usize) {
        let station = &mut self.stations[at];
        let Some(node) = &mut station.node else { return };
        while let Some(job) = node.job() {
            let (done, takes) = self.worker.run(job, &self.options.jobs);
            let ends = Instant(station.worker_us.max(self.now_us)) + takes;
            station.worker_us = ends.micros();
            let free = self.done.iter().position(Option::is_none);
            let slot = free.unwrap_or_else(|| {
                self.done.push(None);
                self.done.len() - 1
            });
            self.done[slot] = Some((station.life, done));
            self.queue.push(ends.micros(), What::Job { node: at as u32, slot: slot as u32 });
        }
    }
}

impl Wire {
    fn record(&mut self, now_us: u64, bytes: &[u8]) {
        if let Some(capture) = &mut self.capture
            && let Err(error) = capture.frame(now_us, bytes)
        {
            self.capture_error.get_or_insert(error);
            self.capture = None;
        }
    }
}

/// Stands for an administrator's key where there is none: the Ed25519 base point (RFC 8032, section 5.1).
const SOME_KEY: [u8; 32] = {
    let mut key = [0x66; 32];
    key[0] = 0x58;
    key
};
