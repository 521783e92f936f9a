//! Propagation limits: how often a capsule object may be used after an authorization event (seed 004,
//! section IV; D8).
//!
//! A capsule object is *replenished* by an [`Event`] and *depleted* by each [`Operation`]. The limits are
//! declared per capsule type in the flow tuple; an Auth Agent may lower them. Deriving makes a capsule of
//! another type, which starts with that type's limits; [`worst_case`] follows the declared derivations
//! and bounds what one event can set off.
//!
//! The paper's text lost its two lists; both enumerations are a reconstruction and can grow.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// What a capsule object can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// Send the capsule back to the neighbor that it came from.
    Returns,
    /// Send the capsule to one neighbor.
    Sends,
    /// Send the capsule to a neighborhood: counts once, whatever the number of members.
    Multicasts,
    /// Make a capsule of another type (or of the same, where the tuple says so) from it.
    Derives,
}

impl Operation {
    /// All operations, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Returns, Self::Sends, Self::Multicasts, Self::Derives];

    /// The name used in tuples' descriptions and in what people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Returns => "returns",
            Self::Sends => "sends",
            Self::Multicasts => "multicasts",
            Self::Derives => "derives",
        }
    }
}

/// What makes a capsule object available (again).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Event {
    /// A capsule was received from a neighbor.
    Capsule,
    /// A timer of the flow fired.
    Timer,
    /// The flow was started on this node.
    Boot,
    /// A program made a request through the protocol session.
    Session,
}

/// How often each operation may be done with one capsule object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    counts: [u16; Operation::ALL.len()],
}

impl Limits {
    /// Nothing may be done.
    pub const NONE: Self = Self { counts: [0; Operation::ALL.len()] };

    /// The same limits with `operation` set to `count`.
    #[must_use]
    pub const fn with(mut self, operation: Operation, count: u16) -> Self {
        self.counts[operation as usize] = count;
        self
    }

    /// How often `operation` may be done.
    pub const fn get(&self, operation: Operation) -> u16 {
        self.counts[operation as usize]
    }

    /// Uses up one `operation`; `false` when depleted.
    pub fn deplete(&mut self, operation: Operation) -> bool {
        let count = &mut self.counts[operation as usize];
        let left = *count > 0;
        *count = count.saturating_sub(1);
        left
    }

    /// For each operation the lower of two limits.
    #[must_use]
    pub fn clamp(mut self, upper: &Self) -> Self {
        for (a, b) in self.counts.iter_mut().zip(upper.counts) {
            *a = b.min(*a);
        }
        self
    }

    /// Frames that leave by this object alone, a multicast counted once.
    fn emissions(&self) -> u64 {
        let [returns, sends, multicasts, _] = self.counts;
        u64::from(returns) + u64::from(sends) + u64::from(multicasts)
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut empty = true;
        for op in Operation::ALL {
            let n = self.get(op);
            if n > 0 {
                write!(f, "{}{}={n}", if empty { "" } else { " " }, op.name())?;
                empty = false;
            }
        }
        if empty { f.write_str("none") } else { Ok(()) }
    }
}

/// What [`worst_case`] needs to know of one capsule type.
#[derive(Debug, Clone, Copy)]
pub struct Derivation<'a> {
    /// The type's limits.
    pub limits: Limits,
    /// Positions of the types that may be derived from it.
    pub into: &'a [u8],
}

/// The largest number of send operations (a multicast counted once) that one event can set off, starting
/// from an object of each type; saturates at `u64::MAX`.
///
/// Derivations are followed at most `depth` steps; `None` asks for an acyclic graph, which bounds itself.
/// Returns `Err` with the position of a type on a cycle if there is one and `depth` is `None`.
pub fn worst_case(types: &[Derivation<'_>], depth: Option<u32>) -> Result<Vec<u64>, usize> {
    if depth.is_none()
        && let Some(on_cycle) = find_cycle(types)
    {
        return Err(on_cycle);
    }
    let own: Vec<u64> = types.iter().map(|t| t.limits.emissions()).collect();
    let mut worst = own.clone();
    let steps = depth.map_or(types.len(), |d| d as usize).min(MAX_DEPTH);
    for _ in 0..steps {
        let next: Vec<u64> = types
            .iter()
            .zip(&own)
            .map(|(t, own)| {
                let child =
                    t.into.iter().filter_map(|&i| worst.get(usize::from(i))).max().copied().unwrap_or(0);
                let derives = u64::from(t.limits.get(Operation::Derives));
                own.saturating_add(derives.saturating_mul(child))
            })
            .collect();
        if next == worst {
            break;
        }
        worst = next;
    }
    Ok(worst)
}

/// No chain of derivations is granted beyond this length.
pub const MAX_DEPTH: usize = 64;

fn find_cycle(types: &[Derivation<'_>]) -> Option<usize> {
    // Kahn's algorithm: what cannot be removed by taking away types that nothing derives is on a cycle or
    // behind one; a type that derives nothing is harmless.
    let usable = |t: &Derivation<'_>| t.limits.get(Operation::Derives) > 0;
    let mut incoming = vec![0usize; types.len()];
    let targets = |t: &Derivation<'_>| -> Vec<usize> {
        if usable(t) {
            t.into.iter().map(|&i| usize::from(i)).filter(|&i| i < types.len()).collect()
        } else {
            vec![]
        }
    };
    for t in types {
        for i in targets(t) {
            incoming[i] += 1;
        }
    }
    let mut ready: Vec<usize> = (0..types.len()).filter(|&i| incoming[i] == 0).collect();
    let mut left = types.len();
    while let Some(i) = ready.pop() {
        left -= 1;
        for j in targets(&types[i]) {
            incoming[j] -= 1;
            if incoming[j] == 0 {
                ready.push(j);
            }
        }
    }
    (left > 0).then(|| incoming.iter().position(|&n| n > 0)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind(sends: u16, derives: u16, into: &[u8]) -> Derivation<'_> {
        Derivation {
            limits: Limits::NONE.with(Operation::Sends, sends).with(Operation::Derives, derives),
            into,
        }
    }

    #[test]
    fn limits_deplete() {
        let mut l = Limits::NONE.with(Operation::Returns, 1);
        assert!(l.deplete(Operation::Returns));
        assert!(!l.deplete(Operation::Returns));
        assert!(!l.deplete(Operation::Sends));
    }

    #[test]
    fn a_chain_multiplies() {
        let types = [kind(1, 10, &[1]), kind(2, 3, &[2]), kind(5, 0, &[])];
        assert_eq!(worst_case(&types, None), Ok(vec![1 + 10 * (2 + 3 * 5), 2 + 3 * 5, 5]));
    }

    #[test]
    fn a_cycle_needs_a_granted_depth() {
        let types = [kind(1, 1, &[1]), kind(1, 1, &[0])];
        assert!(worst_case(&types, None).is_err());
        assert_eq!(worst_case(&types, Some(3)).unwrap()[0], 4);
        assert!(worst_case(&[kind(1, 2, &[0])], None).is_err());
        assert_eq!(worst_case(&[kind(1, 0, &[0])], None), Ok(vec![1]));
        assert_eq!(worst_case(&[kind(0xffff, 0xffff, &[0])], Some(64)).unwrap()[0], u64::MAX);
    }

    proptest! {
        /// Plays random derivations against the bound.
        #[test]
        fn no_play_beats_the_bound(
            limits in proptest::collection::vec((0u16..3, 0u16..3), 1..5),
            edges in proptest::collection::vec(proptest::collection::vec(0u8..5, 0..3), 5),
            choices in proptest::collection::vec(any::<u8>(), 64),
            depth in 0u32..4,
        ) {
            let types: Vec<_> = limits.iter().zip(&edges).map(|(&(s, d), e)| kind(s, d, e)).collect();
            let bound = worst_case(&types, Some(depth)).unwrap()[0];
            let mut stack = vec![(0usize, types[0].limits, 0u32)];
            let mut sent = 0u64;
            let mut choice = choices.into_iter();
            while let Some((t, mut l, d)) = stack.pop() {
                while l.deplete(Operation::Sends) { sent += 1; }
                while d < depth && l.deplete(Operation::Derives) {
                    let (Some(c), into) = (choice.next(), types[t].into) else { break };
                    if into.is_empty() { continue }
                    let child = usize::from(into[usize::from(c) % into.len()]);
                    if child < types.len() { stack.push((child, types[child].limits, d + 1)); }
                }
            }
            prop_assert!(sent <= bound, "{sent} sends against a bound of {bound}");
        }
    }
}
