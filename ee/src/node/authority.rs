//! Who may do what here: rights on the control protocol, the Auth Agent's policy, and the audit log.
//!
//! Every grant, denial, revocation, clamp, login, refused login and policy is a line of the class
//! [`LogClass::Audit`](wire::control::LogClass). What a logged-in client may do is looked up with each of
//! its requests, so that another policy holds at once.

use std::sync::{Arc, PoisonError, RwLock};

use authagent::access::{LoginKeys, Operator, Operators, Right, Rights};
use authagent::agent::{AgentEvent, UnknownTime};
use nodeos::platform::Now;
use nodeos::slab::Handle;
use wire::control::{Answer, Erred, FlowInfo, MAX_POLICY, Request};
use wire::id::TupleHash;
use wire::revoke::Revocation;
use wire::tuple::{Credentials, Scheme, Tuple, Validity};

use super::manage::failed;
use super::{Node, label};
use crate::config::ADMIN;
use crate::counters::Count;
use crate::flow::{Flow, Source};

/// The principals that may log in now; the channel asks while it judges a login.
#[derive(Clone, Default)]
pub(super) struct Access(Arc<RwLock<Operators>>);

impl Access {
    /// The keys under which a login is tried.
    pub fn keys(&self, name: &str, scheme: Scheme) -> LoginKeys {
        self.0.read().unwrap_or_else(PoisonError::into_inner).login_keys(name, scheme)
    }

    /// Whether nobody may log in.
    pub fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn operator(&self, name: &str) -> Option<Operator> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn set(&self, operators: Operators) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = operators;
    }
}

/// What a request needs.
fn needed(request: &Request) -> Right {
    match request {
        Request::PartPut { .. } | Request::FlowInject { .. } => Right::Inject,
        Request::FlowStop { .. }
        | Request::FlowLimit { .. }
        | Request::FlowRevoke { .. }
        | Request::BlobRemove { .. } => Right::Stop,
        Request::PolicyLoad { .. } | Request::ChannelAdd { .. } | Request::ChannelRemove { .. } => {
            Right::Reconfigure
        }
        _ => Right::See,
    }
}

impl Node {
    /// Takes over who may log in from the agent's policy; clients whose principal changed are sent away.
    pub(super) fn take_operators(&mut self, now: Now) {
        let mut operators = self.agent.agent.operators();
        if let Some(admin) = self.clients.admin.clone() {
            let keys = vec![admin];
            operators
                .insert(ADMIN.into(), Operator { keys, validity: Validity::default(), rights: Rights::ALL });
        }
        let access = self.clients.access.clone();
        let before = |name: &str| access.operator(name);
        let changed = self.clients.principals().filter(|name| before(name).as_ref() != operators.get(name));
        let changed: Vec<String> = changed.map(String::from).collect();
        access.set(operators);
        changed.iter().for_each(|name| self.send_away(now, name));
    }

    /// What a principal may do now. Whoever asks beside the network, in the node's own process, is the
    /// administrator.
    fn rights(&self, now: Now, principal: &str) -> Rights {
        if principal == ADMIN {
            return Rights::ALL;
        }
        let Some(operator) = self.clients.access.operator(principal) else { return Rights::default() };
        let current = UnknownTime::Refuse.check(&operator.validity, now.wall).is_ok();
        if current { operator.rights } else { Rights::default() }
    }

    /// Whether a principal may make this request. Counts it if not.
    pub(super) fn authorised(&mut self, now: Now, principal: &str, request: &Request) -> bool {
        let (rights, right) = (self.rights(now, principal), needed(request));
        let may = match request {
            _ if Self::is_own_area(request) => rights.has(Right::Reconfigure),
            Request::FlowStop { flow, .. }
            | Request::FlowLimit { flow, .. }
            | Request::BlobRemove { area: flow, .. } => self.may_stop(now, principal, flow),
            Request::FlowInject { tuple } => {
                // Nor does what is kept away come back as the next version of itself.
                let before = Tuple::decode(tuple).ok().and_then(|tuple| tuple.body.replaces);
                let mut hashes = before.into_iter().chain([TupleHash::of(tuple)]);
                let mut banned = || hashes.any(|hash| self.bans.holds_for(now.mono, &hash, principal));
                rights.has(right) && (rights.has(Right::StopAny) || !banned())
            }
            Request::FlowRevoke { .. } => rights.has(right) || rights.has(Right::StopAny),
            // Whoever may inject may see what became of it: `Node::visible`.
            Request::FlowShow { .. } | Request::NodeShow => rights.has(right) || rights.has(Right::Inject),
            _ => rights.has(right),
        };
        if !may {
            self.counters.add(Count::RequestsDenied);
            self.audit(now, || format!("deny {principal}: no right to {}", what(request)));
        }
        may
    }

    /// Whether a principal may end a flow.
    pub(super) fn may_stop(&self, now: Now, principal: &str, flow: &TupleHash) -> bool {
        let rights = self.rights(now, principal);
        let own = || self.flows.by_hash(flow).is_some_and(|handle| self.is_own(handle, principal));
        rights.has(Right::StopAny) || rights.has(Right::Stop) && own()
    }

    /// Whether a principal may see this flow.
    pub(super) fn visible(&self, now: Now, principal: &str, info: &FlowInfo) -> bool {
        let own = |name: &Option<String>| name.as_deref() == Some(principal);
        self.rights(now, principal).has(Right::See) || own(&info.principal) || own(&info.injected_by)
    }

    /// Whether a principal signed a flow that was let in, or injected it here.
    fn is_own(&self, handle: Handle, principal: &str) -> bool {
        let Some(flow) = self.flows.get(handle) else { return false };
        let injected = matches!(&flow.source, Source::Injected { principal: by } if by == principal);
        // An unjudged signature proves nothing.
        injected || flow.team.is_some() && signer(flow) == Some(principal)
    }

    /// The agent's policy, as it was given.
    pub(super) fn policy_show(&self) -> Answer {
        Answer::Policy { agent: self.agent.agent.name().into(), text: self.agent.policy.clone() }
    }

    /// Gives the agent another policy, which it checks before anything changes.
    pub(super) fn policy_load(&mut self, now: Now, principal: &str, text: String) -> Answer {
        if text.len() > MAX_POLICY {
            let why = format!("a policy of {} bytes, {MAX_POLICY} are allowed", text.len());
            return failed(Erred::Operator, why);
        }
        self.agent.answer = None;
        self.tell_agent(now, AgentEvent::PolicyChanged { policy: text.as_bytes() });
        match self.agent.answer.take() {
            Some(Ok(())) => {
                self.audit(now, || format!("policy of {} bytes loaded by {principal}", text.len()));
                self.agent.policy = text;
                Answer::Done
            }
            Some(Err(why)) => {
                self.audit(now, || format!("policy by {principal} refused: {why}"));
                failed(Erred::Operator, why)
            }
            None => failed(Erred::Node, "the agent did not say whether it took the policy"),
        }
    }

    /// Hands a revocation to the agent.
    pub(super) fn flow_revoke(&mut self, now: Now, principal: &str, bytes: &[u8]) -> Answer {
        match Revocation::decode(bytes) {
            Ok(revocation) => {
                self.audit(now, || format!("revocation of {:.8} handed in by {principal}", revocation.flow));
                self.tell_agent(now, AgentEvent::Message { principal, payload: bytes });
                Answer::Done
            }
            Err(error) => failed(Erred::Operator, error),
        }
    }

    /// Writes a line about who was allowed what.
    pub(super) fn audit(&mut self, now: Now, text: impl FnOnce() -> String) {
        if !self.log.audit(now.mono, text) {
            self.counters.add(Count::AuditSuppressed);
        }
    }
}

/// A flow for the audit log: its name, who signed it, where it came from.
pub(super) fn described(node: &Node, flow: &Flow) -> String {
    let from = origin(node, &flow.source);
    match signer(flow) {
        Some(name) => format!("{}, signed as {name}, {from}", label(flow)),
        None => format!("{}, not signed, {from}", label(flow)),
    }
}

/// Where a flow came from, for people.
pub(super) fn origin(node: &Node, source: &Source) -> String {
    match source {
        Source::Injected { principal } => format!("injected by {principal}"),
        Source::Neighbor { name, .. } => format!("from {name}"),
        Source::Server => "from the protocol server".into(),
        Source::Flow { parent, .. } => match node.flows.get(*parent) {
            Some(flow) => format!("started by flow {}", label(flow)),
            None => "started by a flow that has ended".into(),
        },
    }
}

/// The principal that signed a flow, as its tuple says.
pub(super) fn signer(flow: &Flow) -> Option<&str> {
    match &flow.tuple.as_ref()?.tuple.credentials {
        Credentials::None => None,
        Credentials::Signed { principal, .. } => Some(principal),
    }
}

/// A request in words, after "no right to".
pub(super) fn what(request: &Request) -> &'static str {
    match request {
        Request::PartPut { .. } => "put parts",
        Request::FlowInject { .. } => "inject this flow",
        Request::FlowStop { .. } => "stop this flow",
        Request::FlowLimit { .. } => "limit this flow",
        Request::FlowRevoke { .. } => "revoke flows",
        Request::PolicyLoad { .. } => "load a policy",
        Request::BlobRemove { .. } => "remove these blobs",
        Request::ChannelAdd { .. } | Request::ChannelRemove { .. } => "change channels",
        _ => "look",
    }
}
