//! The node's side of the Auth Agent (D11): events to it, its actions carried out, its timers kept; and
//! the admission of a flow that it granted.

use std::collections::BTreeMap;

use authagent::agent::{AgentAction, AgentEvent, AgentTime, AuthAgent, Source as SeenFrom, Verification};
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use wire::control::Erred;
use wire::grant::Grant;
use wire::id::{CapsuleId, Path, TupleHash};
use wire::limits::{Derivation, worst_case};
use wire::system::{DOWNLOAD, REQUEST, TRANSLATION, UNKNOWN, agent_id, download_id};
use wire::tuple::{Provider, Tuple};

use super::{End, Node};
use crate::admit;
use crate::counters::Count;
use crate::flow::{Source, Stage, tuple_bytes};
use crate::job::Work;
use crate::neighbor::NeighborId;
use crate::registry::{Object, Target};

/// The agent with what the node keeps for it.
pub(super) struct AgentHost {
    pub(super) agent: Box<dyn AuthAgent>,
    timers: BTreeMap<u32, u64>,
    actions: Vec<AgentAction>,
}

impl AgentHost {
    pub(super) fn new(agent: Box<dyn AuthAgent>) -> Self {
        Self { agent, timers: BTreeMap::new(), actions: Vec::new() }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.values().min().copied().map(Instant)
    }

    fn due(&mut self, now: Instant) -> Option<u32> {
        let (&timer, _) =
            self.timers.iter().filter(|(_, at)| **at <= now.micros()).min_by_key(|(_, at)| **at)?;
        self.timers.remove(&timer);
        Some(timer)
    }
}

impl Node {
    /// Shows a flow's tuple to the agent, with the result of a verification that it asked for.
    pub(super) fn tuple_seen(&mut self, now: Now, handle: Handle, verified: Option<&Verification>) {
        let Some(flow) = self.flows.get(handle) else { return };
        let Some(data) = &flow.tuple else { return };
        let (hash, tuple) = (flow.hash, data.tuple.clone());
        let principal;
        let name;
        let source = match &flow.source {
            Source::Injected { principal: who } => {
                principal = who.clone();
                SeenFrom::Injected { principal: &principal }
            }
            Source::Neighbor(id) => {
                name = self.neighbors[*id].name.clone();
                SeenFrom::Neighbor { name: &name }
            }
        };
        self.tell_agent(now, AgentEvent::TupleSeen { flow: hash, tuple: &tuple, source, verified });
    }

    /// Hands an event to the agent and carries out what it answers.
    pub(super) fn tell_agent(&mut self, now: Now, event: AgentEvent<'_>) {
        let time = AgentTime { mono_us: now.mono.micros(), wall: now.wall };
        let mut actions = std::mem::take(&mut self.agent.actions);
        self.agent.agent.handle(time, event, &mut actions);
        for action in actions.drain(..) {
            self.agent_wants(now, action);
        }
        self.agent.actions = actions;
    }

    /// Fires the agent's timers.
    pub(super) fn agent_due(&mut self, now: Now) {
        while let Some(timer) = self.agent.due(now.mono) {
            self.tell_agent(now, AgentEvent::Timer { timer });
        }
    }

    fn agent_wants(&mut self, now: Now, action: AgentAction) {
        let judging = |node: &Self, flow: &TupleHash| {
            let handle = node.flows.by_hash(flow)?;
            matches!(node.flows.get(handle)?.stage, Stage::Judging).then_some(handle)
        };
        match action {
            AgentAction::Grant { flow, grant } => {
                if let Some(handle) = judging(self, &flow) {
                    self.granted(now, handle, grant);
                }
            }
            AgentAction::Refuse { flow, reason } => {
                if let Some(handle) = judging(self, &flow) {
                    self.counters.add(Count::FlowsRefused);
                    self.end_flow(now, handle, End::failed(reason.erred(), reason));
                }
            }
            AgentAction::Verify { flow, key } => {
                if let Some(handle) = judging(self, &flow)
                    && let Some(data) = self.flows.get(handle).and_then(|f| f.tuple.as_ref())
                {
                    let work = Work::Verify { flow, tuple: data.tuple.clone(), key };
                    self.add_job(work);
                }
            }
            AgentAction::Pending { .. } => {}
            AgentAction::Clamp { flow, grant } => {
                if let Some(handle) = self.flows.by_hash(&flow) {
                    self.clamp(now, handle, &grant);
                }
            }
            AgentAction::Revoke { flow, reason } => {
                if let Some(handle) = self.flows.by_hash(&flow) {
                    self.end_flow(now, handle, End::killed(format!("revoked: {reason}")));
                }
            }
            AgentAction::Send { neighbor, payload } => {
                if let Some(id) = self.neighbors.by_name(&neighbor) {
                    self.send_system(now, id, &agent_id(), &payload);
                }
            }
            AgentAction::SetTimer { timer, at_us } => {
                self.agent.timers.insert(timer, at_us);
            }
            AgentAction::CancelTimer { timer } => {
                self.agent.timers.remove(&timer);
            }
            AgentAction::PolicyTaken => self.log.line(now.mono, "the agent took the new policy"),
            AgentAction::PolicyRefused { why } => {
                self.log.line(now.mono, format!("operator: the agent refused the policy: {why}"));
            }
        }
    }

    /// Takes neighbors away that a running flow may not know of any more.
    fn clamp(&mut self, now: Now, handle: Handle, grant: &Grant) {
        let gone: Vec<NeighborId> = self
            .neighbors
            .iter()
            .filter(|(_, n)| !grant.neighbors.includes(&n.name))
            .map(|(id, _)| id)
            .collect();
        let Some(flow) = self.flows.get_mut(handle) else { return };
        if let Some(sandbox) = flow.sandbox() {
            gone.into_iter().for_each(|id| sandbox.neighbor_gone(id));
        }
        if let Some((_, granted)) = &mut flow.team {
            granted.neighbors = grant.neighbors.clone();
        }
        self.log.line(now.mono, format!("flow {} goes on with less", super::label(flow)));
    }

    /// The agent granted a flow: checks what it declares, makes its team, enters its identifiers.
    fn granted(&mut self, now: Now, handle: Handle, grant: Grant) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        flow.arrival.judge_us = now.mono.since(flow.since).as_micros() as u64;
        flow.since = now.mono;
        let Some(data) = &mut flow.tuple else { return };
        if let Err((erred, why)) = admissible(&data.tuple, &grant) {
            return self.end_flow(now, handle, End::failed(erred, why));
        }
        let name = data.tuple.main().name.clone();
        let budget = self.budget.clamp(&grant.budgets);
        let Ok(team) = self.teams.create(self.teams.root(), &name, budget.clone()) else {
            return self.end_flow(now, handle, End::failed(Erred::Node, "there are as many teams as may be"));
        };
        // Besides the events that may wait, the end of each session is always told: of those that are open,
        // and of those whose opening still waits.
        let most = 2 * usize::from(budget.queue) + usize::from(budget.sessions);
        self.sched.add(team, budget.shares, most);
        self.flows.set_team(handle, team, grant);
        // From here on the flow pays for itself.
        let paid = self.teams.get(team).map(|t| t.account().clone());
        let Some(data) = self.flows.get_mut(handle).and_then(|f| f.tuple.as_mut()) else { return };
        match paid.and_then(|account| account.charge(tuple_bytes(data.bytes.len())).ok()) {
            Some(charge) => data.charge = charge,
            None => {
                let why = "the tuple does not fit the flow's memory budget";
                return self.end_flow(now, handle, End::failed(Erred::Principal, why));
            }
        }
        self.register_ids(handle);
        self.next_part(now, handle);
    }

    fn register_ids(&mut self, handle: Handle) {
        let Some(flow) = self.flows.get(handle) else { return };
        let Some(data) = &flow.tuple else { return };
        let (hash, tuple) = (flow.hash, data.tuple.clone());
        let main_kinds = 0..tuple.main().capsules.len();
        let kind_ids =
            main_kinds.map(|kind| CapsuleId::compute(&hash, &Path::default(), kind as u16, &[])).collect();
        if let Some(flow) = self.flows.get_mut(handle) {
            flow.kind_ids = kind_ids;
        }
        for (protocol, path) in tuple.paths().iter().enumerate() {
            for kind in 0..tuple.body.protocols[protocol].capsules.len() {
                let id = CapsuleId::compute(&hash, path, kind as u16, &[]);
                let (protocol, kind) = (protocol as u8, kind as u8);
                self.register(handle, id, |flow| Target::Flow { flow, protocol, kind });
            }
        }
        let tuple_id = download_id(REQUEST, &hash, None);
        self.register(handle, tuple_id, |flow| Target::DownloadRequest { flow, object: Object::Tuple });
        for (at, part) in tuple.parts().iter().enumerate() {
            let id = download_id(REQUEST, &hash, Some(&part.sha256));
            let object = Object::Part(at as u16);
            self.register(handle, id, |flow| Target::DownloadRequest { flow, object });
        }
    }

    /// Whether a flow may know of this neighbor.
    pub(super) fn flow_knows(&self, flow: &crate::flow::Flow, neighbor: NeighborId) -> bool {
        flow.team.as_ref().is_some_and(|(_, grant)| grant.neighbors.includes(&self.neighbors[neighbor].name))
    }
}

/// Whether this release and this grant let the tuple in.
fn admissible(tuple: &Tuple, grant: &Grant) -> Result<(), (Erred, String)> {
    for (at, protocol) in tuple.body.protocols.iter().enumerate() {
        if u64::from(protocol.code.len) > admit::bounds::MODULE {
            let (len, most) = (protocol.code.len, admit::bounds::MODULE);
            return Err((Erred::Principal, format!("a module of {len} bytes, {most} are admitted")));
        }
        for companion in &protocol.companions {
            match &companion.provider {
                // Every flow has these; naming them is harmless.
                Provider::System(name) if [DOWNLOAD, TRANSLATION, UNKNOWN].contains(&name.as_str()) => {}
                Provider::System(name) => {
                    return Err((Erred::Principal, format!("there is no system protocol {name}")));
                }
                Provider::Tuple(_) => {
                    return Err((Erred::Node, "this release runs no companions of a flow's own".into()));
                }
            }
        }
        let clamped: Vec<_> =
            (0..).zip(&protocol.capsules).map(|(kind, c)| grant.limits(at as u8, kind, c.limits)).collect();
        let types: Vec<Derivation<'_>> = clamped
            .iter()
            .zip(&protocol.capsules)
            .map(|(&limits, c)| Derivation { limits, into: &c.derives })
            .collect();
        let worst = worst_case(&types, None).or_else(|kind| match grant.cycle_depth {
            Some(depth) => worst_case(&types, Some(depth)),
            None => Err(kind),
        });
        let worst = worst.map_err(|kind| {
            let name = &protocol.capsules[kind].name;
            (
                Erred::Principal,
                format!("capsule type {name} can be derived from itself, which is not granted"),
            )
        })?;
        let most = worst.iter().max().copied().unwrap_or(0);
        if let Some(max) = grant.max_emissions.filter(|&max| most > max) {
            let why = format!("one event can set off {most} sends, {max} are granted");
            return Err((Erred::Principal, why));
        }
    }
    Ok(())
}
