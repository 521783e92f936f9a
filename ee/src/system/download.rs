//! Fetches one object (a tuple or a part) in chunks, over links that lose, from neighbors that come, go and lie.
//!
//! A [`Download`] knows which byte ranges are missing, and which of its [`Sources`] was asked for what. Whatever one
//! of them owes is asked of the others when it is late; what was received stays, and who comes back is asked again.
//! It gives up when nobody gave anything new for [`PATIENCE`]. Chunks may come in any order, size and number; bytes
//! that are not missing, or lie outside the object, change nothing.
//!
//! An object is right or wrong as a whole: only its hash tells. If it is wrong and came from several sources, it is
//! asked for again, from one alone; once it is right, a comparison shows who gave what was wrong.

use std::ops::Range;
use std::time::Duration;

use nodeos::account::Charge;
use nodeos::platform::Instant;

use super::sources::Sources;
use crate::neighbor::NeighborId;

/// How long a download lives without anything new: so long that links which lose every fifth request or answer do
/// not make all sources look gone.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Missing ranges remembered: a hop that sends crumbs does not make us keep a list of them.
const MAX_PIECES: usize = 64;
/// Who gave what is remembered for so many bytes at a time.
const BLOCK: usize = 1024;

/// One object on its way.
#[derive(Debug)]
pub struct Download {
    bytes: Vec<u8>,
    /// Not received and asked of nobody, in ascending order.
    missing: Vec<Range<u32>>,
    /// Bytes not received.
    left: u32,
    /// Everything before was asked for once.
    asked_to: u32,
    /// Which sources gave bytes of each block: a bit for each.
    givers: Vec<u8>,
    /// The only source that is asked, after several together gave something wrong.
    only: Option<usize>,
    /// What they gave.
    evidence: Option<Evidence>,
    /// When something new came last.
    progress: Instant,
    retries: u32,
}

/// Wrong bytes, to be compared with the right ones.
#[derive(Debug)]
struct Evidence {
    bytes: Vec<u8>,
    givers: Vec<u8>,
    /// What is paid for keeping them.
    _charge: Charge,
}

/// A request to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Whom to.
    pub from: NeighborId,
    /// Marks the answer.
    pub nonce: u32,
    /// The bytes asked for.
    pub range: Range<u32>,
}

/// A piece of an object, as it came.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// From the request.
    pub nonce: u32,
    /// Position of the first byte.
    pub offset: u32,
    /// Length of the object.
    pub total: u32,
    /// The bytes.
    pub bytes: &'a [u8],
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

/// What came of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody asked.
    Unasked,
    /// It may give it later, or another does.
    Later,
    /// Nobody ever gave any of it, and nobody does.
    Final,
}

/// What came of wrong bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// The source that gave all of them.
    pub liar: Option<NeighborId>,
    /// The object is asked for again. Without that nobody is left to ask.
    pub again: bool,
}

/// No source answers any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GaveUp;

impl Download {
    /// A download of `len` bytes. The caller has charged for them.
    pub fn new(len: u32, now: Instant) -> Self {
        Self {
            bytes: vec![0; len as usize],
            missing: if len == 0 { vec![] } else { vec![Range { start: 0, end: len }] },
            left: len,
            asked_to: 0,
            givers: vec![0; (len as usize).div_ceil(BLOCK)],
            only: None,
            evidence: None,
            progress: now,
            retries: 0,
        }
    }

    /// How often an answer was given up.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// The bytes received so far, zeros for the others.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The object's bytes, once complete.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The next request to send now; call until `None`. `pay` is asked whether all the object's bytes may come once
    /// more, when they are asked of another source than before.
    pub fn request(
        &mut self,
        now: Instant,
        sources: &mut Sources,
        pay: impl FnOnce(u64) -> bool,
    ) -> Result<Option<Ask>, GaveUp> {
        if now >= self.progress + PATIENCE {
            let other = self.only.is_some() && self.next_source(sources).is_some();
            if !other || !pay(u64::from(self.total())) || !self.ask_another(now, sources) {
                return Err(GaveUp);
            }
        }
        for at in 0..sources.list.len() {
            if sources.list[at].is_late(now) || self.help(sources, at).is_some_and(|due| due <= now) {
                self.retries += 1;
                let back = sources.list[at].give_up();
                self.give_back(back);
            }
        }
        let (Some(first), Some(source)) = (self.missing.first(), sources.pick(now, self.only)) else {
            return Ok(None);
        };
        let range = Range { start: first.start, end: first.end.min(first.start + source.room()) };
        take(&mut self.missing, &range, &mut Vec::new());
        source.ask(now, range.clone(), range.start >= self.asked_to);
        self.asked_to = self.asked_to.max(range.end);
        Ok(Some(Ask { from: source.from, nonce: source.nonce, range }))
    }

    /// When [`request`](Self::request) must be called again at the latest.
    pub fn deadline(&self, sources: &Sources) -> Option<Instant> {
        let usable = (0..sources.list.len()).filter(|at| sources.list[*at].may_be_asked(*at, self.only));
        let wants = !self.missing.is_empty();
        let due = usable.flat_map(|at| [sources.list[at].deadline(wants), self.help(sources, at)]);
        due.flatten().chain([self.progress + PATIENCE]).min()
    }

    /// A chunk arrived.
    pub fn chunk(
        &mut self,
        now: Instant,
        sources: &mut Sources,
        from: NeighborId,
        piece: Piece<'_>,
    ) -> Chunk {
        let end = piece.offset as usize + piece.bytes.len();
        let at =
            sources.position(from, piece.nonce).filter(|at| sources.list[*at].may_be_asked(*at, self.only));
        let Some(at) = at.filter(|_| piece.total as usize == self.bytes.len() && end <= self.bytes.len())
        else {
            return Chunk::Ignored;
        };
        let got = Range { start: piece.offset, end: end as u32 };
        // Nothing is no sign of life either.
        if got.is_empty() || self.is_in_pieces(sources, &got) {
            return Chunk::Ignored;
        }
        let mut new = Vec::new();
        let lost = sources.list[at].answered(now, &got, &mut new);
        self.retries += lost.len() as u32;
        // It may also come late, when another was asked for it, or nobody.
        for other in sources.list.iter_mut().filter(|s| s.from != from) {
            other.answered_by_another(&got, &mut new);
        }
        take(&mut self.missing, &got, &mut new);
        self.give_back(lost.into_iter());
        if new.is_empty() {
            return Chunk::Ignored;
        }
        for range in new {
            let (start, end) = (range.start as usize, range.end as usize);
            let skipped = start - piece.offset as usize;
            self.bytes[start..end].copy_from_slice(&piece.bytes[skipped..skipped + end - start]);
            self.givers[start / BLOCK..=(end - 1) / BLOCK].iter_mut().for_each(|givers| *givers |= 1 << at);
            self.left -= range.end - range.start;
        }
        sources.list[at].progress(now);
        self.progress = now;
        if self.left == 0 { Chunk::Complete } else { Chunk::Progress }
    }

    /// A source does not give the object, or not yet.
    pub fn refused(&mut self, now: Instant, sources: &mut Sources, from: NeighborId, nonce: u32) -> Refusal {
        let Some(at) = sources.position(from, nonce) else { return Refusal::Unasked };
        let back = sources.list[at].refused(now);
        self.give_back(back);
        if sources.all_refused() { Refusal::Final } else { Refusal::Later }
    }

    /// Every byte is there, but the hash says that some are wrong. `keep` charges for keeping them until the right
    /// ones are here.
    pub fn wrong(
        &mut self,
        now: Instant,
        sources: &mut Sources,
        keep: impl FnOnce() -> Option<Charge>,
    ) -> Wrong {
        let givers = self.givers.iter().fold(0, |all, givers| all | givers);
        let liar = sources.list.iter_mut().enumerate().find(|(at, _)| givers == 1 << at).map(|(_, s)| s);
        let liar = liar.map(|source| {
            source.liar = true;
            source.from
        });
        if liar.is_none() {
            self.evidence = keep().map(|charge| Evidence {
                bytes: std::mem::take(&mut self.bytes),
                givers: std::mem::take(&mut self.givers),
                _charge: charge,
            });
        }
        Wrong { liar, again: self.ask_another(now, sources) }
    }

    /// Who gave what was wrong, as the right bytes show.
    pub fn liars(&self, sources: &Sources) -> Vec<NeighborId> {
        let Some(evidence) = &self.evidence else { return Vec::new() };
        let blocks = self.bytes.chunks(BLOCK).zip(evidence.bytes.chunks(BLOCK)).zip(&evidence.givers);
        let wrong = blocks.filter(|((right, given), _)| right != given).map(|(_, givers)| *givers);
        // Of a block that several gave nobody can be blamed.
        let blamed = wrong.filter(|givers| givers.count_ones() == 1).fold(0, |all, givers| all | givers);
        let list = sources.list.iter().enumerate();
        list.filter(|(at, s)| blamed & 1 << at != 0 && !s.liar).map(|(_, s)| s.from).collect()
    }

    /// Begins anew with the next source alone that is no liar; `false` if there is none.
    fn ask_another(&mut self, now: Instant, sources: &mut Sources) -> bool {
        let total = self.total();
        let Some(next) = self.next_source(sources) else { return false };
        sources.list.iter_mut().for_each(|s| s.asked.clear());
        (self.bytes, self.givers) = (vec![0; total as usize], vec![0; (total as usize).div_ceil(BLOCK)]);
        self.missing = vec![Range { start: 0, end: total }];
        (self.left, self.asked_to, self.only, self.progress) = (total, 0, Some(next), now);
        true
    }

    /// The next source that may be asked alone.
    fn next_source(&self, sources: &Sources) -> Option<usize> {
        let from = self.only.map_or(0, |only| only + 1);
        (from..sources.list.len()).find(|at| !sources.list[*at].liar)
    }

    /// The object's bytes, which are away while they are evidence.
    fn total(&self) -> u32 {
        self.bytes.len().max(self.evidence.as_ref().map_or(0, |e| e.bytes.len())) as u32
    }

    /// When an idle source does what this one owes: when nothing is left to ask for, and it would have answered by now.
    fn help(&self, sources: &Sources, at: usize) -> Option<Instant> {
        if !self.missing.is_empty() {
            return None;
        }
        let since = sources.list[at].asked.iter().map(|a| a.at).min()?;
        let others = sources
            .list
            .iter()
            .enumerate()
            .filter(|(other, s)| *other != at && s.may_be_asked(*other, self.only));
        others.filter(|(_, s)| s.is_idle()).map(|(_, s)| since + s.wait()).min()
    }

    /// Whether there are as many missing ranges as may be, and one more would come of `got`.
    fn is_in_pieces(&self, sources: &Sources, got: &Range<u32>) -> bool {
        let ranges =
            || sources.list.iter().flat_map(|s| s.asked.iter().map(|a| &a.range)).chain(&self.missing);
        ranges().count() >= MAX_PIECES && ranges().any(|r| r.start < got.start && got.end < r.end)
    }

    fn give_back(&mut self, ranges: impl Iterator<Item = Range<u32>>) {
        let before = self.missing.len();
        self.missing.extend(ranges);
        if self.missing.len() == before {
            return;
        }
        self.missing.sort_by_key(|r| r.start);
        self.missing.dedup_by(|b, a| {
            let joined = a.end == b.start;
            if joined {
                a.end = b.end;
            }
            joined
        });
    }
}

/// Removes `got` from `ranges`; what that was is put to `taken`.
fn take(ranges: &mut Vec<Range<u32>>, got: &Range<u32>, taken: &mut Vec<Range<u32>>) {
    let mut left = Vec::with_capacity(ranges.len() + 1);
    for r in ranges.drain(..) {
        let (start, end) = (r.start.max(got.start), r.end.min(got.end));
        if start >= end {
            left.push(r);
            continue;
        }
        taken.push(start..end);
        left.extend([r.start..start, end..r.end].into_iter().filter(|piece| !piece.is_empty()));
    }
    *ranges = left;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::sources::{LONGEST_WAIT, WINDOW};
    use nodeos::account::Account;
    use proptest::prelude::*;

    const A: NeighborId = NeighborId(1);
    const B: NeighborId = NeighborId(2);
    const MILLI: Duration = Duration::from_millis(1);

    fn from(list: &[NeighborId]) -> Sources {
        let mut sources = Sources::default();
        list.iter().for_each(|id| assert!(sources.add(*id, id.0.into(), 1000, WINDOW)));
        sources
    }

    fn piece(nonce: u32, offset: u32, total: u32, bytes: &[u8]) -> Piece<'_> {
        Piece { nonce, offset, total, bytes }
    }

    /// Everything that is asked for now.
    fn asks(d: &mut Download, sources: &mut Sources, now: Instant) -> Vec<Ask> {
        std::iter::from_fn(|| d.request(now, sources, |_| true).unwrap()).collect()
    }

    fn answer(d: &mut Download, sources: &mut Sources, now: Instant, ask: &Ask, object: &[u8]) -> Chunk {
        let bytes = &object[ask.range.start as usize..ask.range.end as usize];
        d.chunk(now, sources, ask.from, piece(ask.nonce, ask.range.start, object.len() as u32, bytes))
    }

    #[test]
    fn a_silent_source_is_given_up() {
        let (mut d, mut s) = (Download::new(10_000, Instant::ZERO), from(&[A]));
        let mut now = Instant::ZERO;
        let mut requests = 0;
        let gave_up = loop {
            match d.request(now, &mut s, |_| true) {
                Err(GaveUp) => break now,
                Ok(Some(_)) => requests += 1,
                Ok(None) => now = d.deadline(&s).unwrap(),
            }
        };
        assert!((10..16).contains(&requests), "{requests}");
        assert_eq!(gave_up, Instant::ZERO + PATIENCE);
    }

    #[test]
    fn lies_change_nothing() {
        let (mut d, mut s) = (Download::new(100, Instant::ZERO), from(&[A]));
        assert_eq!(asks(&mut d, &mut s, Instant::ZERO).len(), 1);
        for (who, nonce, offset, total, len) in [
            (A, 8, 0, 100, 50),
            (B, 1, 0, 100, 50),
            (A, 1, 0, 101, 50),
            (A, 1, 90, 100, 50),
            (A, 1, u32::MAX, 100, 50),
            (A, 1, 10, 100, 0),
        ] {
            assert_eq!(
                d.chunk(Instant::ZERO, &mut s, who, piece(nonce, offset, total, &vec![9; len])),
                Chunk::Ignored
            );
        }
        let mut say =
            |offset, byte, len| d.chunk(Instant::ZERO, &mut s, A, piece(1, offset, 100, &vec![byte; len]));
        assert_eq!(say(0, 1, 60), Chunk::Progress);
        assert_eq!(say(0, 2, 60), Chunk::Ignored);
        assert_eq!(say(50, 3, 50), Chunk::Complete);
        assert_eq!(d.into_bytes()[49..61], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3]);
    }

    #[test]
    fn another_source_is_asked_alone_at_the_flows_expense() {
        for pays in [true, false] {
            let object = vec![7; 20_000];
            let (mut d, mut s) = (Download::new(20_000, Instant::ZERO), from(&[A, B]));
            let both = asks(&mut d, &mut s, Instant::ZERO);
            for ask in &both {
                answer(&mut d, &mut s, Instant::ZERO, ask, &object);
            }
            let rest = asks(&mut d, &mut s, Instant::ZERO);
            for ask in &rest {
                answer(&mut d, &mut s, Instant::ZERO, ask, &object);
            }
            assert_eq!(d.left, 0);
            assert_eq!(d.wrong(Instant::ZERO, &mut s, || None), Wrong { liar: None, again: true });
            // The first is silent. For the second all comes once more.
            let (mut now, mut paid) = (Instant::ZERO, vec![]);
            let end = loop {
                let asked = d.request(now, &mut s, |bytes| {
                    paid.push(bytes);
                    pays
                });
                match asked {
                    Ok(Some(ask)) if ask.from == B => break Ok(ask.range.start),
                    Ok(Some(_)) => {}
                    Ok(None) => now = d.deadline(&s).unwrap(),
                    Err(GaveUp) => break Err(GaveUp),
                }
            };
            assert_eq!((end, paid), (if pays { Ok(0) } else { Err(GaveUp) }, vec![20_000]));
        }
    }

    #[test]
    fn another_source_goes_on_where_the_first_stopped_and_the_first_may_come_back() {
        let object: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
        let (mut d, mut s) = (Download::new(40_000, Instant::ZERO), from(&[A]));
        let mut now = Instant::ZERO;
        let first = asks(&mut d, &mut s, now);
        assert_eq!(first[0].range, 0..8000);
        now = now + MILLI;
        assert_eq!(answer(&mut d, &mut s, now, &first[0], &object), Chunk::Progress);
        let owed = asks(&mut d, &mut s, now);
        assert!(owed.iter().all(|ask| ask.from == A && ask.range.start >= 8000));
        // It is gone. Another source turns up.
        assert!(s.add(B, 2, 1000, WINDOW));
        let mut asked_of_b = 0;
        while d.left > 4000 {
            now = d.deadline(&s).unwrap().min(now + MILLI);
            for ask in asks(&mut d, &mut s, now).iter().filter(|ask| ask.from == B) {
                assert!(ask.range.start >= 8000, "what was received is not asked for again");
                if d.left > 4000 {
                    asked_of_b += ask.range.len();
                    answer(&mut d, &mut s, now, ask, &object);
                }
            }
        }
        assert!(asked_of_b >= 20_000 && now.since(Instant::ZERO) < Duration::from_secs(1));
        // Now that one is gone, and the first is back.
        let mut done = false;
        while !done {
            now = d.deadline(&s).unwrap();
            for ask in asks(&mut d, &mut s, now).iter().filter(|ask| ask.from == A) {
                done |= answer(&mut d, &mut s, now, ask, &object) == Chunk::Complete;
            }
        }
        assert!(now.since(Instant::ZERO) < 5 * LONGEST_WAIT);
        assert_eq!(d.into_bytes(), object);
    }

    #[test]
    fn refusals_end_it_only_if_nobody_ever_gave_anything() {
        let (mut d, mut s) = (Download::new(40_000, Instant::ZERO), from(&[A]));
        assert_eq!(d.refused(Instant::ZERO, &mut s, A, 9), Refusal::Unasked);
        assert_eq!(d.refused(Instant::ZERO, &mut s, A, 1), Refusal::Final);

        let (mut d, mut s) = (Download::new(40_000, Instant::ZERO), from(&[A, B]));
        assert_eq!(d.refused(Instant::ZERO, &mut s, A, 1), Refusal::Later);
        let asked = asks(&mut d, &mut s, Instant::ZERO);
        assert!(asked.iter().all(|ask| ask.from == B));
        assert_eq!(answer(&mut d, &mut s, Instant::ZERO, &asked[0], &[0; 40_000]), Chunk::Progress);
        assert_eq!(
            d.refused(Instant::ZERO, &mut s, B, 2),
            Refusal::Later,
            "it starts anew and will have it again"
        );
        assert_eq!(d.request(Instant::ZERO, &mut s, |_| true), Ok(None));
        assert_eq!(d.deadline(&s), Some(Instant::ZERO + LONGEST_WAIT));
        assert!(d.request(Instant::ZERO + LONGEST_WAIT, &mut s, |_| true).unwrap().is_some());
    }

    #[test]
    fn who_lied_is_found_and_nobody_else_is_blamed() {
        let object: Vec<u8> = (0..60_000u32).map(|n| (n / 7) as u8).collect();
        for liars in [&[A][..], &[B], &[NeighborId(3)], &[A, NeighborId(3)]] {
            let account = Account::root(1 << 20);
            let mut s = from(&[A, B, NeighborId(3)]);
            let mut d = Download::new(60_000, Instant::ZERO);
            let mut now = Instant::ZERO;
            let mut blamed = Vec::new();
            loop {
                now = now + MILLI;
                let mut complete = false;
                for ask in asks(&mut d, &mut s, now) {
                    let mut said = object.clone();
                    if liars.contains(&ask.from) {
                        said[ask.range.start as usize + ask.range.len() / 2] ^= 1;
                    }
                    complete |= answer(&mut d, &mut s, now, &ask, &said) == Chunk::Complete;
                }
                if complete && d.bytes() == object {
                    break;
                } else if complete {
                    let wrong = d.wrong(now, &mut s, || account.charge(60_000).ok());
                    assert!(wrong.again);
                    blamed.extend(wrong.liar);
                }
            }
            blamed.extend(d.liars(&s));
            blamed.sort();
            assert_eq!(blamed, liars);
            drop(d);
            assert_eq!(account.used(), 0);
        }
        // One that is alone and lies is known at once, and nobody is left.
        let (mut d, mut s) = (Download::new(10, Instant::ZERO), from(&[A]));
        let ask = asks(&mut d, &mut s, Instant::ZERO).remove(0);
        assert_eq!(answer(&mut d, &mut s, Instant::ZERO, &ask, &[1; 10]), Chunk::Complete);
        assert_eq!(d.wrong(Instant::ZERO, &mut s, || None), Wrong { liar: Some(A), again: false });
    }

    proptest! {
        /// Whatever is lost, doubled, reordered or invented, by however many sources: the right bytes come out, or it is
        /// given up; and no honest source is blamed.
        #[test]
        fn any_loss_is_repaired_and_any_lie_is_found_out(
            object in proptest::collection::vec(any::<u8>(), 1..6000),
            sources in proptest::collection::vec((1u32..1500, 1usize..1500, 1..=WINDOW, any::<bool>()), 1..=4),
            fate in proptest::collection::vec(0u8..10, 1..200),
        ) {
            let account = Account::root(1 << 20);
            let total = object.len() as u32;
            let mut s = Sources::default();
            for (n, (chunk, _, each, _)) in sources.iter().enumerate() {
                s.add(NeighborId(n as u16), n as u32, *chunk, *each);
            }
            let mut d = Download::new(total, Instant::ZERO);
            let mut now = Instant::ZERO;
            let mut fate = fate.into_iter().cycle();
            let mut air: Vec<(usize, u32, Vec<u8>)> = Vec::new();
            let mut blamed = Vec::new();
            let mut ended = false;
            for _ in 0..200_000 {
                match d.request(now, &mut s, |_| true) {
                    Err(GaveUp) => { ended = true; break }
                    Ok(Some(ask)) => {
                        let who = usize::from(ask.from.0);
                        let (chunk, served, each, lies) = sources[who];
                        prop_assert!(ask.range.len() as u32 <= each * chunk && ask.nonce == who as u32);
                        prop_assert!(ask.range.end <= total && !ask.range.is_empty());
                        let mut at = ask.range.start as usize;
                        while at < ask.range.end as usize {
                            let end = (at + served).min(ask.range.end as usize);
                            let mut bytes = object[at..end].to_vec();
                            let luck = fate.next().unwrap();
                            if lies && luck > 4 { bytes[0] ^= luck }
                            let copies = match luck { 0 | 1 => 0, 2 => 2, _ => 1 };
                            for _ in 0..copies { air.push((who, at as u32, bytes.clone())) }
                            at = end;
                        }
                    }
                    Ok(None) if air.is_empty() => {
                        let due = d.deadline(&s).unwrap();
                        prop_assert!(due > now, "a deadline that has passed has something to do");
                        now = due;
                    }
                    Ok(None) => {
                        let i = usize::from(fate.next().unwrap()) % air.len();
                        let (who, offset, bytes) = air.swap_remove(i);
                        now = now + Duration::from_micros(fate.next().unwrap().into());
                        let from = NeighborId(who as u16);
                        if d.chunk(now, &mut s, from, piece(who as u32, offset, total, &bytes)) == Chunk::Complete {
                            if d.bytes() == object { ended = true; blamed.extend(d.liars(&s)); break }
                            let wrong = d.wrong(now, &mut s, || account.charge(60_000).ok());
                            blamed.extend(wrong.liar);
                            if !wrong.again { ended = true; break }
                        }
                    }
                }
            }
            prop_assert!(ended);
            for from in blamed {
                prop_assert!(sources[usize::from(from.0)].3, "{from:?} is blamed and did not lie");
            }
        }
    }
}
