//! The Auth Agent: decides which flows a node takes, and on what terms (D11).
//!
//! An agent is a state machine. The node calls [`AuthAgent::handle`] with an [`AgentEvent`] and carries
//! out the [`AgentAction`]s that come back, in order. An agent never blocks and never waits: what takes
//! long (checking a signature) it asks for and is told later, and what it must ask others about goes
//! through capsules of its own system flow, to the agents of neighbors.
//!
//! A flow's way through an agent:
//!
//! ```text
//!                  ,--> Verify --> TupleSeen again, with the verification --.
//!    TupleSeen ----+--> Pending --> (timer, capsule, policy) ---------------+--> Refuse
//!                  `--------------------------------------------------------+--> Grant --> Clamp*, Revoke?
//!                                                                                      --> FlowEnded
//! ```
//!
//! The node bounds how long a judgement may take; what is not answered by then counts as refused. An
//! action that fits no flow of the node, or not the flow's state, is ignored and counted.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use wire::control::Erred;
use wire::grant::Grant;
use wire::id::TupleHash;
use wire::tuple::{Budgets, Credentials, Scheme, Tuple, Validity};
use wire::utc::Utc;

use crate::access::Operators;
use crate::keys::{Ed25519Key, PublicKey};

/// Judges flow tuples and watches over what it granted.
pub trait AuthAgent: Send {
    /// The name by which configuration and `bees node show` know it.
    fn name(&self) -> &str;

    /// Takes one event and appends to `out` what is to be done. Short: it runs on the data path.
    fn handle(&mut self, now: AgentTime, event: AgentEvent<'_>, out: &mut Vec<AgentAction>);

    /// Who may use the control protocol beside the administrator, and for what: the node asks at its start
    /// and after each [`AgentAction::PolicyTaken`]. Nobody, unless an agent says otherwise.
    fn operators(&self) -> Operators {
        Operators::default()
    }

    /// What all flows of a principal may use together, beside what each may: the node asks when it makes a team
    /// for one, and after each [`AgentAction::PolicyTaken`]. `None`: the principal has no account of its own.
    fn total(&self, principal: &str) -> Option<Budgets> {
        let _ = principal;
        None
    }
}

/// The time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentTime {
    /// Microseconds since the node's start.
    pub mono_us: u64,
    /// Seconds since 1970 (UTC), if the node knows.
    pub wall: Option<u64>,
}

/// What an agent is told.
#[derive(Debug)]
pub enum AgentEvent<'a> {
    /// A flow that does not run here wants to.
    ///
    /// The event comes once for a flow when its tuple arrives, without a verification, and once more
    /// after each [`AgentAction::Verify`], with its outcome; all else is the same again, so that an agent
    /// need not keep it.
    TupleSeen {
        /// The flow's name.
        flow: TupleHash,
        /// Its tuple; every bound and reference in it is checked.
        tuple: &'a Tuple,
        /// Where it came from.
        source: Source<'a>,
        /// The outcome of the verification that the agent asked for.
        verified: Option<&'a Verification>,
    },
    /// A neighbor can be reached.
    NeighborUp {
        /// Its name on this node.
        name: &'a str,
        /// The identity that it proved; none where the link is not protected and its name is only a
        /// line in the configuration.
        identity: Option<Ed25519Key>,
    },
    /// A neighbor can no longer be reached.
    NeighborDown {
        /// Its name on this node.
        name: &'a str,
    },
    /// A timer that the agent set is due.
    Timer {
        /// Its number.
        timer: u32,
    },
    /// A capsule of the agent's own system flow, from a neighbor's agent. Anything may be in it.
    Capsule {
        /// The neighbor's name on this node.
        from: &'a str,
        /// What it says.
        payload: &'a [u8],
    },
    /// The same from the control channel: what a client wants the agent to know, and to pass on.
    Message {
        /// The principal that logged in there.
        principal: &'a str,
        /// What it says, in the form of a capsule.
        payload: &'a [u8],
    },
    /// The outcome of an [`AgentAction::Check`].
    Checked {
        /// Its number.
        check: u32,
        /// Whether the signature is the key's over the message.
        valid: bool,
    },
    /// The operator gave the agent a new policy; answered by [`AgentAction::PolicyTaken`] or
    /// [`AgentAction::PolicyRefused`] in the same call.
    PolicyChanged {
        /// The policy, in the agent's own format.
        policy: &'a [u8],
    },
    /// A flow that the agent was asked about, and did not refuse, is gone: it ended, failed to start,
    /// was revoked, or was given up while the agent thought about it. Comes once for each.
    FlowEnded {
        /// The flow's name.
        flow: TupleHash,
    },
}

/// Where a tuple came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// The control channel.
    Injected {
        /// The principal that logged in there; not necessarily the one that signed the tuple.
        principal: &'a str,
    },
    /// The hop before.
    Neighbor {
        /// Its name on this node.
        name: &'a str,
    },
    /// A flow that runs here and may start others.
    Flow {
        /// Its tuple.
        parent: TupleHash,
    },
}

/// Whether a tuple's signature is right under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The key that the agent asked about. Its policy may have changed since.
    pub key: PublicKey,
    /// Whether the tuple is signed, and the signature is this key's over the tuple's body.
    pub valid: bool,
}

impl Verification {
    /// Does what [`AgentAction::Verify`] asks for. Slow: a node does it in a job.
    pub fn of(tuple: &Tuple, key: PublicKey) -> Self {
        let valid = match &tuple.credentials {
            Credentials::None => false,
            Credentials::Signed { scheme, signature, .. } => {
                key.verify(*scheme, &tuple.body.encode(), signature).is_ok()
            }
        };
        Self { key, valid }
    }
}

/// What an agent wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAction {
    /// Check the tuple's signature under this key, then show the tuple again.
    Verify {
        /// The flow.
        flow: TupleHash,
        /// The key.
        key: PublicKey,
    },
    /// Check a signature over something else than a tuple, then say [`AgentEvent::Checked`]. A node does
    /// not check without bound: it leaves out what is too much, and says nothing.
    Check {
        /// A number of the agent's choice.
        check: u32,
        /// The key.
        key: PublicKey,
        /// How the signature claims to be made.
        scheme: Scheme,
        /// What it covers.
        message: Vec<u8>,
        /// The signature.
        signature: Vec<u8>,
    },
    /// The judgement comes later; the flow's capsules wait as far as the node lets them.
    Pending {
        /// The flow.
        flow: TupleHash,
    },
    /// The flow may run.
    Grant {
        /// The flow.
        flow: TupleHash,
        /// On these terms, and within the node's own bounds.
        grant: Grant,
    },
    /// The flow may not run.
    Refuse {
        /// The flow.
        flow: TupleHash,
        /// Why.
        reason: Reason,
    },
    /// A granted flow goes on, under the lower of these terms and those it has.
    Clamp {
        /// The flow.
        flow: TupleHash,
        /// The new terms.
        grant: Grant,
    },
    /// A granted flow ends at once; none of its code runs any more.
    Revoke {
        /// The flow.
        flow: TupleHash,
        /// Why.
        reason: Reason,
    },
    /// Send a capsule of the agent's own system flow to a neighbor's agent. May be lost.
    Send {
        /// The neighbor's name on this node.
        neighbor: String,
        /// What to say.
        payload: Vec<u8>,
    },
    /// Tell the agent when it is this time. A timer that runs already is moved.
    SetTimer {
        /// A number of the agent's choice.
        timer: u32,
        /// Microseconds since the node's start.
        at_us: u64,
    },
    /// Forget a timer.
    CancelTimer {
        /// Its number.
        timer: u32,
    },
    /// The new policy is in force.
    PolicyTaken,
    /// The new policy is not accepted; the old one stays in force.
    PolicyRefused {
        /// What is wrong with it, for the operator.
        why: String,
    },
}

/// Why a flow may not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nobody answers for it, and the policy wants somebody.
    Unsigned,
    /// The policy does not know the principal that the tuple names.
    UnknownPrincipal(String),
    /// The principal has no key of the signature's scheme.
    NoKey {
        /// The principal.
        principal: String,
        /// The scheme.
        scheme: Scheme,
    },
    /// No key of the principal made the signature over this body.
    BadSignature {
        /// The principal.
        principal: String,
    },
    /// The key that made the signature is smaller than the policy asks for.
    KeyTooWeak {
        /// Bits of its modulus.
        bits: u32,
        /// Bits that it should have.
        least: u32,
    },
    /// The tuple may not be used yet.
    NotYetValid {
        /// When it may: seconds since 1970.
        from: u64,
    },
    /// The tuple may no longer be used.
    Expired {
        /// Until when it could: seconds since 1970.
        until: u64,
    },
    /// The tuple, or the principal in the policy, has a validity period and this node does not know the time.
    TimeUnknown,
    /// The principal's time in the policy has not begun.
    PrincipalNotYetValid {
        /// The principal.
        principal: String,
        /// When it begins: seconds since 1970.
        from: u64,
    },
    /// The principal's time in the policy is over.
    PrincipalExpired {
        /// The principal.
        principal: String,
        /// When it was over: seconds since 1970.
        until: u64,
    },
    /// The tuple does not want to run without a privilege that is not granted.
    Privilege {
        /// The privilege.
        name: String,
    },
    /// The tuple is meant for other nodes.
    OtherNode,
    /// The flow uses an interface that nobody serves on this node.
    NoCompanion {
        /// The interface.
        interface: String,
    },
    /// The flow would serve an interface to others that it may not serve.
    NoOffer {
        /// The interface.
        interface: String,
        /// Why not.
        why: &'static str,
    },
    /// A revocation names it.
    Revoked {
        /// Who revoked: a principal; `None`: a revoker of the policy.
        by: Option<String>,
    },
    /// The agent's policy does not allow it.
    Policy(String),
}

impl Reason {
    /// Who is to blame.
    pub fn erred(&self) -> Erred {
        match self {
            Self::TimeUnknown | Self::NoCompanion { .. } => Erred::Node,
            _ => Erred::Principal,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned => f.write_str("the tuple is not signed, and unsigned flows may not run here"),
            Self::UnknownPrincipal(name) => write!(f, "principal {name} is not known here"),
            Self::NoKey { principal, scheme } => {
                write!(f, "the tuple is signed with {scheme:?}, of which {principal} has no key here")
            }
            Self::BadSignature { principal } => write!(
                f,
                "the signature is not {principal}'s over this body: the body was changed, or another key signed"
            ),
            Self::KeyTooWeak { bits, least } => {
                write!(f, "the tuple is signed with a key of {bits} bits, {least} are asked for here")
            }
            Self::NotYetValid { from } => write!(f, "tuple is valid only from {}", Utc(*from)),
            Self::Expired { until } => write!(f, "tuple was valid until {}", Utc(*until)),
            Self::TimeUnknown => {
                f.write_str("a validity period has to be kept and this node does not know the time")
            }
            Self::PrincipalNotYetValid { principal, from } => {
                write!(f, "principal {principal} may run flows only from {}", Utc(*from))
            }
            Self::PrincipalExpired { principal, until } => {
                write!(f, "principal {principal} could run flows until {}", Utc(*until))
            }
            Self::Privilege { name } => write!(f, "the flow needs privilege {name}, which is not granted"),
            Self::OtherNode => f.write_str("the tuple is meant for other nodes"),
            Self::NoCompanion { interface } => {
                write!(f, "the flow uses the interface {interface}, which nobody serves on this node")
            }
            Self::NoOffer { interface, why } => {
                write!(f, "the flow would serve the interface {interface} to others: {why}")
            }
            Self::Revoked { by: Some(by) } => write!(f, "the flow was revoked by {by}"),
            Self::Revoked { by: None } => f.write_str("the flow was revoked by the policy's revoker"),
            Self::Policy(text) => f.write_str(text),
        }
    }
}

impl core::error::Error for Reason {}

/// What a node that does not know the time makes of a tuple with a validity period (D1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownTime {
    /// It counts as not valid.
    #[default]
    Refuse,
    /// It counts as valid.
    Accept,
}

impl UnknownTime {
    /// Whether a tuple with this validity may be used at `wall` seconds since 1970; both ends of the
    /// period belong to it.
    pub fn check(self, validity: &Validity, wall: Option<u64>) -> Result<(), Reason> {
        let Some(wall) = wall else {
            let bounded = validity.from.is_some() || validity.until.is_some();
            return if bounded && self == Self::Refuse { Err(Reason::TimeUnknown) } else { Ok(()) };
        };
        match *validity {
            Validity { from: Some(from), .. } if wall < from => Err(Reason::NotYetValid { from }),
            Validity { until: Some(until), .. } if wall > until => Err(Reason::Expired { until }),
            _ => Ok(()),
        }
    }
}

/// Seconds between two looks at the clock at the most, because it may be set meanwhile.
const LOOK_S: u64 = 60;

/// When an agent looks at the clock next to whom a period ends at `ends` (seconds since 1970) first.
pub(crate) fn next_look(now: AgentTime, ends: Option<u64>) -> u64 {
    let wait = match (ends, now.wall) {
        (Some(until), Some(wall)) => until.saturating_sub(wall).saturating_add(1).min(LOOK_S),
        _ => LOOK_S,
    };
    now.mono_us.saturating_add(wait * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_has_inclusive_ends_and_fails_closed() {
        let v = Validity { from: Some(10), until: Some(20) };
        let check = |wall| UnknownTime::Refuse.check(&v, wall);
        assert_eq!(check(Some(9)), Err(Reason::NotYetValid { from: 10 }));
        assert_eq!(check(Some(10)), Ok(()));
        assert_eq!(check(Some(20)), Ok(()));
        assert_eq!(check(Some(21)), Err(Reason::Expired { until: 20 }));
        assert_eq!(check(None), Err(Reason::TimeUnknown));
        assert_eq!(UnknownTime::Accept.check(&v, None), Ok(()));
        assert_eq!(
            UnknownTime::Accept.check(&v, Some(21)),
            Err(Reason::Expired { until: 20 }),
            "a known time counts"
        );
        assert_eq!(UnknownTime::Refuse.check(&Validity::default(), None), Ok(()));
        let only_from = Validity { from: Some(1), until: None };
        assert_eq!(UnknownTime::Refuse.check(&only_from, None), Err(Reason::TimeUnknown));
        let empty = Validity { from: Some(20), until: Some(10) };
        assert!((0..40).all(|t| UnknownTime::Refuse.check(&empty, Some(t)).is_err()));
    }
}
