//! The agent "source-based", as Bees had it (seed 004, section III): only flows of known principals, by a
//! signature that is right, and with any subset of the principal's privileges.
//!
//! What a principal may have is in the [`Policy`]; `docs/policy.md` describes it. A flow is judged when its
//! tuple arrives, again when the policy changes, and whenever the clock is looked at. A running flow is
//! left alone, reduced, or ended; it is never given more.
//!
//! Agents of neighbors tell each other revocations ([`Revocation`]). One is believed, and passed on once, if
//! it is signed by a revoker of this node's own policy, or by the principal that signed the flow; so a
//! neighbor can delay or drop a revocation, and can make none.

mod revoked;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use wire::grant::Grant;
use wire::id::TupleHash;
use wire::revoke::Revocation;
use wire::tuple::{Budgets, Credentials, Tuple, Validity};

use crate::access::Operators;
use crate::agent::{AgentAction, AgentEvent, AgentTime, AuthAgent, Reason, Verification, next_look};
use crate::keys::PublicKey;
use crate::policy::{Asked, Policy};
use revoked::{Checks, Revoked};

/// The only timer: the next look at the clock.
const LOOK: u32 = 0;
/// Revocations that a neighbor is told when it comes up.
const TOLD: usize = 64;

/// Lets signed flows of known principals in.
#[derive(Debug, Default)]
pub struct SourceBased {
    policy: Policy,
    /// What was granted. The node says when one ends, so there are never more than it runs.
    flows: BTreeMap<TupleHash, Granted>,
    neighbors: BTreeSet<String>,
    revoked: Revoked,
    checks: Checks,
}

/// A flow that runs, and what it takes to judge it again.
#[derive(Debug)]
struct Granted {
    /// Who signed, and with which key; `None`: nobody.
    signer: Option<(String, PublicKey)>,
    validity: Validity,
    asked: Asked,
    grant: Grant,
}

enum Verdict {
    Verify(PublicKey),
    Grant(Box<Granted>),
}

impl SourceBased {
    /// An agent with this policy.
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// The cheap checks first; the signature under one key after the other.
    fn judge(
        &self,
        now: AgentTime,
        flow: &TupleHash,
        tuple: &Tuple,
        verified: Option<&Verification>,
    ) -> Result<Verdict, Reason> {
        let validity = tuple.body.validity;
        self.policy.unknown_time.check(&validity, now.wall)?;
        let asked = Asked::of(tuple);
        let Credentials::Signed { principal, scheme, .. } = &tuple.credentials else {
            self.revoked.check(now, flow, None)?;
            let grant = self.policy.grant(None, &asked)?;
            return Ok(Verdict::Grant(Box::new(Granted { signer: None, validity, asked, grant })));
        };
        self.revoked.check(now, flow, Some(principal))?;
        let known = self.policy.current(principal, now.wall)?;
        let mut keys = known.keys.iter().filter(|k| k.scheme() == *scheme);
        let Some(first) = keys.next() else {
            return Err(Reason::NoKey { principal: principal.clone(), scheme: *scheme });
        };
        // A key that the policy does not name any more proves nothing: begin again.
        let Some(tried) = verified.filter(|v| known.keys.contains(&v.key)) else {
            return Ok(Verdict::Verify(first.clone()));
        };
        if !tried.valid {
            let mut rest = core::iter::once(first).chain(keys).skip_while(|k| **k != tried.key).skip(1);
            let none = || Reason::BadSignature { principal: principal.clone() };
            return rest.next().cloned().map(Verdict::Verify).ok_or_else(none);
        }
        self.policy.strong(&tried.key)?;
        let grant = self.policy.grant(Some(principal), &asked)?;
        let signer = Some((principal.clone(), tried.key.clone()));
        Ok(Verdict::Grant(Box::new(Granted { signer, validity, asked, grant })))
    }

    /// Judges every running flow by the policy and the time that are now.
    fn judge_again(&mut self, now: AgentTime, out: &mut Vec<AgentAction>) {
        let Self { policy, flows, .. } = self;
        flows.retain(|&flow, granted| match granted.again(policy, now) {
            Ok(grant) => {
                let lower = granted.grant.meet(&grant);
                if lower != granted.grant {
                    granted.grant = lower.clone();
                    out.push(AgentAction::Clamp { flow, grant: lower });
                }
                true
            }
            Err(reason) => {
                out.push(AgentAction::Revoke { flow, reason });
                false
            }
        });
    }

    /// Sets the timer to when the first period ends, or sooner.
    fn watch(&self, now: AgentTime, out: &mut Vec<AgentAction>) {
        let periods = self.flows.values().flat_map(|granted| {
            let signer = granted.signer.as_ref();
            let principal = signer.and_then(|(name, _)| self.policy.principal(name));
            [Some(granted.validity), principal.map(|p| p.validity)].into_iter().flatten()
        });
        let periods = periods.filter(|v| *v != Validity::default());
        let (any, ends) = periods.fold((false, None), |(_, least): (_, Option<u64>), v| {
            (true, least.into_iter().chain(v.until).min())
        });
        if any {
            out.push(AgentAction::SetTimer { timer: LOOK, at_us: next_look(now, ends) });
        }
    }

    fn take_policy(&mut self, now: AgentTime, policy: &[u8], out: &mut Vec<AgentAction>) {
        let text = core::str::from_utf8(policy).map_err(|e| e.to_string());
        match text.and_then(|text| Policy::parse(text).map_err(|e| e.to_string())) {
            Ok(policy) => {
                self.policy = policy;
                out.push(AgentAction::PolicyTaken);
                self.judge_again(now, out);
                self.watch(now, out);
            }
            Err(why) => out.push(AgentAction::PolicyRefused { why }),
        }
    }

    /// A revocation, perhaps: from a neighbor's agent, or from a client.
    fn heard(&mut self, now: AgentTime, from: Option<&str>, payload: &[u8], out: &mut Vec<AgentAction>) {
        let Ok(revocation) = Revocation::decode(payload) else { return };
        let over = now.wall.is_some_and(|wall| wall > revocation.until);
        if over || self.revoked.knows(&revocation) || !self.checks.allows(now, from) {
            return;
        }
        if let Some(key) = self.revokers(now, &revocation).first() {
            out.extend(self.checks.start(now, key.clone(), from, revocation));
        }
    }

    /// The keys that may sign this revocation.
    fn revokers(&self, now: AgentTime, revocation: &Revocation) -> Vec<PublicKey> {
        let keys = match &revocation.by {
            None => &self.policy.revokers[..],
            Some(name) => self.policy.current(name, now.wall).map(|p| &p.keys[..]).unwrap_or_default(),
        };
        let fit = |k: &&PublicKey| k.scheme() == revocation.scheme && self.policy.strong(k).is_ok();
        keys.iter().filter(fit).cloned().collect()
    }

    fn checked(&mut self, now: AgentTime, check: u32, valid: bool, out: &mut Vec<AgentAction>) {
        let Some((key, from, revocation)) = self.checks.end(check) else { return };
        let keys = self.revokers(now, &revocation);
        // The policy may have changed since: a key that it does not name proves nothing.
        let Some(at) = keys.iter().position(|k| *k == key) else { return };
        if valid {
            self.revoke(now, from.as_deref(), revocation, out);
        } else if let Some(next) = keys.get(at + 1)
            && self.checks.allows(now, from.as_deref())
        {
            out.extend(self.checks.start(now, next.clone(), from.as_deref(), revocation));
        }
    }

    /// Ends the flow, remembers that, and tells the neighbors but the one that told this node.
    fn revoke(
        &mut self,
        now: AgentTime,
        from: Option<&str>,
        revocation: Revocation,
        out: &mut Vec<AgentAction>,
    ) {
        let payload = revocation.encode();
        let flow = revocation.flow;
        if !self.revoked.remember(now, revocation) {
            return;
        }
        let signer = self.flows.get(&flow).map(|g| g.signer.as_ref().map(|(name, _)| name.as_str()));
        if let Some(Err(reason)) = signer.map(|name| self.revoked.check(now, &flow, name)) {
            self.flows.remove(&flow);
            out.push(AgentAction::Revoke { flow, reason });
        }
        let others = self.neighbors.iter().filter(|n| Some(n.as_str()) != from);
        let send =
            |neighbor: &String| AgentAction::Send { neighbor: neighbor.clone(), payload: payload.clone() };
        out.extend(others.map(send));
    }
}

impl Granted {
    /// What the flow would get now.
    fn again(&self, policy: &Policy, now: AgentTime) -> Result<Grant, Reason> {
        policy.unknown_time.check(&self.validity, now.wall)?;
        let Some((name, key)) = &self.signer else { return policy.grant(None, &self.asked) };
        if !policy.current(name, now.wall)?.keys.contains(key) {
            return Err(Reason::BadSignature { principal: name.clone() });
        }
        policy.strong(key)?;
        policy.grant(Some(name), &self.asked)
    }
}

impl AuthAgent for SourceBased {
    fn name(&self) -> &str {
        "source-based"
    }

    fn handle(&mut self, now: AgentTime, event: AgentEvent<'_>, out: &mut Vec<AgentAction>) {
        match event {
            AgentEvent::TupleSeen { flow, tuple, verified, .. } => {
                match self.judge(now, &flow, tuple, verified) {
                    Ok(Verdict::Verify(key)) => out.push(AgentAction::Verify { flow, key }),
                    Ok(Verdict::Grant(granted)) => {
                        out.push(AgentAction::Grant { flow, grant: granted.grant.clone() });
                        self.flows.insert(flow, *granted);
                        self.watch(now, out);
                    }
                    Err(reason) => out.push(AgentAction::Refuse { flow, reason }),
                }
            }
            AgentEvent::Timer { timer: LOOK } => {
                self.judge_again(now, out);
                self.watch(now, out);
            }
            AgentEvent::Timer { .. } => {}
            AgentEvent::FlowEnded { flow } => drop(self.flows.remove(&flow)),
            AgentEvent::PolicyChanged { policy } => self.take_policy(now, policy, out),
            AgentEvent::NeighborUp { name, .. } => {
                self.neighbors.insert(name.to_owned());
                let told = self.revoked.latest(now, TOLD);
                out.extend(told.map(|payload| AgentAction::Send { neighbor: name.to_owned(), payload }));
            }
            AgentEvent::NeighborDown { name } => drop(self.neighbors.remove(name)),
            AgentEvent::Capsule { from, payload } => self.heard(now, Some(from), payload, out),
            AgentEvent::Message { payload, .. } => self.heard(now, None, payload, out),
            AgentEvent::Checked { check, valid } => self.checked(now, check, valid, out),
        }
    }

    fn operators(&self) -> Operators {
        self.policy.operators()
    }

    fn total(&self, principal: &str) -> Option<Budgets> {
        self.policy.principal(principal)?.total
    }
}

#[cfg(test)]
mod tests;
