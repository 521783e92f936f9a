//! A third kind of agent: takes only flows that a known principal signed, and revokes what a neighbor's
//! agent revoked. Policy: a line `PRINCIPAL KEY` for each.

use std::collections::{BTreeMap, BTreeSet};

use authagent::agent::{AgentAction, AgentEvent, AgentTime, AuthAgent, Reason, UnknownTime, Verification};
use authagent::keys::{Ed25519Key, PublicKey};
use wire::grant::{Grant, Neighbors};
use wire::id::TupleHash;
use wire::tuple::{Credentials, Tuple};

#[derive(Default)]
pub struct SignedOnly {
    keys: BTreeMap<String, Ed25519Key>,
    neighbors: BTreeSet<String>,
    granted: BTreeMap<TupleHash, String>,
}

impl SignedOnly {
    fn judge(
        &self,
        now: AgentTime,
        tuple: &Tuple,
        verified: Option<&Verification>,
    ) -> Result<Verdict, Reason> {
        UnknownTime::Refuse.check(&tuple.body.validity, now.wall)?;
        let Credentials::Signed { principal, .. } = &tuple.credentials else {
            return Err(Reason::Policy("not signed".into()));
        };
        let key = self.keys.get(principal).ok_or(Reason::Policy(format!("{principal} is unknown")))?;
        match verified {
            Some(v) if v.key == (*key).into() && v.valid => Ok(Verdict::Grant(principal.clone())),
            Some(v) if v.key == (*key).into() => Err(Reason::Policy("wrong signature".into())),
            _ => Ok(Verdict::Verify((*key).into())),
        }
    }

    /// Ends a flow here and tells the neighbors' agents, except the one that told this one.
    fn revoke(&mut self, flow: TupleHash, from: Option<&str>, out: &mut Vec<AgentAction>) {
        if self.granted.remove(&flow).is_some() {
            out.push(AgentAction::Revoke { flow, reason: Reason::Policy("revoked".into()) });
            for neighbor in self.neighbors.iter().filter(|n| Some(n.as_str()) != from).cloned() {
                out.push(AgentAction::Send { neighbor, payload: flow.0.to_vec() });
            }
        }
    }

    fn take_policy(&mut self, policy: &[u8], out: &mut Vec<AgentAction>) -> Option<()> {
        let lines = std::str::from_utf8(policy).ok()?.lines();
        let pair = |l: &str| l.split_once(' ').and_then(|(n, k)| Some((n.to_owned(), k.parse().ok()?)));
        self.keys = lines.map(pair).collect::<Option<_>>()?;
        let gone = self.granted.iter().filter(|(_, p)| !self.keys.contains_key(*p));
        for flow in gone.map(|(f, _)| *f).collect::<Vec<_>>() {
            self.revoke(flow, None, out);
        }
        Some(())
    }
}

enum Verdict {
    Verify(PublicKey),
    Grant(String),
}

impl AuthAgent for SignedOnly {
    fn name(&self) -> &str {
        "signed-only"
    }

    fn handle(&mut self, now: AgentTime, event: AgentEvent<'_>, out: &mut Vec<AgentAction>) {
        match event {
            AgentEvent::TupleSeen { flow, tuple, verified, .. } => {
                out.push(match self.judge(now, tuple, verified) {
                    Err(reason) => AgentAction::Refuse { flow, reason },
                    Ok(Verdict::Verify(key)) => AgentAction::Verify { flow, key },
                    Ok(Verdict::Grant(principal)) => {
                        self.granted.insert(flow, principal);
                        let mut grant = Grant::everything(tuple.body.request.budgets, vec![]);
                        grant.neighbors = Neighbors::Only(self.neighbors.iter().cloned().collect());
                        AgentAction::Grant { flow, grant }
                    }
                })
            }
            AgentEvent::NeighborUp { name, .. } => drop(self.neighbors.insert(name.into())),
            AgentEvent::NeighborDown { name } => drop(self.neighbors.remove(name)),
            AgentEvent::Capsule { from, payload } => {
                if let Ok(flow) = payload.try_into() {
                    self.revoke(TupleHash(flow), Some(from), out);
                }
            }
            AgentEvent::PolicyChanged { policy } => match self.take_policy(policy, out) {
                Some(()) => out.push(AgentAction::PolicyTaken),
                None => out.push(AgentAction::PolicyRefused { why: "lines are `PRINCIPAL KEY`".into() }),
            },
            AgentEvent::FlowEnded { flow } => drop(self.granted.remove(&flow)),
            AgentEvent::Timer { .. } | AgentEvent::Message { .. } | AgentEvent::Checked { .. } => {}
        }
    }
}
