//! The future of a simulation: events in the order of their time, and among equals in the order in which
//! they were put in. That order is what makes two runs of one seed the same.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Events by time.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry<E> {
    time: u64,
    sequence: u64,
    event: E,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }
}

impl<E> Queue<E> {
    /// Puts in an event that happens at `time` (microseconds).
    pub fn push(&mut self, time: u64, event: E) {
        self.heap.push(Reverse(Entry { time, sequence: self.sequence, event }));
        self.sequence += 1;
    }

    /// Takes out the next event, if it happens at `limit` or before.
    pub fn pop(&mut self, limit: u64) -> Option<(u64, E)> {
        if self.heap.peek()?.0.time > limit {
            return None;
        }
        let Reverse(Entry { time, event, .. }) = self.heap.pop()?;
        Some((time, event))
    }

    /// Events that have not happened yet.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True if nothing will happen any more.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.sequence).cmp(&(other.time, other.sequence))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_happens_before_its_time() {
        let mut q = Queue::default();
        q.push(10, 'b');
        q.push(5, 'a');
        assert_eq!(q.pop(4), None);
        assert_eq!(q.pop(7), Some((5, 'a')));
        assert_eq!(q.pop(9), None);
        assert_eq!(q.len(), 1);
        assert_eq!(q.pop(10), Some((10, 'b')));
        assert!(q.is_empty());
    }

    proptest! {
        #[test]
        fn order_is_time_then_arrival(times in proptest::collection::vec(0u64..20, 0..200)) {
            let mut q = Queue::default();
            for (i, &t) in times.iter().enumerate() {
                q.push(t, i);
            }
            let mut expected: Vec<(u64, usize)> = times.iter().copied().zip(0..).collect();
            expected.sort();
            let got: Vec<(u64, usize)> = std::iter::from_fn(|| q.pop(u64::MAX)).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
