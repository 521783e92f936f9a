//! telemetry: what happens to a capsule on its way? A trace goes to a node and back, and every node that it passes
//! writes down in the capsule who it is, when the capsule came and went, and how many frames waited for the link that it
//! took. README.md is the manual.
//!
//! | module      | what                                                 |
//! |-------------|------------------------------------------------------|
//! | [`format`]  | what the capsules carry                                |
//! | [`request`] | the node that asks: what it wants, what came of it     |
#![cfg_attr(target_arch = "wasm32", no_std)]

mod format;
mod request;
#[cfg(test)]
mod tests;

use bees_sdk::bytes::Reader;
use bees_sdk::{
    Capsule, Error, Neighbor, Neighborhood, Protocol, Queues, Session, SessionEvent, Timer, node, route,
};

use format::{Header, MAX, MAX_NAME, Phase, Record, UNKNOWN};
use request::Request;

bees_sdk::protocol! {
    name: "telemetry",
    state: Telemetry = Telemetry::new(),
    capsules: {
        // A flood that looks for the node; and what is sent there once the way is known.
        Seek { multicasts: 1, derives: 1 } -> [Trace],
        // One step along the way.
        Trace { sends: 1 },
    },
    events: { timer: Seek, session: Seek },
    session: true,
    params: { "hops": "64", "interval": "250", "quiet": "40" },
}

/// How long the way to a node is kept.
const ROUTE_MS: u32 = 30_000;
/// How long a flood is remembered.
const SEEN_MS: u32 = 10_000;

/// The protocol on one node.
pub struct Telemetry {
    me: u64,
    request: Request,
}

impl Telemetry {
    /// Asks nothing.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { me: 0, request: Request::new() }
    }

    /// This node's number.
    fn me(&mut self) -> u64 {
        if self.me == 0 {
            self.me = node::id();
        }
        self.me
    }

    /// A flood: whoever is meant answers, all others pass it on.
    fn seek(&mut self, mut capsule: Capsule, head: &[u8]) {
        let (Some(header), Some(from)) = (Header::parse(&mut Reader::new(head)), capsule.from()) else {
            return;
        };
        let first = route::first_seen(header.origin, header.number(), SEEN_MS);
        if header.phase != Phase::Seek || header.origin == self.me() || !first {
            return;
        }
        let _ = route::learn(header.origin, from, ROUTE_MS);
        if header.target == self.me() {
            let found = Header { phase: Phase::Found, hops: 0, ..header };
            if let Ok(mut answer) = capsule.derive(Kind::Trace)
                && answer.set(&found.pack()).is_ok()
            {
                let _ = answer.send(&from);
            }
        } else if header.hops + 1 < header.limit
            && capsule.set(&Header { hops: header.hops + 1, ..header }.pack()).is_ok()
            && let Ok(all) = Neighborhood::all()
        {
            let _ = capsule.multicast_onward(&all);
        }
    }

    /// An answer to a flood, or a trace: one step on.
    fn step(&mut self, mut capsule: Capsule) {
        let mut buffer = [0; MAX];
        let (Ok(bytes), Some(from)) = (capsule.read(0, &mut buffer), capsule.from()) else { return };
        let mut reader = Reader::new(bytes);
        let Some(header) = Header::parse(&mut reader) else { return };
        let header = Header { hops: header.hops + 1, ..header };
        let (there, me) = (header.phase == Phase::There, self.me());
        // Where it comes from is the way back to whom it left.
        let (left, meant) =
            if there { (header.origin, header.target) } else { (header.target, header.origin) };
        let _ = route::learn(left, from, ROUTE_MS);
        let at_end = meant == me;
        match header.phase {
            Phase::Seek => {}
            Phase::Found if at_end && self.request.is(header.request.into()) => self.request.found(),
            Phase::Back if at_end && self.request.is(header.request.into()) => {
                let (mut name, mut nobody) = ([0; MAX_NAME], [0; MAX_NAME]);
                let own = own_record(&mut name, None, &mut nobody);
                self.request.came_back(&header, reader.rest(), &own);
            }
            _ if at_end && !there => {}
            phase => {
                let turns = at_end && there;
                let next = if turns { Some(from) } else { route::next(meant) };
                // Never straight back, but at the target.
                let Some(next) = next.filter(|next| turns || *next != from) else { return };
                let phase = if turns { Phase::Back } else { phase };
                let header = Header { phase, ..header };
                let sent = match phase {
                    Phase::Found => capsule.set(&header.pack()),
                    _ => write_down(&mut capsule, header, &next),
                };
                if sent.is_ok() {
                    let _ = capsule.send(&next);
                }
            }
        }
    }

    /// A round of this node's request.
    fn round(&mut self, mut capsule: Capsule) {
        let me = self.me();
        let Some(due) = self.request.next_round(me) else { return };
        if due.trace
            && let Some(next) = route::next(due.header.target)
            && let Ok(mut trace) = capsule.derive(Kind::Trace)
            && write_down(&mut trace, Header { phase: Phase::There, ..due.header }, &next).is_ok()
        {
            let _ = trace.send(&next);
        }
        if due.seek
            && let Ok(all) = Neighborhood::all()
            && capsule.set(&due.header.pack()).is_ok()
        {
            let _ = capsule.multicast(&all);
        }
    }
}

/// Writes a header, and behind the records that are there this node's, if there is room.
fn write_down(capsule: &mut Capsule, header: Header, next: &Neighbor) -> Result<(), Error> {
    let (mut name, mut next_name) = ([0; MAX_NAME], [0; MAX_NAME]);
    let record = own_record(&mut name, Some(next), &mut next_name);
    let mut buffer = [0; Record::MAX];
    let record = record.pack(&mut buffer);
    let there = capsule.len().max(Header::LEN);
    let most = next.max_payload()?.min(MAX);
    if there + record.len() > most {
        return capsule.write(0, &Header { missed: header.missed.saturating_add(1), ..header }.pack());
    }
    capsule.resize(there + record.len())?;
    capsule.write(0, &header.pack())?;
    capsule.write(there, record)
}

/// What this node says of the running event, if the capsule goes on to `next`.
fn own_record<'a>(
    name: &'a mut [u8; MAX_NAME],
    next: Option<&Neighbor>,
    next_name: &'a mut [u8; MAX_NAME],
) -> Record<'a> {
    let (arrived, now) = (node::since(), node::clock());
    let waiting = next.and_then(|next| Queues::find().ok()?.waiting(next).ok());
    Record {
        name: node::name(name).unwrap_or(b"?"),
        arrived,
        stay: now.saturating_sub(arrived).min(u32::MAX.into()) as u32,
        waiting: waiting.map_or(UNKNOWN, |frames| frames.min(u32::from(UNKNOWN) - 1) as u16),
        next: next.map_or(&[], |next| next.name(next_name).unwrap_or(b"?")),
    }
}

impl Protocol for Telemetry {
    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        match Kind::of(capsule.kind()) {
            Some(Kind::Seek) => self.seek(capsule, head),
            Some(Kind::Trace) => self.step(capsule),
            None => {}
        }
    }

    fn timer(&mut self, capsule: Option<Capsule>, _: Timer, token: u64) {
        if let Some(capsule) = capsule
            && self.request.is(token)
        {
            self.round(capsule);
        }
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => self.request.closed(session),
            SessionEvent::Packet(..) => {
                let mut line = [0; 128];
                let line = session.read(0, &mut line).unwrap_or(&[]);
                if self.request.begin(session, line)
                    && let Some(capsule) = capsule
                {
                    self.round(capsule);
                }
            }
        }
    }
}
