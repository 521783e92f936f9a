//! Compiling, starting and ending a flow.

use authagent::agent::AgentEvent;
use nodeos::platform::Now;
use nodeos::slab::Handle;
use nodeos::team::Team;
use wire::control::{Erred, FlowInfo, FlowState};
use wire::tuple::Credentials;

use super::authority::origin;
use super::charge::{COMPILED_ENOUGH, Labour, Overdrawn};
use super::fetch::SERVER;
use super::run::Queued;
use super::{End, Node, label};
use crate::cap::ChildState;
use crate::counters::Count;
use crate::flow::{Flow, Source, Stage};
use crate::job::{Done, Job, JobDone, JobId, Work};
use crate::sandbox::{Event, Sandbox, Setup};
use crate::system::sources::Sources;

/// The longest reason for a flow's end, in bytes.
const MAX_WHY: usize = 300;

impl Node {
    /// Every part is here: gets the modules' machine code, one after the other, from the cache or from the compiler.
    pub(super) fn compile(&mut self, now: Now, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let Some(data) = flow.tuple.as_ref().map(|data| data.tuple.clone()) else { return };
        if flow.code.is_empty() {
            flow.arrival.download_us = now.mono.since(flow.since).as_micros() as u64;
            flow.since = now.mono;
        }
        let hash = loop {
            let Some(protocol) = data.body.protocols.get(flow.code.len()) else {
                return self.start(now, handle);
            };
            let hash = protocol.code.sha256;
            let Some(code) = self.cache.get(&hash) else { break hash };
            flow.code.push(code);
        };
        let Some(module) = flow.part(&hash).map(|part| part.bytes.clone()) else { return };
        let Some((_, team)) = self.flow_and_team(handle) else { return };
        // It may be on its way already, for somebody who waits or for nobody any more.
        let job = match self.compiling.iter().find(|c| c.module == hash).map(|c| c.job) {
            Some(job) => job,
            None if self.teams.get(team).is_none_or(|t| t.accounts().compile().left() == 0) => {
                return self.end_flow(now, handle, End::failed(Erred::Principal, COMPILED_ENOUGH));
            }
            None => {
                let (engine, len) = (self.platform.engine.clone(), module.len());
                let job = self.add_job(Work::Compile { engine, hash, module });
                self.begin_compilation(job, hash, len, team);
                job
            }
        };
        if let Some(flow) = self.flows.get_mut(handle) {
            flow.stage = Stage::Compile { job };
        }
    }

    /// A job ended; what nobody waits for any more is discarded.
    pub(super) fn work_done(&mut self, now: Now, done: JobDone) {
        self.busy += done.units;
        if self.compiler == Some(done.id) {
            self.compiler = None;
        }
        match done.result {
            Done::Compiled(Ok(code)) => {
                if let Err(full) = self.cache.insert(code.clone()) {
                    self.log_limited(now, || format!("node: {full}"));
                }
                let over = self.end_compilation(done.id, done.units);
                for handle in self.waiting_for(done.id) {
                    let team = self.flow_and_team(handle).map(|(_, team)| team);
                    match over.filter(|over| team == Some(over.payer)) {
                        None => {
                            self.flows.get_mut(handle).into_iter().for_each(|f| f.code.push(code.clone()));
                            self.ready.push_back(handle);
                        }
                        Some(Overdrawn { took, own, .. }) => {
                            if own {
                                self.keep_away(now, handle);
                            }
                            let why = format!("compiling took {took:?}, which is beyond the flow's budget");
                            self.end_flow(now, handle, End::failed(Erred::Principal, why));
                        }
                    }
                }
                self.forget_unpaid(now);
            }
            Done::Compiled(Err(error)) => {
                self.counters.add(Count::BadModule);
                self.end_compilation(done.id, done.units);
                for handle in self.waiting_for(done.id) {
                    self.keep_away(now, handle);
                    self.end_flow(now, handle, End::failed(Erred::Principal, &error));
                }
                self.forget_unpaid(now);
            }
            Done::Verified { flow, verification } => {
                if let Some(handle) = self.flows.by_hash(&flow) {
                    self.flows.get_mut(handle).into_iter().for_each(|f| f.owed += done.units);
                    self.tuple_seen(now, handle, Some(&verification));
                }
            }
            Done::Handshake { neighbor, finished } => self.handshake_done(now, neighbor, finished),
            Done::Stored(result) => self.stored(now, &result),
            Done::Checked { check, valid } => {
                self.tell_agent(now, AgentEvent::Checked { check, valid });
            }
        }
    }

    /// Takes on some of the flows whose module is compiled now; `true` when there are more. Many may have waited for the
    /// same module, and the links are looked at in between.
    pub(super) fn start_ready(&mut self, now: Now) -> bool {
        let until = self.platform.meter.count().saturating_add(self.work_per_poll());
        while let Some(handle) = self.ready.pop_front() {
            self.compile(now, handle);
            if self.platform.meter.count() >= until {
                break;
            }
        }
        !self.ready.is_empty()
    }

    pub(super) fn waiting_for(&self, id: JobId) -> Vec<Handle> {
        let waits = |f: &Flow| matches!(f.stage, Stage::Compile { job } if job == id);
        self.flows.iter().filter(|(_, f)| waits(f)).map(|(handle, _)| handle).collect()
    }

    /// A flow that cannot run must not make the node find that out again and again.
    pub(super) fn keep_away(&mut self, now: Now, handle: Handle) {
        if let Some(flow) = self.flows.get(handle) {
            self.bans.for_a_while(now.mono, flow.hash);
        }
    }

    /// Starts a flow: its sandbox, its boot event, then the capsules that waited.
    fn start(&mut self, now: Now, handle: Handle) {
        let Some(setup) = self.setup(handle) else { return };
        let Some(flow) = self.flows.get_mut(handle) else { return };
        flow.arrival.compile_us = now.mono.since(flow.since).as_micros() as u64;
        let before = self.platform.meter.count();
        match Sandbox::start(&self.platform.engine, &flow.code, setup, now) {
            Ok(sandbox) => {
                flow.enter(Stage::Standby { sandbox: Box::new(sandbox) }, now.mono);
            }
            Err(error) => {
                self.keep_away(now, handle);
                return self.end_flow(now, handle, End::failed(Erred::Principal, error));
            }
        }
        let units = self.platform.meter.count().saturating_sub(before);
        flow.arrival.start_us = units / self.platform.meter.per_micro().max(1);
        if let Some((team, _)) = flow.team {
            self.charge_units(team, self.own_part(units), Labour::Start);
        }
        match self.may_replace(now, handle) {
            Err((erred, why)) => self.end_flow(now, handle, End::failed(erred, why)),
            Ok(()) if self.stands_by(handle) => self.swaps.push(handle),
            Ok(()) if self.is_succeeded(now, handle) => {}
            Ok(()) => self.starts_anew(now, handle),
        }
    }

    /// A flow that nothing is in the way of any more runs: its boot event, then the capsules that waited.
    pub(super) fn starts_anew(&mut self, now: Now, handle: Handle) {
        // Since the flow that it was to take over from ended somebody else may serve in its place.
        if let Err(reason) = self.enter_offers(handle) {
            return self.end_flow(now, handle, End::failed(reason.erred(), reason));
        }
        self.leave_standby(handle);
        self.runs(now, handle);
        self.claim_area(now, handle);
        self.push_event(handle, Event::Boot);
        self.attend(handle);
        let waiting = self.flows.get_mut(handle).map(|flow| std::mem::take(&mut flow.waiting));
        for capsule in waiting.into_iter().flatten() {
            // The wait was the neighbor's; from here on it is the team's.
            drop(capsule.charge);
            match self.registry.find(&capsule.id) {
                Some(_) => self.capsule(now, capsule.from, capsule.id, None, capsule.payload, 0),
                None => self.questions.refuse(now.mono, capsule.id),
            }
        }
    }

    /// It is given events from now on.
    pub(super) fn leave_standby(&mut self, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        flow.stage = match std::mem::replace(&mut flow.stage, Stage::Judging) {
            Stage::Standby { sandbox } => Stage::Running { sandbox, wake: None },
            other => other,
        };
    }

    /// Says that a flow runs.
    pub(super) fn runs(&mut self, now: Now, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let source = flow.source.clone();
        (flow.sources, flow.fetched_for) = (Sources::default(), Vec::new());
        let (name, bytes) = (label(flow), flow.arrival.bytes);
        let line = format!("flow {name} runs, {}, {bytes} bytes fetched", origin(self, &source));
        self.log.flow(now.mono, || line);
        self.counters.add(Count::FlowsStarted);
        self.tell_parent(&source, ChildState::Running);
    }

    pub(super) fn setup(&self, handle: Handle) -> Option<Setup> {
        let (flow, team) = self.flow_and_team(handle)?;
        let team = self.teams.get(team)?;
        let data = flow.tuple.as_ref()?;
        let known = self.neighbors.iter().map(|(id, _)| id).filter(|id| self.flow_knows(flow, *id));
        let neighbors = known.map(|id| self.reference(id));
        let bytes_of = |hash| flow.part(&hash).map(|part| part.bytes.clone());
        let named = data.tuple.body.protocols.iter().map(|protocol| {
            let parts = protocol.data.iter();
            parts.filter_map(|d| Some((d.name.clone(), bytes_of(d.part.sha256)?))).collect()
        });
        let mut seed = [0; 32];
        let random = self.platform.entropy.fill(&mut seed).is_ok().then_some(seed);
        Some(Setup {
            tuple: data.tuple.clone(),
            hash: flow.hash,
            grant: flow.team.as_ref()?.1.clone(),
            budget: team.budget,
            accounts: team.accounts().clone(),
            bandwidth: team.bandwidth().clone(),
            node_name: self.name.clone(),
            buffers: self.platform.buffers.clone(),
            neighbors: neighbors.collect(),
            data: named.collect(),
            meter: self.platform.meter.clone(),
            interrupter: self.platform.interrupter.clone(),
            seed: random,
            shared: self.shared.clone(),
        })
    }

    /// Ends a flow and gives everything back. A flow that may clean up while it is in the middle of an event in
    /// the background first gets that over, for which it has a part of an event's time; until then it takes
    /// nothing in.
    pub(super) fn end_flow(&mut self, now: Now, handle: Handle, mut end: End) {
        shorten(&mut end.why);
        let sandbox = self.flows.get_mut(handle).and_then(|f| f.sandbox());
        let cleans_up = end.graceful && sandbox.as_ref().is_some_and(|s| !s.has_ended());
        if let Some(sandbox) = sandbox.filter(|s| cleans_up && s.is_suspended()) {
            sandbox.hasten();
            self.endings.entry(handle).or_insert(end);
            return;
        }
        self.end_children(now, handle);
        if cleans_up {
            self.deliver(now, handle, Queued::free(Event::Stop, now.mono));
        }
        let mut info = match self.flow_info(handle) {
            Some(info) => info,
            None => return,
        };
        self.bequeath(now, handle);
        self.liveness.forget_flow(handle);
        let Some(mut flow) = self.flows.remove(handle) else { return };
        self.endings.remove(&handle);
        self.suspended -= usize::from(flow.sandbox().is_some_and(|s| s.is_suspended()));
        for id in &flow.ids {
            self.registry.remove(id);
            self.questions.refuse(now.mono, *id);
        }
        self.forget_taken(handle, &flow);
        for capsule in &flow.waiting {
            self.questions.refuse(now.mono, capsule.id);
        }
        if let Stage::Tuple { claim: Some(claim), .. } = &flow.stage {
            self.questions.refuse(now.mono, claim.id);
        }
        match &flow.stage {
            Stage::Running { wake: Some(at), .. } => {
                self.wakes.remove(&(*at, handle));
            }
            // Compiled for nobody: not at all, if it has not begun.
            Stage::Compile { job } if self.waiting_for(*job).is_empty() => {
                let waiting = self.jobs.len();
                self.jobs.retain(|waiting| waiting.id() != *job);
                if self.jobs.len() < waiting {
                    self.compiling.retain(|c| c.job != *job);
                }
            }
            Stage::Judging => {
                let its = |job: &Job| matches!(job.work(), Work::Verify { flow: of, .. } if *of == flow.hash);
                self.jobs.retain(|waiting| !its(waiting));
            }
            _ => {}
        }
        if let Some((team, _)) = flow.team {
            let above = self.teams.get(team).and_then(Team::parent);
            self.unthrottle(now, team);
            self.sched.remove(team);
            // What a flow still had to say when it was stopped is said at the expense of who is above it.
            let heir = above.filter(|_| end.heard);
            self.net.remove_team(team, heir);
            self.leave_waiting(team, heir);
            self.teams.end(now.mono, team);
            self.weigh(above);
            above.into_iter().for_each(|above| self.leave(now, above));
        }
        if matches!(flow.stage, Stage::Running { .. }) {
            self.forget_area(&flow.hash);
        }
        self.arriving.retain(|&h| h != handle);
        self.close_sessions(now, handle);
        self.end_crossings(handle);
        self.end_fetches(now, handle);
        if !self.log.flow(now.mono, || format!("flow {} ended: {}", label(&flow), end.why)) {
            self.counters.add(Count::LogSuppressed);
        }
        self.counters.add(Count::FlowsEnded);
        let (hash, source) = (flow.hash, flow.source.clone());
        drop(flow);
        self.tell_parent(&source, ChildState::Ended);
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
                Source::Neighbor { .. } | Source::Server | Source::Flow { .. } => None,
            },
            team: flow.team.as_ref().map(|(team, _)| team.0.raw()),
            source: match &flow.source {
                Source::Injected { .. } => None,
                Source::Neighbor { name, .. } => Some(name.to_string()),
                Source::Server => Some(SERVER.to_string()),
                Source::Flow { parent, .. } => {
                    self.flows.get(*parent).map(|flow| format!("flow {:.8}", flow.hash))
                }
            },
            grant: flow.team.as_ref().map(|(_, grant)| grant.clone()),
            arrival: flow.arrival,
            capsules: flow.capsules,
            sessions: self.sessions.count(handle),
            crashes: self.crashes.of(&flow.hash).cloned().collect(),
            replaces: flow.replaced(),
            replaced_by: None,
        })
    }
}

/// What is remembered of a flow's end may come from outside: it gets a bound.
fn shorten(why: &mut String) {
    let cut = (0..=MAX_WHY.min(why.len())).rev().find(|&at| why.is_char_boundary(at)).unwrap_or(0);
    why.truncate(cut);
}
