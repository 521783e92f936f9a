//! Teams that go on with less for a while, because they kept running into their limits (the policy is
//! [`nodeos::team`]'s): fewer shares of the processor, and a pause between the beginnings of two events.
//!
//! Nobody is looked at who is not throttled. An event that comes to its turn too early stays in front of its queue, and
//! the scheduler leaves the team out until the pause is over. What a team is in the middle of goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use nodeos::platform::{Instant, Now};
use nodeos::team::{Resource, THROTTLED_PACE, Team, TeamId, Throttle};

use super::Node;

/// The throttled teams of a node.
#[derive(Debug, Default)]
pub(super) struct Throttles {
    /// When each has its full share back.
    ends: BTreeSet<(Instant, TeamId)>,
    /// When the events of those that are held back may run.
    held: BTreeSet<(Instant, TeamId)>,
}

impl Throttles {
    /// Whether anybody is throttled.
    #[inline]
    pub(super) fn any(&self) -> bool {
        !self.ends.is_empty()
    }

    /// When [`Node::throttles_due`] must be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let [ends, held] = [&self.ends, &self.held].map(|list| list.first().map(|(at, _)| *at));
        ends.into_iter().chain(held).min()
    }
}

/// Until when an event of a team is held back, if one is.
pub(super) fn held_until(team: &Team) -> Option<Instant> {
    team.throttle.filter(|throttle| throttle.held.is_some()).map(|throttle| throttle.next)
}

impl Node {
    /// A team goes on with less for so long.
    pub(super) fn throttle(&mut self, now: Now, team: TeamId, time: Duration) {
        let Some(member) = self.teams.get_mut(team) else { return };
        let fresh = Throttle { until: now.mono, next: now.mono + THROTTLED_PACE, held: None };
        let throttle = member.throttle.get_or_insert(fresh);
        self.throttles.ends.remove(&(throttle.until, team));
        throttle.until = throttle.until.max(now.mono + time);
        self.throttles.ends.insert((throttle.until, team));
        self.weigh(Some(team));
    }

    /// Whether a team's next event must wait; else it begins now.
    pub(super) fn hold_back(&mut self, now: Now, team: TeamId) -> bool {
        let Some(throttle) = self.teams.get_mut(team).and_then(|member| member.throttle.as_mut()) else {
            return false;
        };
        if now.mono >= throttle.next {
            throttle.next = now.mono + THROTTLED_PACE;
            return false;
        }
        throttle.held = Some(now.mono);
        self.throttles.held.insert((throttle.next, team));
        self.short_of(now, team, Resource::Processor);
        true
    }

    /// Lets run who has waited long enough, and gives their shares back to those whose time is over.
    pub(super) fn throttles_due(&mut self, now: Now) {
        while let Some(team) = due(&mut self.throttles.held, now.mono) {
            self.release(now, team);
        }
        while let Some(team) = due(&mut self.throttles.ends, now.mono) {
            self.unthrottle(now, team);
        }
    }

    /// A team has its full share again, or ends.
    pub(super) fn unthrottle(&mut self, now: Now, team: TeamId) {
        self.release(now, team);
        let Some(throttle) = self.teams.get_mut(team).and_then(|member| member.throttle.take()) else {
            return;
        };
        self.throttles.ends.remove(&(throttle.until, team));
        self.weigh(Some(team));
    }

    /// An event that was held back may run.
    fn release(&mut self, now: Now, team: TeamId) {
        let Some(member) = self.teams.get_mut(team) else { return };
        let Some(throttle) = &mut member.throttle else { return };
        let Some(since) = throttle.held.take() else { return };
        self.throttles.held.remove(&(throttle.next, team));
        member.counters.held_us += now.mono.since(since).as_micros() as u64;
        self.sched.release(team);
        if let Some(handle) = self.flows.by_team(team) {
            self.plan_wake(handle);
        }
    }
}

/// The first whose time has come, taken out.
fn due(list: &mut BTreeSet<(Instant, TeamId)>, now: Instant) -> Option<TeamId> {
    let (at, team) = list.first().copied().filter(|(at, _)| *at <= now)?;
    list.remove(&(at, team)).then_some(team)
}
