//! Frames that wait for a link, and whose is next: the link is shared by weight while teams compete.
//!
//! Every frame is some team's; the node's own are the root's. While only one team has frames here they stand in
//! one row, which costs next to nothing. When a second one comes, each has a row of its own, and the next frame
//! is chosen by stride scheduling over bytes down the tree of teams ([`crate::sched`]), until nothing waits.
//!
//! When there is no room for a frame, the longest row loses its newest one: on each level of the tree the team
//! with the most frames, with all below it. So of `n` teams that compete under one parent nobody loses a frame who
//! has less than an `n`th of the parent's room waiting, however much the others send and into however
//! many teams they divide it; and what a link can hold is never left empty while somebody has a use for it.

use crate::buf::Buf;
use crate::sched::{Scheduler, Shares};
use crate::team::{DEFAULT_SHARES, TeamId};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem::size_of;

/// Shares of the node's own frames beside the teams below the root. Its small ones (ARP, handshakes, questions)
/// hardly ever wait, as nobody's do who sends little; this is for its downloads, sessions and metrics,
/// which others ask for: as much as three flows have, so that neither side starves.
pub const NODE_SHARES: u32 = 3 * DEFAULT_SHARES;

/// Bytes that a shorter frame counts as: the shortest on an Ethernet, without its checksum (IEEE 802.3).
const SHORTEST: usize = 60;

/// What became of a frame that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits.
    Kept,
    /// It waits, and somebody else's newest is lost for it.
    Displaced,
    /// It is lost.
    Lost,
}

/// The frames that wait for one link.
pub(crate) struct Queue {
    limit: usize,
    /// Frames of `owner`, while nobody else has any.
    alone: VecDeque<Buf>,
    owner: TeamId,
    /// Everybody's, from then on, until none is left.
    shared: Scheduler<Buf>,
    /// Of these the next to go, which is paid for.
    next: Option<(TeamId, Buf)>,
    /// Frames lost, by index of the team's handle.
    dropped: Vec<Option<(TeamId, u64)>>,
}

impl Queue {
    /// The bytes that a team takes here, without its frames.
    pub(crate) const TEAM_BYTES: usize = Scheduler::<Buf>::TEAM_BYTES + size_of::<Option<(TeamId, u64)>>();

    /// Room for `limit` frames, of the node itself only.
    pub(crate) fn new(limit: usize) -> Self {
        let mut queue = Self {
            limit,
            alone: VecDeque::with_capacity(limit),
            owner: TeamId::ROOT,
            shared: Scheduler::new(),
            next: None,
            dropped: Vec::new(),
        };
        queue.add(TeamId::ROOT, None, Shares { among: NODE_SHARES, own: 1 });
        queue
    }

    /// Admits a team, as a member of `parent`, or beside the node's own frames.
    pub(crate) fn add(&mut self, team: TeamId, parent: Option<TeamId>, shares: Shares) {
        // The bound is the sum's, not the team's.
        self.shared.add(team, parent, shares, usize::MAX);
        let index = team.0.index();
        if self.dropped.len() <= index {
            self.dropped.resize(index + 1, None);
        }
        self.dropped[index] = Some((team, 0));
    }

    /// Gives a team other shares. The node itself keeps its own.
    pub(crate) fn set_shares(&mut self, team: TeamId, shares: Shares) {
        if team != TeamId::ROOT {
            self.shared.set_shares(team, shares);
        }
    }

    /// Forgets a team, after those below it. What waits of it is `heir`'s, or without one lost: how many frames.
    pub(crate) fn remove(&mut self, team: TeamId, heir: Option<TeamId>) -> usize {
        let (before, heir) = (self.len(), heir.map(|heir| self.known(heir)));
        if self.owner == team {
            match heir {
                Some(heir) => self.owner = heir,
                None => self.alone.clear(),
            }
        }
        let left = self.shared.remove(team);
        if let Some(heir) = heir {
            for frame in left {
                let _ = self.shared.push_always(heir, frame);
            }
        }
        if let Some((whose, _)) = &mut self.next
            && *whose == team
        {
            match heir {
                Some(heir) => *whose = heir,
                None => self.choose(),
            }
        }
        if self.lost(team).is_some() {
            self.dropped[team.0.index()] = None;
        }
        before - self.len()
    }

    /// Queues a frame.
    #[inline]
    pub(crate) fn push(&mut self, team: TeamId, frame: Buf) -> Pushed {
        if self.next.is_none() {
            if self.alone.is_empty() {
                self.owner = team;
            }
            if self.owner == team {
                if self.alone.len() < self.limit {
                    self.alone.push_back(frame);
                    return Pushed::Kept;
                }
                self.lose(self.known(team));
                return Pushed::Lost;
            }
        }
        self.push_shared(team, frame)
    }

    fn push_shared(&mut self, team: TeamId, frame: Buf) -> Pushed {
        let (owner, team) = (self.known(self.owner), self.known(team));
        // A known team takes what it is given.
        for frame in self.alone.drain(..) {
            let _ = self.shared.push_always(owner, frame);
        }
        let _ = self.shared.push_always(team, frame);
        if self.next.is_none() {
            self.choose();
        }
        if self.len() <= self.limit {
            return Pushed::Kept;
        }
        let loser = self.shared.push_out().map_or(team, |(loser, _)| loser);
        self.lose(loser);
        // Of its own row a frame that just came is the newest.
        if loser == team { Pushed::Lost } else { Pushed::Displaced }
    }

    /// The frame that goes next.
    #[inline]
    pub(crate) fn front(&self) -> Option<&Buf> {
        self.alone.front().or_else(|| Some(&self.next.as_ref()?.1))
    }

    /// Takes it.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Buf> {
        if let Some(frame) = self.alone.pop_front() {
            return Some(frame);
        }
        let (_, frame) = self.next.take()?;
        self.choose();
        Some(frame)
    }

    fn choose(&mut self) {
        self.next = self.shared.next();
        if let Some((team, frame)) = &self.next {
            self.shared.used(*team, frame.len().max(SHORTEST) as u64);
        }
    }

    /// How many wait.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.alone.len() + self.shared.len() + usize::from(self.next.is_some())
    }

    /// Whether a frame of `team` would not be lost at once.
    pub(crate) fn takes(&mut self, team: TeamId) -> bool {
        if self.len() < self.limit {
            return true;
        }
        if self.alone.is_empty() { !self.shared.is_longest(team) } else { self.owner != team }
    }

    /// How many frames a team has lost; `None` if it is not here.
    pub(crate) fn lost(&self, team: TeamId) -> Option<u64> {
        let (whose, count) = (*self.dropped.get(team.0.index())?)?;
        (whose == team).then_some(count)
    }

    fn lose(&mut self, team: TeamId) {
        if let Some(Some((_, count))) = self.dropped.get_mut(team.0.index()) {
            *count += 1;
        }
    }

    /// Who pays for a team's frames: itself, or the node if there is no such team.
    fn known(&self, team: TeamId) -> TeamId {
        if self.lost(team).is_some() { team } else { TeamId::ROOT }
    }
}

impl core::fmt::Debug for Queue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Queue({} of {})", self.len(), self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::BufPool;
    use crate::slab::Slab;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const FULL: usize = 64;

    /// Teams beside the root.
    fn teams(n: usize) -> Vec<TeamId> {
        let mut slab = Slab::new(n + 1);
        (0..=n).map(|_| TeamId(slab.insert(()).unwrap())).skip(1).collect()
    }

    fn shares(among: u32) -> Shares {
        Shares { among, own: 1000 }
    }

    /// A frame with a number in it.
    fn frame(pool: &BufPool, number: u64, len: usize) -> Buf {
        let mut frame = pool.take().unwrap();
        frame.set_len(len).unwrap();
        frame[..8].copy_from_slice(&number.to_le_bytes());
        frame
    }

    fn number(frame: &Buf) -> u64 {
        u64::from_le_bytes(frame[..8].try_into().unwrap())
    }

    /// Keeps so many frames of each team waiting and takes `frames` out; the bytes of each.
    fn backlogged(queue: &mut Queue, sizes: &[(TeamId, usize)], frames: usize) -> HashMap<TeamId, u64> {
        let pool = BufPool::new(512);
        let mut lens: HashMap<u64, (TeamId, usize)> = HashMap::new();
        let mut left: HashMap<TeamId, usize> = HashMap::new();
        let mut sent: HashMap<TeamId, u64> = HashMap::new();
        for count in 0..frames as u64 {
            for (at, (team, len)) in (0..).zip(sizes) {
                let waiting = left.entry(*team).or_default();
                while *waiting < 4 {
                    lens.insert(at, (*team, *len));
                    // Sizes that vary, with the team's own in the middle.
                    let len = len - 8 + (count * 7919 % 17) as usize;
                    assert_eq!(queue.push(*team, frame(&pool, at, len)), Pushed::Kept);
                    *waiting += 1;
                }
            }
            let frame = queue.pop().unwrap();
            let (team, _) = lens[&number(&frame)];
            *left.get_mut(&team).unwrap() -= 1;
            *sent.entry(team).or_default() += frame.len() as u64;
        }
        sent
    }

    #[test]
    fn backlogged_teams_get_bytes_by_their_shares() {
        for sizes in [[1400, 100], [100, 1400], [700, 700]] {
            let ids = teams(2);
            let mut queue = Queue::new(FULL);
            queue.add(ids[0], None, shares(100));
            queue.add(ids[1], None, shares(300));
            let sent = backlogged(&mut queue, &[(ids[0], sizes[0]), (ids[1], sizes[1])], 20_000);
            let ratio = sent[&ids[1]] as f64 / sent[&ids[0]] as f64;
            assert!((2.94..3.06).contains(&ratio), "{sizes:?}: {ratio}");
            // Turned round it is the other's.
            queue.set_shares(ids[0], shares(900));
            let pool = BufPool::new(1);
            while queue.pop().is_some() {}
            assert_eq!((queue.len(), pool.lent()), (0, 0));
            let sent = backlogged(&mut queue, &[(ids[0], sizes[0]), (ids[1], sizes[1])], 20_000);
            let ratio = sent[&ids[0]] as f64 / sent[&ids[1]] as f64;
            assert!((2.94..3.06).contains(&ratio), "{sizes:?}: {ratio}");
        }
    }

    #[test]
    fn the_node_itself_has_as_much_as_three_flows() {
        let id = teams(1)[0];
        let mut queue = Queue::new(FULL);
        queue.add(id, None, shares(DEFAULT_SHARES));
        queue.set_shares(TeamId::ROOT, shares(1));
        let sent = backlogged(&mut queue, &[(TeamId::ROOT, 300), (id, 1000)], 20_000);
        let ratio = sent[&TeamId::ROOT] as f64 / sent[&id] as f64;
        assert!((2.94..3.06).contains(&ratio), "{ratio}");
    }

    /// A chain of four teams, each of which sends itself, and one beside the uppermost: every level divides what it
    /// gets.
    #[test]
    fn a_link_is_divided_level_by_level() {
        let ids = teams(5);
        let mut queue = Queue::new(FULL);
        let mut above = None;
        for id in &ids[..4] {
            queue.add(*id, above, Shares { among: 300, own: 100 });
            above = Some(*id);
        }
        queue.add(ids[4], None, shares(100));
        let sizes = [(ids[0], 1400), (ids[1], 80), (ids[2], 900), (ids[3], 300), (ids[4], 600)];
        let sent = backlogged(&mut queue, &sizes, 60_000);
        let sum: u64 = sent.values().sum();
        let chain = 0.75f64;
        let parts = [chain / 4.0, chain * 0.75 / 4.0, chain * 0.5625 / 4.0, chain * 0.421_875, 0.25];
        for (id, part) in ids.iter().zip(parts) {
            let got = sent[id] as f64 / sum as f64;
            assert!((got / part - 1.0).abs() < 0.02, "{id}: {got}, {part} is its due");
        }
    }

    #[test]
    fn tiny_frames_are_no_way_to_more_frames() {
        let ids = teams(2);
        let mut queue = Queue::new(FULL);
        ids.iter().for_each(|id| queue.add(*id, None, shares(100)));
        let pool = BufPool::new(FULL);
        for _ in 0..30 {
            queue.push(ids[0], frame(&pool, 0, 20));
            queue.push(ids[1], frame(&pool, 1, SHORTEST));
        }
        let first: u64 = (0..20).map(|_| number(&queue.pop().unwrap())).sum();
        assert!((9..=11).contains(&first), "{first}");
    }

    #[test]
    fn who_has_less_than_his_part_loses_nothing() {
        let ids = teams(4);
        let pool = BufPool::new(FULL + 1);
        let mut queue = Queue::new(FULL);
        // The flooder divides itself into three teams; the victim and the node itself are the two others.
        queue.add(ids[0], None, shares(100));
        queue.add(ids[1], Some(ids[0]), shares(500));
        queue.add(ids[2], Some(ids[0]), shares(500));
        queue.add(ids[3], None, shares(100));
        let pushed = |queue: &mut Queue, team, times| {
            (0..times).filter(|n| queue.push(team, frame(&pool, *n, 1000)) != Pushed::Lost).count()
        };
        for id in [ids[0], ids[1], ids[2]] {
            pushed(&mut queue, id, 200);
        }
        assert_eq!(queue.len(), FULL);
        assert_eq!(pushed(&mut queue, ids[3], FULL as u64 / 3), FULL / 3);
        assert!(queue.takes(TeamId::ROOT));
        assert_eq!(pushed(&mut queue, TeamId::ROOT, FULL as u64 / 3), FULL / 3);
        for id in [ids[0], ids[1], ids[2]] {
            pushed(&mut queue, id, 200);
        }
        assert_eq!((queue.len(), queue.lost(ids[3]), queue.lost(TeamId::ROOT)), (FULL, Some(0), Some(0)));
        let flooded: u64 = ids[..3].iter().map(|id| queue.lost(*id).unwrap()).sum();
        assert_eq!(flooded as usize, 6 * 200 + 2 * (FULL / 3) - FULL);
        let lost: usize = ids.iter().rev().map(|id| queue.remove(*id, None)).sum();
        assert_eq!(lost, FULL - FULL / 3);
        assert_eq!(queue.len(), FULL / 3, "the node's own are left");
        assert_eq!((queue.lost(ids[3]), pool.lent()), (None, FULL / 3));
    }

    #[test]
    fn whoever_sends_little_does_not_wait_for_those_who_send_much() {
        let ids = teams(2);
        let pool = BufPool::new(2 * FULL);
        let mut queue = Queue::new(FULL);
        queue.add(ids[0], None, shares(1000));
        queue.add(ids[1], None, shares(10));
        for n in 0..100 {
            queue.push(ids[0], frame(&pool, n, 1500));
        }
        for round in 0..20 {
            // A small frame of the node's own goes after the one that is about to go, at the latest.
            queue.push(TeamId::ROOT, frame(&pool, 7777, 64));
            let gone: Vec<u64> = (0..3).map(|_| number(&queue.pop().unwrap())).collect();
            assert!(gone.contains(&7777), "{round}: {gone:?}");
            for n in 0..3 {
                queue.push(ids[0], frame(&pool, n, 1500));
            }
        }
    }

    #[test]
    fn an_ended_teams_name_finds_nothing_of_the_next() {
        let mut slab = Slab::new(2);
        let _root: crate::slab::Handle = slab.insert(()).unwrap();
        let old = TeamId(slab.insert(()).unwrap());
        let pool = BufPool::new(8);
        let mut queue = Queue::new(2);
        queue.add(old, None, shares(1));
        for n in 0..3 {
            queue.push(old, frame(&pool, n, 100));
        }
        assert_eq!(queue.lost(old), Some(1));
        assert_eq!(queue.remove(old, None), 2);
        assert_eq!((pool.lent(), queue.len()), (0, 0));
        slab.remove(old.0);
        let new = TeamId(slab.insert(()).unwrap());
        assert_eq!(new.0.index(), old.0.index());
        queue.add(new, None, shares(1));
        assert_eq!((queue.lost(old), queue.lost(new)), (None, Some(0)));
        // What still comes under the old name is the node's.
        queue.push(new, frame(&pool, 1, 100));
        queue.push(old, frame(&pool, 2, 100));
        queue.remove(new, None);
        assert_eq!(queue.pop().map(|f| number(&f)), Some(2));
    }

    #[test]
    fn what_a_stopped_team_had_to_send_is_its_parents() {
        let ids = teams(3);
        let pool = BufPool::new(FULL);
        // Alone, beside others, and with one about to go.
        for rivals in [0, 5] {
            let mut queue = Queue::new(FULL);
            queue.add(ids[0], None, shares(100));
            queue.add(ids[1], Some(ids[0]), shares(100));
            queue.add(ids[2], None, shares(1));
            for n in 0..10 {
                queue.push(ids[1], frame(&pool, n, 100));
            }
            for _ in 0..rivals {
                queue.push(ids[2], frame(&pool, 99, 1500));
            }
            assert_eq!(queue.remove(ids[1], Some(ids[0])), 0);
            let order: Vec<u64> = core::iter::from_fn(|| queue.pop()).map(|f| number(&f)).collect();
            let its: Vec<u64> = order.iter().copied().filter(|n| *n < 99).collect();
            assert_eq!((its, order.len()), ((0..10).collect(), 10 + rivals));
            for n in 0..10 {
                queue.push(ids[0], frame(&pool, n, 100));
            }
            queue.push(ids[2], frame(&pool, 99, 1500));
            assert_eq!(queue.remove(ids[0], Some(TeamId::ROOT)), 0);
            assert_eq!((queue.remove(ids[2], None), queue.len()), (1, 10));
        }
        assert_eq!(pool.lent(), 0);
    }

    proptest! {
        /// Whatever comes, goes and ends: no frame is lost unsaid or sent twice, each team's leave in the order in
        /// which they came, there is never more than there is room for, and all buffers come back.
        #[test]
        fn no_frame_is_lost_or_doubled(
            ops in proptest::collection::vec((0usize..6, 0u8..10, 20usize..1500), 1..600),
            limit in 1usize..12,
        ) {
            let ids = teams(5);
            let pool = BufPool::new(64);
            let mut queue = Queue::new(limit);
            let above = [None, Some(0), Some(0), None, Some(3)];
            let mut alive = [false; 5];
            // What waits of each, the root last.
            let mut model: Vec<VecDeque<u64>> = std::vec![VecDeque::new(); 6];
            let mut lost = [0u64; 6];
            for (n, (who, op, len)) in (0u64..).zip(ops) {
                let id = |at: usize| if at == 5 { TeamId::ROOT } else { ids[at] };
                match op {
                    0 if who < 5 && !alive[who] && above[who].is_none_or(|a: usize| alive[a]) => {
                        alive[who] = true;
                        lost[who] = 0;
                        queue.add(ids[who], above[who].map(|a| ids[a]), shares(1 + len as u32));
                    }
                    1 if who < 5 && alive[who] => {
                        for child in (0..5).filter(|c| above[*c] == Some(who)).chain([who]) {
                            let waiting = model[child].len();
                            let gone = if alive[child] { queue.remove(ids[child], None) } else { 0 };
                            prop_assert_eq!(gone, waiting);
                            alive[child] = false;
                            model[child].clear();
                        }
                    }
                    2 if who < 5 => queue.set_shares(ids[who], shares(len as u32)),
                    3..=6 if who == 5 || alive[who] => {
                        model[who].push_back(n);
                        let pushed = queue.push(id(who), frame(&pool, n, len));
                        // Who lost one has lost his newest, and nobody had more with all that is below the same team.
                        let top = |at: usize| above[..].get(at).copied().flatten().unwrap_or(at);
                        let of = |at: usize| -> usize {
                            (0..6).filter(|n| top(*n) == top(at)).map(|n| model[n].len()).sum()
                        };
                        let most: Vec<usize> = (0..6).map(of).collect();
                        let mut found = 0;
                        for (at, waiting) in model.iter_mut().enumerate() {
                            let now = queue.lost(id(at)).unwrap_or(0);
                            if now > lost[at] && (at == 5 || alive[at]) {
                                prop_assert_eq!(now, lost[at] + 1);
                                lost[at] = now;
                                found += 1;
                                prop_assert_eq!(pushed == Pushed::Lost, at == who);
                                // The one that is about to go does not count.
                                prop_assert!(most.iter().all(|other| *other <= most[at] + 1), "{most:?}, {at}");
                                waiting.pop_back();
                            }
                        }
                        prop_assert_eq!(found, usize::from(pushed != Pushed::Kept));
                    }
                    7..=9 => {
                        let ahead = queue.front().map(number);
                        let gone = queue.pop().map(|f| number(&f));
                        prop_assert_eq!(ahead, gone);
                        match gone {
                            Some(n) => {
                                let whose = model.iter_mut().find(|w| w.front() == Some(&n));
                                let first = whose.and_then(VecDeque::pop_front);
                                prop_assert_eq!(first, Some(n), "it was not its team's first");
                            }
                            None => prop_assert!(model.iter().all(VecDeque::is_empty)),
                        }
                    }
                    _ => {}
                }
                let waiting: usize = model.iter().map(VecDeque::len).sum();
                prop_assert_eq!((queue.len(), pool.lent()), (waiting, waiting));
                prop_assert!(waiting <= limit);
            }
            drop(queue);
            prop_assert_eq!(pool.lent(), 0);
        }
    }
}
