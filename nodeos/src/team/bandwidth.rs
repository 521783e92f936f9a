//! Bandwidth of a team: token buckets for each link, for all of them together, and for packets.
//!
//! As with accounts, a child either shares its parent's bandwidth (what it sends counts for both) or has a
//! part of the rate for itself, which its parent then lacks until the child has ended, and so do those above with which the
//! parent shares. What was donated is not lowered with them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::size_of;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;

use spin::{Mutex, MutexGuard};

use super::Budget;
use crate::bucket::TokenBucket;
use crate::link::LinkId;
use crate::platform::Instant;

/// A tree of token buckets; cloning gives another name for the same one.
#[derive(Debug, Clone)]
struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// It lets less pass than everything. What it once bounded it bounds for good.
    bounded: AtomicBool,
    state: Mutex<State>,
    /// Who shares its bandwidth with this one.
    parent: Option<Bucket>,
    /// What a parent donated to this one.
    gift: u64,
}

#[derive(Debug)]
struct State {
    bucket: TokenBucket,
    /// The rate that was granted.
    rate: u64,
    /// What of it was donated to others.
    given: u64,
}

impl State {
    /// Lets pass what is granted and not given away.
    fn adjust(&mut self, now: Instant, burst: u64) {
        self.bucket.set(now, self.rate.saturating_sub(self.given), burst);
    }
}

impl Bucket {
    fn new(parent: Option<Self>, rate: u64, burst: u64) -> Self {
        let state = State { bucket: TokenBucket::new(rate, burst), rate, given: 0 };
        Self::of(state, parent, 0)
    }

    fn of(state: State, parent: Option<Self>, gift: u64) -> Self {
        let bounded = AtomicBool::new(state.rate != u64::MAX);
        Self(Arc::new(Inner { bounded, state: Mutex::new(state), parent, gift }))
    }

    /// Its tokens, if it bounds anything.
    fn own(&self) -> Option<MutexGuard<'_, State>> {
        self.0.bounded.load(Relaxed).then(|| self.0.state.lock())
    }

    /// Takes `amount` from it and from all above it, or nothing.
    #[inline]
    fn take(&self, now: Instant, amount: usize) -> bool {
        // Most bound nothing.
        let free = !self.0.bounded.load(Relaxed) && self.0.parent.is_none();
        free || self.take_of_all(now, amount)
    }

    fn take_of_all(&self, now: Instant, amount: usize) -> bool {
        if self.own().is_some_and(|mut own| !own.bucket.take(now, amount)) {
            return false;
        }
        let passed = self.0.parent.as_ref().is_none_or(|above| above.take(now, amount));
        if !passed && let Some(mut own) = self.own() {
            own.bucket.put_back(amount);
        }
        passed
    }

    fn put_back(&self, amount: usize) {
        if let Some(mut own) = self.own() {
            own.bucket.put_back(amount);
        }
        if let Some(above) = &self.0.parent {
            above.put_back(amount);
        }
    }

    /// When `amount` can be taken at the earliest, from it and from all above it; `None` if that never comes.
    fn when(&self, now: Instant, amount: usize) -> Option<Instant> {
        let own = match self.own() {
            Some(own) => own.bucket.when(now, amount)?,
            None => now,
        };
        match &self.0.parent {
            Some(above) => Some(own.max(above.when(now, amount)?)),
            None => Some(own),
        }
    }

    /// The most that can ever be taken at once, from it and from all above it.
    fn most(&self) -> u64 {
        // What is granted nothing passes what is left of its burst, and then nothing. What was given away may come back.
        let burst = |own: MutexGuard<'_, State>| if own.rate == 0 { 0 } else { own.bucket.burst() };
        let own = self.own().map_or(u64::MAX, burst);
        self.0.parent.as_ref().map_or(own, |above| own.min(above.most()))
    }

    fn available(&self, now: Instant) -> u64 {
        let own = self.own().map_or(u64::MAX, |own| own.bucket.available(now));
        self.0.parent.as_ref().map_or(own, |above| own.min(above.available(now)))
    }

    fn lower(&self, now: Instant, rate: u64, burst: u64) {
        let mut state = self.0.state.lock();
        state.rate = state.rate.min(rate);
        state.adjust(now, burst);
        self.0.bounded.store(state.rate != u64::MAX, Relaxed);
    }

    /// A bucket with a part of this one's rate, which this one and all that share theirs with it then lack.
    fn donate(&self, now: Instant, rate: u64, burst: u64) -> Option<Self> {
        self.give(now, rate)?;
        // Empty: a burst comes out of the rate, or whoever is made again and again would have it each time.
        let bucket = TokenBucket::empty(now, rate, burst);
        Some(Self::of(State { bucket, rate, given: 0 }, None, rate))
    }

    /// Gives a part of its rate away, and of those of all above it that it shares, or nothing.
    fn give(&self, now: Instant, rate: u64) -> Option<()> {
        {
            let mut state = self.0.state.lock();
            state.given = state.given.checked_add(rate).filter(|given| *given <= state.rate)?;
            let burst = state.bucket.burst();
            state.adjust(now, burst);
        }
        let given = self.0.parent.as_ref().is_none_or(|above| above.give(now, rate).is_some());
        if !given {
            self.had_back(now, rate);
        }
        given.then_some(())
    }

    /// What this one donated comes back.
    fn take_back(&self, now: Instant, gift: u64) {
        self.had_back(now, gift);
        if let Some(above) = &self.0.parent {
            above.take_back(now, gift);
        }
    }

    fn had_back(&self, now: Instant, gift: u64) {
        let mut state = self.0.state.lock();
        state.given = state.given.saturating_sub(gift);
        let burst = state.bucket.burst();
        state.adjust(now, burst);
    }
}

/// The bandwidth of one team. Cloning gives another name for the same: the team's code has one.
#[derive(Debug, Clone)]
pub struct Bandwidth {
    /// By link; no more than as many as the node has.
    links: Arc<[Option<Bucket>]>,
    /// Bytes on all links.
    sum: Option<Bucket>,
    /// Packets on all links.
    packets: Option<Bucket>,
    /// When a frame was wanted that could not be had.
    short: Arc<Mutex<Short>>,
}

/// Stretches of time: from a refusal to the moment when what was refused would pass.
#[derive(Debug, Default)]
struct Short {
    /// The end of the last one.
    until: Instant,
    /// Of all together, up to that end.
    sum: Duration,
}

impl Bandwidth {
    /// The bandwidth of a team that shares with nobody.
    pub fn root(links: usize, budget: &Budget) -> Self {
        let [link, sum, packets] = bounds(budget);
        let bucket = |(rate, burst)| (rate != u64::MAX).then(|| Bucket::new(None, rate, burst));
        let links = (0..links).map(|_| bucket(link)).collect();
        Self { links, sum: bucket(sum), packets: bucket(packets), short: Arc::default() }
    }

    /// The bandwidth of a child. `None`: its parent has less than is to be donated.
    pub(super) fn below(&self, now: Instant, donated: bool, budget: &Budget) -> Option<Self> {
        let [link, sum, packets] = bounds(budget);
        let below = |above: &Option<Bucket>, (rate, burst)| match above {
            // Unlimited is shared, always.
            Some(above) if donated && rate != u64::MAX => above.donate(now, rate, burst).map(Some),
            Some(above) => Some(Some(Bucket::new(Some(above.clone()), rate, burst))),
            // Also one without a bound: it may get one while it lives, and so its children.
            None => Some(Some(Bucket::new(None, rate, burst))),
        };
        let mut made = Self { links: Arc::from([]), sum: None, packets: None, short: Arc::default() };
        let mut links = Vec::with_capacity(self.links.len());
        let complete = (|| {
            made.sum = below(&self.sum, sum)?;
            made.packets = below(&self.packets, packets)?;
            for above in self.links.iter() {
                links.push(below(above, link)?);
            }
            Some(())
        })();
        made.links = links.into();
        if complete.is_none() {
            made.give_back(now, self);
            return None;
        }
        Some(made)
    }

    /// What may pass comes out of the rates alone, without a burst at the beginning.
    pub(super) fn empty(&self, now: Instant) {
        let others = [&self.sum, &self.packets];
        let buckets = self.links.iter().chain(others).flatten();
        buckets.filter_map(Bucket::own).for_each(|mut own| {
            own.bucket = TokenBucket::empty(now, own.bucket.rate(), own.bucket.burst());
        });
    }

    /// The team has ended: what its parent donated is the parent's again.
    pub(super) fn give_back(&self, now: Instant, above: &Self) {
        let others = [(&self.sum, &above.sum), (&self.packets, &above.packets)];
        for (own, donor) in self.links.iter().zip(above.links.iter()).chain(others) {
            if let (Some(own), Some(donor)) = (own, donor) {
                donor.take_back(now, own.0.gift);
            }
        }
    }

    /// Goes on with lower rates.
    pub(super) fn lower(&self, now: Instant, budget: &Budget) {
        let [link, sum, packets] = bounds(budget);
        let lower = |bucket: &Option<Bucket>, (rate, burst)| {
            bucket.iter().for_each(|bucket| bucket.lower(now, rate, burst));
        };
        self.links.iter().for_each(|bucket| lower(bucket, link));
        lower(&self.sum, sum);
        lower(&self.packets, packets);
    }

    /// Takes the bandwidth for a frame of `bytes` on `link`, or nothing.
    #[inline]
    pub fn take(&self, now: Instant, LinkId(link): LinkId, bytes: usize) -> bool {
        let Some(own) = self.links.get(usize::from(link)) else { return false };
        let passes = |bucket: &Option<Bucket>, amount| bucket.as_ref().is_none_or(|b| b.take(now, amount));
        let put_back = |bucket: &Option<Bucket>| bucket.iter().for_each(|b| b.put_back(bytes));
        if passes(own, bytes) {
            if passes(&self.sum, bytes) {
                if passes(&self.packets, 1) {
                    return true;
                }
                put_back(&self.sum);
            }
            put_back(own);
        }
        self.refused(now, LinkId(link), bytes);
        false
    }

    /// The first moment at which a frame of `bytes` passes on `link`; `None` if that never comes.
    pub fn when(&self, now: Instant, LinkId(link): LinkId, bytes: usize) -> Option<Instant> {
        let own = self.links.get(usize::from(link))?;
        let buckets = [(own, bytes), (&self.sum, bytes), (&self.packets, 1)];
        let mut wanted = buckets.into_iter().filter_map(|(bucket, amount)| Some((bucket.as_ref()?, amount)));
        wanted.try_fold(now, |at, (bucket, amount)| Some(at.max(bucket.when(now, amount)?)))
    }

    /// The longest frame, in bytes, that ever passes on `link`; 0 where none does.
    pub fn most(&self, LinkId(link): LinkId) -> usize {
        let Some(own) = self.links.get(usize::from(link)) else { return 0 };
        let of = |bucket: &Option<Bucket>| bucket.as_ref().map_or(u64::MAX, Bucket::most);
        let most = if of(&self.packets) == 0 { 0 } else { of(own).min(of(&self.sum)) };
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// A frame was refused: until when it would have had to wait.
    #[cold]
    fn refused(&self, now: Instant, link: LinkId, bytes: usize) {
        // What never passes does not pass for want of time.
        let Some(until) = self.when(now, link, bytes) else { return };
        let mut short = self.short.lock();
        let from = short.until.max(now);
        short.sum += until.since(from);
        short.until = short.until.max(until);
    }

    /// How long a frame or more was wanted that could not be had yet.
    pub(super) fn short(&self, now: Instant) -> Duration {
        let short = self.short.lock();
        short.sum.saturating_sub(short.until.since(now))
    }

    /// Bytes that are left on the link that has the least.
    pub fn available(&self, now: Instant) -> u64 {
        let links = self.links.iter().flatten().chain(&self.sum);
        links.map(|bucket| bucket.available(now)).min().unwrap_or(u64::MAX)
    }

    /// What passes on each link that is bounded, after what was donated.
    #[cfg(test)]
    pub(super) fn rates(&self) -> Vec<u64> {
        self.links.iter().flatten().map(|bucket| bucket.0.state.lock().bucket.rate()).collect()
    }

    /// The bytes that this takes for so many links.
    pub(super) const fn bytes(links: usize) -> usize {
        let counted = 2 * size_of::<usize>();
        let short = size_of::<Mutex<Short>>() + counted;
        (links + 2) * (size_of::<Inner>() + counted) + links * size_of::<Option<Bucket>>() + short
    }
}

/// Rate and burst on a link, in sum, and of packets.
fn bounds(budget: &Budget) -> [(u64, u64); 3] {
    let packets = if budget.packets == u32::MAX { u64::MAX } else { budget.packets.into() };
    // What the rate makes in 10 ms, and room for a few frames or for one packet.
    let burst = |rate: u64, least: u64| (rate / 100).max(least);
    [
        (budget.rate, budget.burst.into()),
        (budget.total_rate, burst(budget.total_rate, 6000)),
        (packets, burst(packets, 1)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINK: LinkId = LinkId(0);

    fn budget(rate: u64) -> Budget {
        Budget { rate, burst: 1000, ..Budget::UNLIMITED }
    }

    /// Bytes that pass in a second of trying.
    fn passes(bandwidth: &Bandwidth, from: u64) -> u64 {
        (0..10_000u64).filter(|n| bandwidth.take(Instant(from + n * 100), LINK, 100)).count() as u64 * 100
    }

    #[test]
    fn shared_bandwidth_is_the_parents() {
        let parent = Bandwidth::root(1, &budget(100_000));
        let child = parent.below(Instant(0), false, &budget(60_000)).unwrap();
        let got = passes(&child, 0);
        assert!((60_000..=61_000).contains(&got), "{got}");
        assert!(!child.take(Instant(0), LINK, 1000));
        let unlimited = parent.below(Instant(0), false, &Budget::UNLIMITED).unwrap();
        let got = passes(&unlimited, 2_000_000);
        assert!((100_000..=101_000).contains(&got), "{got}");
        assert!(!parent.take(Instant(3_000_000), LINK, 1000), "the parent's is used up with it");
    }

    #[test]
    fn donated_bandwidth_is_the_childs() {
        let parent = Bandwidth::root(1, &budget(100_000));
        let child = parent.below(Instant(0), true, &budget(60_000)).unwrap();
        assert!(parent.below(Instant(0), true, &budget(40_001)).is_none());
        let (a, b) = (passes(&child, 0), passes(&parent, 0));
        // The donor keeps its burst; the child has what its rate makes.
        assert!((59_800..=60_000).contains(&a) && (40_000..=41_000).contains(&b), "{a} {b}");
        parent.lower(Instant(1_000_000), &budget(50_000));
        child.give_back(Instant(1_000_000), &parent);
        let got = passes(&parent, 1_000_000);
        assert!((50_000..=51_000).contains(&got), "{got}");
    }

    #[test]
    fn what_is_donated_counts_above_the_donor() {
        let top = Bandwidth::root(1, &budget(50_000));
        for (at, middle) in [(0, budget(100_000)), (2_000_000, Budget::UNLIMITED)] {
            let now = Instant(at);
            let middle = top.below(now, false, &middle).unwrap();
            assert!(middle.below(now, true, &budget(50_001)).is_none(), "the one above has not so much");
            let child = middle.below(now, true, &budget(40_000)).unwrap();
            let (a, b) = (passes(&child, at), passes(&top, at));
            assert!((39_800..=40_000).contains(&a) && (9_000..=11_000).contains(&b), "{a} {b}");
            child.give_back(Instant(at + 1_000_000), &middle);
        }
    }

    #[test]
    fn whoever_is_made_again_and_again_has_no_burst_each_time() {
        let parent = Bandwidth::root(1, &budget(1000));
        assert!(parent.take(Instant(0), LINK, 1000));
        let mut sent = 0;
        for n in 0..1000u64 {
            let child = parent.below(Instant(n * 1000), true, &budget(500)).unwrap();
            sent += u64::from(child.take(Instant(n * 1000), LINK, 100)) * 100;
            child.give_back(Instant(n * 1000), &parent);
        }
        assert_eq!(sent, 0);
    }

    #[test]
    fn time_is_short_from_the_refusal_until_it_would_pass() {
        let team = Bandwidth::root(1, &budget(1000));
        assert!(team.take(Instant(0), LINK, 1000) && team.short(Instant(0)).is_zero());
        // A tenth of a second, and while it is short a second refusal that needs more: their union counts.
        assert!(!team.take(Instant(0), LINK, 100));
        assert_eq!(team.short(Instant(60_000)), Duration::from_millis(60));
        assert!(!team.take(Instant(60_000), LINK, 200));
        assert!(!team.take(Instant(60_000), LINK, 1001), "it never passes");
        assert_eq!(team.short(Instant(150_000)), Duration::from_millis(150));
        assert_eq!(team.short(Instant(9_000_000)), Duration::from_millis(200));
        // A child is short of what it shares; its parent wanted nothing.
        let child = team.below(Instant(9_000_000), false, &Budget::UNLIMITED).unwrap();
        assert!(child.take(Instant(9_000_000), LINK, 1000) && !child.take(Instant(9_000_000), LINK, 500));
        assert_eq!(child.short(Instant(99_000_000)), Duration::from_millis(500));
        assert_eq!(team.short(Instant(99_000_000)), Duration::from_millis(200));
    }

    #[test]
    fn what_waits_passes_when_it_was_told() {
        let bandwidth = Bandwidth::root(1, &Budget { packets: 10, ..budget(1000) });
        let (link, mut now, mut passed) = (LinkId(0), Instant(0), 0);
        for _ in 0..200 {
            let at = bandwidth.when(now, link, 500).unwrap();
            assert!(
                at == now || !bandwidth.take(Instant(at.0 - 1), link, 500),
                "it would have passed earlier"
            );
            assert!(bandwidth.take(at, link, 500), "{at:?}");
            (now, passed) = (at, passed + 1);
        }
        assert!(now.0 / 500_000 >= passed - 10, "{now:?}");
        assert_eq!(bandwidth.when(now, link, 1 << 30), None);
        assert_eq!(bandwidth.when(now, LinkId(1), 1), None);
    }

    #[test]
    fn packets_and_the_sum_are_bounded_too() {
        let few = Budget { packets: 100, total_rate: 20_000, ..Budget::UNLIMITED };
        let team = Bandwidth::root(2, &few);
        let sent = (0..10_000u64).filter(|n| team.take(Instant(n * 100), LinkId((n % 2) as u16), 10)).count();
        assert!((100..=101).contains(&sent), "{sent}");
        assert!(!team.take(Instant(1_000_000), LINK, 6001));
        assert!(!team.take(Instant(5_000_000), LinkId(2), 1), "there is no such link");
        // What was refused for the sum left the packets alone.
        assert!(team.take(Instant(5_000_000), LINK, 6000) && !team.take(Instant(5_000_000), LINK, 1));
    }

    /// Who shares cannot give away what is the parent's as well.
    #[test]
    fn what_is_shared_is_given_once() {
        let root = Bandwidth::root(1, &budget(100_000));
        let shares = root.below(Instant(0), false, &budget(80_000)).unwrap();
        let given = shares.below(Instant(0), true, &budget(60_000)).unwrap();
        assert_eq!((root.rates(), shares.rates()), (std::vec![40_000], std::vec![20_000]));
        let (a, b) = (passes(&given, 0), passes(&root, 0));
        assert!(a + b <= 101_000, "{a} {b}");
        assert!(root.below(Instant(0), true, &budget(40_001)).is_none());
        // Where one above cannot give, nobody has given.
        let more = shares.below(Instant(0), false, &Budget::UNLIMITED).unwrap();
        assert!(more.below(Instant(0), true, &budget(20_001)).is_none());
        assert_eq!((root.rates(), shares.rates()), (std::vec![40_000], std::vec![20_000]));
        given.give_back(Instant(0), &shares);
        assert_eq!((root.rates(), shares.rates()), (std::vec![100_000], std::vec![80_000]));
    }

    proptest! {
        /// Whatever is donated, shared and given back, the rates of those that share with nobody add up to what the
        /// root was granted.
        #[test]
        fn no_rate_is_made_or_lost(ops in proptest::collection::vec((0u8..4, any::<prop::sample::Index>(), 0u64..500), 1..100)) {
            let mut all = std::vec![(Bandwidth::root(1, &budget(1000)), None)];
            let rate = |b: &Bandwidth| {
                let bucket = b.links[0].as_ref().unwrap();
                if bucket.0.parent.is_some() { 0 } else { bucket.0.state.lock().bucket.rate() }
            };
            for (op, at, part) in ops {
                let at = at.index(all.len());
                let parent = |n: usize, all: &[(Bandwidth, Option<usize>)]| all.iter().any(|(_, p)| *p == Some(n));
                if op < 3 {
                    if let Some(child) = all[at].0.below(Instant(0), op > 0, &budget(part)) {
                        all.push((child, Some(at)));
                    }
                } else if at + 1 == all.len() && !parent(at, &all) && let Some((child, Some(above))) = all.pop_if(|(_, p)| p.is_some()) {
                    child.give_back(Instant(0), &all[above].0);
                }
                prop_assert_eq!(all.iter().map(|(b, _)| rate(b)).sum::<u64>(), 1000);
            }
        }
    }
}
