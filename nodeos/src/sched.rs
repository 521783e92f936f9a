//! Events of teams: a bounded queue for each, served by share of the work done (stride scheduling).
//!
//! Every team has a pass value that grows by the units of work it used, divided by its shares. Whoever has
//! the lowest pass among those with events is next, so over time teams that always have events get work in
//! proportion to their shares, and nobody saves up while idle: a team that becomes busy starts no lower
//! than where the busy ones are. `next`, `used` and `push` take O(log n) of the number of busy teams and
//! do not allocate once the queues have grown.
//!
//! ```
//! # use nodeos::{sched::Scheduler, slab::Slab, team::TeamId};
//! # let team = TeamId(Slab::new(1).insert(()).unwrap());
//! let mut scheduler = Scheduler::new();
//! scheduler.add(team, 100, 64);
//! scheduler.push(team, "capsule").unwrap();
//! while let Some((team, event)) = scheduler.next() {
//!     // Handle the event, and then:
//!     scheduler.used(team, 1200);
//! }
//! ```

use crate::team::TeamId;
use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

/// One unit of work of a team with one share, in units of pass.
const STRIDE: u128 = 1 << 32;

/// Queues of events, and who is next.
pub struct Scheduler<E> {
    /// By index of the team's handle.
    teams: Vec<Option<Entry<E>>>,
    /// Busy teams by pass; an entry may be lower than the team's pass and is then put right when it is due.
    /// The number keeps teams of equal pass in turn.
    busy: BinaryHeap<Reverse<(u128, u64, TeamId)>>,
    turn: u64,
    /// The pass of whoever was served last: where the busy teams are.
    at: u128,
    waiting: usize,
}

struct Entry<E> {
    id: TeamId,
    queue: VecDeque<E>,
    limit: usize,
    shares: u32,
    pass: u128,
    busy: bool,
}

/// An event was not queued. It comes back in the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError<E> {
    /// The team has as many waiting as it may.
    Full(E),
    /// There is no such team.
    NoTeam(E),
}

impl<E> fmt::Display for PushError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the team's event queue is full",
            Self::NoTeam(_) => "the team has ended",
        })
    }
}

impl<E: fmt::Debug> core::error::Error for PushError<E> {}

impl<E> Scheduler<E> {
    /// A scheduler without teams.
    pub const fn new() -> Self {
        Self { teams: Vec::new(), busy: BinaryHeap::new(), turn: 0, at: 0, waiting: 0 }
    }

    /// Admits a team with this many shares of processor time (at least 1) and room for `queue` waiting
    /// events. A team that is there already starts anew, without events.
    pub fn add(&mut self, team: TeamId, shares: u32, queue: usize) {
        let index = team.0.index();
        if let Some(Some(old)) = self.teams.get(index) {
            self.remove(old.id);
        }
        if self.teams.len() <= index {
            self.teams.resize_with(index + 1, || None);
        }
        let (shares, pass) = (shares.max(1), self.at);
        let entry = Entry { id: team, queue: VecDeque::new(), limit: queue, shares, pass, busy: false };
        self.teams[index] = Some(entry);
    }

    /// Queues an event for `team`.
    pub fn push(&mut self, team: TeamId, event: E) -> Result<(), PushError<E>> {
        let Some(entry) = entry(&mut self.teams, team) else { return Err(PushError::NoTeam(event)) };
        if entry.queue.len() >= entry.limit {
            return Err(PushError::Full(event));
        }
        entry.queue.push_back(event);
        self.waiting += 1;
        self.wake(team);
        Ok(())
    }

    /// A team has an event.
    fn wake(&mut self, team: TeamId) {
        let Some(entry) = entry(&mut self.teams, team).filter(|entry| !entry.busy) else { return };
        entry.busy = true;
        entry.pass = entry.pass.max(self.at);
        self.turn += 1;
        self.busy.push(Reverse((entry.pass, self.turn, team)));
    }

    /// Puts back what [`next`](Self::next) gave: it is the team's next again, whatever the queue's limit.
    pub fn put_back(&mut self, team: TeamId, event: E) -> Result<(), PushError<E>> {
        let Some(entry) = entry(&mut self.teams, team) else { return Err(PushError::NoTeam(event)) };
        entry.queue.push_front(event);
        self.waiting += 1;
        self.wake(team);
        Ok(())
    }

    /// The next event, and whose it is. After it was handled call [`used`](Self::used).
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would borrow the scheduler between events"
    )]
    pub fn next(&mut self) -> Option<(TeamId, E)> {
        while let Some(Reverse((pass, _, team))) = self.busy.pop() {
            let Some(entry) = entry(&mut self.teams, team) else { continue };
            let due = entry.pass <= pass;
            let event = if due { entry.queue.pop_front() } else { None };
            if due {
                self.at = self.at.max(entry.pass);
            }
            entry.busy = !entry.queue.is_empty();
            if entry.busy {
                self.turn += 1;
                self.busy.push(Reverse((entry.pass, self.turn, team)));
            }
            if let Some(event) = event {
                self.waiting -= 1;
                return Some((team, event));
            }
        }
        None
    }

    /// Notes that `team` has used `units` of work. No event is free: 0 counts as 1.
    pub fn used(&mut self, team: TeamId, units: u64) {
        if let Some(entry) = entry(&mut self.teams, team) {
            let step = u128::from(units.max(1)) * STRIDE / u128::from(entry.shares);
            entry.pass = entry.pass.saturating_add(step);
        }
    }

    /// Removes a team. Returns the events that still waited.
    pub fn remove(&mut self, team: TeamId) -> VecDeque<E> {
        let slot = self.teams.get_mut(team.0.index());
        let Some(entry) = slot.filter(|e| e.as_ref().is_some_and(|e| e.id == team)).and_then(Option::take)
        else {
            return VecDeque::new();
        };
        self.busy.retain(|Reverse((_, _, id))| *id != team);
        self.waiting -= entry.queue.len();
        entry.queue
    }

    /// How many events wait for `team`.
    pub fn queued(&self, team: TeamId) -> usize {
        let slot = self.teams.get(team.0.index()).and_then(Option::as_ref);
        slot.filter(|entry| entry.id == team).map_or(0, |entry| entry.queue.len())
    }

    /// How many teams have events.
    pub fn busy(&self) -> usize {
        self.busy.len()
    }

    /// How many events wait in all.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }
}

impl<E> Default for Scheduler<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> fmt::Debug for Scheduler<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scheduler({} waiting, {} teams busy)", self.waiting, self.busy.len())
    }
}

fn entry<E>(teams: &mut [Option<Entry<E>>], team: TeamId) -> Option<&mut Entry<E>> {
    teams.get_mut(team.0.index())?.as_mut().filter(|entry| entry.id == team)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn teams(n: usize) -> Vec<TeamId> {
        let mut slab = Slab::new(n);
        (0..n).map(|_| TeamId(slab.insert(()).unwrap())).collect()
    }

    /// Runs always-busy teams for `rounds` events; returns the units that each used.
    fn run(shares: &[u32], costs: impl Fn(usize, u64) -> u64, rounds: u64) -> Vec<u64> {
        let ids = teams(shares.len());
        let mut scheduler = Scheduler::new();
        for (id, shares) in ids.iter().zip(shares) {
            scheduler.add(*id, *shares, 2);
            scheduler.push(*id, ()).unwrap();
        }
        let mut used = std::vec![0; shares.len()];
        for round in 0..rounds {
            let (id, ()) = scheduler.next().unwrap();
            scheduler.push(id, ()).unwrap();
            let units = costs(id.0.index(), round);
            used[id.0.index()] += units;
            scheduler.used(id, units);
        }
        used
    }

    #[test]
    fn one_share_to_three_is_one_unit_to_three() {
        let used = run(&[100, 300], |team, _| [70, 1000][team], 20_000);
        let ratio = used[1] as f64 / used[0] as f64;
        assert!((2.99..3.01).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_idle_save_nothing_up() {
        let ids = teams(2);
        let mut scheduler = Scheduler::new();
        for id in &ids {
            scheduler.add(*id, 100, 2000);
        }
        for _ in 0..1000 {
            scheduler.push(ids[0], ()).unwrap();
            let (id, ()) = scheduler.next().unwrap();
            scheduler.used(id, 1000);
        }
        for _ in 0..1000 {
            scheduler.push(ids[0], ()).unwrap();
            scheduler.push(ids[1], ()).unwrap();
        }
        let mut served = [0u32; 2];
        for _ in 0..1000 {
            let (id, ()) = scheduler.next().unwrap();
            served[id.0.index()] += 1;
            scheduler.used(id, 1000);
        }
        assert!(served[0].abs_diff(served[1]) <= 2, "{served:?}");
    }

    #[test]
    fn a_new_team_starts_where_the_others_are() {
        let ids = teams(2);
        let mut scheduler = Scheduler::new();
        scheduler.add(ids[0], 1, 10);
        for _ in 0..5 {
            scheduler.push(ids[0], ()).unwrap();
        }
        for _ in 0..3 {
            let (id, ()) = scheduler.next().unwrap();
            scheduler.used(id, u64::MAX);
        }
        scheduler.add(ids[1], 1, 10);
        for _ in 0..5 {
            scheduler.push(ids[1], ()).unwrap();
        }
        let order: Vec<usize> = core::iter::from_fn(|| {
            let (id, ()) = scheduler.next()?;
            scheduler.used(id, u64::MAX);
            Some(id.0.index())
        })
        .collect();
        assert_eq!(order, [1, 0, 1, 0, 1, 1, 1]);
    }

    #[test]
    fn queues_are_bounded_and_ended_teams_are_forgotten() {
        let ids = teams(2);
        let mut scheduler = Scheduler::new();
        scheduler.add(ids[0], 1, 2);
        assert_eq!(scheduler.push(ids[1], 'x'), Err(PushError::NoTeam('x')));
        scheduler.push(ids[0], 'a').unwrap();
        scheduler.push(ids[0], 'b').unwrap();
        assert_eq!(scheduler.push(ids[0], 'c'), Err(PushError::Full('c')));
        assert_eq!(scheduler.remove(ids[0]), ['a', 'b']);
        assert!(scheduler.remove(ids[0]).is_empty());
        assert_eq!((scheduler.len(), scheduler.next()), (0, None));
        for _ in 0..1000 {
            scheduler.add(ids[1], 1, 1);
            scheduler.push(ids[1], 'y').unwrap();
        }
        assert!(scheduler.busy.len() <= 1, "entries of removed teams do not pile up");
    }

    proptest! {
        /// Whatever events cost, always-busy teams get work in proportion to their shares, to within a
        /// few of the costliest events.
        #[test]
        fn work_follows_shares(shares in proptest::collection::vec(1u32..50, 2..6), seed in any::<u64>()) {
            let cost = |team: usize, round: u64| {
                let mix = (seed ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(team as u32 + 7);
                1 + mix % 1000
            };
            let used = run(&shares, cost, 30_000);
            let per_share: Vec<f64> = used.iter().zip(&shares).map(|(u, s)| *u as f64 / f64::from(*s)).collect();
            let (low, high) = per_share.iter().fold((f64::MAX, 0f64), |(l, h), v| (l.min(*v), h.max(*v)));
            prop_assert!(high - low <= 2000.0, "{per_share:?}");
        }

        /// Events come out once, in order within their team, and the counts agree.
        #[test]
        fn nothing_is_lost_or_reordered(ops in proptest::collection::vec((0usize..5, 0u8..7, 0u64..100), 1..400)) {
            let ids = teams(5);
            let mut scheduler = Scheduler::new();
            let mut model: HashMap<TeamId, VecDeque<u64>> = HashMap::new();
            for (n, (team, op, units)) in (0u64..).zip(ops) {
                let id = ids[team];
                match op {
                    0 => {
                        scheduler.add(id, 1 + team as u32, 4);
                        model.insert(id, VecDeque::new());
                    }
                    1 => {
                        let left = scheduler.remove(id);
                        prop_assert_eq!(left, model.remove(&id).unwrap_or_default());
                    }
                    2 | 3 => match (scheduler.push(id, n), model.get_mut(&id)) {
                        (Ok(()), Some(queue)) => queue.push_back(n),
                        (Err(PushError::Full(_)), Some(queue)) => prop_assert!(queue.len() >= 4),
                        (Err(PushError::NoTeam(_)), None) => (),
                        (other, _) => prop_assert!(false, "{:?}", other),
                    },
                    4 => scheduler.used(id, units),
                    5 => match (scheduler.put_back(id, n), model.get_mut(&id)) {
                        (Ok(()), Some(queue)) => queue.push_front(n),
                        (Err(PushError::NoTeam(_)), None) => (),
                        (other, _) => prop_assert!(false, "{:?}", other),
                    },
                    _ => match scheduler.next() {
                        Some((id, event)) => prop_assert_eq!(model.get_mut(&id).and_then(VecDeque::pop_front), Some(event)),
                        None => prop_assert!(model.values().all(VecDeque::is_empty)),
                    },
                }
                prop_assert_eq!(scheduler.len(), model.values().map(VecDeque::len).sum::<usize>());
                prop_assert_eq!(scheduler.busy(), model.values().filter(|queue| !queue.is_empty()).count());
                prop_assert_eq!(scheduler.queued(id), model.get(&id).map_or(0, VecDeque::len));
            }
        }
    }
}
