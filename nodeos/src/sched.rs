//! Events of teams: a bounded queue for each, served by share of the work done (stride scheduling).
//!
//! Teams form a tree. The members of a team are its own events and its children; the time that the team gets
//! is divided among those of them that have something to do, in proportion to their shares. Every member
//! has a pass value that grows by the units of work it used, divided by its shares. Whoever has the lowest
//! pass among the busy members is next, so over time members that are always busy get work in proportion
//! to their shares, and nobody saves up while idle: who becomes busy starts no lower than where the others
//! are, less an allowance ([`set_allowance`](Scheduler::set_allowance)): a member that uses little goes before
//! all that are new or use much, so that it waits for one event and not for one of each of them. `next`, `used` and `push` take O(log n) of the busy members on each level and do not allocate once
//! the queues have grown (a queue that was long gives its room back when it is empty); a team without children costs nothing but its own level.
//!
//! What waits in a team's children waits in the team as well: a queue's limit bounds the whole subtree. A team that is
//! held back ([`Scheduler::hold`]) keeps its events, and those of its children run on.
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

use crate::account::{Account, Charge, Refused};
use crate::slab::pay_for_move;
use crate::team::TeamId;
use alloc::boxed::Box;
use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;
use core::mem::size_of;

/// Slots that an empty queue keeps.
const KEPT: usize = 64;
/// One unit of work of a member with one share, in units of pass. A member with as many shares as may be still moves by
/// more than 60,000 for each, so that dividing once, when it gets its shares, is exact enough.
const STRIDE: u64 = 1 << 48;

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
    /// Teams with events of their own that may run.
    busy: usize,
    allowance: u64,
    /// Somebody asks for the longest queue now and then.
    measured: bool,
}

struct Entry<E> {
    id: TeamId,
    parent: Option<TeamId>,
    queue: VecDeque<E>,
    /// For the queue's slots, where the team pays for them.
    slots: Option<Charge>,
    limit: usize,
    /// Events in the queue and in those of the teams below.
    pending: usize,
    /// Of these: those of teams that are not held back.
    ready: usize,
    /// Its own events do not run for now.
    held: bool,
    /// As a member of its parent.
    member: Member,
    /// Shares of its own events.
    own: u32,
    /// Its members, once it has children.
    group: Option<Box<Group>>,
}

/// Whoever competes with others for its parent's time.
struct Member {
    /// By how much a unit of work moves its pass.
    stride: u64,
    pass: u128,
    /// It is among the group's busy.
    busy: bool,
    /// What its newest entry in the group's [`Lengths`] says, since it last began to be busy.
    listed: u32,
}

/// Who of a group has how many waiting. A member's newest entry may say more than there are, and is put right when it
/// comes to the top; it never says less. Older ones are dropped there.
type Lengths = BinaryHeap<(u32, Option<TeamId>)>;

/// When there are so many entries of [`Lengths`] beside two for each busy member, they are made anew.
const REPLACED: usize = 64;

/// The members of one team.
struct Group {
    /// By pass; an entry may be lower than the member's pass and is then put right when it is due. The
    /// number keeps members of equal pass in turn. `None` is the team's own queue.
    busy: BinaryHeap<Reverse<(u128, u64, Option<TeamId>)>>,
    /// The pass of whoever was served last: where the busy members are.
    at: u128,
    own: Member,
    children: u32,
    /// Since it was asked for the longest, for as long as that does not become too much.
    lengths: Option<Lengths>,
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
        Self { stride: stride(shares), pass, busy: false, listed: 0 }
    }

    /// No event is free: 0 units count as 1.
    #[inline]
    fn used(&mut self, units: u64) {
        self.pass = self.pass.saturating_add(self.pass_of(units.max(1)));
    }

    /// It had nothing to do, and now has: it starts no lower than `at`, less what `allowance` units are for it. Its
    /// new place among the busy, unless it has an old one there yet.
    fn wake(&mut self, at: u128, allowance: u64) -> Option<u128> {
        if self.pass < at {
            self.pass = self.pass.max(at.saturating_sub(self.pass_of(allowance)));
        }
        (!core::mem::replace(&mut self.busy, true)).then_some(self.pass)
    }

    /// So many wait for it now, which is one of so many busy ones; it was idle before, or not.
    #[inline]
    fn list(
        &mut self,
        lengths: &mut Option<Lengths>,
        busy: usize,
        (waiting, was_idle): (usize, bool),
        which: Option<TeamId>,
    ) {
        let Some(list) = lengths else { return };
        let waiting = number(waiting);
        if was_idle || waiting > self.listed {
            self.listed = waiting;
            list.push((waiting, which));
            if list.len() > 2 * busy + REPLACED {
                *lengths = None;
            }
        }
    }

    /// By how much so many units move its pass.
    #[inline]
    fn pass_of(&self, units: u64) -> u128 {
        u128::from(units) * u128::from(self.stride)
    }
}

/// By how much a unit of work moves the pass of a member with so many shares; none are one.
const fn stride(shares: u32) -> u64 {
    STRIDE / if shares == 0 { 1 } else { shares as u64 }
}

impl<E> Entry<E> {
    /// Sees to it that the queue has a slot free.
    #[inline]
    fn make_slot(&mut self) -> Result<(), Refused> {
        if self.queue.len() < self.queue.capacity() { Ok(()) } else { self.grow() }
    }

    #[cold]
    fn grow(&mut self) -> Result<(), Refused> {
        let there = self.queue.len();
        let (more, queue) = (there.max(4), &mut self.queue);
        let bytes = Scheduler::<E>::slot_bytes;
        pay_for_move(&mut self.slots, bytes(there), bytes(there + more), || queue.reserve_exact(more))
    }

    /// After a rush the queue is as small as before. Slots that nobody pays for are not kept at all.
    fn give_slots_back(&mut self) {
        let kept = if self.slots.is_some() { KEPT } else { 0 };
        if self.queue.capacity() > kept {
            self.queue = VecDeque::new();
            self.slots.iter_mut().for_each(|slots| slots.shrink(u64::MAX));
        }
    }
}

impl Group {
    const fn new(own: u32) -> Self {
        Self { busy: BinaryHeap::new(), at: 0, own: Member::new(own, 0), children: 0, lengths: None }
    }

    /// The first of the busy was served: it stays among them, behind its equals, or goes.
    #[inline]
    fn served(&mut self, stays: bool, turn: u64) {
        if !stays {
            self.busy.pop();
        } else if self.busy.len() > 1
            && let Some(mut first) = self.busy.peek_mut()
        {
            first.0.1 = turn;
        }
    }
}

impl<E> Scheduler<E> {
    /// The bytes that a team takes here, without its events.
    pub(crate) const TEAM_BYTES: usize =
        size_of::<Option<Entry<E>>>() + size_of::<Group>() + 4 * size_of::<(u32, Option<TeamId>)>();

    /// A scheduler without teams.
    pub const fn new() -> Self {
        Self {
            teams: Vec::new(),
            top: Group::new(1),
            turn: 0,
            waiting: 0,
            busy: 0,
            allowance: 0,
            measured: false,
        }
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
        self.teams[index] = Some(Entry {
            id: team,
            parent,
            queue: VecDeque::new(),
            slots: None,
            limit: queue,
            pending: 0,
            ready: 0,
            held: false,
            member,
            own,
            group: None,
        });
    }

    /// From now on the slots of a team's queue are charged to `account` before they are made. Where that has too
    /// little left the queue is full; what must not be lost takes a slot in spite of that.
    pub fn charge_queue(&mut self, team: TeamId, account: &Account) -> Result<(), Refused> {
        if let Some(entry) = entry(&mut self.teams, team) {
            entry.slots = Some(account.charge(Self::slot_bytes(entry.queue.capacity()) as u64)?);
        }
        Ok(())
    }

    /// What so many slots of a queue take.
    pub const fn slot_bytes(slots: usize) -> usize {
        slots * size_of::<E>()
    }

    /// Gives a team other shares; what it has used so far counts as it did.
    pub fn set_shares(&mut self, team: TeamId, shares: Shares) {
        let Some(entry) = entry(&mut self.teams, team) else { return };
        entry.member.stride = stride(shares.among);
        entry.own = shares.own;
        if let Some(group) = &mut entry.group {
            group.own.stride = stride(shares.own);
        }
    }

    /// Lets no more than so many events wait for a team and those below it; those that wait stay. Nothing is raised.
    pub fn lower_queue(&mut self, team: TeamId, queue: usize) {
        if let Some(entry) = entry(&mut self.teams, team) {
            entry.limit = entry.limit.min(queue);
        }
    }

    /// Queues an event for `team`.
    pub fn push(&mut self, team: TeamId, event: E) -> Result<(), PushError<E>> {
        self.push_within(team, usize::MAX, event)
    }

    /// The same where the team itself may have no more than `own` waiting.
    #[inline]
    pub fn push_within(&mut self, team: TeamId, own: usize, event: E) -> Result<(), PushError<E>> {
        // One more of many, with nobody above: nothing changes but numbers.
        if let Some(entry) = entry(&mut self.teams, team)
            && entry.parent.is_none()
            && !entry.held
            && !entry.queue.is_empty()
            && entry.queue.len() < entry.queue.capacity().min(own)
            && entry.pending < entry.limit
            && !self.measured
        {
            entry.queue.push_back(event);
            entry.pending += 1;
            entry.ready += 1;
            self.waiting += 1;
            return Ok(());
        }
        self.push_anywhere(team, own, event)
    }

    #[inline(never)]
    fn push_anywhere(&mut self, team: TeamId, own: usize, event: E) -> Result<(), PushError<E>> {
        if self.queued(team) >= own || !self.has_room(team) {
            let known = look(&self.teams, team).is_some();
            return Err(if known { PushError::Full(event) } else { PushError::NoTeam(event) });
        }
        if entry(&mut self.teams, team).is_some_and(|entry| entry.make_slot().is_err()) {
            return Err(PushError::Full(event));
        }
        self.push_always(team, event)
    }

    /// Queues an event that must not be lost, whatever the limits.
    pub fn push_always(&mut self, team: TeamId, event: E) -> Result<(), PushError<E>> {
        self.put(team, event, false)
    }

    /// Puts back what [`next`](Self::next) gave: it is the team's next again, whatever the queue's limit.
    pub fn put_back(&mut self, team: TeamId, event: E) -> Result<(), PushError<E>> {
        self.put(team, event, true)
    }

    #[inline]
    fn put(&mut self, team: TeamId, event: E, in_front: bool) -> Result<(), PushError<E>> {
        let Some(entry) = entry(&mut self.teams, team) else { return Err(PushError::NoTeam(event)) };
        if entry.make_slot().is_err() {
            entry.queue.reserve_exact(1);
        }
        if in_front {
            entry.queue.push_front(event)
        } else {
            entry.queue.push_back(event)
        }
        let (first, ready) = (entry.queue.len() == 1, usize::from(!entry.held));
        self.waiting += 1;
        self.busy += if first { ready } else { 0 };
        self.rise(team, 1, ready, first);
        Ok(())
    }

    /// Holds a team's own events back, until [`release`](Self::release).
    pub fn hold(&mut self, team: TeamId) {
        let Some(entry) = entry(&mut self.teams, team).filter(|entry| !entry.held) else { return };
        entry.held = true;
        let waiting = entry.queue.len();
        self.busy -= usize::from(waiting > 0);
        // Whoever has nothing to do any more is left out when it is due.
        self.climb(team, |entry, _| entry.ready -= waiting);
    }

    /// Lets the events of a team run again that [`hold`](Self::hold) kept back.
    pub fn release(&mut self, team: TeamId) {
        let Some(entry) = entry(&mut self.teams, team).filter(|entry| entry.held) else { return };
        entry.held = false;
        let waiting = entry.queue.len();
        if waiting > 0 {
            self.busy += 1;
            self.rise(team, 0, waiting, true);
        }
    }

    /// A team has so many more events, and so many more that may run: the `first` of its own, or not.
    fn rise(&mut self, team: TeamId, pending: usize, ready: usize, first: bool) {
        self.turn += 1;
        let (turn, allowance) = (self.turn, self.allowance);
        if ready > 0
            && let Some(entry) = entry(&mut self.teams, team)
            && let Some(group) = &mut entry.group
        {
            let Group { busy, at, own, lengths, .. } = &mut **group;
            own.list(lengths, busy.len(), (entry.queue.len(), first), None);
            if first && let Some(pass) = own.wake(*at, allowance) {
                busy.push(Reverse((pass, turn, None)));
            }
        }
        self.climb(team, |entry, group| {
            entry.pending += pending;
            let idle = entry.ready == 0;
            entry.ready += ready;
            if ready > 0 {
                let (lengths, busy) = (&mut group.lengths, group.busy.len());
                entry.member.list(lengths, busy, (entry.ready, idle), Some(entry.id));
            }
            if ready > 0
                && idle
                && let Some(pass) = entry.member.wake(group.at, allowance)
            {
                group.busy.push(Reverse((pass, turn, Some(entry.id))));
            }
        });
    }

    /// Whether a team that has room for one more event has a slot for it, or can pay for one. In an empty queue there always
    /// is one: what is due finds its way also where the memory is used up, and the team can give some back.
    pub fn has_slot(&mut self, team: TeamId) -> bool {
        entry(&mut self.teams, team).is_some_and(|e| e.queue.is_empty() || e.make_slot().is_ok())
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
    #[inline]
    pub fn next(&mut self) -> Option<(TeamId, E)> {
        if self.waiting == 0 {
            return None;
        }
        // While one team alone has something to do, with nobody above or below it, only numbers change.
        if let [Reverse((_, _, Some(team)))] = *self.top.busy.as_slice()
            && let Some(entry) = entry(&mut self.teams, team)
            && entry.ready > 1
            && entry.group.is_none()
        {
            entry.pending -= 1;
            entry.ready -= 1;
            self.waiting -= 1;
            self.top.at = self.top.at.max(entry.member.pass);
            return entry.queue.pop_front().map(|event| (team, event));
        }
        self.next_of_many()
    }

    #[inline(never)]
    fn next_of_many(&mut self) -> Option<(TeamId, E)> {
        let mut above = None;
        let team = loop {
            match self.pick(above)? {
                // The team's own queue, or a team that has no other.
                (team, false) => break team,
                (team, true) => above = Some(team),
            }
        };
        let entry = entry(&mut self.teams, team)?;
        let event = entry.queue.pop_front()?;
        let more = !entry.queue.is_empty();
        if !more {
            entry.give_slots_back();
        }
        self.busy -= usize::from(!more);
        self.turn += 1;
        let turn = self.turn;
        if let Some(group) = &mut entry.group {
            group.own.busy = more;
            group.served(more, turn);
        }
        self.climb(team, |entry, group| {
            entry.pending -= 1;
            entry.ready -= 1;
            entry.member.busy = entry.ready > 0;
            group.served(entry.member.busy, turn);
        });
        self.waiting -= 1;
        Some((team, event))
    }

    /// Whose queue is the longest of those that may run.
    fn longest(&mut self) -> Option<TeamId> {
        self.measured = true;
        let mut above = None;
        loop {
            match self.longest_member(above)? {
                None => return above,
                Some(team) if look(&self.teams, team)?.group.is_none() => return Some(team),
                below => above = below,
            }
        }
    }

    /// Which member of a team's group, or of the top one, has the most waiting.
    fn longest_member(&mut self, above: Option<TeamId>) -> Option<Option<TeamId>> {
        let lengths = self.group(above).lengths.take();
        let mut lengths = lengths.unwrap_or_else(|| self.listed_anew(above));
        let mut longest = None;
        while let Some(&(says, which)) = lengths.peek() {
            let waiting = match self.waits(above, which) {
                // A newer one says what is right.
                Some((_, listed)) if *listed != says => None,
                Some((waiting, listed)) => {
                    *listed = waiting;
                    Some(waiting).filter(|waiting| *waiting > 0)
                }
                None => None,
            };
            match waiting {
                Some(waiting) if waiting == says => {
                    longest = Some(which);
                    break;
                }
                Some(waiting) => lengths.peek_mut().into_iter().for_each(|mut top| top.0 = waiting),
                None => drop(lengths.pop()),
            }
        }
        self.group(above).lengths = Some(lengths);
        longest
    }

    /// One entry for each member that has something waiting.
    #[cold]
    fn listed_anew(&mut self, above: Option<TeamId>) -> Lengths {
        // Whoever has something to do has a place among the busy; not all that have one have something to do.
        let busy: Vec<_> = self.group(above).busy.iter().map(|Reverse((.., which))| *which).collect();
        let list = |which| {
            let (waiting, listed) = self.waits(above, which)?;
            *listed = waiting;
            (waiting > 0).then_some((waiting, which))
        };
        busy.into_iter().filter_map(list).collect()
    }

    /// How many wait for a member of a group that may run, and what is listed.
    fn waits(&mut self, above: Option<TeamId>, which: Option<TeamId>) -> Option<(u32, &mut u32)> {
        if let Some(team) = which {
            let member = entry(&mut self.teams, team).filter(|member| member.parent == above)?;
            return Some((number(member.ready), &mut member.member.listed));
        }
        let entry = entry(&mut self.teams, above?)?;
        let waiting = if entry.held { 0 } else { number(entry.queue.len()) };
        Some((waiting, &mut entry.group.as_mut()?.own.listed))
    }

    /// Whether `team`'s queue is the one that [`push_out`](Self::push_out) takes from.
    pub fn is_longest(&mut self, team: TeamId) -> bool {
        self.longest() == Some(team)
    }

    /// Takes the newest event out of the longest queue of those that may run, and says whose it was.
    ///
    /// On each level of the tree that is the member with the most waiting, be it a team's own queue or a child with all
    /// below it. O(log n) of the members on each level, once it has been called.
    pub fn push_out(&mut self) -> Option<(TeamId, E)> {
        let team = self.longest()?;
        let entry = entry(&mut self.teams, team)?;
        let event = entry.queue.pop_back()?;
        if entry.queue.is_empty() {
            entry.give_slots_back();
            self.busy -= 1;
        }
        self.climb(team, |entry, _| {
            entry.pending -= 1;
            entry.ready -= 1;
        });
        self.waiting -= 1;
        Some((team, event))
    }

    /// Takes out of a team's own queue what `goes` says, wherever it stands there; in its order.
    pub fn withdraw(&mut self, team: TeamId, mut goes: impl FnMut(&E) -> bool) -> Vec<E> {
        let mut gone = Vec::new();
        let Some(entry) = entry(&mut self.teams, team) else { return gone };
        for _ in 0..entry.queue.len() {
            let Some(event) = entry.queue.pop_front() else { break };
            if goes(&event) {
                gone.push(event);
            } else {
                entry.queue.push_back(event);
            }
        }
        let taken = gone.len();
        let ready = if entry.held { 0 } else { taken };
        if taken > 0 && entry.queue.is_empty() {
            entry.give_slots_back();
            self.busy -= usize::from(ready > 0);
        }
        self.climb(team, |entry, _| {
            entry.pending -= taken;
            entry.ready -= ready;
        });
        self.waiting -= taken;
        gone
    }

    /// Puts the member of a team's group (or of the top one) in front that is due: whose it is, and whether there is a
    /// group to look into.
    fn pick(&mut self, above: Option<TeamId>) -> Option<(TeamId, bool)> {
        loop {
            let Reverse((pass, _, which)) = *self.group(above).busy.peek()?;
            let (due, ready) = match which {
                Some(team) => match entry(&mut self.teams, team) {
                    Some(entry) => {
                        entry.member.busy = entry.ready > 0;
                        (entry.member.pass, entry.member.busy)
                    }
                    None => (pass, false),
                },
                None => {
                    let entry = entry(&mut self.teams, above?)?;
                    let ready = !entry.held && !entry.queue.is_empty();
                    let group = entry.group.as_mut()?;
                    group.own.busy = ready;
                    (group.own.pass, ready)
                }
            };
            self.turn += 1;
            let turn = self.turn;
            let group = self.group(above);
            if !ready {
                group.busy.pop();
                continue;
            }
            if due > pass && group.busy.len() > 1 {
                // It has worked since, and goes where it is now.
                if let Some(mut first) = group.busy.peek_mut() {
                    (first.0.0, first.0.1) = (due, turn);
                }
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
    #[inline]
    pub fn used(&mut self, team: TeamId, units: u64) {
        // Most have nobody above or below them.
        if let Some(entry) = entry(&mut self.teams, team)
            && entry.parent.is_none()
            && entry.group.is_none()
        {
            return entry.member.used(units);
        }
        self.used_above(team, units);
    }

    #[inline(never)]
    fn used_above(&mut self, team: TeamId, units: u64) {
        self.climb(team, |entry, _| {
            if let Some(group) = &mut entry.group
                && entry.id == team
            {
                group.own.used(units);
            }
            entry.member.used(units);
        });
    }

    /// Removes a team, and those below it if they are still there. Returns the events that still waited for
    /// the team itself.
    pub fn remove(&mut self, team: TeamId) -> VecDeque<E> {
        while let Some(below) = self.any_below(team) {
            self.remove(below);
        }
        let Some(entry) = look(&self.teams, team) else { return VecDeque::new() };
        let (parent, gone) = (entry.parent, entry.queue.len());
        let ready = if entry.held { 0 } else { gone };
        self.busy -= usize::from(ready > 0);
        self.climb(team, |entry, _| {
            entry.pending -= gone;
            entry.ready -= ready;
        });
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

    /// How many events wait for a team and for those below it.
    pub fn pending(&self, team: TeamId) -> usize {
        look(&self.teams, team).map_or(0, |entry| entry.pending)
    }

    /// How many teams have events of their own that may run.
    pub fn busy(&self) -> usize {
        self.busy
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
        if !entry.held && !entry.queue.is_empty() {
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
            let Some(member) = entry(&mut self.teams, id) else { return };
            let parent = member.parent;
            let Some(above) = parent else { return visit(member, &mut self.top) };
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

fn number(waiting: usize) -> u32 {
    u32::try_from(waiting).unwrap_or(u32::MAX)
}

fn entry<E>(teams: &mut [Option<Entry<E>>], team: TeamId) -> Option<&mut Entry<E>> {
    teams.get_mut(team.0.index())?.as_mut().filter(|entry| entry.id == team)
}

fn look<E>(teams: &[Option<Entry<E>>], team: TeamId) -> Option<&Entry<E>> {
    teams.get(team.0.index())?.as_ref().filter(|entry| entry.id == team)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
