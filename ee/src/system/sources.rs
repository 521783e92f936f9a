//! Whom a flow's tuple and parts are asked for: every neighbor that said which flow it is, or sent a capsule of it.
//!
//! A [`Source`] knows what is asked of it, how long its answers take and how much may be asked of it at a time.
//! Its window grows with its answers, up to [`MAX_WINDOW`] chunks, and is halved when one is lost: when three later
//! ones overtook it, or when nothing came for as long as its answers usually take (RFC 6298). The sources outlive
//! the single object: what was learned while the tuple came helps with the parts.

use std::ops::Range;
use std::time::Duration;

use nodeos::platform::Instant;

use crate::neighbor::NeighborId;

/// Sources of one flow.
pub const MAX_SOURCES: usize = 4;
/// Chunks asked for at a time of a source of which nothing is known yet, and chunks of one request.
pub const WINDOW: u32 = 8;
/// Chunks asked for at a time, at most.
pub const MAX_WINDOW: u32 = 32;
/// Chunks asked for at a time, at least.
pub const MIN_WINDOW: u32 = 2;
/// The wait for the first answer.
pub const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The shortest wait for an answer: a node that compiles may be late by as much.
pub const SHORTEST_WAIT: Duration = Duration::from_millis(20);
/// The longest wait for an answer.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Answers that overtake another before that is taken for lost (RFC 5681, section 3.2).
const OVERTAKEN: u8 = 3;

/// The sources of one flow.
#[derive(Debug, Default)]
pub struct Sources {
    pub(super) list: Vec<Source>,
}

/// A neighbor that a flow is fetched from.
#[derive(Debug)]
pub struct Source {
    pub(super) from: NeighborId,
    /// Marks its answers.
    pub(super) nonce: u32,
    /// Bytes of one of its answers.
    pub(super) chunk: u32,
    /// Chunks that one request asks for at most.
    each: u32,
    /// Asked for and not received, in the order of asking.
    pub(super) asked: Vec<Asked>,
    /// Chunks that may be asked for at a time.
    window: u32,
    /// Up to here the window grows with every answer, then with every windowful.
    threshold: u32,
    grown: u32,
    /// What its answers take, and by how much that varies.
    rtt: Option<(Duration, Duration)>,
    /// Waits without an answer since the last.
    pub(super) tries: u32,
    /// When what is asked for is given up.
    again: Instant,
    /// Until then a loss is part of the one that the window was halved for.
    halved: Instant,
    /// It refused, and is not asked until then.
    aside: Option<Instant>,
    /// It gave something of the flow.
    gave: bool,
    /// It gave what is not the flow's.
    pub(super) liar: bool,
}

/// A range that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub range: Range<u32>,
    pub at: Instant,
    /// Nobody was asked for it before: its answer tells how long answers take.
    fresh: bool,
    /// Later answers that came before this one's.
    overtaken: u8,
}

impl Sources {
    /// Adds a source, whose answers carry `nonce` and are `chunk` bytes long, up to `each` of them for one request.
    /// `false`: it is there already, or there are as many as may be.
    pub fn add(&mut self, from: NeighborId, nonce: u32, chunk: u32, each: u32) -> bool {
        if self.has(from) || self.list.len() == MAX_SOURCES {
            return false;
        }
        self.list.push(Source {
            from,
            nonce,
            chunk: chunk.max(1),
            each: each.max(1),
            asked: Vec::new(),
            window: WINDOW,
            threshold: MAX_WINDOW,
            grown: 0,
            rtt: None,
            tries: 0,
            again: Instant::ZERO,
            halved: Instant::ZERO,
            aside: None,
            gave: false,
            liar: false,
        });
        true
    }

    /// Whether this neighbor is among them.
    pub fn has(&self, from: NeighborId) -> bool {
        self.list.iter().any(|s| s.from == from)
    }

    /// Who they are.
    pub fn ids(&self) -> impl Iterator<Item = NeighborId> + '_ {
        self.list.iter().map(|s| s.from)
    }

    /// Whether there is room for another.
    pub fn is_full(&self) -> bool {
        self.list.len() == MAX_SOURCES
    }

    /// Keeps the first, and of the others those that `may` be asked. To be called between two downloads.
    pub fn retain(&mut self, may: impl Fn(NeighborId) -> bool) {
        let mut first = true;
        self.list.retain(|s| std::mem::take(&mut first) || may(s.from));
    }

    pub(super) fn position(&self, from: NeighborId, nonce: u32) -> Option<usize> {
        self.list.iter().position(|s| s.from == from && s.nonce == nonce)
    }

    /// The source to ask next: one that answers rather than one that is silent, and of those the least busy one.
    pub(super) fn pick(&mut self, now: Instant, only: Option<usize>) -> Option<&mut Source> {
        let usable = self.list.iter_mut().enumerate().filter(|(at, s)| s.may_be_asked(*at, only));
        let free =
            usable.map(|(_, s)| s).filter(|s| s.aside.is_none_or(|until| until <= now) && s.room() > 0);
        free.min_by_key(|s| (s.tries, s.outstanding()))
    }

    /// Whether none of them has given, or will give, anything.
    pub(super) fn all_refused(&self) -> bool {
        self.list.iter().all(|s| s.liar || (s.aside.is_some() && !s.gave))
    }
}

impl Source {
    pub(super) fn may_be_asked(&self, at: usize, only: Option<usize>) -> bool {
        !self.liar && only.is_none_or(|only| only == at)
    }

    /// The bytes that one request may ask for now, 0 if none: for a sliver it is not worth a frame.
    pub(super) fn room(&self) -> u32 {
        // Who does not answer is asked whether he is back, not more.
        let window = if self.tries > 1 { 1 } else { self.window };
        let room = (window * self.chunk).saturating_sub(self.outstanding());
        if room >= self.chunk { room.min(self.each * self.chunk) } else { 0 }
    }

    fn outstanding(&self) -> u32 {
        self.asked.iter().map(|a| a.range.end - a.range.start).sum()
    }

    /// How long an answer is waited for.
    pub(super) fn wait(&self) -> Duration {
        let usual = self.rtt.map_or(FIRST_WAIT, |(rtt, varies)| rtt + 4 * varies);
        (usual.max(SHORTEST_WAIT) * (1 << self.tries.min(8))).min(LONGEST_WAIT)
    }

    /// When what is asked for is given up; or, if anything is left to ask for, it is asked again after it refused.
    pub(super) fn deadline(&self, wants: bool) -> Option<Instant> {
        if self.asked.is_empty() { self.aside.filter(|_| wants) } else { Some(self.again) }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.tries == 0 && self.aside.is_none()
    }

    pub(super) fn ask(&mut self, now: Instant, range: Range<u32>, fresh: bool) {
        if self.asked.is_empty() {
            self.again = now + self.wait();
        }
        self.aside = None;
        self.asked.push(Asked { range, at: now, fresh, overtaken: 0 });
    }

    /// Takes what an answer brings out of what is asked for. What it overtook once too often is lost.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        got: &Range<u32>,
        new: &mut Vec<Range<u32>>,
    ) -> Vec<Range<u32>> {
        let meets = |a: &Asked| a.range.start < got.end && got.start < a.range.end;
        let Some(last) = self.asked.iter().rposition(meets) else { return Vec::new() };
        let mut left = Vec::with_capacity(self.asked.len() + 1);
        for (at, mut asked) in std::mem::take(&mut self.asked).into_iter().enumerate() {
            if !meets(&asked) {
                asked.overtaken += u8::from(at < last);
                left.push(asked);
                continue;
            }
            if std::mem::take(&mut asked.fresh) {
                self.took(now.since(asked.at));
            }
            let (start, end) = (asked.range.start.max(got.start), asked.range.end.min(got.end));
            new.push(start..end);
            let before =
                Asked { range: asked.range.start..start, overtaken: asked.overtaken + 1, ..asked.clone() };
            let after = Asked { range: end..asked.range.end, ..asked };
            left.extend([before, after].into_iter().filter(|piece| !piece.range.is_empty()));
        }
        let (lost, left) = left.into_iter().partition::<Vec<_>, _>(|a| a.overtaken >= OVERTAKEN);
        self.asked = left;
        if !lost.is_empty() && now >= self.halved {
            self.halve();
            self.halved = now + self.rtt.map_or(FIRST_WAIT, |(rtt, _)| rtt);
        }
        lost.into_iter().map(|a| a.range).collect()
    }

    /// Another gave what this one was asked for.
    pub(super) fn answered_by_another(&mut self, got: &Range<u32>, new: &mut Vec<Range<u32>>) {
        let mut left = Vec::with_capacity(self.asked.len() + 1);
        for asked in std::mem::take(&mut self.asked) {
            let (start, end) = (asked.range.start.max(got.start), asked.range.end.min(got.end));
            if start >= end {
                left.push(asked);
                continue;
            }
            new.push(start..end);
            let pieces =
                [asked.range.start..start, end..asked.range.end].into_iter().filter(|r| !r.is_empty());
            left.extend(pieces.map(|range| Asked { range, ..asked.clone() }));
        }
        self.asked = left;
    }

    /// It gave something new.
    pub(super) fn progress(&mut self, now: Instant) {
        (self.tries, self.gave, self.aside) = (0, true, None);
        self.again = now + self.wait();
        self.grown += 1;
        if self.window < self.threshold || self.grown >= self.window {
            self.grown = 0;
            self.window = (self.window + 1).min(MAX_WINDOW);
        }
    }

    /// Whether it is time to give up what is asked for.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        !self.asked.is_empty() && now >= self.again
    }

    /// Nothing came, or too late: what was asked for, for others to be asked.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Range<u32>> + use<> {
        self.tries = self.tries.saturating_add(1);
        self.halve();
        std::mem::take(&mut self.asked).into_iter().map(|a| a.range)
    }

    /// It does not give this, or not yet.
    pub(super) fn refused(&mut self, now: Instant) -> impl Iterator<Item = Range<u32>> + use<> {
        self.aside = Some(now + LONGEST_WAIT);
        std::mem::take(&mut self.asked).into_iter().map(|a| a.range)
    }

    fn halve(&mut self) {
        self.window = (self.window / 2).max(MIN_WINDOW);
        (self.threshold, self.grown) = (self.window, 0);
    }

    /// An answer took so long (RFC 6298, section 2).
    fn took(&mut self, time: Duration) {
        self.rtt = Some(match self.rtt {
            None => (time, time / 2),
            Some((rtt, varies)) => ((rtt * 7 + time) / 8, (varies * 3 + rtt.abs_diff(time)) / 4),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u32 = 100;

    fn one() -> Sources {
        let mut sources = Sources::default();
        assert!(sources.add(NeighborId(1), 7, CHUNK, 1));
        sources
    }

    #[test]
    fn there_are_few_and_each_once() {
        let mut sources = one();
        assert!(!sources.add(NeighborId(1), 8, CHUNK, 1));
        (2..=MAX_SOURCES as u16).for_each(|n| assert!(sources.add(NeighborId(n), 7, CHUNK, 1)));
        assert!(!sources.add(NeighborId(99), 7, CHUNK, 1) && sources.is_full());
        sources.retain(|from| from == NeighborId(3));
        assert!(sources.has(NeighborId(1)) && sources.has(NeighborId(3)) && !sources.has(NeighborId(2)));
    }

    #[test]
    fn the_wait_follows_the_answers_and_the_window_follows_the_losses() {
        let mut sources = one();
        let source = &mut sources.list[0];
        let mut now = Instant::ZERO;
        assert_eq!((source.wait(), source.window), (FIRST_WAIT, WINDOW));
        for n in 0..100 {
            source.ask(now, n * CHUNK..(n + 1) * CHUNK, true);
            now = now + Duration::from_millis(80);
            let mut new = Vec::new();
            assert!(source.answered(now, &(n * CHUNK..(n + 1) * CHUNK), &mut new).is_empty());
            source.progress(now);
        }
        assert!(
            source.wait().abs_diff(Duration::from_millis(80)) < Duration::from_millis(5),
            "{:?}",
            source.wait()
        );
        assert_eq!(source.window, MAX_WINDOW);
        // Two silences: the wait is doubled twice, the window halved twice.
        for _ in 0..2 {
            source.ask(now, 0..CHUNK, false);
            now = now + source.wait();
            assert!(source.is_late(now));
            assert!(source.give_up().eq(std::iter::once(0..CHUNK)));
        }
        assert_eq!((source.window, source.room()), (MAX_WINDOW / 4, CHUNK));
        assert!(source.wait() > Duration::from_millis(300));
        for _ in 0..20 {
            source.ask(now, 0..CHUNK, false);
            now = now + source.wait();
            source.give_up().for_each(drop);
        }
        assert_eq!((source.window, source.wait()), (MIN_WINDOW, LONGEST_WAIT));
    }

    #[test]
    fn what_three_answers_overtake_is_lost_and_halves_the_window_once() {
        let mut sources = one();
        let source = &mut sources.list[0];
        let now = Instant::ZERO;
        (0..8).for_each(|n| source.ask(now, n * CHUNK..(n + 1) * CHUNK, true));
        let mut new = Vec::new();
        let mut lost = Vec::new();
        for n in [2, 3, 4, 5] {
            lost.push(source.answered(now, &(n * CHUNK..(n + 1) * CHUNK), &mut new));
        }
        assert_eq!(lost, [vec![], vec![], vec![0..CHUNK, CHUNK..2 * CHUNK], vec![]]);
        assert_eq!(new, [2, 3, 4, 5].map(|n| n * CHUNK..(n + 1) * CHUNK));
        assert_eq!(source.window, WINDOW / 2);
    }
}
