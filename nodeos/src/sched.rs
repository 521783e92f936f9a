//! Events of teams: a bounded queue for each, served by share of the work done (stride scheduling).
//!
//! Teams form a tree. The members of a team are its own events and its children; the time that the team gets
//! is divided among those of them that have something to do, in proportion to their shares. Every member
//! has a pass value that grows by the units of work it used, divided by its shares. Whoever has the lowest
//! pass among the busy members is next, so over time members that are always busy get work in proportion
//! to their shares, and nobody saves up while idle: who becomes busy starts no lower than where the others
//! are, less an allowance ([`set_allowance`](Scheduler::set_allowance)): a member that uses little goes before
//! all that are new or use much, so that it waits for one event and not for one of each of them. `next`, `used` and `push` take O(log n) of the busy members on each level and do not allocate once
//! the queues have grown; a team without children costs nothing but its own level.
//!
//! What waits in a team's children waits in the team as well: a queue's limit bounds the whole subtree.
//!
//! The units are whatever is shared: work of a processor, or bytes of a link.
//!
//! ```
//! # use nodeos::{sched::{Scheduler, Shares}, slab::Slab, team::TeamId};
//! # let team = TeamId(Slab::new(1).insert(()).unwrap());
//! let mut scheduler = Scheduler::new();
//! scheduler.add(team, None, Shares::default(), 64);
//! scheduler.push(team, "capsule").unwrap();
//! while let Some((team, event)) = scheduler.next() {
//!     // Handle the event, and then:
//!     scheduler.used(team, 1200);
//! }
//! ```

use crate::team::TeamId;
use alloc::boxed::Box;
use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

/// One unit of work of a member with one share, in units of pass.
const STRIDE: u128 = 1 << 32;

/// What a team weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Beside the other members of its parent.
    pub among: u32,
    /// Its own events beside its children.
    pub own: u32,
}

impl Default for Shares {
    fn default() -> Self {
        Self { among: 100, own: 100 }
    }
}

/// Queues of events, and who is next.
pub struct Scheduler<E> {
    /// By index of the team's handle.
    teams: Vec<Option<Entry<E>>>,
    /// The teams without a parent.
    top: Group,
    turn: u64,
    waiting: usize,
    allowance: u64,
}

struct Entry<E> {
    id: TeamId,
    parent: Option<TeamId>,
    queue: VecDeque<E>,
    limit: usize,
    /// Events in the queue and in those of the teams below.
    pending: usize,
    /// As a member of its parent.
    member: Member,
    /// Shares of its own events.
    own: u32,
    /// Its members, once it has children.
    group: Option<Box<Group>>,
}

/// Whoever competes with others for its parent's time.
struct Member {
    shares: u32,
    pass: u128,
    /// It is among the group's busy.
    busy: bool,
}

/// The members of one team.
struct Group {
    /// By pass; an entry may be lower than the member's pass and is then put right when it is due. The
    /// number keeps members of equal pass in turn. `None` is the team's own queue.
    busy: BinaryHeap<Reverse<(u128, u64, Option<TeamId>)>>,
    /// The pass of whoever was served last: where the busy members are.
    at: u128,
    own: Member,
    children: u32,
}

/// An event was not queued. It comes back in the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError<E> {
    /// The team, or one above it, has as many waiting as it may.
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

impl Member {
    const fn new(shares: u32, pass: u128) -> Self {
        Self { shares: if shares == 0 { 1 } else { shares }, pass, busy: false }
    }

    /// No event is free: 0 units count as 1.
    fn used(&mut self, units: u64) {
        self.pass = self.pass.saturating_add(self.pass_of(units.max(1)));
    }

    /// Whether it was idle and now joins the busy; then its place among them: no lower than `at`, less what
    /// `allowance` units are for it.
    fn wake(&mut self, at: u128, allowance: u64) -> Option<u128> {
        if self.busy {
            return None;
        }
        self.busy = true;
        if self.pass < at {
            self.pass = self.pass.max(at.saturating_sub(self.pass_of(allowance)));
        }
        Some(self.pass)
    }

    /// By how much so many units move its pass.
    fn pass_of(&self, units: u64) -> u128 {
        u128::from(units) * STRIDE / u128::from(self.shares)
    }
}

impl Group {
    const fn new(own: u32) -> Self {
        Self { busy: BinaryHeap::new(), at: 0, own: Member::new(own, 0), children: 0 }
    }
}

impl<E> Scheduler<E> {
    /// A scheduler without teams.
    pub const fn new() -> Self {
        Self { teams: Vec::new(), top: Group::new(1), turn: 0, waiting: 0, allowance: 0 }
    }

    /// Lets members that were idle go before those that were not, until they have used `units` more than
    /// their part: about what the longest event takes. Who is new comes as much later than they. In the long run
    /// nobody gets more for it.
    pub const fn set_allowance(&mut self, units: u64) {
        self.allowance = units;
    }

    /// Admits a team with these shares and room for `queue` waiting events, as a member of `parent`, or
    /// beside those that have none. A team that is there already starts anew, without events.
    pub fn add(&mut self, team: TeamId, parent: Option<TeamId>, shares: Shares, queue: usize) {
        let index = team.0.index();
        if let Some(Some(old)) = self.teams.get(index) {
            self.remove(old.id);
        }
        if self.teams.len() <= index {
            self.teams.resize_with(index + 1, || None);
        }
        let parent = parent.filter(|p| *p != team && entry(&mut self.teams, *p).is_some());
        if let Some(above) = parent {
            self.open_group(above);
        }
        let allowance = self.allowance;
        let group = self.group(parent);
        group.children += 1;
        // Its first event counts as if it had been had already: whoever comes again and again under other names
        // gets no more events for it.
        let mut member = Member::new(shares.among, group.at);
        member.pass = member.pass.saturating_add(member.pass_of(allowance));
        let own = shares.own;
        let (queue, limit) = (VecDeque::new(), queue);
        self.teams[index] =
            Some(Entry { id: team, parent, queue, limit, pending: 0, member, own, group: None });
    }

    /// Gives a team other shares; what it has used so far counts as it did.
    pub fn set_shares(&mut self, team: TeamId, shares: Shares) {
        let Some(entry) = entry(&mut self.teams, team) else { return };
        entry.member.shares = shares.among.max(1);
        entry.own = shares.own;
        if let Some(group) = &mut entry.group {
            group.own.shares = shares.own.max(1);
        }
    }

    /// Queues an event for `team`.
    pub fn push(&mut self, team: TeamId, event: E) -> Result<(), PushError<E>> {
        if look(&self.teams, team).is_some() && !self.has_room(team) {
            return Err(PushError::Full(event));
        }
        self.push_always(team, event)
    }

    /// Queues an event that must not be lost, whatever the limits.
    pub fn push_always(&mut self, team: TeamId, event: E) -> Result<(), PushError<E>> {
        self.put(team, event, VecDeque::push_back)
    }

    /// Puts back what [`next`](Self::next) gave: it is the team's next again, whatever the queue's limit.
    pub fn put_back(&mut self, team: TeamId, event: E) -> Result<(), PushError<E>> {
        self.put(team, event, VecDeque::push_front)
    }

    fn put(&mut self, team: TeamId, event: E, how: fn(&mut VecDeque<E>, E)) -> Result<(), PushError<E>> {
        let Some(entry) = entry(&mut self.teams, team) else { return Err(PushError::NoTeam(event)) };
        how(&mut entry.queue, event);
        self.waiting += 1;
        self.wake(team);
        Ok(())
    }

    /// A team has one more event.
    fn wake(&mut self, team: TeamId) {
        self.turn += 1;
        let (turn, allowance) = (self.turn, self.allowance);
        if let Some(group) = entry(&mut self.teams, team).and_then(|entry| entry.group.as_mut())
            && let Some(pass) = group.own.wake(group.at, allowance)
        {
            group.busy.push(Reverse((pass, turn, None)));
        }
        self.climb(team, |entry, group| {
            entry.pending += 1;
            if let Some(pass) = entry.member.wake(group.at, allowance) {
                group.busy.push(Reverse((pass, turn, Some(entry.id))));
            }
        });
    }

    /// Whether `team`, and all above it, have room for one more event.
    pub fn has_room(&self, team: TeamId) -> bool {
        let mut at = Some(team);
        while let Some(team) = at {
            let Some(entry) = look(&self.teams, team) else { return false };
            if entry.pending >= entry.limit {
                return false;
            }
            at = entry.parent;
        }
        true
    }

    /// The next event, and whose it is. After it was handled call [`used`](Self::used).
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would borrow the scheduler between events"
    )]
    pub fn next(&mut self) -> Option<(TeamId, E)> {
        if self.waiting == 0 {
            return None;
        }
        let mut above = None;
        let team = loop {
            self.turn += 1;
            let turn = self.turn;
            match self.pick(above, turn)? {
                // The team's own queue, or a team that has no other.
                (team, false) => break team,
                (team, true) => above = Some(team),
            }
        };
        let entry = entry(&mut self.teams, team)?;
        let event = entry.queue.pop_front()?;
        let more = !entry.queue.is_empty();
        self.turn += 1;
        let turn = self.turn;
        if let Some(group) = &mut entry.group {
            group.own.busy = more;
            if more {
                group.busy.push(Reverse((group.own.pass, turn, None)));
            }
        }
        self.climb(team, |entry, group| {
            entry.pending -= 1;
            entry.member.busy = entry.pending > 0;
            if entry.member.busy {
                group.busy.push(Reverse((entry.member.pass, turn, Some(entry.id))));
            }
        });
        self.waiting -= 1;
        Some((team, event))
    }

    /// Takes the member that is due out of a team's group (or the top one): whose it is, and whether there
    /// is a group to look into.
    fn pick(&mut self, above: Option<TeamId>, turn: u64) -> Option<(TeamId, bool)> {
        loop {
            let Reverse((pass, _, which)) = self.group(above).busy.pop()?;
            let (due, idle) = match which {
                Some(team) => {
                    let Some(entry) = entry(&mut self.teams, team) else { continue };
                    entry.member.busy = entry.pending > 0;
                    (entry.member.pass, entry.pending == 0)
                }
                None => {
                    let entry = entry(&mut self.teams, above?)?;
                    let group = entry.group.as_mut()?;
                    group.own.busy = !entry.queue.is_empty();
                    (group.own.pass, entry.queue.is_empty())
                }
            };
            if idle {
                continue;
            }
            let group = self.group(above);
            if due > pass {
                group.busy.push(Reverse((due, turn, which)));
                continue;
            }
            group.at = group.at.max(due);
            return match which {
                Some(team) => Some((team, look(&self.teams, team)?.group.is_some())),
                None => Some((above?, false)),
            };
        }
    }

    /// Notes that `team` has used `units` of work.
    pub fn used(&mut self, team: TeamId, units: u64) {
        if let Some(group) = entry(&mut self.teams, team).and_then(|e| e.group.as_mut()) {
            group.own.used(units);
        }
        self.climb(team, |entry, _| entry.member.used(units));
    }

    /// Removes a team, and those below it if they are still there. Returns the events that still waited for
    /// the team itself.
    pub fn remove(&mut self, team: TeamId) -> VecDeque<E> {
        while let Some(below) = self.any_below(team) {
            self.remove(below);
        }
        let Some(entry) = look(&self.teams, team) else { return VecDeque::new() };
        let (parent, gone) = (entry.parent, entry.queue.len());
        self.climb(team, |entry, _| entry.pending -= gone);
        let group = self.group(parent);
        group.busy.retain(|Reverse((_, _, id))| *id != Some(team));
        group.children -= 1;
        if group.children == 0
            && let Some(above) = parent
        {
            self.close_group(above);
        }
        self.waiting -= gone;
        self.teams[team.0.index()].take().map(|entry| entry.queue).unwrap_or_default()
    }

    fn any_below(&self, team: TeamId) -> Option<TeamId> {
        look(&self.teams, team)?.group.as_ref()?;
        self.teams.iter().flatten().find(|entry| entry.parent == Some(team)).map(|entry| entry.id)
    }

    /// How many events wait for `team`, not counting those below it.
    pub fn queued(&self, team: TeamId) -> usize {
        look(&self.teams, team).map_or(0, |entry| entry.queue.len())
    }

    /// How many teams have events of their own.
    pub fn busy(&self) -> usize {
        self.teams.iter().flatten().filter(|entry| !entry.queue.is_empty()).count()
    }

    /// How many events wait in all.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    fn group(&mut self, of: Option<TeamId>) -> &mut Group {
        let group = of.and_then(|team| entry(&mut self.teams, team)).and_then(|e| e.group.as_deref_mut());
        group.unwrap_or(&mut self.top)
    }

    /// A team got its first child: its own events now compete with others.
    fn open_group(&mut self, team: TeamId) {
        self.turn += 1;
        let turn = self.turn;
        let Some(entry) = entry(&mut self.teams, team).filter(|e| e.group.is_none()) else { return };
        let mut group = Group::new(entry.own);
        if !entry.queue.is_empty() {
            group.own.busy = true;
            group.busy.push(Reverse((0, turn, None)));
        }
        entry.group = Some(Box::new(group));
    }

    /// A team's last child has gone.
    fn close_group(&mut self, team: TeamId) {
        if let Some(entry) = entry(&mut self.teams, team) {
            entry.group = None;
        }
    }

    /// Visits a team and all above it, each with the group that it is a member of.
    fn climb(&mut self, team: TeamId, mut visit: impl FnMut(&mut Entry<E>, &mut Group)) {
        let mut at = Some(team);
        while let Some(id) = at {
            let Some(parent) = look(&self.teams, id).map(|entry| entry.parent) else { return };
            let Some(above) = parent else {
                if let Some(entry) = entry(&mut self.teams, id) {
                    visit(entry, &mut self.top);
                }
                return;
            };
            let pair = self.teams.get_disjoint_mut([id.0.index(), above.0.index()]);
            let Ok([Some(entry), Some(Entry { group: Some(group), .. })]) = pair else { return };
            visit(entry, group);
            at = parent;
        }
    }
}

impl<E> Default for Scheduler<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> fmt::Debug for Scheduler<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scheduler({} waiting, {} members busy)", self.waiting, self.top.busy.len())
    }
}

fn entry<E>(teams: &mut [Option<Entry<E>>], team: TeamId) -> Option<&mut Entry<E>> {
    teams.get_mut(team.0.index())?.as_mut().filter(|entry| entry.id == team)
}

fn look<E>(teams: &[Option<Entry<E>>], team: TeamId) -> Option<&Entry<E>> {
    teams.get(team.0.index())?.as_ref().filter(|entry| entry.id == team)
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

    fn among(among: u32) -> Shares {
        Shares { among, own: 1 }
    }

    /// Runs always-busy teams for `rounds` events; returns the units that each used.
    fn run(shares: &[u32], costs: impl Fn(usize, u64) -> u64, rounds: u64) -> Vec<u64> {
        let ids = teams(shares.len());
        let mut scheduler = Scheduler::new();
        for (id, shares) in ids.iter().zip(shares) {
            scheduler.add(*id, None, among(*shares), 2);
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

    /// A chain of four teams, each with an idle brother and with work of its own: every level divides what
    /// it gets by the shares of those that are busy.
    #[test]
    fn a_tree_divides_level_by_level() {
        let ids = teams(9);
        let mut scheduler = Scheduler::new();
        let mut above = None;
        for level in 0..4 {
            let (team, brother) = (ids[2 * level], ids[2 * level + 1]);
            scheduler.add(team, above, Shares { among: 300, own: 100 }, 100);
            scheduler.add(brother, above, Shares { among: 500, own: 1 }, 100);
            above = Some(team);
        }
        // On top a competitor of one part to the chain's three.
        let rival = ids[8];
        scheduler.add(rival, None, among(100), 100);
        let busy = [ids[0], ids[2], ids[4], ids[6], rival];
        for id in busy {
            scheduler.push(id, ()).unwrap();
        }
        let mut used: HashMap<TeamId, u64> = HashMap::new();
        for round in 0..40_000u64 {
            let (id, ()) = scheduler.next().unwrap();
            scheduler.push(id, ()).unwrap();
            let units = 100 + round * 7919 % 900;
            *used.entry(id).or_default() += units;
            scheduler.used(id, units);
        }
        let sum: u64 = used.values().sum();
        // The chain has 3 of 4 parts; in it every team but the last keeps 1 of 4.
        let chain = 0.75f64;
        let parts =
            [chain / 4.0, chain * 0.75 / 4.0, chain * 0.75 * 0.75 / 4.0, chain * 0.75f64.powi(3), 0.25];
        for (id, part) in busy.iter().zip(parts) {
            let got = used[id] as f64 / sum as f64;
            assert!((got / part - 1.0).abs() < 0.02, "{id}: {got}, {part} is its due");
        }
    }

    #[test]
    fn what_waits_below_waits_above() {
        let ids = teams(3);
        let mut scheduler = Scheduler::new();
        scheduler.add(ids[0], None, Shares::default(), 3);
        scheduler.add(ids[1], Some(ids[0]), Shares::default(), 9);
        scheduler.add(ids[2], Some(ids[1]), Shares::default(), 9);
        scheduler.push(ids[0], 'a').unwrap();
        scheduler.push(ids[1], 'b').unwrap();
        scheduler.push(ids[2], 'c').unwrap();
        assert_eq!(scheduler.push(ids[2], 'd'), Err(PushError::Full('d')));
        assert!(!scheduler.has_room(ids[1]));
        scheduler.push_always(ids[2], 'd').unwrap();
        // Those below go along, with what waited for them.
        assert_eq!(scheduler.remove(ids[1]), ['b']);
        assert_eq!((scheduler.len(), scheduler.queued(ids[2])), (1, 0));
        scheduler.push(ids[0], 'e').unwrap();
        let order: Vec<char> = core::iter::from_fn(|| scheduler.next().map(|(_, event)| event)).collect();
        assert_eq!(order, ['a', 'e']);
    }

    #[test]
    fn the_idle_save_nothing_up() {
        let ids = teams(2);
        let mut scheduler = Scheduler::new();
        for id in &ids {
            scheduler.add(*id, None, among(100), 2000);
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
        scheduler.add(ids[0], None, among(1), 10);
        for _ in 0..5 {
            scheduler.push(ids[0], ()).unwrap();
        }
        for _ in 0..3 {
            let (id, ()) = scheduler.next().unwrap();
            scheduler.used(id, u64::MAX);
        }
        scheduler.add(ids[1], None, among(1), 10);
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

    /// A light member that wakes is next, before newcomers that were there first and before those that always
    /// have something to do; what it may be ahead is bounded.
    #[test]
    fn who_uses_little_waits_for_one_event() {
        let ids = teams(12);
        let mut scheduler = Scheduler::new();
        scheduler.set_allowance(1000);
        let (light, hog) = (ids[0], ids[1]);
        scheduler.add(light, None, among(100), 100);
        scheduler.add(hog, None, among(100), 100);
        let serve = |scheduler: &mut Scheduler<()>, units: &dyn Fn(TeamId) -> u64| {
            let (id, ()) = scheduler.next().unwrap();
            scheduler.used(id, units(id));
            id
        };
        let cost = |id: TeamId| if id == light { 10 } else { 1000 };
        for _ in 0..100 {
            scheduler.push(hog, ()).unwrap();
        }
        // The light one was new once, too.
        for _ in 0..4 {
            assert_eq!(serve(&mut scheduler, &cost), hog);
        }
        for newcomers in ids[2..].chunks(5) {
            for id in newcomers {
                scheduler.add(*id, None, among(100), 1);
                scheduler.push(*id, ()).unwrap();
            }
            for _ in 0..6 {
                assert_ne!(serve(&mut scheduler, &cost), light);
                scheduler.push(light, ()).unwrap();
                assert_eq!(serve(&mut scheduler, &cost), light);
            }
        }
        // Those that come under new names and go after one event do not get ahead, however long that goes on.
        let mut served = 0;
        for round in 0..2000 {
            let id = ids[2 + round % 10];
            scheduler.add(id, None, among(100), 1);
            scheduler.push(id, ()).unwrap();
            scheduler.push(light, ()).unwrap();
            assert_eq!(serve(&mut scheduler, &cost), light);
            served += usize::from(serve(&mut scheduler, &cost) != light);
            scheduler.remove(id);
            if scheduler.queued(hog) == 0 {
                scheduler.push(hog, ()).unwrap();
            }
        }
        assert_eq!(served, 2000);
        // Once it wants all that it can get it is ahead by the allowance and no more.
        for _ in 0..80 {
            scheduler.push(light, ()).unwrap();
            scheduler.push(hog, ()).unwrap();
        }
        let first = (0..80).map(|_| serve(&mut scheduler, &|_| 1000)).filter(|id| *id == light).count();
        assert!((40..=42).contains(&first), "{first}");
    }

    #[test]
    fn queues_are_bounded_and_ended_teams_are_forgotten() {
        let ids = teams(2);
        let mut scheduler = Scheduler::new();
        scheduler.add(ids[0], None, among(1), 2);
        assert_eq!(scheduler.push(ids[1], 'x'), Err(PushError::NoTeam('x')));
        scheduler.push(ids[0], 'a').unwrap();
        scheduler.push(ids[0], 'b').unwrap();
        assert_eq!(scheduler.push(ids[0], 'c'), Err(PushError::Full('c')));
        assert_eq!(scheduler.remove(ids[0]), ['a', 'b']);
        assert!(scheduler.remove(ids[0]).is_empty());
        assert_eq!((scheduler.len(), scheduler.next()), (0, None));
        for _ in 0..1000 {
            scheduler.add(ids[1], None, among(1), 1);
            scheduler.push(ids[1], 'y').unwrap();
        }
        assert!(scheduler.top.busy.len() <= 1, "entries of removed teams do not pile up");
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

        /// In any tree, members that are always busy get work by their shares: every team's part is what
        /// its ancestors leave it.
        #[test]
        fn work_follows_the_tree(
            parents in proptest::collection::vec(any::<prop::sample::Index>(), 1..7),
            shares in proptest::collection::vec((1u32..20, 1u32..20), 8),
            seed in any::<u64>(),
        ) {
            let n = parents.len() + 1;
            let ids = teams(n);
            let mut scheduler = Scheduler::new();
            // The parent of each team is one before it; the first has none.
            let above: Vec<Option<usize>> =
                core::iter::once(None).chain(parents.iter().enumerate().map(|(at, p)| Some(p.index(at + 1)))).collect();
            for at in 0..n {
                let (among, own) = shares[at];
                scheduler.add(ids[at], above[at].map(|p| ids[p]), Shares { among, own }, 99);
                scheduler.push(ids[at], ()).unwrap();
            }
            let mut part = std::vec![1.0f64; n];
            for at in 0..n {
                let siblings = |p: usize| (0..n).filter(|c| above[*c] == Some(p)).map(|c| shares[c].0).sum::<u32>();
                if let Some(p) = above[at] {
                    // What the parent was left for all of its members, itself included.
                    part[at] = part[p] * f64::from(shares[at].0) / f64::from(shares[p].1 + siblings(p));
                }
            }
            let own = |at: usize| {
                let children = (0..n).filter(|c| above[*c] == Some(at)).map(|c| shares[c].0).sum::<u32>();
                if children == 0 { part[at] } else { part[at] * f64::from(shares[at].1) / f64::from(shares[at].1 + children) }
            };
            let mut used = std::vec![0u64; n];
            for round in 0..60_000u64 {
                let (id, ()) = scheduler.next().unwrap();
                scheduler.push(id, ()).unwrap();
                let units = 1 + (seed ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1000;
                used[id.0.index()] += units;
                scheduler.used(id, units);
            }
            let sum: u64 = used.iter().sum();
            for (at, used) in used.into_iter().enumerate() {
                let error = used as f64 - own(at) * sum as f64;
                // A few of the costliest events on each level.
                prop_assert!(error.abs() < 1000.0 * 2.0 * n as f64, "{at}: {error} of {sum}, tree {above:?} {shares:?}");
            }
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
                        scheduler.add(id, None, among(1 + team as u32), 4);
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
