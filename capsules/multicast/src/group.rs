//! What a node knows of a group: the way to its source, and what was said about it.
//!
//! Once an interval the source says the next number of its sequence, and whoever hears a number for the first time takes the
//! neighbor that said it for its parent and says it, too; so does who hears the same number over fewer hops. Joins go to the
//! parent. Who has a new parent joins there at once, and leaves the old one a moment later, or when both send the same.
//!
//! Pure: `now` is an argument (microseconds of any clock that does not go back).

use bees_sdk::Session;
use bees_sdk::seen::Seen;

use crate::filter::Filter;
use crate::format::{Announce, Name};

/// Looks at the clock in an interval.
pub const TICKS: u64 = 4;
/// How often a join is said again soon after it has changed.
const AGAIN: u8 = 2;

/// A group on one node. All zeros is none.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    pub name: Name,
    /// The name's number; 0: there is none.
    pub id: u64,
    /// The program here that is the source.
    pub source: Option<Session>,
    pub epoch: u64,
    pub sequence: u32,
    /// Hops to the source.
    pub hops: u8,
    /// The neighbor on the way to the source; 0: there is no source.
    pub parent: u32,
    /// The parent before, which has not been left yet; 0 for none.
    pub former: u32,
    /// Between announcements, in milliseconds.
    pub interval_ms: u32,
    /// When the newest announcement came, or was made.
    pub heard: u64,
    /// Whether it is to be said once more.
    pub repeat: bool,
    /// Which payloads were here. At the source the newest is the last.
    pub seen: Seen,
    /// What the parent was told last, and when, and how often it is to be told soon.
    pub told: Filter,
    pub told_at: u64,
    pub again: u8,
    /// Until when the parent counts as having no room for this node.
    pub refused_until: u64,
}

/// What came of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Known already.
    Old,
    /// News: to be said onward.
    News {
        /// There is another parent.
        moved: bool,
        /// There was no source before.
        found: bool,
        /// A program here was the source and is not any more.
        deposed: Option<Session>,
    },
}

/// What is to be done about the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// It is to be told what is wanted.
    Join,
}

impl Group {
    pub const NONE: Self = Self {
        name: Name::EMPTY,
        id: 0,
        source: None,
        epoch: 0,
        sequence: 0,
        hops: 0,
        parent: 0,
        former: 0,
        interval_ms: 0,
        heard: 0,
        repeat: false,
        seen: Seen::new(),
        told: Filter::NOTHING,
        told_at: 0,
        again: 0,
        refused_until: 0,
    };

    /// A group that nobody has announced yet.
    pub fn new(name: Name, id: u64, interval_ms: u32) -> Self {
        Self { name, id, interval_ms, ..Self::NONE }
    }

    /// Whether a source is known, here or elsewhere.
    pub fn is_live(&self) -> bool {
        self.source.is_some() || self.parent != 0
    }

    /// An interval, in microseconds.
    pub fn interval(&self) -> u64 {
        u64::from(self.interval_ms) * 1000
    }

    /// A program here becomes the source; its epoch is at least `epoch`.
    pub fn begin(&mut self, session: Session, epoch: u64, interval_ms: u32) {
        self.epoch = epoch.max(self.epoch.saturating_add(1));
        (self.source, self.parent, self.former) = (Some(session), 0, 0);
        (self.hops, self.sequence) = (0, 0);
        self.interval_ms = interval_ms;
        self.seen = Seen::up_to(self.epoch, 0);
        self.heard = 0;
    }

    /// The source's next announcement.
    pub fn speak(&mut self, now: u64) -> Announce {
        self.sequence = self.sequence.saturating_add(1);
        (self.heard, self.repeat) = (now, true);
        self.word()
    }

    /// The newest announcement, as this node says it.
    pub fn word(&self) -> Announce {
        Announce {
            hops: self.hops,
            epoch: self.epoch,
            sequence: self.sequence,
            interval_ms: self.interval_ms,
            name: self.name,
        }
    }

    /// The number of the source's next payload.
    pub fn next_number(&mut self) -> u32 {
        let next = self.seen.newest.saturating_add(1);
        self.seen = Seen::up_to(self.epoch, next);
        next
    }

    /// A neighbor announced the group.
    pub fn hear(&mut self, now: u64, from: u32, said: &Announce) -> Heard {
        let here = (self.epoch, self.sequence);
        let there = (said.epoch, said.sequence);
        let live = self.is_live();
        if self.source.is_some() && said.epoch <= self.epoch {
            return Heard::Old;
        }
        let newer = !live || there > here;
        let nearer = there == here && said.hops + 1 < self.hops;
        if !newer && !nearer {
            return Heard::Old;
        }
        if said.epoch != self.epoch || !live {
            // Its payloads are numbered anew; who comes to it late has seen none.
            self.seen = if said.epoch == self.seen.epoch { self.seen } else { Seen::new() };
        }
        let moved = self.parent != from;
        let deposed = self.source.take();
        (self.epoch, self.sequence, self.hops) = (said.epoch, said.sequence, said.hops + 1);
        if moved {
            self.former = self.parent;
            (self.told, self.again, self.refused_until) = (Filter::NOTHING, 0, 0);
        }
        (self.parent, self.interval_ms) = (from, said.interval_ms);
        if newer {
            self.heard = now;
            self.repeat = true;
        }
        Heard::News { moved, found: !live, deposed }
    }

    /// Whether the source has been silent for too long.
    pub fn is_silent(&self, now: u64, expiry: u32) -> bool {
        self.parent != 0 && now.saturating_sub(self.heard) > self.interval() * u64::from(expiry)
    }

    /// Forgets the way to the source.
    pub fn lose(&mut self) {
        (self.parent, self.former, self.hops) = (0, 0, 0);
        (self.refused_until, self.repeat) = (0, false);
        (self.told, self.again) = (Filter::NOTHING, 0);
    }

    /// Whether the parent is to be told that this is wanted here: at once if it is something else than before, twice more
    /// soon after in case it was lost, then once an interval. `ticked`: the clock was looked at.
    pub fn due(&mut self, now: u64, wanted: &Filter, ticked: bool) -> Due {
        if self.parent == 0 {
            return Due::Nothing;
        }
        let due = if *wanted != self.told {
            self.again = AGAIN;
            true
        } else if ticked && self.again > 0 {
            self.again -= 1;
            true
        } else {
            ticked && !wanted.is_nothing() && now.saturating_sub(self.told_at) >= self.interval()
        };
        if !due {
            return Due::Nothing;
        }
        (self.told, self.told_at) = (*wanted, now);
        Due::Join
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Term;

    fn word(epoch: u64, sequence: u32, hops: u8) -> Announce {
        Announce { hops, epoch, sequence, interval_ms: 1000, name: Name::of(b"g").unwrap() }
    }

    #[test]
    fn the_first_way_of_a_number_is_taken_and_a_shorter_one() {
        let mut group = Group::new(Name::of(b"g").unwrap(), 5, 1000);
        let found = Heard::News { moved: true, found: true, deposed: None };
        assert_eq!(group.hear(0, 7, &word(1, 1, 4)), found);
        assert_eq!(group.hear(0, 8, &word(1, 1, 4)), Heard::Old);
        let moved = Heard::News { moved: true, found: false, deposed: None };
        assert_eq!(group.hear(0, 8, &word(1, 1, 3)), moved);
        assert_eq!((group.parent, group.hops), (8, 4));
        assert_eq!(
            group.hear(0, 8, &word(1, 2, 9)),
            Heard::News { moved: false, found: false, deposed: None }
        );
        assert_eq!(group.hear(0, 7, &word(1, 1, 0)), Heard::Old);
        assert_eq!(group.hear(0, 7, &word(0, 9, 0)), Heard::Old, "an earlier source");
        assert!(!group.is_silent(5_000_000, 5) && group.is_silent(5_000_001, 5));
        group.lose();
        assert_eq!(group.hear(9_000_000, 7, &word(0, 9, 0)), found, "but when the later one is lost");
    }

    #[test]
    fn of_two_sources_the_later_one_stays() {
        let mut group = Group::new(Name::of(b"g").unwrap(), 5, 1000);
        let session = Session::from_bits(5);
        group.begin(session, 10, 1000);
        assert_eq!(group.hear(0, 7, &word(10, 9, 0)), Heard::Old);
        let deposed = Heard::News { moved: true, found: false, deposed: Some(session) };
        assert_eq!(group.hear(0, 7, &word(11, 1, 0)), deposed);
        assert!(group.source.is_none());
        group.begin(session, 3, 1000);
        assert_eq!((group.epoch, group.next_number(), group.next_number()), (12, 1, 2));
    }

    #[test]
    fn a_join_is_said_at_once_then_again_then_now_and_then() {
        let mut group = Group::new(Name::of(b"g").unwrap(), 5, 1000);
        let mut wanted = Filter::NOTHING;
        wanted.add(Term::of(b"a", 0).unwrap());
        assert_eq!(group.due(0, &wanted, true), Due::Nothing, "there is nobody to tell");
        group.hear(0, 7, &word(1, 1, 0));
        assert_eq!(group.due(0, &wanted, false), Due::Join);
        assert_eq!(group.due(0, &wanted, false), Due::Nothing);
        let said = |group: &mut Group, wanted: &Filter| {
            (1..=12).filter(|t| group.due(t * 250_000, wanted, true) == Due::Join).collect::<Vec<u64>>()
        };
        assert_eq!(said(&mut group, &wanted), [1, 2, 6, 10]);
        assert_eq!(group.due(0, &Filter::NOTHING, false), Due::Join, "it leaves");
        assert_eq!(said(&mut group, &Filter::NOTHING), [1, 2], "and does not go on about it");
    }
}
