//! How guests failed here lately, by flow: for `bees flow show`, also when the flow is gone or kept away.

use std::collections::VecDeque;

use wire::control::Crash;
use wire::id::TupleHash;

/// Failures remembered at a time. No team pays for them: they outlive it, and are this many.
pub const MAX_CRASHES: usize = 64;
/// Failures remembered of one flow: nobody pushes out all others' by failing over and over.
pub const MAX_OF_FLOW: usize = 3;

/// The failures that a node remembers.
#[derive(Debug, Default)]
pub struct Crashes {
    list: VecDeque<(TupleHash, Crash)>,
}

impl Crashes {
    /// Remembers a failure, in place of the flow's oldest or of the oldest of all.
    pub fn enter(&mut self, flow: TupleHash, crash: Crash) {
        if self.of(&flow).count() >= MAX_OF_FLOW {
            let oldest = self.list.iter().position(|(of, _)| *of == flow);
            oldest.and_then(|at| self.list.remove(at));
        } else if self.list.len() >= MAX_CRASHES {
            self.list.pop_front();
        }
        self.list.push_back((flow, crash));
    }

    /// How a flow failed, oldest first.
    pub fn of(&self, flow: &TupleHash) -> impl Iterator<Item = &Crash> {
        let flow = *flow;
        self.list.iter().filter(move |(of, _)| *of == flow).map(|(_, crash)| crash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_and_the_newest() {
        let (mut crashes, flow) = (Crashes::default(), |n: u8| TupleHash([n; 32]));
        let crash = |at_us| Crash { at_us, during: "boot".into(), why: "trap".into(), said: None };
        crashes.enter(flow(0), crash(0));
        for at in 0..1000 {
            crashes.enter(flow(1), crash(at));
        }
        let times: Vec<u64> = crashes.of(&flow(1)).map(|c| c.at_us).collect();
        assert_eq!(times, [997, 998, 999]);
        assert_eq!(crashes.of(&flow(0)).count(), 1);
        (2..=255).for_each(|n| crashes.enter(flow(n), crash(1)));
        assert_eq!((crashes.list.len(), crashes.of(&flow(0)).count()), (MAX_CRASHES, 0));
        assert_eq!(crashes.of(&flow(255)).count(), 1);
    }
}
