//! Flows that may not come back for a while, or until somebody injects them again.

use std::collections::VecDeque;
use std::time::Duration;

use nodeos::platform::Instant;
use nodeos::team::Conduct;
use wire::id::TupleHash;

/// Bans remembered at a time; those that are over are forgotten first, then those that end soonest.
pub const MAX_BANS: usize = 256;
/// Flows that ended with something that counts against them, remembered at a time; the oldest is forgotten first.
pub const MAX_RECORDS: usize = 256;
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

/// How a flow went on that has ended.
#[derive(Debug)]
struct Record {
    flow: TupleHash,
    /// The flow that had started it, if one had.
    parent: Option<TupleHash>,
    conduct: Conduct,
}

/// The bans of a node.
#[derive(Debug, Default)]
pub struct Bans {
    list: VecDeque<Ban>,
    records: VecDeque<Record>,
}

impl Bans {
    /// Whether the flow is kept away now.
    pub fn holds(&self, now: Instant, flow: &TupleHash) -> bool {
        self.until(now, flow).is_some()
    }

    /// Until when the flow is kept away now.
    pub fn until(&self, now: Instant, flow: &TupleHash) -> Option<Instant> {
        let until = self.list.iter().find(|b| b.flow == *flow)?.until.unwrap_or(Instant(u64::MAX));
        (now < until).then_some(until)
    }

    /// Keeps a flow away until [`lift`](Self::lift): somebody stopped it.
    pub fn until_lifted(&mut self, flow: TupleHash, by: &str) {
        let times = self.list.iter().find(|b| b.flow == flow).map_or(0, |b| b.times);
        self.enter(Ban { flow, until: None, times, by: Some(by.into()) });
    }

    /// Whether a flow is kept away now, and not because this principal stopped it.
    pub fn holds_for(&self, now: Instant, flow: &TupleHash, principal: &str) -> bool {
        let own = |b: &Ban| b.flow == *flow && b.by.as_deref() == Some(principal);
        self.holds(now, flow) && !self.list.iter().any(own)
    }

    /// Keeps a flow away for a while, longer each time: its team was ended for its strikes, or it cannot run.
    /// A flow that is kept away already stays so; one that was no more for [`LONGEST_BAN`] starts anew.
    pub fn for_a_while(&mut self, now: Instant, flow: TupleHash) {
        if self.holds(now, &flow) {
            return;
        }
        let recent = |b: &&Ban| b.flow == flow && b.until.is_some_and(|t| now < t + LONGEST_BAN);
        let times = self.list.iter().find(recent).map_or(0, |b| b.times);
        let length = FIRST_BAN.saturating_mul(1 << times.min(16)).min(LONGEST_BAN);
        self.enter(Ban { flow, until: Some(now + length), times: times + 1, by: None });
    }

    /// Lets a flow come back. How often it was kept away is remembered.
    pub fn lift(&mut self, now: Instant, flow: &TupleHash) {
        if let Some(ban) = self.list.iter_mut().find(|b| b.flow == *flow) {
            (ban.until, ban.by) = (Some(ban.until.map_or(now, |t| t.min(now))), None);
        }
    }

    /// Remembers how a flow went on that ends, below the flow that started it, if one did: who ends a flow and starts it
    /// again does not make its strikes undone. Those of another's making are kept apart.
    pub fn remember(&mut self, flow: TupleHash, parent: Option<TupleHash>, conduct: Conduct) {
        self.records.retain(|r| (r.flow, r.parent) != (flow, parent));
        if self.records.len() == MAX_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(Record { flow, parent, conduct });
    }

    /// How a flow goes on that starts again; `None`: nothing counts against it.
    pub fn resume(&mut self, now: Instant, flow: TupleHash, parent: Option<TupleHash>) -> Option<Conduct> {
        let at = self.records.iter().position(|r| (r.flow, r.parent) == (flow, parent))?;
        self.records.remove(at)?.conduct.resumed(now)
    }

    fn enter(&mut self, ban: Ban) {
        self.list.retain(|b| b.flow != ban.flow);
        if self.list.len() == MAX_BANS {
            // What is over ended before what is not; what has no end comes last, the oldest of it first.
            let ends = |at: &usize| self.list.get(*at).map(|b| (b.until.is_none(), b.until));
            let Some(first) = (0..MAX_BANS).min_by_key(ends) else { return };
            // What somebody stopped does not come back because something else failed.
            if ban.until.is_some() && self.list.get(first).is_some_and(|b| b.until.is_none()) {
                return;
            }
            self.list.remove(first);
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
        bans.lift(later, &flow);
        assert!(!bans.holds(later, &flow));
    }

    #[test]
    fn what_somebody_stopped_is_forgotten_last() {
        let flow = |n: u32| TupleHash(std::array::from_fn(|i| n.to_be_bytes()[i % 4]));
        let (mut bans, start) = (Bans::default(), Instant::ZERO);
        bans.until_lifted(flow(0), "joe");
        bans.for_a_while(start, flow(1));
        let now = start + FIRST_BAN * 2;
        bans.for_a_while(now, flow(2));
        let later = now + Duration::from_secs(1);
        (3..MAX_BANS as u32).for_each(|n| bans.for_a_while(later, flow(n)));
        let all = |bans: &Bans| bans.list.len();
        assert_eq!(all(&bans), MAX_BANS);
        // The one that is over, then the one that ends soonest.
        bans.for_a_while(later, flow(1000));
        assert!(bans.list.iter().all(|b| b.flow != flow(1)) && bans.holds(later, &flow(2)));
        bans.for_a_while(later, flow(1001));
        assert!(!bans.holds(later, &flow(2)) && bans.holds(later, &flow(3)));
        (2000..3000).for_each(|n| bans.for_a_while(later, flow(n)));
        assert!(bans.holds(later, &flow(0)) && all(&bans) == MAX_BANS);
        // Where somebody stopped them all, nothing else comes in, and the oldest goes for the newest.
        (3000..3000 + MAX_BANS as u32).for_each(|n| bans.until_lifted(flow(n), "joe"));
        assert!(!bans.holds(later, &flow(0)));
        bans.for_a_while(later, flow(5000));
        assert!(!bans.holds(later, &flow(5000)) && bans.holds(later, &flow(3000)));
    }

    #[test]
    fn who_is_let_in_again_and_again_is_kept_away_longer_each_time() {
        let (mut bans, flow, mut now) = (Bans::default(), TupleHash([1; 32]), Instant::ZERO);
        for doublings in 0..20 {
            bans.for_a_while(now, flow);
            // Once for each offence.
            bans.for_a_while(now, flow);
            let length = FIRST_BAN.saturating_mul(1 << doublings.min(16)).min(LONGEST_BAN);
            assert_eq!(bans.until(now, &flow), Some(now + length));
            bans.until_lifted(flow, "joe");
            bans.for_a_while(now, flow);
            assert_eq!(bans.until(now, &flow), Some(Instant(u64::MAX)));
            now = now + Duration::from_secs(1);
            bans.lift(now, &flow);
            assert!(!bans.holds(now, &flow) && !bans.holds_for(now, &flow, "eve"));
        }
        now = now + LONGEST_BAN;
        bans.for_a_while(now, flow);
        assert_eq!(bans.until(now, &flow), Some(now + FIRST_BAN));
    }

    #[test]
    fn how_flows_went_on_is_remembered_by_flow_and_parent_and_bounded() {
        let mut conduct = Conduct::default();
        let now = Instant(1_000_000);
        while conduct.strikes() < 2 {
            let _ = conduct.refused(now, nodeos::team::Resource::Memory);
        }
        let (flow, parent) = (TupleHash([1; 32]), Some(TupleHash([2; 32])));
        let mut bans = Bans::default();
        bans.remember(flow, parent, conduct.clone());
        assert!(bans.resume(now, flow, None).is_none());
        assert_eq!(bans.resume(now, flow, parent).map(|c| c.strikes()), Some(2));
        assert!(bans.resume(now, flow, parent).is_none(), "once");
        bans.remember(flow, parent, conduct.clone());
        let forgiven = now + Duration::from_secs(120);
        assert!(bans.resume(forgiven, flow, parent).is_none());
        (0..MAX_RECORDS as u32 + 9).for_each(|n| {
            let other = TupleHash(std::array::from_fn(|i| n.to_be_bytes()[i % 4]));
            bans.remember(other, None, conduct.clone());
            bans.remember(other, None, conduct.clone());
        });
        assert_eq!(bans.records.len(), MAX_RECORDS);
    }
}
