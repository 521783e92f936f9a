//! The previous hop: a node inside the benchmark that has the flow and gives it to the relay under test when
//! that asks, as any node does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ee::config::ADMIN;
use ee::config::NodeConfig;
use ee::engine::{Engine, Metering};
use ee::node::{Node, Platform};
use host::clock::Clock;
use host::entropy::Kernel;
use host::interrupt::Watchdog;
use host::link::Received;
use host::meter::Cycles;
use nodeos::buf::BufPool;
use nodeos::link::LinkId;
use nodeos::platform::NoSensors;
use wire::control::{Answer, FlowInfo, FlowState, Request};

use crate::flow::RelayFlow;
use crate::relay::traffic::Source;

/// How long compiling the flow's module may take here.
const PATIENCE: Duration = Duration::from_secs(60);
/// Its only link.
const LINK: LinkId = LinkId(0);

/// A node with one link.
pub struct Hop {
    node: Node,
    clock: Clock,
}

impl Hop {
    /// Starts the node and injects the flow.
    pub fn start(configuration: &str, flow: &RelayFlow) -> Result<Self> {
        let config = NodeConfig::parse(configuration)?;
        let clock = Clock::start();
        let node = Node::new(&config, platform(BufPool::new(1024))?, clock.now())?;
        let mut hop = Self { node, clock };
        hop.inject(flow)?;
        Ok(hop)
    }

    /// Answers what the relay asked on the source's link.
    pub fn serve(&mut self, source: &mut Source) -> Result<()> {
        let (link, pool, batch) = source.parts();
        let now = self.clock.now();
        while link.receive(batch, pool, |frame| self.node.frame(now, LINK, frame)) == Received::More {}
        self.work();
        while let Some(frame) = self.node.transmit(self.clock.now(), LINK) {
            if !link.has_room() {
                link.flush(batch);
            }
            link.queue(frame);
        }
        link.flush(batch);
        Ok(())
    }

    fn inject(&mut self, flow: &RelayFlow) -> Result<()> {
        inject(&mut self.node, self.clock.now(), flow)?;
        let start = Instant::now();
        loop {
            self.work();
            let info = flow_info(&mut self.node, self.clock.now(), flow)?;
            match info.state {
                FlowState::Running => return Ok(()),
                FlowState::Ended(why) => bail!("the flow ended: {why}"),
                _ if start.elapsed() > PATIENCE => bail!("the flow does not start"),
                _ => {}
            }
        }
    }

    fn work(&mut self) {
        while self.node.poll(self.clock.now()) {}
        while let Some(job) = self.node.job() {
            let done = job.run();
            self.node.job_done(self.clock.now(), done);
        }
        while self.node.poll(self.clock.now()) {}
        while self.node.log_line().is_some() {}
    }
}

/// What a node in this process runs on: the same as in `bees-node`.
pub fn platform(buffers: BufPool) -> Result<Platform> {
    let engine = Engine::new(Metering::Epoch)?;
    let interrupt = engine.interrupter_handle();
    let meter = Cycles::new();
    let watchdog = Watchdog::start(meter, move || interrupt.interrupt())?;
    Ok(Platform {
        name: "linux",
        meter: Arc::new(meter),
        interrupter: Arc::new(watchdog),
        entropy: Arc::new(Kernel),
        sensors: Arc::new(NoSensors),
        engine,
        buffers,
        disk: None,
    })
}

/// Injects the flow as a client would.
pub fn inject(node: &mut Node, now: nodeos::platform::Now, flow: &RelayFlow) -> Result<()> {
    let total = u32::try_from(flow.module.len())?;
    let put = Request::PartPut { part: flow.part, total, offset: 0, bytes: flow.module.clone() };
    for request in [put, Request::FlowInject { tuple: flow.tuple.clone() }] {
        match node.control(now, ADMIN, request) {
            Answer::Done | Answer::Injected(_) => {}
            Answer::Error(error) => bail!("the node does not take the flow: {error}"),
            other => bail!("unexpected answer: {other:?}"),
        }
    }
    Ok(())
}

/// What a node says of the flow.
pub fn flow_info(node: &mut Node, now: nodeos::platform::Now, flow: &RelayFlow) -> Result<FlowInfo> {
    match node.control(now, ADMIN, Request::FlowShow { from: 0 }) {
        Answer::Flows(page) => {
            page.items.into_iter().find(|f| f.hash == flow.hash).context("the flow is gone")
        }
        other => bail!("unexpected answer: {other:?}"),
    }
}
