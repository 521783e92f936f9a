//! The node's side of the Auth Agent (D11): events to it, its actions carried out, its timers kept; and
//! the admission of a flow that it granted.

use std::collections::BTreeMap;

use authagent::agent::{
    AgentAction, AgentEvent, AgentTime, AuthAgent, Reason, Source as SeenFrom, Verification,
};
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use nodeos::team::{Budget, Team};
use wire::control::Erred;
use wire::grant::Grant;
use wire::id::{CapsuleId, TupleHash};
use wire::system::{REQUEST, agent_id, download_id};
use wire::tuple::Tuple;

use super::authority::described;
use super::charge::Labour;
use super::cross::may_offer;
use super::fetch::SERVER;
use super::run::ends_of_sessions;
use super::{End, Node};
use crate::admit;
use crate::capsule::Kinds;
use crate::counters::Count;
use crate::flow::{Source, Stage, flow_bytes};
use crate::job::Work;
use crate::neighbor::NeighborId;
use crate::registry::{Object, Target};

/// The agent with what the node keeps for it.
pub(super) struct AgentHost {
    pub(super) agent: Box<dyn AuthAgent>,
    timers: BTreeMap<u32, u64>,
    actions: Vec<AgentAction>,
    /// The policy in force, as it was given.
    pub(super) policy: String,
    /// What it said to the policy that it was given.
    pub(super) answer: Option<Result<(), String>>,
}

/// Checks of signatures that wait for their turn.
const MAX_CHECKS: usize = 32;

impl AgentHost {
    pub(super) fn new(agent: Box<dyn AuthAgent>, policy: String) -> Self {
        Self { agent, timers: BTreeMap::new(), actions: Vec::new(), policy, answer: None }
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
        // Whatever the agent thinks of it: whoever made the tuple did not mean this node.
        if tuple.body.nodes().is_some_and(|nodes| !nodes.contains(&&*self.name)) {
            return self.refused(now, handle, &Reason::OtherNode);
        }
        let principal;
        let name;
        let source = match &flow.source {
            Source::Injected { principal: who } => {
                principal = who.clone();
                SeenFrom::Injected { principal: &principal }
            }
            Source::Neighbor { name: from, .. } => {
                name = from.clone();
                SeenFrom::Neighbor { name: &name }
            }
            Source::Server => SeenFrom::Neighbor { name: SERVER },
            Source::Flow { parent, .. } => match self.flows.get(*parent) {
                Some(parent) => SeenFrom::Flow { parent: parent.hash },
                None => return,
            },
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
                    self.refused(now, handle, &reason);
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
            AgentAction::Check { check, key, scheme, message, signature } => {
                let checks = self.jobs.iter().filter(|job| matches!(job.work(), Work::Check { .. })).count();
                if checks < MAX_CHECKS {
                    self.add_job(Work::Check { check, key, scheme, message, signature });
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
                    self.revoked(now, handle, &reason);
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
            AgentAction::PolicyTaken => {
                self.agent.answer = Some(Ok(()));
                self.take_operators(now);
                self.lower_totals(now);
            }
            AgentAction::PolicyRefused { why } => self.agent.answer = Some(Err(why)),
        }
    }

    fn refused(&mut self, now: Now, handle: Handle, reason: &Reason) {
        self.counters.add(Count::FlowsRefused);
        self.counters.add(reason.into());
        let Some(flow) = self.flows.get(handle) else { return };
        let flow = described(self, flow);
        self.audit(now, || format!("deny {flow}: {reason}"));
        self.end_flow(now, handle, End::failed(reason.erred(), reason));
    }

    fn revoked(&mut self, now: Now, handle: Handle, reason: &Reason) {
        self.counters.add(Count::FlowsRevoked);
        self.counters.add(reason.into());
        let Some(flow) = self.flows.get(handle) else { return };
        let flow = described(self, flow);
        self.audit(now, || format!("revoke {flow}: {reason}"));
        self.end_flow(now, handle, End::killed(format!("revoked: {reason}")));
    }

    /// A granted flow goes on with the lower of its terms and these: it loses neighbors and privileges at
    /// once, and gets nothing more of what it holds too much of. What cannot go on under them ends.
    pub(super) fn clamp(&mut self, now: Now, handle: Handle, grant: &Grant) {
        let Some((flow, team)) = self.flow_and_team(handle) else { return };
        let Some((_, granted)) = &flow.team else { return };
        let (lower, name) = (granted.meet(grant), described(self, flow));
        let Some(data) = &flow.tuple else { return };
        if let Err((erred, why)) = admissible(&data.tuple, &lower) {
            self.audit(now, || format!("revoke {name}: {why}"));
            self.counters.add(Count::FlowsRevoked);
            return self.end_flow(now, handle, End::failed(erred, why));
        }
        let gone = self.neighbors.iter().filter(|(_, n)| !lower.neighbors.includes(&n.name));
        let gone: Vec<NeighborId> = gone.map(|(id, _)| id).collect();
        self.teams.lower(now.mono, team, &lower.budgets);
        self.weigh(Some(team));
        let Some(budget) = self.teams.get(team).map(|member| member.budget) else { return };
        self.sched.lower_queue(team, most_waiting(&budget));
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let mut fits = Ok(());
        gone.iter().for_each(|id| self.liveness.forget_of(handle, *id));
        if let Some(sandbox) = flow.started() {
            gone.into_iter().for_each(|id| sandbox.neighbor_gone(id));
            fits = sandbox.clamp(&lower, &budget);
        }
        if let Some((_, granted)) = &mut flow.team {
            *granted = lower;
        }
        if let Err(error) = fits {
            return self.end_flow(now, handle, End::failed(Erred::Principal, error));
        }
        self.slow_watches(handle);
        if self.teams.get(team).is_some_and(Team::may_warn) {
            self.warn(team);
        }
        self.counters.add(Count::FlowsClamped);
        self.audit(now, || format!("clamp {name}: it goes on with less"));
    }

    /// The agent granted a flow: checks what it declares, makes its team, enters its identifiers.
    fn granted(&mut self, now: Now, handle: Handle, grant: Grant) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        flow.arrival.judge_us = now.mono.since(flow.since).as_micros() as u64;
        flow.since = now.mono;
        let Some(data) = &flow.tuple else { return };
        let tuple = data.tuple.clone();
        if let Err((erred, why)) = self.may_replace(now, handle) {
            self.counters.add(Count::FlowsRefused);
            self.counters.add(Count::ReplacementsRefused);
            return self.end_flow(now, handle, End::failed(erred, why));
        }
        // What does not start need not be able to.
        if self.is_succeeded(now, handle) {
            return;
        }
        if let Some(flow) = self.flows.get(handle)
            && let Err(reason) = self.may_cross(flow, &tuple, &grant)
        {
            return self.refused(now, handle, &reason);
        }
        if let Err((erred, why)) = admissible(&tuple, &grant) {
            return self.end_flow(now, handle, End::failed(erred, why));
        }
        let Some(flow) = self.flows.get(handle) else { return };
        let Some(data) = &flow.tuple else { return };
        let (name, bytes) = (data.tuple.main().name.clone(), flow_bytes(data, &grant, &flow.source));
        let budget = self.most_for(handle).clamp(&grant.budgets);
        let place = match self.place_of(now, handle, budget) {
            Some(place) => place,
            None => return self.end_flow(now, handle, End::killed("the flow that started it ended")),
        };
        let made = place.and_then(|(above, donated, budget)| {
            let made = self.teams.create(now.mono, above, &name, budget, donated);
            made.map(|team| (above, budget, team)).inspect_err(|_| self.leave(now, above))
        });
        let (above, budget, team) = match made {
            Ok(made) => made,
            Err(error) => {
                let source = self.flows.get(handle).map(|flow| flow.source.clone());
                self.end_flow(now, handle, End::failed(Erred::Node, error));
                return self.started_too_much(now, source, error);
            }
        };
        let shares = self.teams.get(team).map(Team::shares).unwrap_or_default();
        let conduct = self.conduct_of(now, handle);
        let throttled = conduct.throttled_until(now.mono);
        if let Some(member) = self.teams.get_mut(team) {
            member.conduct = conduct;
        }
        // The root has no events of its own, and of links a part as if it were one of its teams.
        let below = Some(above).filter(|above| *above != self.teams.root());
        self.sched.add(team, below, shares, most_waiting(&budget));
        self.net.add_team(team, below, shares);
        self.weigh(below);
        if let Some(until) = throttled {
            self.throttle(now, team, until.since(now.mono));
        }
        self.charge_queue(team);
        let owed = self.flows.get_mut(handle).map_or(0, |flow| std::mem::take(&mut flow.owed));
        self.charge_units(team, owed, Labour::Start);
        let privileges = grant.privileges.join(" ");
        self.flows.set_team(handle, team, grant);
        if let Some(flow) = self.flows.get(handle) {
            let flow = described(self, flow);
            self.audit(now, || format!("grant {flow}, privileges: {privileges}"));
        }
        // From here on the flow pays for itself.
        let paid = self.teams.get(team).map(|t| t.account().clone());
        let Some(data) = self.flows.get_mut(handle).and_then(|f| f.tuple.as_mut()) else { return };
        match paid.and_then(|account| account.charge(bytes + ends_of_sessions(budget.sessions)).ok()) {
            Some(charge) => data.charge = charge,
            None => {
                let why = "the tuple does not fit the flow's memory budget";
                return self.end_flow(now, handle, End::failed(Erred::Principal, why));
            }
        }
        self.register_ids(handle);
        if let Err(reason) = self.enter_offers(handle) {
            return self.refused(now, handle, &reason);
        }
        self.next_part(now, handle);
    }

    fn register_ids(&mut self, handle: Handle) {
        let Some(flow) = self.flows.get(handle) else { return };
        let Some(data) = &flow.tuple else { return };
        let (hash, tuple) = (flow.hash, data.tuple.clone());
        let mut kind_ids = Vec::new();
        for (protocol, path) in tuple.paths().iter().enumerate() {
            let kinds = 0..tuple.body.protocols[protocol].capsules.len() as u8;
            let ids: Vec<CapsuleId> =
                kinds.map(|kind| tuple.capsule_id(&hash, protocol, path, kind)).collect();
            for (kind, id) in (0u8..).zip(&ids) {
                let protocol = protocol as u8;
                self.register(handle, *id, |flow| Target::Flow { flow, protocol, kind });
            }
            kind_ids.push(ids);
        }
        if let Some(flow) = self.flows.get_mut(handle) {
            flow.kind_ids = kind_ids;
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
        flow.knows(&self.neighbors[neighbor].name)
    }
}

/// The events that may wait for a team and for those below it. Besides those of its queue, the end of each session
/// is always told: of those that are open, and of those whose opening still waits.
pub(super) fn most_waiting(budget: &Budget) -> usize {
    2 * usize::from(budget.queue) + usize::from(budget.sessions)
}

/// Whether this release and this grant let the tuple in.
fn admissible(tuple: &Tuple, grant: &Grant) -> Result<(), (Erred, String)> {
    for protocol in &tuple.body.protocols {
        if u64::from(protocol.code.len) > admit::bounds::MODULE {
            let (len, most) = (protocol.code.len, admit::bounds::MODULE);
            return Err((Erred::Principal, format!("a module of {len} bytes, {most} are admitted")));
        }
    }
    may_offer(tuple, grant).map_err(|reason| (reason.erred(), reason.to_string()))?;
    Kinds::all(tuple, grant).map_err(|error| (Erred::Principal, error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use nodeos::buf::BufPool;
    use nodeos::link::LinkId;
    use nodeos::platform::{NoSensors, Still};
    use wire::capsule::{Capsule, HEADER_LEN};
    use wire::control::{Answer, FlowState, Request};
    use wire::grant::Neighbors;
    use wire::id::PartHash;
    use wire::tuple::{Body, CapsuleType, Credentials, Part, Protocol};

    use crate::config::{ADMIN, NodeConfig};
    use crate::{Engine, Metering, Platform};

    fn platform() -> Platform {
        Platform {
            name: "test",
            meter: Arc::new(Still),
            interrupter: Arc::new(Still),
            entropy: Arc::new(Still),
            sensors: Arc::new(NoSensors),
            engine: Engine::new(Metering::Fuel).unwrap(),
            buffers: BufPool::new(64),
            disk: None,
        }
    }

    /// Grants everything, but only one neighbor; on a timer takes that one and the sensors away, and then revokes.
    struct Picky;

    impl Picky {
        fn grant(names: &[&str]) -> Grant {
            let names: Vec<_> = names.iter().map(|n| n.to_string()).collect();
            let privileges = names.iter().map(|_| "sensors".to_string()).collect();
            Grant { neighbors: Neighbors::Only(names), ..Grant::everything(Default::default(), privileges) }
        }
    }

    impl AuthAgent for Picky {
        fn name(&self) -> &str {
            "picky"
        }

        fn handle(&mut self, now: AgentTime, event: AgentEvent<'_>, out: &mut Vec<AgentAction>) {
            let flow = TupleHash::of(&tuple().1);
            match event {
                AgentEvent::TupleSeen { flow, .. } => {
                    out.push(AgentAction::Grant { flow, grant: Self::grant(&["c"]) });
                    out.push(AgentAction::SetTimer { timer: 1, at_us: now.mono_us + 1000 });
                    out.push(AgentAction::SetTimer { timer: 2, at_us: now.mono_us + 2000 });
                }
                AgentEvent::Timer { timer: 1 } => {
                    out.push(AgentAction::Clamp { flow, grant: Self::grant(&[]) });
                }
                AgentEvent::Timer { .. } => {
                    out.push(AgentAction::Revoke { flow, reason: Reason::Expired { until: 7 } });
                }
                _ => {}
            }
        }
    }

    const CONFIG: &str = r#"
        [node]
        name = "b"
        [[link]]
        name = "x"
        mac = "02:00:00:00:00:01"
        [[neighbor]]
        name = "a"
        link = "x"
        mac = "02:00:00:00:00:0a"
        [[neighbor]]
        name = "c"
        link = "x"
        mac = "02:00:00:00:00:0c"
    "#;

    fn tuple() -> (Vec<u8>, Vec<u8>) {
        let text = r#"(module (memory (export "memory") 1 1) (func (export "bees_abi_1"))
            (global (export "bees_inbox") i32 (i32.const 0)))"#;
        let module = wat::parse_str(text).unwrap();
        let protocol = Protocol {
            capsules: vec![CapsuleType { name: "k".into(), limits: Default::default(), derives: vec![] }],
            ..Protocol::new("p", Part::of(&module).unwrap())
        };
        let body = Body::new([0; 16], vec![protocol]);
        (module, Tuple { body, credentials: Credentials::None }.encode())
    }

    #[test]
    fn a_neighbor_that_is_not_granted_is_denied() {
        let platform = platform();
        let mut now = Now::mono(Instant(0));
        let mut node = Node::new(&NodeConfig::parse(CONFIG).unwrap(), platform.clone(), now).unwrap();
        node.agent = AgentHost::new(Box::new(Picky), String::new());
        let empty = node.memory.used();
        let (module, tuple) = tuple();
        let hash = TupleHash::of(&tuple);
        let put = Request::PartPut {
            part: PartHash::of(&module),
            total: module.len() as u32,
            offset: 0,
            bytes: module,
        };
        assert_eq!(node.control(now, ADMIN, put), Answer::Done);
        assert_eq!(node.control(now, ADMIN, Request::FlowInject { tuple }), Answer::Injected(hash));
        let done = node.job().unwrap().run();
        node.job_done(now, done);
        node.poll(now);

        let said = |node: &mut Node, now, from: u8, id: &CapsuleId, payload: &[u8]| {
            let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, from, 0x88, 0xb5];
            bytes.resize(14 + HEADER_LEN, 0);
            Capsule::emit_header(&mut bytes[14..], id, payload.len());
            bytes.extend(payload);
            node.frame(now, LinkId(0), platform.buffers.copy_of(&bytes).unwrap());
            node.poll(now);
            std::iter::from_fn(|| node.transmit(now, LinkId(0)).map(|f| f[14 + HEADER_LEN..].to_vec())).last()
        };
        let id = CapsuleId::compute(&hash, &wire::id::Path::default(), 0, &[]);
        let counts = |node: &Node| {
            (node.counters.get(Count::CapsulesReceived), node.counters.get(Count::NeighborDenied))
        };
        said(&mut node, now, 0x0c, &id, b"x");
        assert_eq!(counts(&node), (1, 0));
        said(&mut node, now, 0x0a, &id, b"x");
        assert_eq!(counts(&node), (1, 1));

        // Nor is it told what the capsule belongs to, nor given the code.
        use wire::system::{DownloadResponse, Translation, TranslationRequest, TranslationResponse};
        use wire::system::{decode, encode, translation_id};
        let ask = encode(&TranslationRequest { nonce: 1, unknown: id });
        let load = encode(&wire::system::DownloadRequest { nonce: 1, offset: 0, len: 10 });
        for (from, known) in [(0x0a, false), (0x0c, true)] {
            let told = said(&mut node, now, from, &translation_id(REQUEST), &ask).unwrap();
            let told: TranslationResponse = decode(&told).unwrap();
            assert_eq!(matches!(told.answer, Translation::Known { .. }), known);
            let given = said(&mut node, now, from, &download_id(REQUEST, &hash, None), &load).unwrap();
            let given: DownloadResponse<'_> = decode(&given).unwrap();
            assert_eq!(matches!(given, DownloadResponse::Chunk { .. }), known);
        }

        now.mono = Instant(1000);
        node.poll(now);
        said(&mut node, now, 0x0c, &id, b"x");
        assert_eq!(counts(&node), (1, 2), "clamped");
        let handle = node.flows.by_hash(&hash).unwrap();
        assert_eq!(node.flow_info(handle).unwrap().grant.unwrap().privileges, [""; 0]);
        now.mono = Instant(2000);
        node.poll(now);
        let Answer::Flows(flows) = node.control(now, ADMIN, Request::FlowShow { from: 0 }) else { panic!() };
        assert!(
            matches!(&flows.items[..], [f] if matches!(&f.state, FlowState::Ended(why) if why.starts_with("revoked")))
        );
        assert_eq!((node.memory.used(), platform.buffers.lent()), (empty, 0));
    }

    /// Never says anything.
    struct Silent;

    impl AuthAgent for Silent {
        fn name(&self) -> &str {
            "silent"
        }

        fn handle(&mut self, _: AgentTime, _: AgentEvent<'_>, _: &mut Vec<AgentAction>) {}
    }

    #[test]
    fn a_judgement_that_does_not_come_is_a_refusal() {
        let mut now = Now::mono(Instant(0));
        let mut node = Node::new(&NodeConfig::parse(CONFIG).unwrap(), platform(), now).unwrap();
        node.agent = AgentHost::new(Box::new(Silent), String::new());
        let (_, tuple) = tuple();
        let hash = TupleHash::of(&tuple);
        assert_eq!(node.control(now, ADMIN, Request::FlowInject { tuple }), Answer::Injected(hash));
        node.poll(now);
        let due = node.deadline(now).unwrap();
        assert!(due <= Instant(60_000_000));
        assert_eq!(node.flows.count().0, 1);
        now.mono = Instant(60_000_000);
        node.poll(now);
        assert_eq!(node.flows.count().0, 0);
        let policy = Request::PolicyLoad { text: String::new() };
        assert!(matches!(node.control(now, ADMIN, policy), Answer::Error(e) if e.erred == Erred::Node));
    }
}
