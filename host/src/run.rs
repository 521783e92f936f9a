//! The loop that drives a node: frames first, then finished jobs, then what is due, then what is to be
//! sent; then sleep until something happens. A compilation runs beside it and never delays a frame.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ee::blob::SharedDisk;
use ee::config::NodeConfig;
use ee::engine::{Engine, Metering};
use ee::job::{Job, JobDone};
use ee::node::{Node, Platform};
use nodeos::buf::BufPool;
use nodeos::link::LinkId;

use crate::clock::Clock;
use crate::console::Console;
use crate::entropy::Kernel;
use crate::interrupt::Watchdog;
use crate::jobs::Jobs;
use crate::link::{Batch, Link, Received};
use crate::meter::Cycles;
use crate::sensors::Machine;
use crate::signals::Signals;
use crate::wait::{Set, exact_timers, short_slices};

/// How long to wait before a socket that had no room is tried again.
const RETRY: Duration = Duration::from_micros(100);

/// A node and the devices that it runs on.
pub struct Runner {
    node: Node,
    ports: Vec<Port>,
    clock: Clock,
    buffers: BufPool,
    batch: Batch,
    jobs: Jobs<Job, JobDone>,
    console: Console,
}

struct Port {
    name: String,
    link: Link,
    received: Received,
    trouble: Option<io::ErrorKind>,
}

impl Runner {
    /// Makes a node on `links`, which are those of the configuration, in its order.
    pub fn new(
        config: &NodeConfig,
        links: Vec<Link>,
        disk: Option<SharedDisk>,
        console: Console,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        if links.len() != config.links.len() {
            let text =
                format!("{} links are given, the configuration has {}", links.len(), config.links.len());
            return Err(text.into());
        }
        let engine = Engine::new(Metering::Epoch)?;
        let interrupt = engine.interrupter_handle();
        let meter = Cycles::new();
        let watchdog = Watchdog::start(meter, move || interrupt.interrupt())?;
        let buffers = BufPool::new(usize::from(config.node.buffers));
        let platform = Platform {
            name: "linux",
            meter: Arc::new(meter),
            interrupter: Arc::new(watchdog),
            entropy: Arc::new(Kernel),
            sensors: Arc::new(Machine::start()?),
            engine,
            buffers: buffers.clone(),
            disk,
        };
        let clock = Clock::start();
        let node = Node::new(config, platform, clock.now())?;
        let port = |(name, link): (String, Link)| Port { name, link, received: Received::All, trouble: None };
        let names = config.links.iter().map(|l| l.name.clone());
        Ok(Self {
            node,
            ports: names.zip(links).map(port).collect(),
            clock,
            buffers,
            batch: Batch::default(),
            jobs: Jobs::start(Job::run)?,
            console,
        })
    }

    /// Runs the node until a signal asks it to end.
    pub fn run(&mut self, signals: &Signals) -> io::Result<()> {
        exact_timers();
        short_slices();
        let mut set = Set::default();
        self.ports.iter().for_each(|port| set.add(&port.link));
        let (jobs, end) = (self.ports.len(), self.ports.len() + 1);
        set.add(self.jobs.waker());
        set.add(signals);
        self.console();
        while !set.is_ready(end) {
            let timeout = self.turn(&set, set.is_ready(jobs));
            set.wait(timeout)?;
        }
        self.console.line(self.clock.mono().micros(), "ended by a signal");
        Ok(())
    }

    /// One turn; returns how long nothing is due.
    fn turn(&mut self, set: &Set, jobs_done: bool) -> Option<Duration> {
        let now = self.clock.now();
        for (at, port) in self.ports.iter_mut().enumerate() {
            if set.is_ready(at) || port.received != Received::All {
                let node = &mut self.node;
                port.received = port.link.receive(&mut self.batch, &self.buffers, |frame| {
                    node.frame(now, LinkId(at as u16), frame)
                });
            }
        }
        if jobs_done {
            self.jobs.waker().quiet();
            while let Some(done) = self.jobs.done() {
                self.node.job_done(now, done);
            }
        }
        let again = self.node.poll(now);
        let all_sent = self.transmit();
        while let Some(job) = self.node.job() {
            self.jobs.run(job);
        }
        self.console();
        if self.ports.iter().any(|port| port.received == Received::NoBuffer) {
            // The sockets stay readable, so that waiting for them would not wait.
            std::thread::sleep(RETRY);
        }
        if again || self.ports.iter().any(|port| port.received != Received::All) {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let due = self.node.deadline(now).map(|at| at.since(now.mono));
        if all_sent { due } else { Some(due.map_or(RETRY, |due| due.min(RETRY))) }
    }

    /// Sends what the node has to send; false if a socket had no room. What it has none for stays in the
    /// node's own queue, which is bounded.
    fn transmit(&mut self) -> bool {
        let now = self.clock.now();
        let mut all_sent = true;
        for (at, port) in self.ports.iter_mut().enumerate() {
            loop {
                let mut queued = false;
                while port.link.has_room()
                    && let Some(frame) = self.node.transmit(now, LinkId(at as u16))
                {
                    port.link.queue(frame);
                    queued = true;
                }
                let flushed = port.link.flush(&mut self.batch);
                all_sent &= flushed;
                if !queued || !flushed {
                    break;
                }
            }
            let trouble = port.link.trouble();
            if trouble.is_some() != port.trouble.is_some() {
                let name = &port.name;
                let text = match trouble {
                    Some(kind) => format!("link {name}: frames do not get through: {kind}"),
                    None => format!("link {name}: frames get through again"),
                };
                self.console.line(now.mono.micros(), text);
            }
            port.trouble = trouble;
        }
        all_sent
    }

    fn console(&mut self) {
        while let Some(line) = self.node.log_line() {
            self.console.line(line.at_us, line.text);
        }
    }
}
