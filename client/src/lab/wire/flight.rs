//! Frames on their way to one end of a lab link: they go in with the time at which they arrive, and come
//! out when they are due. When that is, and which are lost, decides [`sim::medium`], the simulator's model.
//!
//! What is in flight is bounded by bytes. A receiver that has no room is asked again for a while, then the
//! frame is dropped: nothing here waits for anybody. Times are microseconds since the process's start.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Bytes in flight to one end, at most: what 1 Gbit/s holds in 128 ms.
const MAX_FLIGHT: usize = 16 << 20;
/// A frame that its receiver does not take for so long is dropped, in microseconds.
const MAX_LATE: u64 = 100_000;
/// How long to wait before a receiver that had no room is asked again, in microseconds.
const RETRY: u64 = 200;

/// What became of a frame that was handed to its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It was taken.
    Taken,
    /// The receiver has no room now.
    Busy,
    /// There is no receiver.
    Gone,
}

/// What happened to frames that were not lost on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames that were taken.
    pub delivered: u64,
    /// Frames dropped because too much was in flight or the receiver had no room.
    pub dropped: u64,
    /// Frames for a receiver that was not there.
    pub undelivered: u64,
}

/// Frames on their way to one end of a link.
#[derive(Debug, Default)]
pub struct Flight {
    frames: BinaryHeap<Reverse<Flying>>,
    bytes: usize,
    /// Numbers frames, so that those due at one time keep their order.
    next: u64,
    /// Not before this time is the receiver asked again.
    retry_at: u64,
    counters: Counters,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    due: u64,
    number: u64,
    frame: Vec<u8>,
}

impl Flight {
    /// `frame` arrives at `due`.
    pub fn push(&mut self, due: u64, frame: &[u8]) {
        if self.bytes + frame.len() > MAX_FLIGHT {
            self.counters.dropped += 1;
            return;
        }
        self.bytes += frame.len();
        self.frames.push(Reverse(Flying { due, number: self.next, frame: frame.to_vec() }));
        self.next += 1;
    }

    /// Hands every frame that is due to `receiver`, in order.
    pub fn deliver(&mut self, now: u64, mut receiver: impl FnMut(&[u8]) -> Delivery) {
        while let Some(Reverse(first)) = self.frames.peek() {
            if first.due.max(self.retry_at) > now {
                return;
            }
            match receiver(&first.frame) {
                Delivery::Taken => self.counters.delivered += 1,
                Delivery::Busy if now - first.due < MAX_LATE => {
                    self.retry_at = now + RETRY;
                    return;
                }
                Delivery::Busy => self.counters.dropped += 1,
                Delivery::Gone => self.counters.undelivered += 1,
            }
            self.bytes -= first.frame.len();
            self.frames.pop();
        }
    }

    /// When [`Flight::deliver`] has work.
    pub fn deadline(&self) -> Option<u64> {
        self.frames.peek().map(|Reverse(f)| f.due.max(self.retry_at))
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths of the frames that arrive by `now`.
    fn arrived(flight: &mut Flight, now: u64) -> Vec<usize> {
        let mut lengths = vec![];
        flight.deliver(now, |f| {
            lengths.push(f.len());
            Delivery::Taken
        });
        lengths
    }

    #[test]
    fn frames_arrive_when_due_and_in_order() {
        let mut f = Flight::default();
        for (due, len) in [(20, 1), (10, 2), (10, 3), (30, 4)] {
            f.push(due, &vec![0; len]);
        }
        assert_eq!(f.deadline(), Some(10));
        assert!(arrived(&mut f, 9).is_empty());
        assert_eq!(arrived(&mut f, 20), [2, 3, 1]);
        assert_eq!(f.deadline(), Some(30));
        assert_eq!(arrived(&mut f, 30), [4]);
        assert_eq!((f.deadline(), f.bytes, f.counters().delivered), (None, 0, 4));
    }

    #[test]
    fn bytes_in_flight_are_bounded() {
        let mut f = Flight::default();
        for _ in 0..20_000 {
            f.push(1, &[0; 1500]);
        }
        let room = MAX_FLIGHT / 1500;
        assert_eq!(f.counters().dropped, 20_000 - room as u64);
        assert_eq!(arrived(&mut f, 1).len(), room);
    }

    #[test]
    fn a_busy_receiver_is_asked_again_and_then_given_up() {
        let mut f = Flight::default();
        f.push(0, &[0; 60]);
        f.push(0, &[0; 61]);
        f.deliver(0, |_| Delivery::Busy);
        assert_eq!(f.deadline(), Some(RETRY));
        assert!(arrived(&mut f, RETRY - 1).is_empty());
        assert_eq!(arrived(&mut f, RETRY), [60, 61]);
        f.push(RETRY, &[0; 62]);
        f.deliver(RETRY + MAX_LATE, |_| Delivery::Busy);
        assert_eq!((f.deadline(), f.counters().dropped), (None, 1));
    }

    #[test]
    fn an_absent_receiver_holds_nothing_up() {
        let mut f = Flight::default();
        f.push(0, &[0; 60]);
        f.push(0, &[0; 61]);
        f.deliver(0, |_| Delivery::Gone);
        assert_eq!((f.deadline(), f.counters().undelivered), (None, 2));
    }
}
