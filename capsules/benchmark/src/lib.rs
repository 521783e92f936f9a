//! benchmark: how much gets through? Every node can be source, relay and sink. README.md is the manual.
//!
//! A relay does per capsule what a routing protocol has to: it reads the header, looks up the next hop in
//! soft state, rewrites a counter in the payload and sends the capsule on.
#![cfg_attr(target_arch = "wasm32", no_std)]

mod format;
mod sink;
mod source;
#[cfg(test)]
mod tests;

use bees_sdk::session::Words;
use bees_sdk::{Capsule, Neighbor, Neighborhood, Protocol, Session, SessionEvent, Timer, node, route, text};

use format::{Header, Report, What};
use sink::Sink;
use source::Source;

/// Capsules that a source makes per tick of its timer, at most.
pub const BURST: u16 = 64;

bees_sdk::protocol! {
    name: "benchmark",
    state: Benchmark = Benchmark::new(),
    capsules: {
        // A timer's tick at the source: makes a burst of Data and, if need be, a Seek.
        Tick { derives: 65 } -> [Seek, Data],
        // To all neighbors; the node that is meant answers with a Report.
        Seek { multicasts: 1, derives: 1 } -> [Report],
        // One step toward the sink; the last one is answered with a Report.
        Data { sends: 1, derives: 1 } -> [Report],
        // One step toward the source.
        Report { sends: 1 } -> [],
    },
    events: { timer: Tick, session: Tick },
    session: true,
    params: {},
}

/// How long a learned way is kept.
const ROUTE_MS: u32 = 600_000;
/// How long a way that was set by hand is kept.
const FIXED_MS: u32 = 3_600_000;
/// How long a flood is remembered.
const SEEN_MS: u32 = 10_000;
/// Capsules go no farther than this.
const MAX_HOPS: u32 = 64;

/// The protocol on one node.
pub struct Benchmark {
    me: u64,
    neighborhood: Option<Neighborhood>,
    source: Source,
    sink: Sink,
}

impl Benchmark {
    /// Sends nothing, has received nothing.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { me: 0, neighborhood: None, source: Source::new(), sink: Sink::new() }
    }

    /// This node's number.
    fn me(&mut self) -> u64 {
        if self.me == 0 {
            self.me = node::id();
        }
        self.me
    }

    fn neighborhood(&mut self) -> Option<Neighborhood> {
        if self.neighborhood.is_none() {
            self.neighborhood = Neighborhood::all().ok();
        }
        self.neighborhood
    }

    /// The fast path: a capsule of data on its way, or at its end.
    fn data(&mut self, mut capsule: Capsule, head: &[u8]) {
        let Some(h) = Header::parse(head) else { return };
        if h.target != self.me() {
            if h.counter < MAX_HOPS
                && let Some(next) = route::next(h.target)
                && capsule.write(Header::COUNTER, &(h.counter + 1).to_le_bytes()).is_ok()
            {
                let _ = capsule.send(&next);
            }
            return;
        }
        let now = node::clock();
        let report = self.sink.take(&h, now);
        if let Some(report) = report
            && let Some(from) = capsule.from()
        {
            self.report(&mut capsule, report, h.source, &from);
        }
    }

    fn seek(&mut self, mut capsule: Capsule, head: &[u8]) {
        let (Some(mut h), Some(from)) = (Header::parse(head), capsule.from()) else { return };
        let me = self.me();
        if h.source == me || !route::first_seen(h.source, h.number(), SEEN_MS) {
            return;
        }
        let _ = route::learn(h.source, from, ROUTE_MS);
        h.counter += 1;
        if h.target == me {
            self.report(&mut capsule, Report::found(&h), h.source, &from);
        } else if h.counter < MAX_HOPS
            && capsule.write(0, &h.pack()).is_ok()
            && let Some(neighborhood) = self.neighborhood()
        {
            let _ = capsule.multicast_onward(&neighborhood);
        }
    }

    /// Answers the source, by the learned way or else the way that the capsule came.
    fn report(&mut self, capsule: &mut Capsule, report: Report, to: u64, from: &Neighbor) {
        let header =
            Header { what: What::Report, counter: 0, source: self.me(), target: to, ..report.header };
        let next = route::next(to).unwrap_or(*from);
        if let Ok(mut answer) = capsule.derive(Kind::Report)
            && answer.set(&Report { header, ..report }.pack()).is_ok()
        {
            let _ = answer.send(&next);
        }
    }

    fn answer(&mut self, mut capsule: Capsule, head: &[u8]) {
        let (Some(h), Some(from)) = (Header::parse(head), capsule.from()) else { return };
        let _ = route::learn(h.source, from, ROUTE_MS);
        if h.target == self.me() {
            if let Some(report) = Report::parse(head) {
                self.source.answered(&report);
            }
        } else if h.counter < MAX_HOPS
            && let Some(next) = route::next(h.target)
            && capsule.write(Header::COUNTER, &(h.counter + 1).to_le_bytes()).is_ok()
        {
            let _ = capsule.send(&next);
        }
    }

    fn tick(&mut self, mut tick: Capsule) {
        let me = self.me();
        let neighborhood = self.neighborhood();
        self.source.tick(node::clock(), |header, size| {
            let header = Header { source: me, ..header };
            let seek = header.what == What::Seek;
            let mut capsule = tick.derive(if seek { Kind::Seek } else { Kind::Data })?;
            capsule.resize(size)?;
            capsule.write(0, &header.pack())?;
            if seek {
                return neighborhood.map_or(Ok(()), |n| capsule.multicast(&n).map(|_| ()));
            }
            capsule.send(&route::next(header.target).ok_or(bees_sdk::Error::NotFound)?)
        });
    }

    fn request(&mut self, session: Session, line: &[u8]) -> Result<bool, &'static str> {
        let mut words = Words::of(line);
        match words.next() {
            Some(b"send") => {
                let me = self.me();
                self.source.begin(session, &mut words, me)?;
                return Ok(true);
            }
            Some(b"route") => {
                let (Some(name), Some(b"via"), Some(via)) = (words.next(), words.next(), words.next()) else {
                    return Err("usage: route NAME via NEIGHBOR");
                };
                let via = core::str::from_utf8(via).map_err(|_| "no such neighbor")?;
                let via = Neighbor::find(via).map_err(|_| "no such neighbor")?;
                route::learn(node::short_hash(name), via, FIXED_MS).map_err(bees_sdk::Error::name)?;
                let _ = session.reply(b"ok");
            }
            Some(b"sink") => self.sink.tell(session),
            Some(b"stop") => {
                self.source.end(session);
                let _ = session.reply(b"ok");
            }
            _ => return Err("know only: send, route, sink, stop"),
        }
        Ok(false)
    }
}

impl Protocol for Benchmark {
    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        match Kind::of(capsule.kind()) {
            Some(Kind::Data) => self.data(capsule, head),
            Some(Kind::Seek) => self.seek(capsule, head),
            Some(Kind::Report) => self.answer(capsule, head),
            Some(Kind::Tick) | None => {}
        }
    }

    fn timer(&mut self, capsule: Option<Capsule>, _: Timer, token: u64) {
        if let Some(capsule) = capsule
            && self.source.is(token)
        {
            self.tick(capsule);
        }
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => self.source.end(session),
            SessionEvent::Packet(..) => {
                let mut line = [0; 192];
                let line = session.read(0, &mut line).unwrap_or(&[]);
                match self.request(session, line) {
                    Ok(true) => {
                        if let Some(capsule) = capsule {
                            self.tick(capsule);
                        }
                    }
                    Ok(false) => {}
                    Err(why) => {
                        let _ = session.reply(text!("error ", why).as_bytes());
                    }
                }
            }
        }
    }
}
