//! What an Auth Agent gives a flow, as plain data (D11).

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::budget::Budgets;
use crate::limits::Limits;

/// The terms on which a flow runs on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Budgets; what is not named gets the node's default. Nothing exceeds the node's own.
    pub budgets: Budgets,
    /// The neighbors that the flow may know of.
    pub neighbors: Neighbors,
    /// Privileges by name, out of those that the tuple asked for.
    pub privileges: Vec<String>,
    /// Upper bounds on the limits of capsule types.
    pub clamps: Vec<Clamp>,
    /// How many derivations may follow each other where the declared graph has a cycle.
    pub cycle_depth: Option<u32>,
    /// The most send operations that one event may set off; a flow that declares more is refused.
    pub max_emissions: Option<u64>,
    /// The shortest timer interval, in microseconds.
    pub min_timer_us: Option<u32>,
    /// The longest timer interval, in microseconds.
    pub max_timer_us: Option<u64>,
}

/// Which neighbors a flow may know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Neighbors {
    /// Every neighbor of the node.
    All,
    /// These, by name.
    Only(Vec<String>),
    /// All but these.
    Except(Vec<String>),
}

impl Neighbors {
    /// Whether the neighbor of this name is included.
    pub fn includes(&self, name: &str) -> bool {
        let listed = |names: &[String]| names.iter().any(|n| n == name);
        match self {
            Self::All => true,
            Self::Only(names) => listed(names),
            Self::Except(names) => !listed(names),
        }
    }

    /// Those that are in both.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let only = |names: &[String], other: &Self| {
            Self::Only(names.iter().filter(|n| other.includes(n)).cloned().collect())
        };
        match (self, other) {
            (Self::All, x) | (x, Self::All) => x.clone(),
            (Self::Only(names), x) | (x, Self::Only(names)) => only(names, x),
            (Self::Except(a), Self::Except(b)) => {
                let more = b.iter().filter(|n| !a.contains(n));
                Self::Except(a.iter().chain(more).cloned().collect())
            }
        }
    }
}

/// The lower of two bounds, where `None` is no bound.
fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// An upper bound on one capsule type's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clamp {
    /// Position of the protocol in the tuple.
    pub protocol: u8,
    /// Position of the capsule type in the protocol.
    pub kind: u8,
    /// No limit is above these.
    pub upper: Limits,
}

impl Grant {
    /// Everything that is asked for, within the node's own bounds.
    pub fn everything(budgets: Budgets, privileges: Vec<String>) -> Self {
        Self {
            budgets,
            neighbors: Neighbors::All,
            privileges,
            clamps: Vec::new(),
            cycle_depth: Some(crate::limits::MAX_DEPTH as u32),
            max_emissions: None,
            min_timer_us: None,
            max_timer_us: None,
        }
    }

    /// The lower of two grants in every respect: what both allow.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let clamps = self.clamps.iter().map(|c| {
            let upper = other.limits(c.protocol, c.kind, c.upper);
            Clamp { upper, ..c.clone() }
        });
        let named = |c: &&Clamp| !self.clamps.iter().any(|m| (m.protocol, m.kind) == (c.protocol, c.kind));
        Self {
            budgets: self.budgets.meet(&other.budgets),
            neighbors: self.neighbors.meet(&other.neighbors),
            privileges: self.privileges.iter().filter(|p| other.privileges.contains(p)).cloned().collect(),
            clamps: clamps.chain(other.clamps.iter().filter(named).cloned()).collect(),
            // Without a number no circle is allowed at all.
            cycle_depth: self.cycle_depth.zip(other.cycle_depth).map(|(a, b)| a.min(b)),
            max_emissions: least(self.max_emissions, other.max_emissions),
            min_timer_us: self.min_timer_us.max(other.min_timer_us),
            max_timer_us: least(self.max_timer_us, other.max_timer_us),
        }
    }

    /// The limits that objects of a capsule type really start with: the declared ones, clamped.
    pub fn limits(&self, protocol: u8, kind: u8, declared: Limits) -> Limits {
        let mine = |c: &&Clamp| c.protocol == protocol && c.kind == kind;
        self.clamps.iter().filter(mine).fold(declared, |limits, c| limits.clamp(&c.upper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Operation;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec((b'a'..=b'e').prop_map(|c| char::from(c).to_string()), 0..4)
    }

    fn neighbors() -> impl Strategy<Value = Neighbors> {
        prop_oneof![
            Just(Neighbors::All),
            names().prop_map(Neighbors::Only),
            names().prop_map(Neighbors::Except)
        ]
    }

    fn grant() -> impl Strategy<Value = Grant> {
        let some = || proptest::option::of(0u32..9);
        let clamp = (0u8..2, 0u8..2, 0u16..4).prop_map(|(protocol, kind, n)| Clamp {
            protocol,
            kind,
            upper: Limits::NONE.with(Operation::Sends, n).with(Operation::Returns, 3 - n),
        });
        let clamps = proptest::collection::vec(clamp, 0..4).prop_map(|mut clamps: Vec<Clamp>| {
            clamps.sort_by_key(|c| (c.protocol, c.kind));
            clamps.dedup_by_key(|c| (c.protocol, c.kind));
            clamps
        });
        (neighbors(), names(), clamps, some(), some(), some(), some(), some()).prop_map(
            |(neighbors, privileges, clamps, depth, most, min, max, event_us)| Grant {
                budgets: Budgets { event_us, memory: most.map(u64::from), ..Budgets::default() },
                neighbors,
                privileges,
                clamps,
                cycle_depth: depth,
                max_emissions: most.map(u64::from),
                min_timer_us: min,
                max_timer_us: max.map(u64::from),
            },
        )
    }

    proptest! {
        #[test]
        fn a_meeting_allows_what_both_allow(a in grant(), b in grant()) {
            let both = a.meet(&b);
            for name in ["a", "b", "c", "d", "e", "f"] {
                let each = a.neighbors.includes(name) && b.neighbors.includes(name);
                prop_assert_eq!(both.neighbors.includes(name), each);
                let has = |g: &Grant| g.privileges.iter().any(|p| p == name);
                prop_assert_eq!(has(&both), has(&a) && has(&b));
            }
            let declared = Operation::ALL.iter().fold(Limits::NONE, |l, op| l.with(*op, 7));
            for (protocol, kind) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let each = b.limits(protocol, kind, a.limits(protocol, kind, declared));
                prop_assert_eq!(both.limits(protocol, kind, declared), each);
            }
            prop_assert_eq!(both.cycle_depth.is_some(), a.cycle_depth.is_some() && b.cycle_depth.is_some());
            prop_assert!(both.min_timer_us >= a.min_timer_us && both.min_timer_us >= b.min_timer_us);
            prop_assert_eq!(both.meet(&a), both.clone(), "meeting again changes nothing");
            prop_assert_eq!(a.meet(&a).neighbors, a.neighbors);
        }
    }

    #[test]
    fn a_bound_that_one_names_counts() {
        let a = Budgets { memory: Some(5), timers: Some(3), ..Budgets::default() };
        let b = Budgets { memory: Some(7), sessions: Some(0), ..Budgets::default() };
        let both = Budgets { memory: Some(5), timers: Some(3), sessions: Some(0), ..Budgets::default() };
        assert_eq!(a.meet(&b), both);
        let all = Grant::everything(a, vec!["x".to_string()]);
        assert_eq!(all.meet(&Grant::everything(b, vec![])).privileges, [""; 0]);
    }
}
