//! The agent for friendly settings: grants what is asked for, within the node's own bounds.
//!
//! It looks at no signature and knows no principal. Two things hold even so: the node's bounds on every
//! budget, and the tuple's validity period, which [`Everything`] checks when the flow arrives and watches
//! over while it runs.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use wire::grant::Grant;
use wire::id::TupleHash;
use wire::tuple::{Request, Validity};

use crate::agent::{AgentAction, AgentEvent, AgentTime, AuthAgent, UnknownTime, next_look};

/// The only timer: the next look at the clock.
const LOOK: u32 = 0;

/// Grants everything.
#[derive(Debug, Default)]
pub struct Everything {
    unknown_time: UnknownTime,
    /// The granted flows that have a validity period. The node says when one ends, so there are never
    /// more than it runs.
    bounded: BTreeMap<TupleHash, Validity>,
}

impl Everything {
    /// An agent that treats validity periods in this way when the node does not know the time.
    pub fn new(unknown_time: UnknownTime) -> Self {
        Self { unknown_time, bounded: BTreeMap::new() }
    }

    fn judge(
        &mut self,
        now: AgentTime,
        flow: TupleHash,
        validity: Validity,
        request: &Request,
    ) -> AgentAction {
        if let Err(reason) = self.unknown_time.check(&validity, now.wall) {
            return AgentAction::Refuse { flow, reason };
        }
        if validity != Validity::default() {
            self.bounded.insert(flow, validity);
        }
        let privileges = request.privileges.iter().map(|p| p.name.clone()).collect();
        AgentAction::Grant { flow, grant: Grant::everything(request.budgets, privileges) }
    }

    /// Revokes what is no longer valid.
    fn look(&mut self, now: AgentTime, out: &mut Vec<AgentAction>) {
        let unknown_time = self.unknown_time;
        self.bounded.retain(|&flow, validity| match unknown_time.check(validity, now.wall) {
            Ok(()) => true,
            Err(reason) => {
                out.push(AgentAction::Revoke { flow, reason });
                false
            }
        });
    }

    /// Sets the timer to when the first period ends, or sooner.
    fn watch(&self, now: AgentTime, out: &mut Vec<AgentAction>) {
        if self.bounded.is_empty() {
            return;
        }
        let ends = self.bounded.values().filter_map(|v| v.until).min();
        out.push(AgentAction::SetTimer { timer: LOOK, at_us: next_look(now, ends) });
    }
}

impl AuthAgent for Everything {
    fn name(&self) -> &str {
        "everything"
    }

    fn handle(&mut self, now: AgentTime, event: AgentEvent<'_>, out: &mut Vec<AgentAction>) {
        match event {
            AgentEvent::TupleSeen { flow, tuple, .. } => {
                out.push(self.judge(now, flow, tuple.body.validity, &tuple.body.request));
                self.watch(now, out);
            }
            AgentEvent::Timer { timer: LOOK } => {
                self.look(now, out);
                self.watch(now, out);
            }
            AgentEvent::FlowEnded { flow } => {
                self.bounded.remove(&flow);
            }
            AgentEvent::PolicyChanged { .. } => {
                out.push(AgentAction::PolicyRefused { why: "the agent `everything` has no policy".into() });
            }
            AgentEvent::Timer { .. }
            | AgentEvent::Capsule { .. }
            | AgentEvent::Message { .. }
            | AgentEvent::Checked { .. }
            | AgentEvent::NeighborUp { .. }
            | AgentEvent::NeighborDown { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Reason, Source};
    use alloc::vec;
    use wire::grant::Neighbors;
    use wire::tuple::{Body, Budgets, Credentials, Part, Privilege, Protocol, Tuple};

    fn tuple(validity: Validity) -> Tuple {
        let protocol = Protocol::new("p", Part::of(b"module").unwrap());
        let request = Request {
            privileges: vec![Privilege { name: "sensors".into(), optional: true }],
            budgets: Budgets { memory: Some(1 << 40), timers: Some(3), ..Budgets::default() },
        };
        let body = Body { request, validity, ..Body::new([0; 16], vec![protocol]) };
        let tuple = Tuple { body, credentials: Credentials::None };
        tuple.check().unwrap();
        tuple
    }

    fn at(mono_s: u64, wall: Option<u64>) -> AgentTime {
        AgentTime { mono_us: mono_s * 1_000_000, wall }
    }

    fn see(agent: &mut Everything, now: AgentTime, validity: Validity) -> (TupleHash, Vec<AgentAction>) {
        let tuple = tuple(validity);
        let flow = TupleHash::of(&tuple.encode());
        let source = Source::Neighbor { name: "b" };
        let mut out = vec![];
        agent.handle(now, AgentEvent::TupleSeen { flow, tuple: &tuple, source, verified: None }, &mut out);
        (flow, out)
    }

    #[test]
    fn what_is_asked_for_is_granted() {
        let (flow, out) = see(&mut Everything::default(), at(1, None), Validity::default());
        let [AgentAction::Grant { flow: granted, grant }] = &out[..] else { panic!("{out:?}") };
        assert_eq!(*granted, flow);
        assert_eq!((grant.budgets.memory, grant.budgets.timers), (Some(1 << 40), Some(3)));
        assert_eq!(grant.privileges, ["sensors"]);
        assert_eq!(grant.neighbors, Neighbors::All);
    }

    #[test]
    fn unknown_time_fails_closed_unless_configured() {
        let validity = Validity { from: None, until: Some(5) };
        let (flow, out) = see(&mut Everything::default(), at(1, None), validity);
        assert_eq!(out, [AgentAction::Refuse { flow, reason: Reason::TimeUnknown }]);
        let (_, out) = see(&mut Everything::new(UnknownTime::Accept), at(1, None), validity);
        assert!(matches!(out[0], AgentAction::Grant { .. }));
        let (flow, out) = see(&mut Everything::new(UnknownTime::Accept), at(1, Some(6)), validity);
        assert_eq!(out, [AgentAction::Refuse { flow, reason: Reason::Expired { until: 5 } }]);
    }

    #[test]
    fn a_flow_is_revoked_when_its_period_ends() {
        let mut agent = Everything::default();
        let (flow, out) =
            see(&mut agent, at(100, Some(1000)), Validity { from: Some(1000), until: Some(1007) });
        assert_eq!(out[1..], [AgentAction::SetTimer { timer: LOOK, at_us: 108_000_000 }]);
        let mut out = vec![];
        agent.handle(at(107, Some(1007)), AgentEvent::Timer { timer: LOOK }, &mut out);
        assert_eq!(out, [AgentAction::SetTimer { timer: LOOK, at_us: 108_000_000 }]);
        out.clear();
        agent.handle(at(108, Some(1008)), AgentEvent::Timer { timer: LOOK }, &mut out);
        assert_eq!(out, [AgentAction::Revoke { flow, reason: Reason::Expired { until: 1007 } }]);
        assert!(agent.bounded.is_empty());
    }

    #[test]
    fn a_distant_end_is_looked_at_now_and_then() {
        let mut agent = Everything::default();
        let (flow, out) = see(&mut agent, at(0, Some(1000)), Validity { from: None, until: Some(u64::MAX) });
        assert_eq!(out[1..], [AgentAction::SetTimer { timer: LOOK, at_us: 60_000_000 }]);
        let mut out = vec![];
        agent.handle(at(60, None), AgentEvent::Timer { timer: LOOK }, &mut out);
        assert_eq!(out, [AgentAction::Revoke { flow, reason: Reason::TimeUnknown }], "the clock was lost");
    }

    #[test]
    fn an_ended_flow_is_forgotten_and_a_policy_is_refused() {
        let mut agent = Everything::default();
        let (flow, _) = see(&mut agent, at(0, Some(10)), Validity { from: None, until: Some(20) });
        let mut out = vec![];
        agent.handle(at(1, Some(11)), AgentEvent::FlowEnded { flow }, &mut out);
        agent.handle(at(60, Some(70)), AgentEvent::Timer { timer: LOOK }, &mut out);
        assert_eq!(out, []);
        agent.handle(at(61, None), AgentEvent::PolicyChanged { policy: b"x" }, &mut out);
        assert!(matches!(out[..], [AgentAction::PolicyRefused { .. }]));
    }
}
