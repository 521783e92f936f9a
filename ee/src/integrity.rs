//! Hop-by-hop integrity at the request of a protocol (seed 004, section III): keys that a team set for
//! neighbors, marks on what it sends there, and the check of marks on what comes from there.
//!
//! Whoever has the key can make marks; the node neither makes nor distributes keys. Before a mark is
//! checked a capsule costs the reading of its header and one look into a table.

use hmac::{Hmac, KeyInit, Mac};
use nodeos::account::Charge;
use sha2::{Digest, Sha256};
use wire::id::CapsuleId;
use wire::integrity::{MAC_LEN, Mark};

use crate::abi::Error;
use crate::sandbox::NeighborId;

/// The shortest key and the longest, in bytes.
pub const KEY_LEN: std::ops::RangeInclusive<usize> = 16..=64;
/// Neighbors that a team may have keys for.
pub const MAX_KEYS: usize = 16;
/// Sequence numbers that a second has room for.
const PER_SECOND_BITS: u32 = 20;

/// Why a capsule is refused. The peer erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsound {
    /// It has no mark, one under another key, or a wrong one.
    Mark,
    /// It was heard before, or is too old to tell.
    Replayed,
}

/// A team's keys.
pub(crate) struct Integrity {
    keys: Vec<Key>,
    charge: Charge,
}

struct Key {
    neighbor: NeighborId,
    mac: Hmac<Sha256>,
    id: u32,
    /// What this node calls itself in marks, so that its own do not come back to it.
    sender: u32,
    /// The next sequence number.
    next: u64,
    heard: Heard,
}

/// Which sequence numbers were heard: the highest, and which of the 64 up to it.
#[derive(Default)]
struct Heard {
    top: Option<u64>,
    bits: u64,
}

impl Integrity {
    /// No keys; what they take is charged to the owner of `charge`.
    pub fn new(charge: Charge) -> Self {
        Self { keys: Vec::new(), charge }
    }

    /// Marks what is sent to a neighbor from now on, and asks for marks on what comes from there. `sender` is a
    /// random number; with the time of day a sequence goes on where it was before a restart. Whether the
    /// neighbor had no key before.
    pub fn set(
        &mut self,
        neighbor: NeighborId,
        key: &[u8],
        sender: u32,
        wall: Option<u64>,
    ) -> Result<bool, Error> {
        if !KEY_LEN.contains(&key.len()) {
            return Err(Error::BadArgument);
        }
        let mac = Hmac::new_from_slice(key).map_err(|_| Error::BadArgument)?;
        let hash = Sha256::new().chain_update(b"bees integrity 1").chain_update(key).finalize();
        let id = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        let next = wall.unwrap_or(0) << PER_SECOND_BITS;
        let key = Key { neighbor, mac, id, sender, next, heard: Heard::default() };
        if let Some(old) = self.keys.iter_mut().find(|k| k.neighbor == neighbor) {
            // The same key again starts nothing anew: what was heard stays heard.
            if old.id != id {
                *old = key;
            }
            return Ok(false);
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(Error::NoRoom);
        }
        self.charge.grow(size_of::<Key>() as u64).map_err(|_| Error::NoMemory)?;
        self.keys.push(key);
        Ok(true)
    }

    /// Ends it. Whether there was a key.
    pub fn clear(&mut self, neighbor: NeighborId) -> bool {
        let Some(at) = self.keys.iter().position(|k| k.neighbor == neighbor) else { return false };
        self.keys.swap_remove(at);
        self.charge.shrink(size_of::<Key>() as u64);
        true
    }

    /// The mark for a capsule to a neighbor, if that has a key.
    #[inline]
    pub fn mark(&mut self, to: NeighborId, id: &CapsuleId, payload: &[u8]) -> Option<Mark> {
        // Most teams have no keys.
        if self.keys.is_empty() { None } else { self.mark_by_key(to, id, payload) }
    }

    fn mark_by_key(&mut self, to: NeighborId, id: &CapsuleId, payload: &[u8]) -> Option<Mark> {
        let key = self.keys.iter_mut().find(|k| k.neighbor == to)?;
        let mut mark = Mark { key: key.id, sender: key.sender, sequence: key.next, mac: [0; MAC_LEN] };
        key.next += 1;
        let mac = key.over(&mark, id, payload).finalize().into_bytes();
        mark.mac.copy_from_slice(&mac[..MAC_LEN]);
        Some(mark)
    }

    /// Whether a capsule from a neighbor is as that neighbor sent it, where that is asked for.
    #[inline]
    pub fn check(
        &mut self,
        from: NeighborId,
        id: &CapsuleId,
        payload: &[u8],
        mark: Option<&Mark>,
    ) -> Result<(), Unsound> {
        if self.keys.is_empty() { Ok(()) } else { self.check_by_key(from, id, payload, mark) }
    }

    fn check_by_key(
        &mut self,
        from: NeighborId,
        id: &CapsuleId,
        payload: &[u8],
        mark: Option<&Mark>,
    ) -> Result<(), Unsound> {
        let Some(key) = self.keys.iter_mut().find(|k| k.neighbor == from) else { return Ok(()) };
        let mark = mark.filter(|m| m.key == key.id && m.sender != key.sender).ok_or(Unsound::Mark)?;
        if !key.heard.is_new(mark.sequence) {
            return Err(Unsound::Replayed);
        }
        key.over(mark, id, payload).verify_truncated_left(&mark.mac).map_err(|_| Unsound::Mark)?;
        key.heard.enter(mark.sequence);
        Ok(())
    }
}

impl Key {
    fn over(&self, mark: &Mark, id: &CapsuleId, payload: &[u8]) -> Hmac<Sha256> {
        self.mac.clone().chain_update(mark.covered()).chain_update(id.0).chain_update(payload)
    }
}

impl Heard {
    fn is_new(&self, sequence: u64) -> bool {
        let Some(top) = self.top else { return true };
        match top.checked_sub(sequence) {
            None => true,
            Some(back) => back < 64 && self.bits & 1 << back == 0,
        }
    }

    /// Marks a number that is new.
    fn enter(&mut self, sequence: u64) {
        let top = self.top.unwrap_or(sequence);
        if sequence >= top {
            self.bits =
                u32::try_from(sequence - top).ok().and_then(|n| self.bits.checked_shl(n)).unwrap_or(0) | 1;
            self.top = Some(sequence);
        } else {
            self.bits |= 1 << (top - sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeos::account::Account;

    const A: NeighborId = NeighborId(0);
    const ID: CapsuleId = CapsuleId([3; 16]);

    fn end(key: &[u8], sender: u32, wall: u64) -> Integrity {
        let mut end = Integrity::new(Account::root(100_000).charge(0).unwrap());
        assert_eq!(end.set(A, key, sender, Some(wall)), Ok(true));
        end
    }

    #[test]
    fn what_the_neighbor_marked_passes_once_in_any_order() {
        let (mut a, mut b) = (end(&[1; 32], 1, 5), end(&[1; 32], 2, 5));
        let marks: Vec<_> = (0..60u8).map(|n| (n, a.mark(A, &ID, &[n]).unwrap())).collect();
        for (n, mark) in marks.iter().rev() {
            assert_eq!(b.check(A, &ID, &[*n], Some(mark)), Ok(()));
            assert_eq!(b.check(A, &ID, &[*n], Some(mark)), Err(Unsound::Replayed));
        }
        (0..100).for_each(|_| assert!(a.mark(A, &ID, b"").is_some()));
        let mark = a.mark(A, &ID, b"").unwrap();
        assert_eq!(b.check(A, &ID, b"", Some(&mark)), Ok(()));
        assert_eq!(b.check(A, &ID, &[0], Some(&marks[0].1)), Err(Unsound::Replayed), "too old to tell");
    }

    #[test]
    fn everything_else_is_refused() {
        let (mut a, mut b) = (end(&[1; 32], 1, 5), end(&[1; 32], 2, 5));
        let mark = a.mark(A, &ID, b"payload").unwrap();
        assert_eq!(b.check(A, &ID, b"payload", None), Err(Unsound::Mark));
        assert_eq!(b.check(A, &ID, b"paYload", Some(&mark)), Err(Unsound::Mark));
        assert_eq!(b.check(A, &CapsuleId([4; 16]), b"payload", Some(&mark)), Err(Unsound::Mark));
        for bit in 0..128 {
            let mut bad = mark;
            bad.mac[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(b.check(A, &ID, b"payload", Some(&bad)), Err(Unsound::Mark));
        }
        for bad in [
            Mark { sequence: mark.sequence + 1, ..mark },
            Mark { sender: 7, ..mark },
            Mark { key: mark.key ^ 1, ..mark },
        ] {
            assert_eq!(b.check(A, &ID, b"payload", Some(&bad)), Err(Unsound::Mark));
        }
        // Its own marks do not come back to it, nor those of another key.
        assert_eq!(a.check(A, &ID, b"payload", Some(&mark)), Err(Unsound::Mark));
        assert_eq!(end(&[2; 32], 2, 5).check(A, &ID, b"payload", Some(&mark)), Err(Unsound::Mark));
        assert_eq!(b.check(A, &ID, b"payload", Some(&mark)), Ok(()));
        // A neighbor without a key is not asked for marks.
        assert_eq!(b.check(NeighborId(1), &ID, b"payload", None), Ok(()));
        assert_eq!(b.mark(NeighborId(1), &ID, b"payload"), None);
    }

    #[test]
    fn a_restart_goes_on_behind_what_was_heard() {
        let (mut a, mut b) = (end(&[1; 32], 1, 5), end(&[1; 32], 2, 5));
        let old: Vec<_> = (0..10).map(|_| a.mark(A, &ID, b"").unwrap()).collect();
        old.iter().for_each(|mark| assert_eq!(b.check(A, &ID, b"", Some(mark)), Ok(())));
        let mut a = end(&[1; 32], 9, 6);
        let mark = a.mark(A, &ID, b"").unwrap();
        assert_eq!(b.check(A, &ID, b"", Some(&mark)), Ok(()));
        assert!(old.iter().all(|mark| b.check(A, &ID, b"", Some(mark)) == Err(Unsound::Replayed)));
        // Setting the same key again forgets nothing.
        assert_eq!(b.set(A, &[1; 32], 3, Some(5)), Ok(false));
        assert_eq!(b.check(A, &ID, b"", Some(&mark)), Err(Unsound::Replayed));
    }

    #[test]
    fn keys_are_bounded_and_paid_for() {
        let account = Account::root(2 * size_of::<Key>() as u64);
        let mut end = Integrity::new(account.charge(0).unwrap());
        for len in [0, 15, 65] {
            assert_eq!(end.set(A, &vec![1; len], 1, None), Err(Error::BadArgument));
        }
        assert_eq!(end.set(NeighborId(1), &[1; 16], 1, None), Ok(true));
        assert_eq!(end.set(NeighborId(2), &[1; 64], 1, None), Ok(true));
        assert_eq!(end.set(NeighborId(3), &[1; 16], 1, None), Err(Error::NoMemory));
        assert!(end.clear(NeighborId(1)) && !end.clear(NeighborId(1)));
        assert_eq!(account.used(), size_of::<Key>() as u64);
        let mut end = Integrity::new(Account::root(1 << 20).charge(0).unwrap());
        assert!((0..MAX_KEYS as u16).all(|n| end.set(NeighborId(n), &[1; 16], 1, None) == Ok(true)));
        assert_eq!(end.set(NeighborId(99), &[1; 16], 1, None), Err(Error::NoRoom));
    }
}
