//! Capsule objects: what a handler holds while it works on a capsule (D8).
//!
//! An object exists from the event that brings it (or the derivation that makes it) to the end of the
//! handler, or until it is sent. It carries the counts of operations that are left, where the capsule
//! came from, and the host's packet buffer with the payload, which is sent without being copied.

use nodeos::account::{Account, Refused};
use nodeos::buf::Buf;
use nodeos::slab::{Handle, Slab};
use wire::grant::Grant;
use wire::limits::{self, Limits};
use wire::tuple::{Protocol, Tuple};

use crate::abi::{self, Error};
use crate::sandbox::StartError;

/// Capsule objects that one event may have at once.
pub const MAX_OBJECTS: usize = 16;

/// A capsule type as this node grants it.
pub(crate) struct Kind {
    /// The declared limits, lowered by the grant.
    pub limits: Limits,
    /// The types that may be derived from it: bit by position ([`wire::tuple::MAX_CAPSULE_TYPES`] is 32).
    pub derives: u32,
}

/// The capsule types of a protocol.
pub(crate) struct Kinds {
    types: Box<[Kind]>,
    /// How many derivations may follow each other.
    pub depth: u8,
    /// The most send operations that one event of this protocol sets off.
    pub worst: u64,
}

impl Kinds {
    /// What the tuple declares for the protocol at `position`, lowered by the grant. Refuses derivations
    /// in a circle without a granted depth, and more emissions per event than granted.
    pub fn new(protocol: &Protocol, position: u8, grant: &Grant) -> Result<Self, StartError> {
        let types: Box<[Kind]> = protocol
            .capsules
            .iter()
            .enumerate()
            .map(|(at, c)| Kind {
                limits: grant.limits(position, at as u8, c.limits),
                derives: c
                    .derives
                    .iter()
                    .fold(0, |bits, d| bits | 1u32.checked_shl((*d).into()).unwrap_or(0)),
            })
            .collect();
        let graph: Vec<_> = protocol
            .capsules
            .iter()
            .zip(&types)
            .map(|(c, k)| limits::Derivation { limits: k.limits, into: &c.derives })
            .collect();
        // Without a circle no chain is longer than there are types.
        let (worst, depth) = match (limits::worst_case(&graph, None), grant.cycle_depth) {
            (Ok(worst), _) => (worst, types.len()),
            (Err(kind), None) => return Err(StartError::Cycle { kind }),
            (Err(kind), Some(depth)) => {
                let depth = depth.min(limits::MAX_DEPTH as u32);
                let worst =
                    limits::worst_case(&graph, Some(depth)).map_err(|_| StartError::Cycle { kind })?;
                (worst, depth as usize)
            }
        };
        let worst = worst.into_iter().max().unwrap_or(0);
        match grant.max_emissions {
            Some(granted) if worst > granted => Err(StartError::Emissions { worst, granted }),
            _ => Ok(Self { types, depth: depth.min(255) as u8, worst }),
        }
    }

    /// The same for every protocol of a tuple. An event of one may call all the others, so what they set off
    /// together is bounded as well.
    pub fn all(tuple: &Tuple, grant: &Grant) -> Result<Vec<Self>, StartError> {
        let protocols = tuple.body.protocols.iter().enumerate();
        let all: Vec<Self> =
            protocols.map(|(at, p)| Self::new(p, at as u8, grant)).collect::<Result<_, _>>()?;
        let worst = all.iter().fold(0u64, |sum, kinds| sum.saturating_add(kinds.worst));
        match grant.max_emissions {
            Some(granted) if worst > granted => Err(StartError::Emissions { worst, granted }),
            _ => Ok(all),
        }
    }

    #[inline]
    pub fn get(&self, kind: u8) -> Option<&Kind> {
        self.types.get(usize::from(kind))
    }
}

/// One capsule in a handler's hands.
pub(crate) struct Object {
    /// Its type.
    pub kind: u8,
    /// How many derivations made it.
    pub depth: u8,
    /// The neighbor that it, or what it was derived from, came from: position in the team's table.
    pub origin: Option<u16>,
    /// Operations left.
    pub left: Limits,
    /// The payload, with room in front for headers.
    pub payload: Buf,
}

/// The objects of the event that is being handled.
pub(crate) struct Objects {
    slab: Slab<Object>,
    /// The number of the one that calls brought.
    pub call: u32,
}

impl Objects {
    /// The capsule that an event brings has its place at once; others are charged as they come.
    pub fn new(memory: &Account) -> Result<Self, Refused> {
        let mut slab = Slab::charged(MAX_OBJECTS, memory)?;
        slab.make_room(1)?;
        Ok(Self { slab, call: 0 })
    }

    #[inline]
    pub fn insert(&mut self, object: Object) -> Result<Handle, Error> {
        self.slab.reserve()?;
        self.slab.insert(object).map_err(|_| Error::NoRoom)
    }

    pub fn is_full(&self) -> bool {
        self.slab.is_full()
    }

    #[inline]
    pub fn get(&self, raw: u32) -> Result<&Object, Error> {
        abi::named(raw).and_then(|h| self.slab.get(h)).ok_or(Error::BadHandle)
    }

    #[inline]
    pub fn get_mut(&mut self, raw: u32) -> Result<&mut Object, Error> {
        abi::named(raw).and_then(|h| self.slab.get_mut(h)).ok_or(Error::BadHandle)
    }

    #[inline]
    pub fn remove(&mut self, raw: u32) -> Result<Object, Error> {
        abi::named(raw).and_then(|h| self.slab.remove(h)).ok_or(Error::BadHandle)
    }

    /// The handler has returned: all handles die.
    #[inline]
    pub fn clear(&mut self) {
        if !self.slab.is_empty() {
            self.slab.retain(|_, _| false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeos::buf::BufPool;

    #[test]
    fn objects_that_nobody_can_pay_for_are_short_of_memory() {
        let buffers = BufPool::new(MAX_OBJECTS + 1);
        let made = |memory: u64| {
            let mut objects = Objects::new(&Account::root(memory)).unwrap();
            let object = || Object {
                kind: 0,
                depth: 0,
                origin: None,
                left: Limits::NONE,
                payload: buffers.take().unwrap(),
            };
            (0..).find_map(|n| objects.insert(object()).err().map(|error| (n, error))).unwrap()
        };
        let few = Slab::<Object>::bytes(4) as u64;
        assert!(matches!(made(few), (1..4, Error::NoMemory)), "{:?}", made(few));
        assert_eq!(made(1 << 20), (MAX_OBJECTS, Error::NoRoom));
    }
}
