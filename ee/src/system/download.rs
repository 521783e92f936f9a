//! Fetches one object (a tuple or a part) from a previous hop, in chunks, over a link that loses.
//!
//! A [`Download`] knows which byte ranges are missing and which are asked for. It keeps up to
//! [`WINDOW`] chunks asked for, asks again for what has not come after a time that doubles, and gives up
//! after [`MAX_TRIES`] times without any progress. Chunks may come in any order, size and number; bytes
//! that were not asked for, or lie outside the object, change nothing.

use std::ops::Range;
use std::time::Duration;

use nodeos::platform::Instant;

/// Chunks asked for at a time.
pub const WINDOW: u32 = 8;
/// Requests without any progress before the source is given up, which is after some eight seconds: so many
/// that a link which loses every fifth request or answer does not make a source look gone.
pub const MAX_TRIES: u32 = 11;
/// Missing ranges remembered: a hop that sends crumbs does not make us keep a list of them.
const MAX_PIECES: usize = 64;
/// The first wait for an answer.
pub const FIRST_WAIT: Duration = Duration::from_millis(60);
/// The longest wait for an answer.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// One object on its way.
#[derive(Debug)]
pub struct Download {
    bytes: Vec<u8>,
    /// Not received and not asked for, in ascending order.
    wanted: Vec<Range<u32>>,
    /// Asked for and not received.
    asked: Vec<Range<u32>>,
    chunk: u32,
    /// Bytes that one request asks for at most.
    most: u32,
    nonce: u32,
    wait: Duration,
    /// When what is asked for is asked for again.
    again: Instant,
    tries: u32,
    retries: u32,
}

/// What came of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// Nothing new.
    Ignored,
    /// Some bytes are new.
    Progress,
    /// Every byte is there.
    Complete,
}

/// The source does not answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GaveUp;

impl Download {
    /// A download of `len` bytes in chunks of at most `chunk` bytes, up to `each` chunks by one request. The caller
    /// has charged for `len` bytes. `nonce` marks this download's answers.
    pub fn new(len: u32, chunk: u32, each: u32, nonce: u32) -> Self {
        Self {
            bytes: vec![0; len as usize],
            wanted: if len == 0 { vec![] } else { vec![Range { start: 0, end: len }] },
            asked: Vec::new(),
            chunk: chunk.max(1),
            most: (each * chunk).max(1),
            nonce,
            wait: FIRST_WAIT,
            again: Instant::ZERO,
            tries: 0,
            retries: 0,
        }
    }

    /// Marks this download's answers.
    pub fn nonce(&self) -> u32 {
        self.nonce
    }

    /// How many requests were repeated.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// The next request to send now, as a byte range; call until `None`.
    pub fn request(&mut self, now: Instant) -> Result<Option<Range<u32>>, GaveUp> {
        if !self.asked.is_empty() && now >= self.again {
            self.ask_again()?;
        }
        let outstanding: u32 = self.asked.iter().map(|r| r.end - r.start).sum();
        let room = (WINDOW * self.chunk).saturating_sub(outstanding);
        // A request for a sliver is not worth a frame, except for the last one.
        let next = match self.wanted.first() {
            Some(r) if room >= self.chunk => {
                Range { start: r.start, end: r.end.min(r.start + room.min(self.most)) }
            }
            _ => return Ok(None),
        };
        take(&mut self.wanted, &next);
        if self.asked.is_empty() {
            self.again = now + self.wait;
        }
        self.asked.push(next.clone());
        Ok(Some(next))
    }

    /// When [`request`](Self::request) must be called again at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.asked.is_empty()).then_some(self.again)
    }

    /// A chunk arrived.
    pub fn chunk(&mut self, now: Instant, nonce: u32, offset: u32, total: u32, bytes: &[u8]) -> Chunk {
        let end = offset as usize + bytes.len();
        if nonce != self.nonce || total as usize != self.bytes.len() || end > self.bytes.len() {
            return Chunk::Ignored;
        }
        let got = Range { start: offset, end: end as u32 };
        if self.asked.len() + self.wanted.len() >= MAX_PIECES && self.splits(&got) {
            return Chunk::Ignored;
        }
        let new = take(&mut self.asked, &got) + take(&mut self.wanted, &got);
        if new == 0 {
            return Chunk::Ignored;
        }
        self.bytes[offset as usize..end].copy_from_slice(bytes);
        self.tries = 0;
        self.wait = FIRST_WAIT;
        self.again = now + self.wait;
        if self.asked.is_empty() && self.wanted.is_empty() { Chunk::Complete } else { Chunk::Progress }
    }

    /// The object's bytes, once complete.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether `got` would leave missing bytes on both of its sides.
    fn splits(&self, got: &Range<u32>) -> bool {
        self.asked.iter().chain(&self.wanted).any(|r| r.start < got.start && got.end < r.end)
    }

    fn ask_again(&mut self) -> Result<(), GaveUp> {
        self.tries += 1;
        self.retries += 1;
        if self.tries >= MAX_TRIES {
            return Err(GaveUp);
        }
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        self.wanted.append(&mut self.asked);
        self.wanted.sort_by_key(|r| r.start);
        self.wanted.dedup_by(|b, a| {
            let joined = a.end == b.start;
            if joined {
                a.end = b.end;
            }
            joined
        });
        Ok(())
    }
}

/// Removes `got` from `ranges`; returns how many bytes that were.
fn take(ranges: &mut Vec<Range<u32>>, got: &Range<u32>) -> u32 {
    let mut taken = 0;
    let mut left = Vec::with_capacity(ranges.len() + 1);
    for r in ranges.drain(..) {
        let (start, end) = (r.start.max(got.start), r.end.min(got.end));
        if start >= end {
            left.push(r);
            continue;
        }
        taken += end - start;
        left.extend([r.start..start, end..r.end].into_iter().filter(|piece| piece.start < piece.end));
    }
    *ranges = left;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_silent_source_is_given_up() {
        let mut d = Download::new(10_000, 1400, WINDOW, 1);
        let mut now = Instant::ZERO;
        let mut requests = 0;
        let gave_up = loop {
            match d.request(now) {
                Err(GaveUp) => break now,
                Ok(Some(_)) => requests += 1,
                Ok(None) => now = d.deadline().unwrap(),
            }
        };
        assert_eq!(requests, MAX_TRIES as usize);
        assert!(gave_up.since(Instant::ZERO) < Duration::from_secs(15));
    }

    #[test]
    fn lies_change_nothing() {
        let mut d = Download::new(100, 50, WINDOW, 7);
        assert_eq!(d.request(Instant::ZERO), Ok(Some(0..100)));
        for (nonce, offset, total, len) in
            [(8, 0, 100, 50), (7, 0, 101, 50), (7, 90, 100, 50), (7, u32::MAX, 100, 50), (7, 10, 100, 0)]
        {
            assert_eq!(d.chunk(Instant::ZERO, nonce, offset, total, &vec![9; len]), Chunk::Ignored);
        }
        assert_eq!(d.chunk(Instant::ZERO, 7, 0, 100, &[1; 60]), Chunk::Progress);
        assert_eq!(d.chunk(Instant::ZERO, 7, 0, 100, &[2; 60]), Chunk::Ignored);
        assert_eq!(d.chunk(Instant::ZERO, 7, 60, 100, &[3; 40]), Chunk::Complete);
        assert_eq!(d.into_bytes()[59..61], [1, 3]);
    }

    proptest! {
        /// Whatever is lost, doubled or reordered, the bytes come out right.
        #[test]
        fn any_loss_is_repaired(
            object in proptest::collection::vec(any::<u8>(), 1..6000),
            chunk in 1u32..1500,
            served in 1usize..1500,
            each in 1..=WINDOW,
            fate in proptest::collection::vec(0u8..10, 1..200),
        ) {
            let mut d = Download::new(object.len() as u32, chunk, each, 1);
            let mut now = Instant::ZERO;
            let mut fate = fate.into_iter().cycle();
            let mut air: Vec<(u32, Vec<u8>)> = Vec::new();
            let mut rounds = 0;
            'all: loop {
                rounds += 1;
                // Losing everything may end it; that is the other test's business.
                if rounds > 100_000 { return Ok(()) }
                match d.request(now) {
                    Err(GaveUp) => return Ok(()),
                    Ok(Some(r)) => {
                        prop_assert!(r.end - r.start <= each * chunk);
                        let mut at = r.start as usize;
                        while at < r.end as usize {
                            let end = (at + served).min(r.end as usize);
                            let copies = match fate.next().unwrap() { 0 | 1 => 0, 2 => 2, _ => 1 };
                            for _ in 0..copies { air.push((at as u32, object[at..end].to_vec())) }
                            at = end;
                        }
                    }
                    Ok(None) => {
                        if air.is_empty() { now = d.deadline().unwrap(); continue }
                        let i = usize::from(fate.next().unwrap()) % air.len();
                        let (offset, bytes) = air.swap_remove(i);
                        if d.chunk(now, 1, offset, object.len() as u32, &bytes) == Chunk::Complete { break 'all }
                    }
                }
            }
            prop_assert_eq!(d.into_bytes(), object);
        }
    }
}
