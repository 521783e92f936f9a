//! What capsules look like; numbers are little endian.
//!
//! ```text
//! announce: 1, hops of the sender, epoch (8), sequence (4), interval in ms (4), the group's name with its length before it
//! data:     2, hops travelled, group (8), epoch (8), number (4), bytes
//! join:     3, group (8), life of the sender (4), serial (4), what it wants: a count, and for each a rate (2) and a prefix
//!           with its length before it. Without any it wants nothing (any more)
//! refusal:  4, group (8)
//! ```

use bees_sdk::bytes::{Pack, Reader, Writer};
use bees_sdk::node;

use crate::filter::{Filter, MAX_PREFIX, Term};

/// Nodes this far from a source pass on nothing.
pub const MAX_HOPS: u8 = 250;
/// The longest name of a group, in bytes.
pub const MAX_NAME: usize = 32;
/// The most bytes of a payload.
pub const MAX_BYTES: usize = 1200;
/// Bytes before those of a payload.
pub const DATA_HEAD: usize = 22;
/// Where the hops stand in a data capsule.
pub const HOPS: usize = 1;
/// The longest join, in bytes.
pub const MAX_JOIN: usize = 18 + crate::filter::MAX_TERMS * (3 + MAX_PREFIX);
/// Times between announcements, in milliseconds.
pub const INTERVALS: (u32, u32) = (100, 3_600_000);

/// A group's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
}

/// What a source says once an interval, and every node after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// Hops from the source to who sends this.
    pub hops: u8,
    /// Which source, and which of its lives: a greater one is newer.
    pub epoch: u64,
    /// How often that source has announced itself.
    pub sequence: u32,
    /// Milliseconds between two announcements.
    pub interval_ms: u32,
    /// The group.
    pub name: Name,
}

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// Hops travelled.
    pub hops: u8,
    /// The group's number.
    pub group: u64,
    /// The source's epoch.
    pub epoch: u64,
    /// Its payloads are counted from 1.
    pub number: u32,
}

/// What a neighbor wants of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Join {
    /// The group's number.
    pub group: u64,
    /// Drawn when its flow started: the serials of another life are another count.
    pub life: u32,
    /// Joins of one life are counted, so that an older one does not count after a newer.
    pub serial: u32,
    /// What is wanted.
    pub filter: Filter,
}

impl Name {
    pub const EMPTY: Self = Self { bytes: [0; MAX_NAME], len: 0 };

    /// A name that can be a word of a line.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut name = Self { bytes: [0; MAX_NAME], len: bytes.len() as u8 };
        let is_word = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
        name.bytes.get_mut(..bytes.len()).filter(|_| is_word)?.copy_from_slice(bytes);
        Some(name)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The group's number: nobody can make another name with the same one.
    pub fn number(&self) -> u64 {
        let hash = node::sha256(self.as_bytes()).unwrap_or([0; 32]);
        hash.first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
    }
}

impl Pack for Announce {
    fn pack(&self, to: &mut Writer<'_>) {
        to.put(&[1, self.hops]);
        to.u64(self.epoch);
        to.u32(self.sequence);
        to.u32(self.interval_ms);
        to.short(self.name.as_bytes());
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        let kind = from.u8()?;
        let read = Self {
            hops: from.u8()?,
            epoch: from.u64()?,
            sequence: from.u32()?,
            interval_ms: from.u32()?,
            name: Name::of(from.short(MAX_NAME)?)?,
        };
        let sound = (INTERVALS.0..=INTERVALS.1).contains(&read.interval_ms) && read.hops < MAX_HOPS;
        (kind == 1 && sound && from.rest().is_empty()).then_some(read)
    }
}

impl Pack for Data {
    fn pack(&self, to: &mut Writer<'_>) {
        to.put(&[2, self.hops]);
        to.u64(self.group);
        to.u64(self.epoch);
        to.u32(self.number);
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        let kind = from.u8()?;
        let read = Self { hops: from.u8()?, group: from.u64()?, epoch: from.u64()?, number: from.u32()? };
        (kind == 2 && read.hops < MAX_HOPS).then_some(read)
    }
}

impl Pack for Join {
    fn pack(&self, to: &mut Writer<'_>) {
        to.u8(3);
        to.u64(self.group);
        to.u32(self.life);
        to.u32(self.serial);
        to.u8(self.filter.terms().len() as u8);
        for term in self.filter.terms() {
            to.u16(term.rate);
            to.short(term.prefix());
        }
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        let kind = from.u8()?;
        let (group, life, serial, count) = (from.u64()?, from.u32()?, from.u32()?, from.u8()?);
        let mut filter = Filter::NOTHING;
        for _ in 0..count {
            let rate = from.u16()?;
            let term = Term::of(from.short(MAX_PREFIX)?, rate)?;
            // A filter says nothing twice, and no more than fits.
            (!filter.covers(&term) && !filter.add(term)).then_some(())?;
        }
        let whole = filter.terms().len() == usize::from(count) && from.rest().is_empty();
        (kind == 3 && whole).then_some(Self { group, life, serial, filter })
    }
}

/// A refusal: there is no room for the link.
pub fn refusal(group: u64) -> [u8; 9] {
    let mut bytes = [4; 9];
    bytes[1..].copy_from_slice(&group.to_le_bytes());
    bytes
}

/// The group that a refusal is about.
pub fn refused(bytes: &[u8]) -> Option<u64> {
    match bytes {
        [4, group @ ..] => group.try_into().ok().map(u64::from_le_bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(value: &impl Pack) -> Vec<u8> {
        let mut buffer = [0; MAX_JOIN];
        let mut w = Writer::new(&mut buffer);
        value.pack(&mut w);
        w.finish().unwrap().to_vec()
    }

    fn read<T: Pack>(bytes: &[u8]) -> Option<T> {
        T::unpack(&mut Reader::new(bytes))
    }

    fn samples() -> (Announce, Data, Join) {
        let mut filter = Filter::NOTHING;
        for i in 0..crate::filter::MAX_TERMS as u8 {
            assert!(!filter.add(Term::of(&[i; MAX_PREFIX], u16::from(i)).unwrap()));
        }
        (
            Announce {
                hops: 3,
                epoch: 9,
                sequence: 7,
                interval_ms: 1000,
                name: Name::of(&[b'n'; MAX_NAME]).unwrap(),
            },
            Data { hops: 1, group: 5, epoch: 9, number: 2 },
            Join { group: 5, life: 8, serial: 1, filter },
        )
    }

    #[test]
    fn what_is_written_is_read() {
        let (announce, data, join) = samples();
        assert_eq!(read(&bytes_of(&announce)), Some(announce));
        assert!(bytes_of(&announce).len() <= bees_sdk::INBOX);
        assert_eq!((read(&bytes_of(&data)), bytes_of(&data).len()), (Some(data), DATA_HEAD));
        assert_eq!((read(&bytes_of(&join)), bytes_of(&join).len()), (Some(join), MAX_JOIN));
        assert_eq!((refused(&refusal(77)), refused(&refusal(77)[..8])), (Some(77), None));
    }

    #[test]
    fn damage_is_no_panic_and_no_other_form() {
        let (announce, data, join) = samples();
        for whole in [bytes_of(&announce), bytes_of(&data), bytes_of(&join)] {
            for len in 0..whole.len() {
                let cut = &whole[..len];
                assert!(read::<Announce>(cut).is_none() && read::<Data>(cut).is_none_or(|d| d == data));
                assert!(read::<Join>(cut).is_none());
            }
            let mut random = 1;
            for _ in 0..20_000 {
                let mut damaged = whole.clone();
                random = node::mix(random);
                let at = random as usize % damaged.len();
                damaged[at] = (random >> 32) as u8;
                if let Some(join) = read::<Join>(&damaged) {
                    assert_eq!(bytes_of(&join).len(), damaged.len());
                }
                let _ = (read::<Announce>(&damaged), read::<Data>(&damaged), refused(&damaged));
            }
        }
    }

    #[test]
    fn names_are_words() {
        for wrong in [&b""[..], b"a b", b"a\n", b"\xff", &[b'a'; MAX_NAME + 1]] {
            assert_eq!(Name::of(wrong), None);
        }
    }
}
