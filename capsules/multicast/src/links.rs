//! What neighbors farther from a source want: soft state, which they have to say again now and then.

use bees_sdk::Neighbor;

use crate::filter::{Filter, Gate, Verdict};
use crate::format::Join;

/// Links of all groups that a node has room for.
const MAX_LINKS: usize = 32;
/// Links of one group: as many as a payload can be sent on.
const MAX_OF_GROUP: usize = 16;

/// The links on which somebody wants something.
pub struct Links([Link; MAX_LINKS]);

/// What one neighbor wants of one group.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// The group's number; 0: nothing.
    group: u64,
    neighbor: u32,
    life: u32,
    serial: u32,
    /// When it expires, in microseconds.
    until: u64,
    gate: Gate,
}

/// There is no room for another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

const FREE: Link = Link { group: 0, neighbor: 0, life: 0, serial: 0, until: 0, gate: Gate::CLOSED };

impl Links {
    pub const fn new() -> Self {
        Self([FREE; MAX_LINKS])
    }

    /// A neighbor says what it wants, until the time `until`.
    pub fn hear(&mut self, from: Neighbor, join: &Join, until: u64) -> Result<(), Full> {
        let from = from.to_bits();
        let known = self.0.iter().position(|l| l.group == join.group && l.neighbor == from);
        if let Some(at) = known {
            let link = &mut self.0[at];
            // One that was overtaken by a newer one says nothing any more. A leave stays for a while, to know that.
            if link.life == join.life && join.serial <= link.serial {
                return Ok(());
            }
            (link.life, link.serial, link.until) = (join.life, join.serial, until);
            link.gate.set(&join.filter);
            return Ok(());
        }
        if join.filter.is_nothing() {
            return Ok(());
        }
        let of_group = self.count(join.group);
        // Who left is remembered only while there is room.
        let mut spare = self.0.iter_mut();
        let room = of_group < MAX_OF_GROUP;
        let free =
            spare.find(|l| l.group == 0 || l.gate.filter().is_nothing()).filter(|_| room).ok_or(Full)?;
        let mut gate = Gate::CLOSED;
        gate.set(&join.filter);
        *free = Link { group: join.group, neighbor: from, life: join.life, serial: join.serial, until, gate };
        Ok(())
    }

    /// Adds to a filter what is wanted behind the links of a group, but for the one to `parent`: what that one wanted when the
    /// way led the other way round it does not want through this node any more. `true`: there was no room for it.
    pub fn merge(&self, group: u64, parent: u32, into: &mut Filter) -> bool {
        self.of(group)
            .filter(|link| link.neighbor != parent)
            .fold(false, |widened, link| into.merge(link.gate.filter()) | widened)
    }

    /// Looks at every link of a group but the one to `from` (0: none): what it says of a payload.
    pub fn look(
        &mut self,
        group: u64,
        from: u32,
        payload: &[u8],
        now: u64,
        mut look: impl FnMut(Neighbor, Verdict),
    ) {
        for link in self.0.iter_mut().filter(|l| l.group == group && l.neighbor != from) {
            if let Some(neighbor) = Neighbor::from_bits(link.neighbor) {
                look(neighbor, link.gate.pass(payload, now));
            }
        }
    }

    /// Links of a group on which something is wanted.
    pub fn count(&self, group: u64) -> usize {
        self.of(group).count()
    }

    /// Forgets who was silent for too long.
    pub fn expire(&mut self, now: u64) {
        self.0.iter_mut().filter(|l| l.until < now).for_each(|l| *l = FREE);
    }

    /// Forgets a group.
    pub fn forget(&mut self, group: u64) {
        self.0.iter_mut().filter(|l| l.group == group).for_each(|l| *l = FREE);
    }

    fn of(&self, group: u64) -> impl Iterator<Item = &Link> {
        self.0.iter().filter(move |l| l.group == group && !l.gate.filter().is_nothing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Term;

    fn join(serial: u32, prefix: &[u8]) -> Join {
        let mut filter = Filter::NOTHING;
        if !prefix.is_empty() {
            filter.add(Term::of(prefix, 0).unwrap());
        }
        Join { group: 1, life: 1, serial, filter }
    }

    fn wanted(links: &mut Links, payload: &[u8]) -> Vec<u32> {
        let mut wanted = vec![];
        links.look(1, 0, payload, 0, |to, verdict| {
            if verdict == Verdict::Pass {
                wanted.push(to.to_bits());
            }
        });
        wanted
    }

    #[test]
    fn the_newest_join_counts() {
        let mut links = Links::new();
        let neighbor = Neighbor::from_bits(7).unwrap();
        links.hear(neighbor, &join(2, b"a"), 10).unwrap();
        links.hear(neighbor, &join(1, b"b"), 10).unwrap();
        assert_eq!((wanted(&mut links, b"a"), wanted(&mut links, b"b")), (vec![7], vec![]));
        links.hear(neighbor, &join(3, b""), 10).unwrap();
        links.hear(neighbor, &join(2, b"a"), 10).unwrap();
        assert_eq!((wanted(&mut links, b"a"), links.count(1)), (vec![], 0), "it has left");
        // After its restart it counts anew.
        links.hear(neighbor, &Join { life: 2, ..join(1, b"b") }, 10).unwrap();
        assert_eq!(wanted(&mut links, b"b"), [7]);
        links.expire(10);
        assert_eq!(links.count(1), 1);
        links.expire(11);
        assert_eq!(links.count(1), 0);
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut links = Links::new();
        for group in 1..4 {
            for neighbor in 1..=20 {
                let neighbor = Neighbor::from_bits(neighbor).unwrap();
                let heard = links.hear(neighbor, &Join { group, ..join(1, b"a") }, 10);
                let before = links.0.iter().filter(|l| l.group != 0).count();
                assert_eq!(heard.is_ok(), links.of(group).any(|l| l.neighbor == neighbor.to_bits()));
                assert!(before <= MAX_LINKS && links.count(group) <= MAX_OF_GROUP);
            }
        }
        assert_eq!((links.count(1), links.count(2), links.count(3)), (16, 16, 0));
        // Who leaves makes room.
        links.hear(Neighbor::from_bits(1).unwrap(), &join(2, b""), 10).unwrap();
        links.hear(Neighbor::from_bits(40).unwrap(), &Join { group: 3, ..join(1, b"a") }, 10).unwrap();
        links.forget(2);
        assert_eq!((links.count(1), links.count(2), links.count(3)), (15, 0, 1));
    }
}
