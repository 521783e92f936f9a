//! Flows that may not come back for a while, or until somebody injects them again.

use std::collections::VecDeque;
use std::time::Duration;

use nodeos::platform::Instant;
use wire::id::TupleHash;

/// Bans remembered at a time; the oldest is forgotten first.
pub const MAX_BANS: usize = 256;
/// How long a flow is kept away after its team was ended for its strikes; doubles with each time.
pub const FIRST_BAN: Duration = Duration::from_secs(10);
/// The longest such time.
pub const LONGEST_BAN: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Ban {
    flow: TupleHash,
    /// `None`: until lifted.
    until: Option<Instant>,
    times: u32,
    /// Who stopped it, if somebody did.
    by: Option<String>,
}

/// The bans of a node.
#[derive(Debug, Default)]
pub struct Bans {
    list: VecDeque<Ban>,
}

impl Bans {
    /// Whether the flow is kept away now.
    pub fn holds(&self, now: Instant, flow: &TupleHash) -> bool {
        self.list.iter().any(|b| b.flow == *flow && b.until.is_none_or(|t| now < t))
    }

    /// Keeps a flow away until [`lift`](Self::lift): somebody stopped it.
    pub fn until_lifted(&mut self, flow: TupleHash, by: &str) {
        self.enter(Ban { flow, until: None, times: 0, by: Some(by.into()) });
    }

    /// Whether a flow is kept away now, and not because this principal stopped it.
    pub fn holds_for(&self, now: Instant, flow: &TupleHash, principal: &str) -> bool {
        let own = |b: &Ban| b.flow == *flow && b.by.as_deref() == Some(principal);
        self.holds(now, flow) && !self.list.iter().any(own)
    }

    /// Keeps a flow away for a while, longer each time: its team was ended for its strikes.
    /// What its operator keeps away stays away.
    pub fn for_a_while(&mut self, now: Instant, flow: TupleHash) {
        let known = self.list.iter().find(|b| b.flow == flow);
        if known.is_some_and(|b| b.until.is_none()) {
            return;
        }
        let times = known.map_or(0, |b| b.times);
        let length = FIRST_BAN.saturating_mul(1 << times.min(16)).min(LONGEST_BAN);
        self.enter(Ban { flow, until: Some(now + length), times: times + 1, by: None });
    }

    /// Lets a flow come back.
    pub fn lift(&mut self, flow: &TupleHash) {
        self.list.retain(|b| b.flow != *flow);
    }

    fn enter(&mut self, ban: Ban) {
        self.lift(&ban.flow);
        if self.list.len() == MAX_BANS {
            self.list.pop_front();
        }
        self.list.push_back(ban);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_grow_and_lapse() {
        let (mut bans, flow) = (Bans::default(), TupleHash([1; 32]));
        bans.for_a_while(Instant::ZERO, flow);
        assert!(bans.holds(Instant::ZERO, &flow));
        let later = Instant::ZERO + FIRST_BAN;
        assert!(!bans.holds(later, &flow));
        bans.for_a_while(later, flow);
        assert!(bans.holds(later + FIRST_BAN, &flow));
        assert!(!bans.holds(later + FIRST_BAN * 2, &flow));
        assert!(bans.holds_for(later, &flow, "joe"));
        bans.until_lifted(flow, "joe");
        assert!(bans.holds(later + LONGEST_BAN * 9, &flow));
        assert!(bans.holds_for(later, &flow, "eve") && !bans.holds_for(later, &flow, "joe"));
        bans.lift(&flow);
        assert!(!bans.holds(later, &flow));
    }
}
