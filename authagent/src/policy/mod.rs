//! The policy file: who may do what on a node. `docs/policy.md` describes it for those who write one.
//!
//! [`Policy::parse`] reads the TOML text and points at the line and column of a mistake. What a principal
//! is given are [`Terms`]; [`Terms::grant`] makes a [`Grant`] of what a flow asks for, and never more than
//! the terms say. Everything is bounded: the text by [`MAX_POLICY`], the lists by the constants here.

mod text;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use wire::control::Erred;
#[cfg(doc)]
use wire::control::MAX_POLICY;
use wire::grant::{Clamp, Grant, Neighbors};
use wire::limits::Limits;
use wire::tuple::{Budgets, Credentials, Request, Tuple, Validity};

use crate::access::{Operator, Operators, Rights};
use crate::agent::{Reason, UnknownTime};
use crate::keys::{PublicKey, RSA_BITS};

/// The most principals.
pub const MAX_PRINCIPALS: usize = 256;
/// The most keys of one principal.
pub const MAX_KEYS: usize = 4;
/// The most revokers.
pub const MAX_REVOKERS: usize = 8;
/// The most privileges of one grant.
pub const MAX_PRIVILEGES: usize = 64;
/// The most neighbors that one grant names.
pub const MAX_NEIGHBORS: usize = 64;

/// A policy. The default knows nobody and grants nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Signatures of RSA keys with fewer bits are refused.
    pub min_rsa_bits: u32,
    /// What a node that does not know the time makes of validity periods.
    pub unknown_time: UnknownTime,
    /// Whose signature revokes any flow.
    pub revokers: Vec<PublicKey>,
    /// What a flow gets that nobody signed; `None`: it may not run.
    pub unsigned: Option<Terms>,
    principals: BTreeMap<String, Principal>,
}

/// A principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its keys: any of them may sign.
    pub keys: Vec<PublicKey>,
    /// When it may do anything here.
    pub validity: Validity,
    /// What its flows get; `None`: it may run none.
    pub terms: Option<Terms>,
    /// What its flows may use together; `None`: each has its own terms and no more is said.
    pub total: Option<Budgets>,
    /// What it may do through the control protocol.
    pub rights: Rights,
}

/// What flows may get at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Upper bounds on budgets.
    pub budgets: Budgets,
    /// Privileges that are granted if a flow asks for them.
    pub privileges: Vec<String>,
    /// The neighbors that it may know of.
    pub neighbors: Neighbors,
    /// Upper bounds on the limits of every capsule type.
    pub limits: Limits,
    /// How many derivations may follow each other in a circle.
    pub cycle_depth: Option<u32>,
    /// The most send operations that one event may set off.
    pub max_emissions: Option<u64>,
    /// The shortest timer interval, in microseconds.
    pub min_timer_us: Option<u32>,
    /// The longest timer interval, in microseconds.
    pub max_timer_us: Option<u64>,
}

/// What a flow asks for: as much of its tuple as judging it again takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Privileges and budgets.
    pub request: Request,
    /// The declared limits of every capsule type.
    pub declared: Vec<Clamp>,
}

/// A mistake in a policy, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub why: String,
}

impl PolicyError {
    /// Who is to blame.
    pub fn erred(&self) -> Erred {
        Erred::Operator
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy, line {}, column {}: {}", self.line, self.column, self.why)
    }
}

impl core::error::Error for PolicyError {}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_rsa_bits: *RSA_BITS.start(),
            unknown_time: UnknownTime::default(),
            revokers: Vec::new(),
            unsigned: None,
            principals: BTreeMap::new(),
        }
    }
}

impl Policy {
    /// Reads a policy.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        text::parse(text)
    }

    /// The principal of this name.
    pub fn principal(&self, name: &str) -> Option<&Principal> {
        self.principals.get(name)
    }

    /// All principals with their names.
    pub fn principals(&self) -> impl Iterator<Item = (&str, &Principal)> {
        self.principals.iter().map(|(name, p)| (name.as_str(), p))
    }

    /// Whether this principal may do anything at `wall`.
    pub fn current(&self, name: &str, wall: Option<u64>) -> Result<&Principal, Reason> {
        let principal = self.principal(name).ok_or_else(|| Reason::UnknownPrincipal(name.into()))?;
        self.unknown_time.check(&principal.validity, wall).map_err(|reason| match reason {
            Reason::NotYetValid { from } => Reason::PrincipalNotYetValid { principal: name.into(), from },
            Reason::Expired { until } => Reason::PrincipalExpired { principal: name.into(), until },
            other => other,
        })?;
        Ok(principal)
    }

    /// Whether a key is large enough to sign for a flow or a login.
    pub fn strong(&self, key: &PublicKey) -> Result<(), Reason> {
        match key {
            PublicKey::Ed25519(_) => Ok(()),
            _ if key.bits() >= self.min_rsa_bits => Ok(()),
            _ => Err(Reason::KeyTooWeak { bits: key.bits(), least: self.min_rsa_bits }),
        }
    }

    /// What a flow gets whose principal is proven already; `None`: nobody signed. Looks at neither time
    /// nor signature.
    pub fn grant(&self, principal: Option<&str>, asked: &Asked) -> Result<Grant, Reason> {
        let terms = match principal {
            None => self.unsigned.as_ref().ok_or(Reason::Unsigned)?,
            Some(name) => {
                let known = self.principal(name).ok_or_else(|| Reason::UnknownPrincipal(name.into()))?;
                let none = || Reason::Policy(format!("principal {name} may run no flows here"));
                known.terms.as_ref().ok_or_else(none)?
            }
        };
        terms.grant(asked)
    }

    /// What the policy says about a tuple beside signature and time: for trying a policy out.
    pub fn judge(&self, tuple: &Tuple) -> Result<Grant, Reason> {
        let principal = match &tuple.credentials {
            Credentials::None => None,
            Credentials::Signed { principal, .. } => Some(principal.as_str()),
        };
        self.grant(principal, &Asked::of(tuple))
    }

    /// The principals that have any right on the control protocol.
    pub fn operators(&self) -> Operators {
        let mut operators = Operators::default();
        for (name, p) in &self.principals {
            if p.rights != Rights::default() {
                let keys = p.keys.iter().filter(|k| self.strong(k).is_ok()).cloned().collect();
                let operator = Operator { keys, validity: p.validity, rights: p.rights };
                operators.insert(name.clone(), operator);
            }
        }
        operators
    }
}

impl Asked {
    /// What a tuple asks for.
    pub fn of(tuple: &Tuple) -> Self {
        let declared = tuple.body.protocols.iter().zip(0..).flat_map(|(p, protocol)| {
            let types = p.capsules.iter().zip(0..);
            types.map(move |(c, kind)| Clamp { protocol, kind, upper: c.limits })
        });
        Self { request: tuple.body.request.clone(), declared: declared.collect() }
    }
}

impl Terms {
    /// The lower of what is asked for and what these terms allow. What is not needed and not allowed is left
    /// out; a privilege that is needed and not allowed refuses the flow.
    pub fn grant(&self, asked: &Asked) -> Result<Grant, Reason> {
        let mut privileges = Vec::new();
        for wanted in &asked.request.privileges {
            if self.privileges.contains(&wanted.name) {
                privileges.push(wanted.name.clone());
            } else if !wanted.optional {
                return Err(Reason::Privilege { name: wanted.name.clone() });
            }
        }
        let lowered = |c: &Clamp| {
            let upper = c.upper.clamp(&self.limits);
            (upper != c.upper).then(|| Clamp { upper, ..c.clone() })
        };
        Ok(Grant {
            budgets: asked.request.budgets.meet(&self.budgets),
            neighbors: self.neighbors.clone(),
            privileges,
            clamps: asked.declared.iter().filter_map(lowered).collect(),
            cycle_depth: self.cycle_depth,
            max_emissions: self.max_emissions,
            min_timer_us: self.min_timer_us,
            max_timer_us: self.max_timer_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use alloc::vec;
    use proptest::prelude::*;
    use wire::budget::Kind;
    use wire::limits::Operation;
    use wire::tuple::Privilege;

    fn budgets() -> impl Strategy<Value = Budgets> {
        proptest::collection::vec(proptest::option::of(0u64..70_000), Kind::ALL.len()).prop_map(|bounds| {
            let mut budgets = Budgets::default();
            Kind::ALL.into_iter().zip(bounds).for_each(|(kind, bound)| budgets.set(kind, bound));
            budgets
        })
    }

    fn terms() -> impl Strategy<Value = Terms> {
        let names = proptest::collection::vec("[a-d]", 0..4);
        (budgets(), names, proptest::collection::vec(0u16..5, 4)).prop_map(|(budgets, privileges, l)| Terms {
            budgets,
            privileges,
            neighbors: Neighbors::Except(vec!["x".into()]),
            limits: Operation::ALL.iter().zip(l).fold(Limits::NONE, |l, (op, n)| l.with(*op, n)),
            cycle_depth: Some(3),
            max_emissions: Some(7),
            min_timer_us: Some(10),
            max_timer_us: Some(1000),
        })
    }

    fn asked() -> impl Strategy<Value = Asked> {
        let privilege = ("[a-f]", any::<bool>()).prop_map(|(name, optional)| Privilege { name, optional });
        let kind = (0u8..3, 0u8..3, proptest::collection::vec(any::<u16>(), 4)).prop_map(|(p, kind, l)| {
            let upper = Operation::ALL.iter().zip(l).fold(Limits::NONE, |l, (op, n)| l.with(*op, n));
            Clamp { protocol: p, kind, upper }
        });
        let privileges = proptest::collection::vec(privilege, 0..6);
        (privileges, budgets(), proptest::collection::vec(kind, 0..5)).prop_map(
            |(privileges, budgets, declared)| Asked { request: Request { privileges, budgets }, declared },
        )
    }

    proptest! {
        #[test]
        fn no_grant_exceeds_the_terms(terms in terms(), asked in asked()) {
            let needed = |p: &Privilege| !p.optional && !terms.privileges.contains(&p.name);
            let Ok(grant) = terms.grant(&asked) else {
                prop_assert!(asked.request.privileges.iter().any(needed));
                return Ok(());
            };
            prop_assert!(!asked.request.privileges.iter().any(needed));
            for name in &grant.privileges {
                prop_assert!(terms.privileges.contains(name));
                prop_assert!(asked.request.privileges.iter().any(|p| p.name == *name));
            }
            for kind in Kind::ALL {
                let bound = |b: &Budgets| b.get(kind).unwrap_or(u64::MAX);
                let least = bound(&terms.budgets).min(bound(&asked.request.budgets));
                prop_assert_eq!(bound(&grant.budgets), least, "{}", kind);
            }
            for c in &asked.declared {
                let limits = grant.limits(c.protocol, c.kind, c.upper);
                for op in Operation::ALL {
                    prop_assert!(limits.get(op) <= terms.limits.get(op).min(c.upper.get(op)));
                }
            }
            prop_assert_eq!(grant.neighbors.includes("x"), false);
            prop_assert_eq!(grant.max_emissions, Some(7));
            prop_assert_eq!((grant.min_timer_us, grant.max_timer_us), (Some(10), Some(1000)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = Policy::parse(&text);
        }

        #[test]
        fn what_looks_like_a_policy_is_read_or_pointed_at(
            lines in proptest::collection::vec(line(), 0..12),
        ) {
            let text = lines.join("\n");
            if let Err(e) = Policy::parse(&text) {
                prop_assert!((1..=lines.len().max(1) + 1).contains(&e.line), "{e} in {text}");
            }
        }
    }

    /// A line as it stands in a policy, or nearly.
    fn line() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            Just("name"),
            Just("keys"),
            Just("from"),
            Just("until"),
            Just("control"),
            Just("privileges"),
            Just("neighbors"),
            Just("budgets"),
            Just("memory"),
            Just("packets"),
            Just("compile"),
            Just("limits"),
            Just("timer"),
            Just("max_emissions"),
            Just("cycle_depth"),
            Just("min_rsa_bits"),
            Just("unknown_time"),
            Just("revokers"),
            Just("x")
        ];
        let value = prop_oneof![
            Just("\"a\"".to_string()),
            Just("[]".to_string()),
            Just("[\"see\"]".to_string()),
            Just("\"all\"".to_string()),
            Just("{ only = [\"b\"] }".to_string()),
            Just("{ memory = \"1M\" }".to_string()),
            Just("{ sends = 3 }".to_string()),
            Just("1979-05-27T07:32:00Z".to_string()),
            Just("9999-12-31T23:59:60+23:59".to_string()),
            any::<i64>().prop_map(|n| n.to_string()),
            Just("nan".to_string()),
            Just("\"\"\"".to_string()),
            Just("[\"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c\"]".to_string()),
        ];
        let table = prop_oneof![
            Just("[[principal]]"),
            Just("[principal.grant]"),
            Just("[unsigned]"),
            Just("[principal.grant.budgets]"),
            Just("[principal.total]"),
            Just("[[unsigned]]"),
            Just("[")
        ];
        prop_oneof![
            3 => (key, value).prop_map(|(k, v)| format!("{k} = {v}")),
            1 => table.prop_map(String::from)
        ]
    }
}
