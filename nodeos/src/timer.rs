//! What is to happen later: a bounded set of values, each with its time, in order of time.
//!
//! Values of equal time come out in the order in which they were set. Cancelling leaves an entry behind
//! in the order that is swept out later; the sweeps are rare enough that every operation takes O(log n)
//! on average.

use crate::account::{Account, Charge, Refused};
use crate::platform::Instant;
use crate::slab::{Full, Handle, NoSlot, Slab, pay_for_move};
use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use core::mem::size_of;

/// At most `limit` values that wait for their time.
#[derive(Debug)]
pub struct Timers<T> {
    values: Slab<T>,
    /// The entry at the front is never a cancelled one.
    order: BinaryHeap<Reverse<(Instant, u64, Handle)>>,
    turn: u64,
    /// For the order.
    charge: Option<Charge>,
}

impl<T> Timers<T> {
    /// Room for `limit` values.
    pub const fn new(limit: usize) -> Self {
        Self { values: Slab::new(limit), order: BinaryHeap::new(), turn: 0, charge: None }
    }

    /// The same at the expense of `account`. Where that has too little left there is no room.
    pub fn charged(limit: usize, account: &Account) -> Result<Self, Refused> {
        let (values, charge) = (Slab::charged(limit, account)?, Some(account.charge(0)?));
        Ok(Self { values, order: BinaryHeap::new(), turn: 0, charge })
    }

    /// Sees to it that the next [`set`](Self::set) finds room.
    pub fn reserve(&mut self) -> Result<(), NoSlot> {
        self.values.reserve()?;
        let there = self.order.len();
        if there < self.order.capacity() {
            return Ok(());
        }
        let (more, order) = (there.max(4), &mut self.order);
        let bytes = |n: usize| n * size_of::<(Instant, u64, Handle)>();
        let paid =
            pay_for_move(&mut self.charge, bytes(there), bytes(there + more), || order.reserve_exact(more));
        match paid {
            Err(_) if there > self.values.len() => self.sweep(),
            paid => paid.map_err(NoSlot::Memory)?,
        }
        Ok(())
    }

    /// Adds a value that is due at `at`. When there is no room the value is dropped.
    pub fn set(&mut self, at: Instant, value: T) -> Result<Handle, Full> {
        self.reserve()?;
        let handle = self.values.insert(value)?;
        self.turn += 1;
        self.order.push(Reverse((at, self.turn, handle)));
        Ok(handle)
    }

    /// Takes a value out before its time.
    pub fn cancel(&mut self, handle: Handle) -> Option<T> {
        let value = self.values.remove(handle)?;
        if self.order.len() > 2 * self.values.len() + 16 {
            self.sweep();
        }
        self.drop_cancelled();
        Some(value)
    }

    /// The next value that is due, if one is.
    pub fn due(&mut self, now: Instant) -> Option<(Handle, T)> {
        let Reverse((at, _, handle)) = *self.order.peek()?;
        if at > now {
            return None;
        }
        self.order.pop();
        let value = self.values.remove(handle)?;
        self.drop_cancelled();
        Some((handle, value))
    }

    /// When the next value is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.order.peek().map(|Reverse((at, _, _))| *at)
    }

    /// The value of this name.
    pub fn get(&self, handle: Handle) -> Option<&T> {
        self.values.get(handle)
    }

    /// How many values wait.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How many may wait.
    pub fn limit(&self) -> usize {
        self.values.limit()
    }

    fn sweep(&mut self) {
        let values = &self.values;
        self.order.retain(|Reverse((_, _, handle))| values.contains(*handle));
    }

    fn drop_cancelled(&mut self) {
        while let Some(Reverse((_, _, handle))) = self.order.peek()
            && !self.values.contains(*handle)
        {
            self.order.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn in_order_of_time_and_then_of_setting() {
        let mut timers = Timers::new(4);
        for (at, name) in [(30, 'c'), (10, 'a'), (30, 'd'), (20, 'b')] {
            timers.set(Instant(at), name).unwrap();
        }
        assert_eq!(timers.set(Instant(0), 'x'), Err(Full));
        assert_eq!(timers.deadline(), Some(Instant(10)));
        assert_eq!(timers.due(Instant(9)), None);
        let due: Vec<char> = core::iter::from_fn(|| timers.due(Instant(30)).map(|(_, v)| v)).collect();
        assert_eq!(due, ['a', 'b', 'c', 'd']);
        assert_eq!(timers.deadline(), None);
    }

    #[test]
    fn cancelled_entries_do_not_pile_up() {
        let mut timers = Timers::new(2);
        let _first = timers.set(Instant(1), 0).unwrap();
        for n in 0..10_000 {
            let handle = timers.set(Instant(1000 - n % 500), n).unwrap();
            assert_eq!(timers.cancel(handle), Some(n));
            assert!(timers.order.len() <= 20);
        }
        assert_eq!(timers.deadline(), Some(Instant(1)));
    }

    #[test]
    fn room_is_paid_for_before_it_is_there() {
        let account = Account::root(2000);
        let mut timers = Timers::charged(1000, &account).unwrap();
        assert_eq!(account.used(), 0);
        let set = (0..1000u64).take_while(|n| timers.set(Instant(*n), *n).is_ok()).count();
        assert_eq!(set, 32);
        let paid = timers.values.paid() + timers.order.capacity() as u64 * 24;
        assert!(account.used() == paid && account.peak() <= 2000, "{account:?}");
        assert!(matches!(timers.reserve(), Err(NoSlot::Memory(_))));
        // In the place of others there is always room, however many of those were cancelled.
        assert_eq!(timers.due(Instant(9)).map(|(_, n)| n), Some(0));
        let mut last = timers.set(Instant(100), 7).unwrap();
        for n in 0..100 {
            timers.cancel(last).unwrap();
            last = timers.set(Instant(100 + n), n).unwrap();
        }
        assert!(account.peak() <= 2000);
        drop(timers);
        assert_eq!(account.used(), 0);
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(ops in proptest::collection::vec((0u8..4, 0u64..100, any::<prop::sample::Index>()), 1..300)) {
            let mut timers = Timers::new(8);
            let mut model: Vec<(Instant, usize, Handle)> = Vec::new();
            for (n, (op, at, pick)) in ops.into_iter().enumerate() {
                match op {
                    0 | 1 => match timers.set(Instant(at), n) {
                        Ok(handle) => model.push((Instant(at), n, handle)),
                        Err(Full) => prop_assert_eq!(model.len(), 8),
                    },
                    2 if !model.is_empty() => {
                        let (_, n, handle) = model.swap_remove(pick.index(model.len()));
                        prop_assert_eq!(timers.cancel(handle), Some(n));
                        prop_assert_eq!(timers.cancel(handle), None);
                    }
                    _ => {
                        model.sort();
                        let expected = model.first().filter(|(t, _, _)| *t <= Instant(at)).copied();
                        prop_assert_eq!(timers.due(Instant(at)), expected.map(|(_, n, handle)| (handle, n)));
                        if expected.is_some() {
                            model.remove(0);
                        }
                    }
                }
                prop_assert_eq!(timers.deadline(), model.iter().map(|m| m.0).min());
                prop_assert_eq!(timers.len(), model.len());
            }
        }
    }
}
