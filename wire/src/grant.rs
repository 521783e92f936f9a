//! What an Auth Agent gives a flow, as plain data (D11).

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::tuple::Budgets;

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
        }
    }

    /// The limits that objects of a capsule type really start with: the declared ones, clamped.
    pub fn limits(&self, protocol: u8, kind: u8, declared: Limits) -> Limits {
        let mine = |c: &&Clamp| c.protocol == protocol && c.kind == kind;
        self.clamps.iter().filter(mine).fold(declared, |limits, c| limits.clamp(&c.upper))
    }
}
