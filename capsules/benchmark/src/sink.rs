//! Where streams end: counts what arrives.

use bees_sdk::{Session, text};

use crate::format::{Header, Report, What};

/// Streams that a node counts at once; a new one takes the place of the one longest silent.
const MAX_STREAMS: usize = 4;

/// All streams of a node.
pub struct Sink {
    streams: [Stream; MAX_STREAMS],
    total: u64,
}

#[derive(Clone, Copy)]
struct Stream {
    source: u64,
    number: u32,
    received: u32,
    duplicates: u32,
    reordered: u32,
    relays: u32,
    highest: u32,
    /// Bit n: the capsule n before the highest has come.
    window: u64,
    first: u64,
    last: u64,
}

impl Sink {
    pub const fn new() -> Self {
        Self { streams: [Stream::NONE; MAX_STREAMS], total: 0 }
    }

    /// A capsule has come; the report if it was the last of its stream.
    pub fn take(&mut self, h: &Header, now: u64) -> Option<Report> {
        let stream = self.stream(h);
        if h.what == What::Last {
            return Some(Report {
                header: *h,
                received: stream.received,
                duplicates: stream.duplicates,
                reordered: stream.reordered,
                relays: stream.relays,
                us: stream.last - stream.first,
            });
        }
        stream.count(h, now);
        self.total += 1;
        None
    }

    /// Tells a program what has come.
    pub fn tell(&self, session: Session) {
        let streams = self.streams.iter().filter(|s| s.received > 0).count();
        let _ = session.reply(text!("sink streams ", streams, " received ", self.total).as_bytes());
    }

    fn stream(&mut self, h: &Header) -> &mut Stream {
        let known = self.streams.iter().position(|s| s.source == h.source && s.number == h.stream);
        let at = known.unwrap_or_else(|| {
            let oldest = (0..MAX_STREAMS).min_by_key(|i| self.streams[*i].last).unwrap_or(0);
            self.streams[oldest] = Stream { source: h.source, number: h.stream, ..Stream::NONE };
            oldest
        });
        &mut self.streams[at]
    }
}

impl Stream {
    const NONE: Self = Self {
        source: 0,
        number: 0,
        received: 0,
        duplicates: 0,
        reordered: 0,
        relays: 0,
        highest: 0,
        window: 0,
        first: 0,
        last: 0,
    };

    fn count(&mut self, h: &Header, now: u64) {
        if self.received == 0 {
            (self.first, self.highest, self.window) = (now, h.sequence, 0);
        }
        if h.sequence > self.highest {
            let by = h.sequence - self.highest;
            self.window = self.window.checked_shl(by).unwrap_or(0);
            self.highest = h.sequence;
        }
        let behind = self.highest - h.sequence;
        let bit = 1u64.checked_shl(behind).unwrap_or(0);
        if self.window & bit != 0 {
            self.duplicates += 1;
            return;
        }
        self.window |= bit;
        self.reordered += u32::from(behind > 0);
        self.received += 1;
        self.relays = h.counter;
        self.last = now;
    }
}
