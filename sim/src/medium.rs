//! What a link does to frames: rate, delay, jitter, loss, reordering, duplication, partition.
//!
//! [`Direction`] is one direction of one link, without clock or device: it is told when a frame of some
//! length is given in, and says when it arrives, if it does. The simulator and the wire process of a lab
//! use the same model. The words are those of `tc`.

use core::time::Duration;

use crate::random::Random;

/// The bytes that wait for a link's rate unless the lab says otherwise.
pub const DEFAULT_QUEUE: u64 = 256 * 1024;

/// How one direction of a link behaves. The default is a perfect link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Bytes per second; `None`: no bound.
    pub rate: Option<u64>,
    /// Time on the way.
    pub delay: Duration,
    /// The delay of a frame differs by up to this much in both directions. Frames stay in order.
    pub jitter: Duration,
    /// Share of frames that are lost, 0 to 1.
    pub loss: f64,
    /// Share of frames that are held back, so that later ones overtake them, 0 to 1.
    pub reorder: f64,
    /// Share of frames that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Bytes that may wait for the rate; what comes on top is dropped.
    pub queue: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            rate: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            queue: DEFAULT_QUEUE,
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at this time (microseconds).
    Arrives(u64),
    /// It arrives twice.
    Twice(u64, u64),
    /// Lost on the way.
    Lost,
    /// The queue was full.
    Dropped,
    /// The link is down.
    Down,
}

/// What one direction did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames given in.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
    /// Given in while the link was down.
    pub down: u64,
    /// Held back.
    pub reordered: u64,
    /// Doubled.
    pub duplicated: u64,
}

/// One direction of one link.
#[derive(Debug, Clone)]
pub struct Direction {
    shape: Shape,
    up: bool,
    random: Random,
    /// When the sender is done with what was given in so far, in nanoseconds.
    free_ns: u64,
    /// The latest arrival of a frame in order.
    last_us: u64,
    counters: Counters,
}

impl Direction {
    /// A direction whose chances come from `seed`.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let random = Random::new(seed, 0);
        Self { shape, up: true, random, free_ns: 0, last_us: 0, counters: Counters::default() }
    }

    /// A frame of `len` bytes is given in at `now_us`.
    pub fn send(&mut self, now_us: u64, len: usize) -> Fate {
        self.counters.frames += 1;
        self.counters.bytes += len as u64;
        if !self.up {
            self.counters.down += 1;
            return Fate::Down;
        }
        let Some(departure_us) = self.depart(now_us, len as u64) else {
            self.counters.dropped += 1;
            return Fate::Dropped;
        };
        if self.random.chance(self.shape.loss) {
            self.counters.lost += 1;
            return Fate::Lost;
        }
        let first = self.arrival(departure_us);
        if self.random.chance(self.shape.duplicate) {
            self.counters.duplicated += 1;
            return Fate::Twice(first, self.arrival(departure_us));
        }
        Fate::Arrives(first)
    }

    /// Changes how the link behaves from now on; frames on the way are not touched.
    pub fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// How the link behaves.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Cuts the link, or heals it.
    pub fn set_up(&mut self, up: bool) {
        self.up = up;
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// When the last bit has left, or `None` if the queue is full.
    fn depart(&mut self, now_us: u64, len: u64) -> Option<u64> {
        let Some(rate) = self.shape.rate.filter(|&rate| rate > 0) else { return Some(now_us) };
        let now_ns = now_us.saturating_mul(1000);
        let start = self.free_ns.max(now_ns);
        let waiting = u128::from(start - now_ns) * u128::from(rate) / 1_000_000_000;
        // A frame longer than the queue still goes out over an idle link.
        if waiting > 0 && waiting + u128::from(len) > u128::from(self.shape.queue) {
            return None;
        }
        let takes = u128::from(len) * 1_000_000_000 / u128::from(rate);
        self.free_ns = start.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
        Some(self.free_ns.div_ceil(1000))
    }

    fn arrival(&mut self, departure_us: u64) -> u64 {
        let delay = micros(self.shape.delay);
        let jitter = micros(self.shape.jitter);
        let swing =
            if jitter == 0 { 0 } else { self.random.below(jitter.saturating_mul(2).saturating_add(1)) };
        let on_time = departure_us.saturating_add(delay).saturating_add(swing).saturating_sub(jitter);
        let in_order = on_time.max(self.last_us).max(departure_us);
        if self.random.chance(self.shape.reorder) {
            self.counters.reordered += 1;
            let longest = delay.saturating_add(jitter).max(1000);
            return in_order.saturating_add(1 + self.random.below(longest));
        }
        self.last_us = in_order;
        in_order
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn direction(shape: Shape) -> Direction {
        Direction::new(shape, 1)
    }

    #[test]
    fn a_perfect_link_is_instant() {
        assert_eq!(direction(Shape::default()).send(5, 1500), Fate::Arrives(5));
    }

    #[test]
    fn rate_and_delay_add_up() {
        // 100 Mbit/s: 1250 bytes take 100 us.
        let mut d =
            direction(Shape { rate: Some(12_500_000), delay: Duration::from_millis(1), ..Shape::default() });
        assert_eq!(d.send(0, 1250), Fate::Arrives(1100));
        assert_eq!(d.send(0, 1250), Fate::Arrives(1200));
        assert_eq!(d.send(500, 1250), Fate::Arrives(1600));
    }

    #[test]
    fn a_full_queue_drops_and_drains() {
        let mut d = direction(Shape { rate: Some(1_000_000), queue: 3000, ..Shape::default() });
        let fates: Vec<_> = (0..4).map(|_| d.send(0, 1000)).collect();
        assert_eq!(fates, [Fate::Arrives(1000), Fate::Arrives(2000), Fate::Arrives(3000), Fate::Dropped]);
        assert_eq!(d.send(1000, 1000), Fate::Arrives(4000));
        assert_eq!(d.counters().dropped, 1);
    }

    #[test]
    fn a_cut_link_carries_nothing() {
        let mut d = direction(Shape::default());
        d.set_up(false);
        assert_eq!(d.send(0, 60), Fate::Down);
        d.set_up(true);
        assert_eq!(d.send(0, 60), Fate::Arrives(0));
    }

    #[test]
    fn loss_and_duplication_keep_their_shares() {
        let mut d = direction(Shape { loss: 0.2, duplicate: 0.1, ..Shape::default() });
        for t in 0..10_000 {
            d.send(t, 60);
        }
        let c = d.counters();
        assert!((1800..2200).contains(&c.lost), "{c:?}");
        assert!((650..950).contains(&c.duplicated), "{c:?}");
    }

    #[test]
    fn held_back_frames_are_overtaken() {
        let mut d = direction(Shape { reorder: 0.3, delay: Duration::from_micros(100), ..Shape::default() });
        let arrivals: Vec<u64> = (0..200)
            .map(|t| match d.send(t, 60) {
                Fate::Arrives(at) => at,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(arrivals.windows(2).any(|w| w[1] < w[0]));
    }

    proptest! {
        #[test]
        fn jitter_keeps_order_and_bounds(seed in any::<u64>(), delay in 0u64..2000, jitter in 0u64..3000, gaps in proptest::collection::vec(0u64..500, 1..100)) {
            let shape = Shape { delay: Duration::from_micros(delay), jitter: Duration::from_micros(jitter), ..Shape::default() };
            let mut d = Direction::new(shape, seed);
            let (mut now, mut last) = (0, 0);
            for gap in gaps {
                now += gap;
                let Fate::Arrives(at) = d.send(now, 60) else { panic!("a frame was lost") };
                prop_assert!(at >= last && at >= now && at <= (now + delay + jitter).max(last));
                last = at;
            }
        }

        #[test]
        fn a_rate_is_never_exceeded(rate in 1_000u64..10_000_000, lens in proptest::collection::vec(1usize..1500, 1..100)) {
            let mut d = direction(Shape { rate: Some(rate), queue: u64::MAX, ..Shape::default() });
            let mut bytes = 0u64;
            for len in lens {
                bytes += len as u64;
                let Fate::Arrives(at) = d.send(0, len) else { panic!("a frame was lost") };
                // One nanosecond may be lost in rounding for each frame.
                prop_assert!(u128::from(at) * 1000 + 100 >= u128::from(bytes) * 1_000_000_000 / u128::from(rate));
            }
        }
    }
}
