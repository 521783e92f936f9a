//! A program's request: which pieces of the object are on their way, which are lost, which are here.
//!
//! Pure: `now` is an argument (microseconds of any clock that does not go back), and what is to be sent is the result.

use bees_sdk::Session;

use crate::format::{Get, MAX_URL, Piece};

/// Pieces on their way at once.
pub const WINDOW: usize = 16;
/// The narrowest window, in halves.
const LEAST: u16 = 8;
/// Between two looks at the clock, in microseconds.
pub const TICK: u64 = 20_000;
/// How long to wait for a piece, in microseconds: at first (somebody may have to fetch the object), at least, at most.
const WAIT: u64 = 1_000_000;
const WAITS: (u64, u64) = (60_000, 8_000_000);
/// A request that hears nothing for so long has failed, in microseconds.
const PATIENCE: u64 = 30_000_000;
/// How often an object may change while it is fetched.
const CHANGES: u8 = 4;

/// A request at work.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub session: Session,
    /// The program's number for it.
    pub id: u32,
    url: [u8; MAX_URL],
    url_len: u16,
    pub key: [u8; 16],
    flags: u8,
    nonce: u32,
    version: u64,
    count: u16,
    /// All pieces before it are here.
    base: u16,
    /// From `base` on: when each was asked for; 0: not yet, or it is here.
    asked: [u64; WINDOW],
    /// From `base` on, a bit each: it was asked for more than once; it is here.
    again: u16,
    here: u16,
    /// How many may be on their way, in halves.
    window: u16,
    /// The round trip: smoothed, and how much it varies; 0: unknown.
    round_trip: u64,
    varies: u64,
    /// Doubled with each loss in a row.
    backoff: u8,
    /// When something new came last, and when the window was last narrowed.
    heard: u64,
    narrowed: u64,
    changes: u8,
}

/// What came of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was here already.
    Known,
    /// It is for the program.
    New,
    /// It is, and it was the last.
    Last,
    /// The object is another one than before: the request begins anew.
    Changed,
    /// It has changed too often.
    Unsteady,
}

impl Job {
    /// A request for what a URL names; the URL is no longer than it may be.
    pub fn begin(
        session: Session,
        id: u32,
        url: &[u8],
        key: [u8; 16],
        flags: u8,
        nonce: u32,
        now: u64,
    ) -> Self {
        let mut kept = [0; MAX_URL];
        kept[..url.len()].copy_from_slice(url);
        Self {
            session,
            id,
            url: kept,
            url_len: url.len() as u16,
            key,
            flags,
            nonce: nonce.max(1),
            version: 0,
            // Until it is known.
            count: 1,
            base: 0,
            asked: [0; WINDOW],
            again: 0,
            here: 0,
            window: LEAST,
            round_trip: 0,
            varies: 0,
            backoff: 0,
            heard: now,
            narrowed: now,
            changes: 0,
        }
    }

    pub fn url(&self) -> &[u8] {
        &self.url[..usize::from(self.url_len)]
    }

    /// Whether nothing came for too long.
    pub fn has_failed(&self, now: u64) -> bool {
        now.saturating_sub(self.heard) > PATIENCE
    }

    fn wait(&self) -> u64 {
        let wait = match self.round_trip {
            0 => WAIT,
            round_trip => (round_trip + 4 * self.varies).clamp(WAITS.0, WAITS.1),
        };
        (wait << self.backoff.min(6)).min(WAITS.1)
    }

    /// What is lost is to be asked for again: what was asked for too long ago is as if it had not been.
    pub fn tick(&mut self, now: u64) {
        let wait = self.wait();
        let mut lost = false;
        for (at, asked) in self.asked.iter_mut().enumerate() {
            if *asked != 0 && *asked + wait <= now {
                *asked = 0;
                self.again |= 1 << at;
                lost = true;
            }
        }
        // Once for all that is lost in one round trip. Links lose pieces for other reasons than too many of them, too: some are
        // always on their way, and who hears anything at all need not wait longer.
        if lost && now >= self.narrowed + wait {
            self.window = (self.window / 2).max(LEAST);
            if now >= self.heard + wait {
                self.backoff = (self.backoff + 1).min(6);
            }
            self.narrowed = now;
        }
    }

    /// The next get to send, if there is one.
    pub fn next(&mut self, now: u64) -> Option<Get> {
        let on_way = self.asked.iter().filter(|at| **at != 0).count();
        if on_way >= usize::from(self.window / 2) {
            return None;
        }
        let left = usize::from(self.count - self.base).min(WINDOW);
        let free = |at: &usize| self.asked[*at] == 0 && self.here & 1 << *at == 0;
        let at = (0..left).find(free)?;
        self.asked[at] = now.max(1);
        let (nonce, flags) = if self.version == 0 { (self.nonce, self.flags) } else { (0, 0) };
        Some(Get { hops: 0, flags, nonce, index: self.base + at as u16, version: self.version })
    }

    /// Whether a piece answers a get of this request.
    pub fn asked_for(&self, piece: &Piece) -> bool {
        piece.asked == self.version && (self.version != 0 || piece.nonce == self.nonce)
    }

    /// Whether a piece is new to the program: of the object that it gets, and not here yet.
    pub fn wants(&self, piece: &Piece) -> bool {
        let same = self.version == 0 || piece.version() == self.version && piece.count == self.count;
        let at = piece.index.checked_sub(self.base).map(usize::from).filter(|at| *at < WINDOW);
        self.asked_for(piece) && same && at.is_some_and(|at| self.here & 1 << at == 0)
    }

    /// A piece came that this request asked for.
    pub fn take(&mut self, piece: &Piece, nonce: u32, now: u64) -> Taken {
        if !self.asked_for(piece) {
            return Taken::Known;
        }
        if self.version == 0 {
            (self.version, self.count) = (piece.version(), piece.count);
        } else if piece.version() != self.version || piece.count != self.count {
            self.restart(nonce);
            return if self.changes < CHANGES { Taken::Changed } else { Taken::Unsteady };
        }
        let Some(at) = piece.index.checked_sub(self.base).map(usize::from).filter(|at| *at < WINDOW) else {
            return Taken::Known;
        };
        let bit = 1 << at;
        if self.here & bit != 0 {
            return Taken::Known;
        }
        if self.asked[at] != 0 && self.again & bit == 0 {
            self.measure(now.saturating_sub(self.asked[at]));
        }
        self.here |= bit;
        self.asked[at] = 0;
        (self.heard, self.backoff) = (now, 0);
        self.window = (self.window + 1).min(2 * WINDOW as u16);
        while self.here & 1 != 0 {
            self.base += 1;
            self.here >>= 1;
            self.again >>= 1;
            self.asked.rotate_left(1);
            self.asked[WINDOW - 1] = 0;
        }
        if self.base == self.count { Taken::Last } else { Taken::New }
    }

    /// Begins anew, with what is there now. In place: a job is a good part of the stack.
    fn restart(&mut self, nonce: u32) {
        self.changes += 1;
        (self.nonce, self.flags) = (nonce.max(1), crate::format::RELOAD);
        (self.version, self.count, self.base) = (0, 1, 0);
        (self.asked, self.again, self.here) = ([0; WINDOW], 0, 0);
    }

    /// A round trip took so long (RFC 6298, section 2).
    fn measure(&mut self, took: u64) {
        let took = took.max(1);
        // The first one may have waited for the gateway's program.
        if self.round_trip == 0 || took < self.round_trip / 4 {
            (self.round_trip, self.varies) = (took, took / 2);
        } else {
            self.varies = (3 * self.varies + self.round_trip.abs_diff(took)) / 4;
            self.round_trip = (7 * self.round_trip + took) / 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use bees_sdk::node::mix;

    use super::*;

    fn piece(get: &Get, count: u16, digest: u8) -> Piece {
        Piece {
            hops: 0,
            key: [1; 16],
            asked: get.version,
            nonce: get.nonce,
            index: get.index,
            count,
            life: 0,
            left: 0,
            digest: [digest; 32],
        }
    }

    fn job() -> Job {
        Job::begin(Session::from_bits(1), 1, b"http://a/", [1; 16], 0, 5, 0)
    }

    /// Whatever is lost, doubled or late: every piece comes to the program once, and the request ends.
    #[test]
    fn every_piece_comes_once() {
        for seed in 0..60 {
            let mut random = mix(seed);
            let mut draw = |n: u64| {
                random = mix(random);
                random % n
            };
            let count = 1 + draw(300) as u16;
            let (mut job, mut way, mut got, mut sent) = (job(), vec![], vec![0; count.into()], 0);
            let mut now = 0;
            'request: loop {
                job.tick(now);
                while let Some(get) = job.next(now) {
                    sent += 1;
                    if draw(10) != 0 {
                        way.push((now + 5000 + draw(20_000), get));
                    }
                }
                now += TICK;
                assert!(!job.has_failed(now) && now < 200_000_000, "seed {seed}");
                way.sort_by_key(|(at, get)| (*at, get.index));
                while way.first().is_some_and(|(at, _)| *at <= now) {
                    let (_, get) = way.remove(0);
                    if draw(10) == 0 {
                        continue;
                    }
                    match job.take(&piece(&get, count, 7), 9, now) {
                        Taken::Known => {}
                        taken => {
                            got[usize::from(get.index)] += 1;
                            if taken == Taken::Last {
                                break 'request;
                            }
                        }
                    }
                }
            }
            assert!(got.iter().all(|n| *n == 1), "seed {seed}: {got:?}");
            assert!(sent < 4 * u32::from(count) + 20, "seed {seed}: {sent} gets for {count} pieces");
        }
    }

    #[test]
    fn an_object_that_changes_is_fetched_anew() {
        let mut job = job();
        let get = job.next(0).unwrap();
        assert_eq!((get.index, get.version, get.nonce), (0, 0, 5));
        assert_eq!(job.next(0), None, "nobody knows yet how long it is");
        assert_eq!(job.take(&piece(&get, 3, 7), 6, 1000), Taken::New);
        let get = job.next(1000).unwrap();
        assert!(get.version != 0 && get.nonce == 0);
        assert_eq!(job.take(&piece(&get, 4, 8), 6, 2000), Taken::Changed);
        let mut nonce = 6;
        loop {
            let first = job.next(3000).unwrap();
            assert_eq!((first.index, first.version, first.nonce, first.flags), (0, 0, nonce, 1));
            job.take(&piece(&first, 4, 8), 0, 3000);
            let get = job.next(3000).unwrap();
            nonce += 1;
            match job.take(&piece(&get, 3, 7), nonce, 3000) {
                Taken::Changed => {}
                Taken::Unsteady => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(nonce, 9);
    }

    #[test]
    fn silence_is_waited_for_longer_each_time() {
        let (mut job, mut sent, mut now) = (job(), vec![], 0);
        while !job.has_failed(now) {
            job.tick(now);
            sent.extend(job.next(now).map(|_| now / 1_000_000));
            now += TICK;
        }
        assert_eq!(sent, [0, 1, 3, 7, 15, 23]);
    }
}
