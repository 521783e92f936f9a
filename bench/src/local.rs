//! A node in this process, on links in memory and on the real processor: what [`teams`](crate::teams),
//! [`fairness`](crate::fairness), [`accounting`](crate::accounting) and [`companions`](crate::companions) measure.

use anyhow::{Context, Result, bail};
use ee::config::{ADMIN, NodeConfig};
use ee::node::Node;
use host::clock::Clock;
use nodeos::buf::BufPool;
use nodeos::link::{LinkId, Mac};
use nodeos::platform::Now;
use wire::control::{Answer, FlowState, Request, TeamInfo};
use wire::id::CapsuleId;

use crate::flow::RelayFlow;
use crate::hop::{inject, platform};
use crate::relay::frames::{capsule, payload};

/// Where its capsules come from.
pub const IN: LinkId = LinkId(0);
/// Where the neighbor `next` is.
pub const OUT: LinkId = LinkId(1);
const SOURCE_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const IN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
const OUT_MAC: Mac = Mac([2, 0, 0, 0, 2, 2]);
const NEXT_MAC: Mac = Mac([2, 0, 0, 0, 3, 1]);

/// What differs between the nodes of the benchmarks.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Flows at once.
    pub flows: u16,
    /// Keys of `[team]`.
    pub team: &'a str,
    /// Keys of the link to the neighbor.
    pub out: &'a str,
}

/// The node.
pub struct Local {
    /// Itself.
    pub node: Node,
    /// Its packet buffers.
    pub pool: BufPool,
    clock: Clock,
}

impl Local {
    /// A node with two links, and a neighbor on each.
    pub fn new(options: Options<'_>) -> Result<Self> {
        let Options { flows, team, out } = options;
        let text = format!(
            "[node]\nname = \"bench\"\nmemory = \"1024M\"\nbuffers = 4096\nflows = {flows}\n[team]\n{team}\n\
             [[link]]\nname = \"in\"\nmac = \"{IN_MAC}\"\n\
             [[link]]\nname = \"out\"\nmac = \"{OUT_MAC}\"\n{out}\n\
             [[neighbor]]\nname = \"source\"\nlink = \"in\"\nmac = \"{SOURCE_MAC}\"\n\
             [[neighbor]]\nname = \"next\"\nlink = \"out\"\nmac = \"{NEXT_MAC}\"\n"
        );
        let (config, pool, clock) = (NodeConfig::parse(&text)?, BufPool::new(4096), Clock::start());
        let node = Node::new(&config, platform(pool.clone())?, clock.now())?;
        Ok(Self { node, pool, clock })
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Puts a flow's module and injects it; does what is due, jobs included, until nothing is.
    pub fn start(&mut self, flow: &RelayFlow) -> Result<()> {
        let now = self.now();
        inject(&mut self.node, now, flow)?;
        self.settle();
        self.runs(flow)
    }

    /// Puts a module, for flows that others start.
    pub fn put(&mut self, flow: &RelayFlow) -> Result<()> {
        let (now, total) = (self.now(), u32::try_from(flow.module.len())?);
        let put = Request::PartPut { part: flow.part, total, offset: 0, bytes: flow.module.clone() };
        match self.node.control(now, ADMIN, put) {
            Answer::Done => Ok(()),
            other => bail!("the node does not take the module: {other:?}"),
        }
    }

    /// Injects a flow whose module is there already.
    pub fn inject(&mut self, flow: &RelayFlow) -> Result<()> {
        let now = self.now();
        match self.node.control(now, ADMIN, Request::FlowInject { tuple: flow.tuple.clone() }) {
            Answer::Injected(_) => Ok(()),
            other => bail!("the node does not take the flow: {other:?}"),
        }
    }

    /// Ends a flow at once.
    pub fn kill(&mut self, flow: &RelayFlow) -> Result<()> {
        let now = self.now();
        match self.node.control(now, ADMIN, Request::FlowStop { flow: flow.hash, kill: true }) {
            Answer::Done => Ok(()),
            other => bail!("the flow does not end: {other:?}"),
        }
    }

    /// An error unless the flow runs.
    pub fn runs(&mut self, flow: &RelayFlow) -> Result<()> {
        let (now, mut from) = (self.now(), Some(0));
        while let Some(at) = from {
            let Answer::Flows(page) = self.node.control(now, ADMIN, Request::FlowShow { from: at }) else {
                bail!("the node does not show its flows");
            };
            if let Some(info) = page.items.into_iter().find(|f| f.hash == flow.hash) {
                let running = info.state == FlowState::Running;
                return if running { Ok(()) } else { bail!("the flow does not run: {:?}", info.state) };
            }
            from = page.next;
        }
        bail!("the flow is not there")
    }

    /// The node's teams, the root first.
    pub fn teams(&mut self) -> Result<Vec<TeamInfo>> {
        let (now, mut all, mut from) = (self.now(), Vec::new(), Some(0));
        while let Some(at) = from {
            let Answer::Teams(page) = self.node.control(now, ADMIN, Request::TeamShow { from: at }) else {
                bail!("the node does not show its teams");
            };
            all.extend(page.items);
            from = page.next;
        }
        Ok(all)
    }

    /// Bytes that the node's accounts say are in use.
    pub fn used(&mut self) -> Result<u64> {
        Ok(self.teams()?.first().context("there is no root team")?.memory.0)
    }

    /// Does what is due, jobs included, until nothing is.
    pub fn settle(&mut self) {
        loop {
            let now = self.now();
            let more = self.node.poll(now);
            let job = self.node.job();
            let none = job.is_none();
            if let Some(job) = job {
                let done = job.run();
                let now = self.now();
                self.node.job_done(now, done);
            }
            while self.node.log_line().is_some() {}
            if !more && none {
                return;
            }
        }
    }
}

/// A frame with a capsule for the node, from its neighbor `source`.
pub fn frame(id: &CapsuleId, len: usize, number: u64) -> Result<Vec<u8>> {
    capsule(&payload(len, number), id, SOURCE_MAC, IN_MAC)
}
