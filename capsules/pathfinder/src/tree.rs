//! A node's place in the spanning tree: who is its parent, how far is the root, since when was nothing heard of it.
//!
//! The root counts: once an interval it says the next number of its sequence, and whoever hears a number for the
//! first time takes the neighbor that said it for its parent and says it, too. So a parent has heard each number
//! before its child has, or is nearer to the root by the same number, and parents never form a circle. Nobody counts but
//! the root: when it falls silent no number is new, and nobody can keep its tree alive by repeating an old one,
//! because every repetition says how old the number is.
//!
//! What waited while a node fetched the flow is older than it says. So who hears of a root for the first time believes it, but
//! says nothing before it has heard something a moment later: else a dead root's last word could wander from node to node
//! for ever, as each fetches the flow because of it.
//!
//! A parent that is known to be dead is replaced at once by another neighbor that said the newest number from as near, if
//! there is one: it is nearer to the root by the same number, as the parent was. What is farther away is not taken, for
//! whoever is as far as this node, or farther, may have this node on its way.
//!
//! Pure: `now` is an argument (microseconds of any clock that does not go back), and what is to be sent is the result.

use bees_sdk::seen::Seen;

use crate::format::{Configuration, MAX_HOPS};

/// How often a node says the same number because of what it hears, at most: when it hears it, and when it hears of
/// shorter ways. If one comes after that, the repetition tells of it, or the next number.
const MOST_TOLD: u8 = 8;
/// Shortest and longest interval, in microseconds.
pub const INTERVALS: (u64, u64) = (100_000, 3_600_000_000);
/// Other ways that are remembered.
const OTHERS: usize = 4;
/// Looks at the clock in an interval.
pub const TICKS: u64 = 4;

/// What a node is in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It knows no root.
    Outside,
    /// It has a parent.
    Member,
    /// It is the root.
    Root,
}

/// A node's place. Neighbors are numbers that mean something to the caller.
#[derive(Debug, Clone)]
pub struct Tree {
    role: Role,
    epoch: u64,
    sequence: u32,
    hops: u8,
    parent: u32,
    /// The parent before this number; 0 for none.
    former: u32,
    /// Neighbors that said the newest number from as near as the parent; 0 for none.
    others: [u32; OTHERS],
    /// The parent is dead, and there was nobody to take its place.
    orphan: bool,
    /// When the root spoke; when the number was last said here.
    spoken: u64,
    told_at: u64,
    told: u8,
    repeats: u8,
    /// Whether it has said anything of this root; until when it does not.
    live: bool,
    quiet_until: u64,
    /// Between the root's words, as the root says.
    interval: u64,
    terms: Terms,
    multicasts: Seen,
    /// When the newest of them came.
    newest_at: u64,
}

/// What the flow's parameters say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Between the root's words, in microseconds.
    pub interval: u64,
    /// After so many intervals without a new word the root is lost.
    pub expiry: u8,
    /// How often every number is said again, for those who missed it.
    pub repeats: u8,
}

/// What came of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// To say now, to all but who was heard.
    pub say: Option<Configuration>,
    /// There is another parent.
    pub moved: bool,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// To say to all.
    Say(Configuration),
    /// The root is lost: nothing was heard of it for too long.
    Lost,
}

impl Tree {
    /// A node that knows no root.
    pub const fn new() -> Self {
        Self {
            role: Role::Outside,
            epoch: 0,
            sequence: 0,
            hops: 0,
            parent: 0,
            former: 0,
            others: [0; OTHERS],
            orphan: false,
            spoken: 0,
            told_at: 0,
            told: 0,
            repeats: 0,
            live: false,
            quiet_until: 0,
            interval: INTERVALS.0,
            terms: Terms { interval: INTERVALS.0, expiry: 4, repeats: 1 },
            multicasts: Seen::new(),
            newest_at: 0,
        }
    }

    /// Sets what the parameters say, within bounds.
    pub fn set_terms(&mut self, terms: Terms) {
        let interval = terms.interval.clamp(INTERVALS.0, INTERVALS.1);
        self.terms =
            Terms { interval, expiry: terms.expiry.max(2), repeats: terms.repeats.min(TICKS as u8 - 1) };
        self.interval = interval;
    }

    /// What it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The neighbor on the way to the root.
    pub fn parent(&self) -> Option<u32> {
        (self.role == Role::Member).then_some(self.parent)
    }

    /// Hops to the root.
    pub fn hops(&self) -> u8 {
        self.hops
    }

    /// The root's epoch; 0 for none.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The newest number.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Between the root's words, in microseconds.
    pub fn interval(&self) -> u64 {
        self.interval
    }

    /// How long ago the root spoke, in microseconds.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.spoken)
    }

    /// Becomes the root, and says so.
    pub fn become_root(&mut self, now: u64, epoch: u64) -> Configuration {
        (self.role, self.epoch, self.sequence, self.hops) =
            (Role::Root, epoch.max(self.epoch.saturating_add(1)), 0, 0);
        // Whatever was heard of in multicasts alone: its own are counted from 1.
        self.multicasts = Seen::up_to(self.epoch, 0);
        (self.parent, self.former, self.live) = (0, 0, true);
        (self.others, self.orphan) = ([0; OTHERS], false);
        self.interval = self.terms.interval;
        self.speak(now)
    }

    /// A neighbor says this.
    pub fn hear(&mut self, now: u64, from: u32, said: &Configuration) -> Heard {
        let interval = (u64::from(said.interval_ms) * 1000).clamp(INTERVALS.0, INTERVALS.1);
        let age = u64::from(said.age_ms) * 1000;
        if self.role == Role::Root || said.hops >= MAX_HOPS || age >= self.lasts(interval) {
            return Heard::default();
        }
        if self.role == Role::Outside {
            (self.live, self.quiet_until) = (false, now + interval / TICKS / 4);
        }
        let hops = said.hops + 1;
        let newer = self.role == Role::Outside || (said.epoch, said.sequence) > (self.epoch, self.sequence);
        let same = !newer && (said.epoch, said.sequence) == (self.epoch, self.sequence);
        if !newer && !same {
            return Heard::default();
        }
        let shorter = same && hops < self.hops;
        // Of two ways of the same length the one that was used before is as good: nothing to tell anybody. So is any if the
        // parent is dead.
        let back = same && hops == self.hops && (self.orphan || from == self.former && from != 0);
        let moved = (newer || shorter || back) && self.parent() != Some(from);
        if self.role == Role::Outside && said.epoch < self.multicasts.epoch {
            // What the lost root multicast says nothing about those of one that began with an earlier epoch.
            self.multicasts = Seen::new();
        }
        if newer {
            self.former = if moved { self.parent().unwrap_or(0) } else { 0 };
            (self.epoch, self.sequence, self.interval) = (said.epoch, said.sequence, interval);
            (self.told, self.repeats, self.spoken) = (0, 0, now.saturating_sub(age));
        } else {
            self.spoken = self.spoken.min(now.saturating_sub(age));
        }
        if newer || shorter {
            self.others = [0; OTHERS];
        } else if same && hops == self.hops {
            // The parent before is another way from now on, unless it is dead.
            if back {
                self.forget(from);
            }
            match back {
                true if !self.orphan => self.remember(self.parent),
                false if from != self.parent => self.remember(from),
                _ => {}
            }
        }
        if newer || shorter || back {
            self.orphan = false;
            self.former = if newer { self.former } else { 0 };
            (self.role, self.parent, self.hops) = (Role::Member, from, hops);
        }
        let due = newer || shorter || self.told == 0;
        if !due || self.told >= MOST_TOLD || now < self.quiet_until {
            return Heard { say: None, moved };
        }
        if self.told == 0 {
            self.repeats = self.terms.repeats;
        }
        (self.told, self.live) = (self.told + 1, true);
        Heard { say: Some(self.tell(now)), moved }
    }

    /// A neighbor is dead, or gone: whether somebody else is the parent now. If there is nobody, whoever says the newest
    /// number from as near will be, or the next number.
    pub fn neighbor_lost(&mut self, neighbor: u32) -> bool {
        self.forget(neighbor);
        if self.former == neighbor {
            self.former = 0;
        }
        if self.parent() != Some(neighbor) {
            return false;
        }
        let other = self.others.iter_mut().find(|other| **other != 0).map(core::mem::take);
        self.orphan = other.is_none();
        if let Some(other) = other {
            (self.parent, self.former) = (other, 0);
        }
        other.is_some()
    }

    fn remember(&mut self, neighbor: u32) {
        if !self.others.contains(&neighbor)
            && let Some(free) = self.others.iter_mut().find(|other| **other == 0)
        {
            *free = neighbor;
        }
    }

    fn forget(&mut self, neighbor: u32) {
        self.others.iter_mut().filter(|other| **other == neighbor).for_each(|other| *other = 0);
    }

    /// To be asked [`TICKS`] times an interval; more or less often does no harm.
    pub fn tick(&mut self, now: u64) -> Due {
        let tick = self.interval / TICKS;
        match self.role {
            Role::Outside => Due::Nothing,
            // The half tick: a timer may be a little early.
            Role::Root if self.age(now) + tick / 2 >= self.terms.interval => {
                // Where timers may not be so short, it speaks less often and says so.
                let (wanted, had) = (self.terms.interval, self.age(now));
                self.interval = if had > wanted + tick { had.min(INTERVALS.1) } else { wanted };
                Due::Say(self.speak(now))
            }
            // Further away later, so that the tree ends from the inside out.
            Role::Member if self.age(now) >= self.lasts(self.interval) + u64::from(self.hops) * tick => {
                (self.role, self.parent, self.former) = (Role::Outside, 0, 0);
                (self.others, self.orphan) = ([0; OTHERS], false);
                Due::Lost
            }
            _ if self.repeats > 0 && now.saturating_sub(self.told_at) + tick / 2 >= tick => {
                self.repeats -= 1;
                Due::Say(self.tell(now))
            }
            _ => Due::Nothing,
        }
    }

    /// The number of the root's next multicast.
    pub fn next_multicast(&mut self) -> Option<u32> {
        let root = self.role == Role::Root;
        root.then(|| {
            let mine = self.multicasts.epoch == self.epoch;
            let next = if mine { self.multicasts.newest.saturating_add(1) } else { 1 };
            self.multicasts = Seen::up_to(self.epoch, next);
            next
        })
    }

    /// Whether multicasts are passed on: not before something was heard that did not wait for the flow.
    pub fn passes_on(&self) -> bool {
        self.role == Role::Member && self.live
    }

    /// Whether a multicast is here for the first time. A member believes those of the root that its parent names; a
    /// number, or without a root an epoch, that is far ahead of what comes later keeps that out for no longer than a word
    /// of the root lasts.
    pub fn first_seen(&mut self, now: u64, epoch: u64, number: u32) -> bool {
        let over = now.saturating_sub(self.newest_at) >= self.lasts(self.interval);
        let roots = match self.role {
            Role::Root => false,
            Role::Member => epoch == self.epoch,
            Role::Outside => over || epoch >= self.multicasts.epoch,
        };
        if !roots {
            return false;
        }
        if over && self.multicasts.newest.saturating_sub(number) > u64::BITS {
            // The newest came so long ago that nothing far behind it can be as old as it says.
            self.multicasts = Seen::new();
        }
        let first = self.multicasts.first(epoch, number);
        if first && self.multicasts.newest == number {
            self.newest_at = now;
        }
        first
    }

    /// How long a word of the root lasts.
    fn lasts(&self, interval: u64) -> u64 {
        interval * u64::from(self.terms.expiry)
    }

    fn speak(&mut self, now: u64) -> Configuration {
        // After some 13 years of the shortest interval.
        if self.sequence == u32::MAX {
            (self.epoch, self.sequence) = (self.epoch.saturating_add(1), 0);
        }
        self.sequence += 1;
        (self.spoken, self.repeats) = (now, self.terms.repeats);
        self.tell(now)
    }

    fn tell(&mut self, now: u64) -> Configuration {
        self.told_at = now;
        Configuration {
            hops: self.hops,
            epoch: self.epoch,
            sequence: self.sequence,
            age_ms: (self.age(now) / 1000).min(u32::MAX.into()) as u32,
            interval_ms: (self.interval / 1000) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_word_is_not_believed_and_a_newer_root_at_once() {
        let mut tree = Tree::new();
        tree.set_terms(Terms { interval: 1_000_000, expiry: 4, repeats: 1 });
        let word =
            |epoch, sequence, age_ms| Configuration { hops: 0, epoch, sequence, age_ms, interval_ms: 1000 };
        assert_eq!(tree.hear(0, 1, &word(5, 1, 4000)), Heard::default());
        assert!(tree.hear(0, 1, &word(5, 1, 3999)).moved);
        assert_eq!(tree.hear(0, 2, &word(4, 9, 0)), Heard::default());
        let heard = tree.hear(1_000_000, 2, &word(6, 1, 0));
        assert_eq!((heard.moved, heard.say.map(|c| (c.epoch, c.hops))), (true, Some((6, 1))));
        let root = tree.become_root(1_000_000, 3);
        assert_eq!((root.epoch, root.hops, tree.role()), (7, 0, Role::Root));
        assert_eq!(tree.hear(1_000_000, 1, &word(9, 1, 0)), Heard::default());
    }

    /// Only whoever is as near takes the place of a parent that is dead.
    #[test]
    fn a_dead_parent_is_replaced_by_who_is_as_near() {
        let mut tree = Tree::new();
        let word = |sequence, hops| Configuration { hops, epoch: 1, sequence, age_ms: 0, interval_ms: 1000 };
        assert!(tree.hear(0, 1, &word(1, 2)).moved);
        assert!(!tree.neighbor_lost(7) && !tree.neighbor_lost(1), "there is nobody else");
        for (from, hops) in [(2, 3), (3, 4)] {
            assert!(!tree.hear(0, from, &word(1, hops)).moved, "{from} may have this node on its way");
        }
        assert!(tree.hear(0, 4, &word(1, 2)).moved, "there is one now");
        assert_eq!((tree.parent(), tree.hops()), (Some(4), 3));
        for from in [5, 6, 5, 8, 9, 10] {
            assert!(!tree.hear(0, from, &word(1, 2)).moved);
        }
        // One that is known to be dead is not taken, and none twice; one that was the parent once may be again.
        assert!(!tree.neighbor_lost(6));
        let mut taken = vec![];
        while let Some(parent) = tree.parent().filter(|parent| tree.neighbor_lost(*parent)) {
            taken.push((parent, tree.parent().unwrap()));
        }
        assert!(taken.len() >= 3 && taken.iter().all(|(dead, next)| dead != next && *next != 6), "{taken:?}");
        assert_eq!(tree.hops(), 3);
        // What said an older number is no way.
        assert!(tree.hear(1, 20, &word(2, 2)).moved);
        assert!(!tree.neighbor_lost(20) && tree.parent() == Some(20));
    }

    /// Of a multicast anybody on the way could have written the head.
    #[test]
    fn a_root_counts_its_own_multicasts_whatever_was_heard_before() {
        for heard in [0, 7, u64::MAX] {
            let mut tree = Tree::new();
            assert!(tree.first_seen(0, heard, u32::MAX));
            assert_eq!(tree.become_root(0, 7).epoch, 7);
            assert_eq!((tree.next_multicast(), tree.next_multicast()), (Some(1), Some(2)));
        }
    }

    #[test]
    fn a_false_epoch_or_number_silences_no_member() {
        let mut tree = Tree::new();
        tree.set_terms(Terms { interval: 1_000_000, expiry: 4, repeats: 1 });
        let word = |sequence| Configuration { hops: 0, epoch: 9, sequence, age_ms: 0, interval_ms: 1000 };
        assert!(tree.hear(0, 1, &word(1)).moved && tree.first_seen(0, 9, 1));
        for (epoch, number) in [(u64::MAX, 1), (10, 2), (8, 2)] {
            assert!(!tree.first_seen(0, epoch, number), "no root of epoch {epoch} is known");
        }
        assert!(tree.first_seen(0, 9, 2) && !tree.first_seen(0, 9, 2));
        // A number that is far ahead keeps the true ones out for four intervals, not for good.
        assert!(tree.first_seen(1_000_000, 9, u32::MAX));
        let mut number = 3;
        let heard = (1..10).find(|second| {
            tree.hear(second * 1_000_000, 1, &word(*second as u32 + 1));
            number += 1;
            tree.first_seen(second * 1_000_000, 9, number)
        });
        assert_eq!(heard, Some(5));
        assert!(!tree.first_seen(6_000_000, 9, number) && tree.first_seen(6_000_000, 9, number + 1));
        // Who knows no root hears whoever speaks, and the true one once it is known.
        let mut tree = Tree::new();
        assert!(tree.first_seen(0, u64::MAX, 7) && !tree.first_seen(0, 9, 1));
        assert!(tree.hear(0, 1, &word(1)).moved && tree.first_seen(0, 9, 1));
    }

    /// A root without a clock may begin anew with an earlier epoch.
    #[test]
    fn who_waited_for_another_root_hears_its_multicasts_too() {
        let mut tree = Tree::new();
        let word = |epoch| Configuration { hops: 0, epoch, sequence: 1, age_ms: 0, interval_ms: 1000 };
        assert!(tree.hear(0, 1, &word(9)).moved && tree.first_seen(0, 9, 5));
        assert_eq!(tree.hear(1_000_000, 1, &word(3)), Heard::default());
        assert!(!tree.first_seen(1_000_000, 3, 1), "the newer root is not lost yet");
        assert_eq!(tree.tick(60_000_000), Due::Lost);
        assert!(tree.hear(61_000_000, 1, &word(3)).moved);
        let mut first = |number| tree.first_seen(61_000_000, 3, number);
        assert!(first(1) && !first(1) && first(2));
    }

    /// What it first hears may have waited for the flow to be fetched; what comes later has not.
    #[test]
    fn who_hears_of_a_root_for_the_first_time_says_nothing_yet() {
        let mut tree = Tree::new();
        tree.set_terms(Terms { interval: 1_000_000, expiry: 4, repeats: 1 });
        let word =
            |sequence, age_ms| Configuration { hops: 2, epoch: 1, sequence, age_ms, interval_ms: 1000 };
        for sequence in 1..4 {
            assert_eq!(tree.hear(10_000_000, 1, &word(sequence, 0)).say, None);
        }
        assert!(!tree.passes_on() && tree.parent() == Some(1));
        assert_eq!(tree.tick(10_250_000), Due::Nothing);
        // Its neighbor repeats it, and says how old it really is.
        let said = tree.hear(10_300_000, 1, &word(3, 2500)).say.unwrap();
        assert_eq!((said.sequence, said.hops, said.age_ms), (3, 3, 2500));
        assert!(tree.passes_on());
        assert!(matches!(tree.tick(10_550_000), Due::Say(again) if again.age_ms == 2750));
    }

    #[test]
    fn a_root_whose_timers_are_slower_says_so() {
        let mut tree = Tree::new();
        tree.set_terms(Terms { interval: 1_000_000, expiry: 4, repeats: 0 });
        tree.become_root(0, 1);
        let Due::Say(word) = tree.tick(3_000_000) else { panic!("it is time") };
        assert_eq!((word.sequence, word.interval_ms), (2, 3000));
    }
}
