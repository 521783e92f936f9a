//! Compiling, starting and ending a flow.

use std::sync::Arc;

use authagent::agent::AgentEvent;
use nodeos::platform::Now;
use nodeos::slab::Handle;
use wire::control::{Erred, FlowInfo, FlowState};
use wire::tuple::Credentials;

use super::{End, Node, label};
use crate::counters::Count;
use crate::engine::Code;
use crate::flow::{Flow, Source, Stage};
use crate::job::{Done, Job, JobDone, JobId, Work};
use crate::sandbox::{Event, NeighborRef, Sandbox, Setup};

/// The longest reason for a flow's end, in bytes.
const MAX_WHY: usize = 300;

impl Node {
    /// Every part is here: gets the module's machine code, from the cache or from the compiler.
    pub(super) fn compile(&mut self, now: Now, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let (Some(data), Some(Some(module))) = (&flow.tuple, flow.parts.first()) else { return };
        let (hash, module) = (data.tuple.main().code.sha256, module.bytes.clone());
        flow.arrival.download_us = now.mono.since(flow.since).as_micros() as u64;
        flow.since = now.mono;
        if let Some(code) = self.cache.get(&hash) {
            return self.start(now, handle, code);
        }
        // Somebody may be waiting for the same module already.
        let same = |f: &Flow| match (&f.stage, &f.tuple) {
            (Stage::Compile { job }, Some(t)) if t.tuple.main().code.sha256 == hash => Some(*job),
            _ => None,
        };
        let running = self.flows.iter().find_map(|(_, f)| same(f));
        let job = match running {
            Some(job) => job,
            None => {
                let engine = self.platform.engine.clone();
                self.add_job(Work::Compile { engine, hash, module })
            }
        };
        if let Some(flow) = self.flows.get_mut(handle) {
            flow.stage = Stage::Compile { job };
        }
    }

    /// A job ended; what nobody waits for any more is discarded.
    pub(super) fn work_done(&mut self, now: Now, done: JobDone) {
        match done.result {
            Done::Compiled(Ok(code)) => {
                if let Err(full) = self.cache.insert(code.clone()) {
                    self.log_limited(now, || format!("node: {full}"));
                }
                for handle in self.waiting_for(done.id) {
                    self.start(now, handle, code.clone());
                }
            }
            Done::Compiled(Err(error)) => {
                self.counters.add(Count::BadModule);
                for handle in self.waiting_for(done.id) {
                    self.end_flow(now, handle, End::failed(Erred::Principal, &error));
                }
            }
            Done::Verified { flow, verification } => {
                if let Some(handle) = self.flows.by_hash(&flow) {
                    self.tuple_seen(now, handle, Some(&verification));
                }
            }
            Done::Handshake { neighbor, finished } => self.handshake_done(now, neighbor, finished),
            Done::Checked { check, valid } => {
                self.tell_agent(now, AgentEvent::Checked { check, valid });
            }
        }
    }

    fn waiting_for(&self, id: JobId) -> Vec<Handle> {
        let waits = |f: &Flow| matches!(f.stage, Stage::Compile { job } if job == id);
        self.flows.iter().filter(|(_, f)| waits(f)).map(|(handle, _)| handle).collect()
    }

    /// Starts a flow: its sandbox, its boot event, then the capsules that waited.
    fn start(&mut self, now: Now, handle: Handle, code: Arc<Code>) {
        let Some(setup) = self.setup(handle) else { return };
        let Some(flow) = self.flows.get_mut(handle) else { return };
        flow.arrival.compile_us = now.mono.since(flow.since).as_micros() as u64;
        let before = self.platform.meter.count();
        match Sandbox::start(&self.platform.engine, &code, setup, now) {
            Ok(sandbox) => {
                flow.enter(Stage::Running { sandbox: Box::new(sandbox), code, wake: None }, now.mono);
            }
            Err(error) => {
                return self.end_flow(now, handle, End::failed(Erred::Principal, error));
            }
        }
        let units = self.platform.meter.count() - before;
        flow.arrival.start_us = units / self.platform.meter.per_micro().max(1);
        let waiting = std::mem::take(&mut flow.waiting);
        let from = match &flow.source {
            Source::Injected { principal } => format!("injected by {principal}"),
            Source::Neighbor(id) => format!("from {}", self.neighbors[*id].name),
        };
        let line = format!("flow {} runs, {from}, {} bytes fetched", label(flow), flow.arrival.bytes);
        self.log.flow(now.mono, || line);
        self.counters.add(Count::FlowsStarted);
        self.push_event(handle, Event::Boot);
        for capsule in waiting {
            // The wait was the neighbor's; from here on it is the team's.
            drop(capsule.charge);
            match self.registry.find(&capsule.id) {
                Some(_) => self.capsule(now, capsule.from, capsule.id, None, capsule.payload),
                None => self.questions.refuse(now.mono, capsule.id),
            }
        }
    }

    fn setup(&self, handle: Handle) -> Option<Setup> {
        let (flow, team) = self.flow_and_team(handle)?;
        let team = self.teams.get(team)?;
        let data = flow.tuple.as_ref()?;
        let neighbors =
            self.neighbors.iter().filter(|(id, _)| self.flow_knows(flow, *id)).map(|(id, n)| NeighborRef {
                id,
                name: n.name.clone(),
                link: n.out.link,
                max_payload: n.max_payload,
                overhead: n.overhead,
            });
        let bytes_of = |hash| {
            let at = data.parts.iter().position(|p| p.sha256 == hash)?;
            flow.parts[at].as_ref().map(|p| p.bytes.clone())
        };
        let named = &data.tuple.main().data;
        let mut seed = [0; 32];
        let random = self.platform.entropy.fill(&mut seed).is_ok().then_some(seed);
        Some(Setup {
            tuple: data.tuple.clone(),
            hash: flow.hash,
            grant: flow.team.as_ref()?.1.clone(),
            budget: team.budget,
            account: team.account().clone(),
            node_name: self.name.clone(),
            buffers: self.platform.buffers.clone(),
            neighbors: neighbors.collect(),
            links: self.net.links(),
            data: named.iter().filter_map(|d| Some((d.name.clone(), bytes_of(d.part.sha256)?))).collect(),
            meter: self.platform.meter.clone(),
            interrupter: self.platform.interrupter.clone(),
            seed: random,
            shared: self.shared.clone(),
        })
    }

    /// Ends a flow and gives everything back.
    pub(super) fn end_flow(&mut self, now: Now, handle: Handle, mut end: End) {
        shorten(&mut end.why);
        if end.graceful && self.flows.get_mut(handle).is_some_and(|f| f.sandbox().is_some()) {
            self.deliver(now, handle, Some(Event::Stop));
        }
        let mut info = match self.flow_info(handle) {
            Some(info) => info,
            None => return,
        };
        let Some(flow) = self.flows.remove(handle) else { return };
        for id in &flow.ids {
            self.registry.remove(id);
            self.questions.refuse(now.mono, *id);
        }
        for capsule in &flow.waiting {
            self.questions.refuse(now.mono, capsule.id);
        }
        if let Stage::Tuple { claim, .. } = &flow.stage {
            self.questions.refuse(now.mono, claim.id);
        }
        match &flow.stage {
            Stage::Running { wake: Some(at), .. } => {
                self.wakes.remove(&(*at, handle));
            }
            // Compiled for nobody: not at all, if it has not begun.
            Stage::Compile { job } if self.waiting_for(*job).is_empty() => {
                self.jobs.retain(|waiting| waiting.id() != *job);
            }
            Stage::Judging => {
                let its = |job: &Job| matches!(job.work(), Work::Verify { flow: of, .. } if *of == flow.hash);
                self.jobs.retain(|waiting| !its(waiting));
            }
            _ => {}
        }
        if let Some((team, _)) = flow.team {
            self.sched.remove(team);
            self.teams.end(team);
        }
        self.arriving.retain(|&h| h != handle);
        self.close_sessions(now, handle);
        if !self.log.flow(now.mono, || format!("flow {} ended: {}", label(&flow), end.why)) {
            self.counters.add(Count::LogSuppressed);
        }
        self.counters.add(Count::FlowsEnded);
        let hash = flow.hash;
        drop(flow);
        info.state = FlowState::Ended(end.why);
        self.flows.remember(info);
        self.tell_agent(now, AgentEvent::FlowEnded { flow: hash });
    }

    /// What `bees flow show` prints of a flow.
    pub(super) fn flow_info(&self, handle: Handle) -> Option<FlowInfo> {
        let flow = self.flows.get(handle)?;
        let principal = flow.tuple.as_ref().and_then(|t| match &t.tuple.credentials {
            Credentials::None => None,
            Credentials::Signed { principal, .. } => Some(principal.clone()),
        });
        Some(FlowInfo {
            hash: flow.hash,
            name: flow.name().to_string(),
            state: flow.state(),
            principal,
            injected_by: match &flow.source {
                Source::Injected { principal } => Some(principal.clone()),
                Source::Neighbor(_) => None,
            },
            team: flow.team.as_ref().map(|(team, _)| team.0.raw()),
            source: match flow.source {
                Source::Injected { .. } => None,
                Source::Neighbor(id) => Some(self.neighbors[id].name.to_string()),
            },
            grant: flow.team.as_ref().map(|(_, grant)| grant.clone()),
            arrival: flow.arrival,
            capsules: flow.capsules,
            sessions: self.sessions.count(handle),
        })
    }
}

/// What is remembered of a flow's end may come from outside: it gets a bound.
fn shorten(why: &mut String) {
    let cut = (0..=MAX_WHY.min(why.len())).rev().find(|&at| why.is_char_boundary(at)).unwrap_or(0);
    why.truncate(cut);
}
