//! What the running event wants done, in order. The places in the queue are the team's expense before they are
//! made; few stay when the event is over.

use std::collections::VecDeque;

use nodeos::account::{Account, Charge, Refused};

use super::event::brief;
use super::{Effect, MAX_EFFECTS};
use crate::abi::{Error, Level};

/// Places that are always there.
const FIRST: usize = 4;
/// Places that stay from event to event, once they were needed.
const KEPT: usize = 16;
/// Bytes of a place.
const SLOT: usize = size_of::<Effect>();

/// What an event wants done.
pub(crate) struct Effects {
    list: VecDeque<Effect>,
    /// For its places.
    charge: Charge,
}

impl Effects {
    /// An empty queue, its places charged to `memory`.
    pub fn new(memory: &Account) -> Result<Self, Refused> {
        let charge = memory.charge((FIRST * SLOT) as u64)?;
        Ok(Self { list: VecDeque::with_capacity(FIRST), charge })
    }

    /// Sees to it that the next `n` effects find their places.
    #[inline]
    pub fn make_room(&mut self, n: usize) -> Result<(), Error> {
        let (there, needed) = (self.list.capacity(), self.list.len() + n);
        if needed > MAX_EFFECTS {
            return Err(Error::NoRoom);
        }
        if needed > there {
            let places = needed.max(2 * there).min(MAX_EFFECTS);
            // While the queue moves the old one is there beside the new one.
            self.charge.grow((places * SLOT) as u64).map_err(|_| Error::NoMemory)?;
            self.list.reserve_exact(places - self.list.len());
            self.charge.shrink((there * SLOT) as u64);
        }
        Ok(())
    }

    /// Adds an effect that [`Effects::make_room`] was called for, or the first of an event.
    #[inline]
    pub fn push(&mut self, effect: Effect) {
        self.list.push_back(effect);
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Those from the one at `from` on.
    pub fn since(&self, from: usize) -> impl DoubleEndedIterator<Item = &Effect> {
        self.list.iter().skip(from)
    }

    pub fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
    }

    /// The last line that an event, whose effects begin at `from`, logged as an error.
    pub fn last_words(&self, from: usize) -> Option<String> {
        let said = self.since(from).rev().find_map(|effect| match effect {
            Effect::Log { level: Level::Error, text } => Some(text),
            _ => None,
        });
        said.map(|text| brief(text))
    }

    pub fn retain(&mut self, keep: impl FnMut(&Effect) -> bool) {
        self.list.retain(keep);
    }

    /// Takes out the next one. When none is left a queue that has grown is as small as before.
    #[inline]
    pub fn pop(&mut self) -> Option<Effect> {
        let next = self.list.pop_front();
        if self.list.capacity() > KEPT && self.list.is_empty() {
            self.list = VecDeque::with_capacity(FIRST);
            self.charge.shrink(self.charge.bytes() - (FIRST * SLOT) as u64);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::SessionId;

    const CLOSE: Effect = Effect::CloseSession { session: SessionId(1) };

    /// Everything that a guest may want is multiplied by [`MAX_EFFECTS`].
    #[test]
    fn effects_are_small() {
        const { assert!(SLOT <= 48) };
    }

    #[test]
    fn places_are_paid_for_and_few_stay() {
        let account = Account::root(1 << 20);
        let mut effects = Effects::new(&account).unwrap();
        let idle = account.used();
        for n in 0..MAX_EFFECTS {
            effects.make_room(1).unwrap();
            effects.push(CLOSE);
            assert!(account.used() >= ((n + 1).max(effects.list.capacity()) * SLOT) as u64);
        }
        assert_eq!(effects.make_room(1), Err(Error::NoRoom));
        let taken = |effects: &mut Effects| std::iter::from_fn(|| effects.pop()).count();
        assert_eq!(taken(&mut effects), MAX_EFFECTS);
        assert_eq!((account.used(), effects.list.capacity()), (idle, FIRST));
        effects.make_room(KEPT).unwrap();
        (0..KEPT).for_each(|_| effects.push(CLOSE));
        assert_eq!((taken(&mut effects), effects.list.capacity()), (KEPT, KEPT));
        drop(effects);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn a_queue_that_cannot_grow_refuses() {
        let account = Account::root((3 * FIRST * SLOT) as u64);
        let mut effects = Effects::new(&account).unwrap();
        let pushed = (0..).take_while(|_| effects.make_room(1).map(|()| effects.push(CLOSE)).is_ok()).count();
        assert_eq!((pushed, effects.make_room(1)), (2 * FIRST, Err(Error::NoMemory)));
        effects.truncate(1);
        effects.make_room(2 * FIRST - 1).unwrap();
    }
}
