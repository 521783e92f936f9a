//! Bounded tables whose members are named by handles that go stale.
//!
//! A [`Handle`] is an index and a generation in 32 bits, so it can be given to a guest, sent, logged and
//! compared. Removing a member changes its slot's generation: an old handle then finds nothing. Freed
//! slots are reused in the order in which they were freed, so that a generation comes back only after
//! 65 535 turns of all free slots.
//!
//! Slots are made as they are needed, and stay. A [`Slab::charged`] pays for them before they are made.

use alloc::vec::Vec;
use core::fmt;
use core::mem::size_of;
use core::num::NonZeroU32;

use crate::account::{Account, Charge, Refused};

/// The most members that a slab can have: what an index has room for.
pub const MAX: usize = 1 << 16;

const NONE: u32 = u32::MAX;

/// Names a member of a [`Slab`]: generation (never 0) in the upper 16 bits, index in the lower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(NonZeroU32);

impl Handle {
    /// What a new slab's first member is called.
    pub const FIRST: Self = Self(NonZeroU32::new(1 << 16).expect("generation 1"));

    /// The handle that is written as `raw`; `None` for what can name nothing (generation 0).
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match NonZeroU32::new(raw) {
            Some(n) if raw >> 16 != 0 => Some(Self(n)),
            _ => None,
        }
    }

    /// The number to pass on; never 0.
    pub const fn raw(self) -> u32 {
        self.0.get()
    }

    /// The index of the slot.
    pub const fn index(self) -> usize {
        (self.0.get() & 0xffff) as usize
    }

    /// The generation, never 0.
    pub const fn generation(self) -> u16 {
        (self.0.get() >> 16) as u16
    }

    fn new(index: usize, generation: u16) -> Self {
        let raw = u32::from(generation.max(1)) << 16 | (index as u32 & 0xffff);
        Self(NonZeroU32::new(raw).unwrap_or(NonZeroU32::MAX))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw().fmt(f)
    }
}

/// A table has no room for one more member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the table is full")
    }
}

impl core::error::Error for Full {}

/// Why a table does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSlot {
    /// It has as many members as it may.
    Full,
    /// Whoever pays for it has too little left.
    Memory(Refused),
}

impl From<NoSlot> for Full {
    fn from(_: NoSlot) -> Self {
        Self
    }
}

/// At most `limit` values, each named by a [`Handle`].
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Free slots form a list, first freed first.
    first_free: u32,
    last_free: u32,
    len: usize,
    limit: usize,
    /// For the slots.
    charge: Option<Charge>,
}

struct Slot<T> {
    generation: u16,
    state: State<T>,
}

enum State<T> {
    Taken(T),
    Free { next: u32 },
}

impl<T> Slab<T> {
    /// A slab of at most `limit` members (and never more than [`MAX`]). Memory grows with use.
    pub const fn new(limit: usize) -> Self {
        let limit = if limit < MAX { limit } else { MAX };
        Self { slots: Vec::new(), first_free: NONE, last_free: NONE, len: 0, limit, charge: None }
    }

    /// The same, its slots at the expense of `account`. Where that has too little left the slab is full.
    pub fn charged(limit: usize, account: &Account) -> Result<Self, Refused> {
        Ok(Self { charge: Some(account.charge(0)?), ..Self::new(limit) })
    }

    /// The most bytes that a slab of `limit` members takes, not counting what the members own.
    pub const fn bytes(limit: usize) -> usize {
        let limit = if limit < MAX { limit } else { MAX };
        limit * size_of::<Slot<T>>()
    }

    /// Adds `value`. When the slab is full the value is dropped.
    pub fn insert(&mut self, value: T) -> Result<Handle, Full> {
        self.insert_with(|_| value)
    }

    /// Adds what `make` returns for the handle it will have.
    pub fn insert_with(&mut self, make: impl FnOnce(Handle) -> T) -> Result<Handle, Full> {
        let index = match self.pop_free() {
            Some(index) => index,
            None => self.grow()?,
        };
        let slot = &mut self.slots[index];
        let handle = Handle::new(index, slot.generation);
        slot.state = State::Taken(make(handle));
        self.len += 1;
        Ok(handle)
    }

    /// Takes a member out. Its handle names nothing from then on.
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let slot = self.slots.get_mut(handle.index())?;
        if slot.generation != handle.generation() || matches!(slot.state, State::Free { .. }) {
            return None;
        }
        let State::Taken(value) = core::mem::replace(&mut slot.state, State::Free { next: NONE }) else {
            return None;
        };
        slot.generation = slot.generation.checked_add(1).unwrap_or(1);
        self.push_free(handle.index() as u32);
        self.len -= 1;
        Some(value)
    }

    /// The member of this name.
    pub fn get(&self, handle: Handle) -> Option<&T> {
        match self.slots.get(handle.index()) {
            Some(Slot { generation, state: State::Taken(value) }) if *generation == handle.generation() => {
                Some(value)
            }
            _ => None,
        }
    }

    /// The member of this name, to change it.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        match self.slots.get_mut(handle.index()) {
            Some(Slot { generation, state: State::Taken(value) }) if *generation == handle.generation() => {
                Some(value)
            }
            _ => None,
        }
    }

    /// Whether the handle names a member.
    pub fn contains(&self, handle: Handle) -> bool {
        self.get(handle).is_some()
    }

    /// The handle of the member in slot `index`, if there is one.
    pub fn handle_at(&self, index: usize) -> Option<Handle> {
        let slot = self.slots.get(index)?;
        matches!(slot.state, State::Taken(_)).then(|| Handle::new(index, slot.generation))
    }

    /// Sees to it that the next insertion finds a slot.
    pub fn reserve(&mut self) -> Result<(), NoSlot> {
        let there = self.slots.len();
        if self.first_free != NONE || there < self.slots.capacity().min(self.limit) {
            return Ok(());
        }
        if there >= self.limit {
            return Err(NoSlot::Full);
        }
        self.make_slots(there.max(4).min(self.limit - there)).map_err(NoSlot::Memory)
    }

    /// Makes slots for the first members, as many as `n`, at once: the first `n` insertions cannot be refused.
    pub fn make_room(&mut self, n: usize) -> Result<(), Refused> {
        self.make_slots(n.min(self.limit).saturating_sub(self.slots.len()))
    }

    fn make_slots(&mut self, more: usize) -> Result<(), Refused> {
        let (there, slots) = (self.slots.len(), &mut self.slots);
        pay_for_move(&mut self.charge, Self::bytes(there), Self::bytes(there + more), || {
            slots.reserve_exact(more);
        })
    }

    /// Bytes that are charged for its slots.
    pub fn paid(&self) -> u64 {
        self.charge.as_ref().map_or(0, Charge::bytes)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for one more.
    pub fn is_full(&self) -> bool {
        self.len == self.limit
    }

    /// How many members there can be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// All members, by index.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match &slot.state {
            State::Taken(value) => Some((Handle::new(index, slot.generation), value)),
            State::Free { .. } => None,
        })
    }

    /// All members, by index, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| match &mut slot.state {
            State::Taken(value) => Some((Handle::new(index, slot.generation), value)),
            State::Free { .. } => None,
        })
    }

    /// Removes the members for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(Handle, &mut T) -> bool) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let handle = Handle::new(index, slot.generation);
            if let State::Taken(value) = &mut slot.state
                && !keep(handle, value)
            {
                self.remove(handle);
            }
        }
    }

    fn pop_free(&mut self) -> Option<usize> {
        let index = self.first_free as usize;
        let State::Free { next } = self.slots.get(index)?.state else { return None };
        self.first_free = next;
        if next == NONE {
            self.last_free = NONE;
        }
        Some(index)
    }

    fn push_free(&mut self, index: u32) {
        match self.slots.get_mut(self.last_free as usize) {
            Some(last) => last.state = State::Free { next: index },
            None => self.first_free = index,
        }
        self.last_free = index;
    }

    /// One more slot, in steps that never reserve more than `limit` slots.
    fn grow(&mut self) -> Result<usize, Full> {
        self.reserve()?;
        let index = self.slots.len();
        self.slots.push(Slot { generation: 1, state: State::Free { next: NONE } });
        Ok(index)
    }
}

/// Does what moves a table of `before` bytes to one of `after`, when somebody pays for it: while it moves
/// both are there.
pub(crate) fn pay_for_move(
    charge: &mut Option<Charge>,
    before: usize,
    after: usize,
    work: impl FnOnce(),
) -> Result<(), Refused> {
    if let Some(charge) = charge {
        charge.grow(after as u64)?;
    }
    work();
    if let Some(charge) = charge {
        charge.shrink(before as u64);
    }
    Ok(())
}

impl<T: fmt::Debug> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_stale_handle_finds_nothing_while_generations_last() {
        let mut slab = Slab::new(1);
        let first = slab.insert(0u32).unwrap();
        assert_eq!(slab.insert(9), Err(Full));
        slab.remove(first).unwrap();
        for n in 1..65_535 {
            let h = slab.insert(n).unwrap();
            assert_ne!(h, first);
            assert_eq!(slab.get(first), None);
            assert_eq!(slab.remove(first), None);
            assert_eq!(slab.remove(h), Some(n));
        }
        // The generation has wrapped around and skips 0.
        let again = slab.insert(7).unwrap();
        assert_eq!(again.generation(), 1);
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn no_raw_handle_panics() {
        let mut slab = Slab::new(3);
        slab.insert('a').unwrap();
        for raw in [0, 1, 0xffff, 0x1_0000, 0x1_0001, 0x1_ffff, u32::MAX] {
            let found = Handle::from_raw(raw).and_then(|h| slab.get(h));
            assert_eq!(found.is_some(), raw == 0x1_0000);
        }
    }

    #[test]
    fn memory_stays_within_what_is_stated() {
        let mut slab = Slab::new(100);
        while slab.insert([0u8; 24]).is_ok() {}
        assert_eq!(slab.len(), 100);
        assert!(slab.slots.capacity() * size_of::<Slot<[u8; 24]>>() <= Slab::<[u8; 24]>::bytes(100));
    }

    #[test]
    fn slots_are_paid_for_before_they_are_made() {
        let account = Account::root(400);
        let mut slab = Slab::charged(100, &account).unwrap();
        assert_eq!((account.used(), slab.paid()), (0, 0));
        while slab.insert(0u64).is_ok() {
            assert_eq!(account.used(), Slab::<u64>::bytes(slab.slots.capacity()) as u64);
        }
        // Sixteen more would have been beside these sixteen for a moment.
        assert_eq!((slab.len(), account.peak()), (8, 12 * size_of::<Slot<u64>>() as u64));
        assert!(matches!(slab.reserve(), Err(NoSlot::Memory(_))));
        let first = slab.handle_at(0).unwrap();
        slab.remove(first).unwrap();
        assert_eq!(slab.reserve(), Ok(()));
        drop(slab);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn room_for_the_first_is_made_at_once() {
        let account = Account::root(1000);
        let mut slab = Slab::charged(5, &account).unwrap();
        slab.make_room(3).unwrap();
        account.set_limit(0);
        assert_eq!(account.used(), Slab::<u32>::bytes(3) as u64);
        assert_eq!([1, 2, 3, 4].map(|n: u32| slab.insert(n).is_ok()), [true, true, true, false]);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in proptest::collection::vec((0u8..3, any::<u16>()), 1..400), limit in 1usize..20) {
            let mut slab = Slab::new(limit);
            let mut model: HashMap<Handle, u16> = HashMap::new();
            let mut old: Vec<Handle> = Vec::new();
            for (op, n) in ops {
                if op == 0 || old.is_empty() {
                    match slab.insert(n) {
                        Ok(h) => {
                            prop_assert!(model.insert(h, n).is_none());
                            prop_assert_eq!(Handle::from_raw(h.raw()), Some(h));
                            old.push(h);
                        }
                        Err(Full) => prop_assert_eq!(model.len(), limit),
                    }
                } else {
                    let h = old[usize::from(n) % old.len()];
                    if op == 1 {
                        prop_assert_eq!(slab.remove(h), model.remove(&h));
                    } else {
                        prop_assert_eq!(slab.get(h), model.get(&h));
                    }
                }
                prop_assert_eq!(slab.len(), model.len());
            }
            prop_assert_eq!(slab.iter().map(|(h, v)| (h, *v)).collect::<HashMap<_, _>>(), model);
        }
    }
}
