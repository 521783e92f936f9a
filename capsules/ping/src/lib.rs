//! ping: how far away is a node? README.md is the manual.
//!
//! A flood (`Seek`) looks for the node by name; every node that it passes learns the way back to the asking
//! node, and the answer teaches the way there. Then `Echo` capsules go there and back along what was
//! learned. A missing answer sends a flood out again, so pings find a new way when the old one is gone.
#![cfg_attr(target_arch = "wasm32", no_std)]

mod format;
mod job;
#[cfg(test)]
mod tests;

use bees_sdk::{Capsule, Neighborhood, Protocol, Session, SessionEvent, Timer, node, route, text};

use format::Header;
use job::{Job, Request, Step};

bees_sdk::protocol! {
    name: "ping",
    state: Ping = Ping::new(),
    capsules: {
        // To all neighbors; the node that is meant makes an Echo that answers.
        Seek { multicasts: 1, derives: 1 } -> [Echo],
        // One step there; the node that is meant turns it round; one step back.
        Echo { returns: 1, sends: 1 } -> [],
    },
    events: { timer: Seek, session: Seek },
    session: true,
    params: { "hops": "64" },
}

/// Requests that one node works on at once.
const MAX_JOBS: usize = 4;
/// How long a learned way is kept.
const ROUTE_MS: u32 = 30_000;
/// How long a flood is remembered.
const SEEN_MS: u32 = 10_000;

/// The protocol on one node.
pub struct Ping {
    jobs: [Slot; MAX_JOBS],
    me: u64,
    neighborhood: Option<Neighborhood>,
}

/// Room for a request. Free is all zeros, so that the module does not carry it.
#[repr(u8)]
#[allow(clippy::large_enum_variant)]
enum Slot {
    Free = 0,
    Busy(Job) = 1,
}

impl Slot {
    fn job(&mut self) -> Option<&mut Job> {
        match self {
            Self::Free => None,
            Self::Busy(job) => Some(job),
        }
    }
}

impl Ping {
    /// Asks nobody.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { jobs: [const { Slot::Free }; MAX_JOBS], me: 0, neighborhood: None }
    }

    /// Learns once who this node is.
    fn prepare(&mut self) -> Option<Neighborhood> {
        if self.me == 0 {
            self.me = node::id();
        }
        if self.neighborhood.is_none() {
            self.neighborhood = Neighborhood::all().ok();
        }
        self.neighborhood
    }

    fn seek(&mut self, mut capsule: Capsule, head: &[u8]) {
        let Some(neighborhood) = self.prepare() else { return };
        let (Some(mut h), Some(from)) = (Header::parse(head), capsule.from()) else { return };
        if h.source == self.me || !route::first_seen(h.source, h.number(), SEEN_MS) {
            return;
        }
        let _ = route::learn(h.source, from, ROUTE_MS);
        h.hops += 1;
        if h.target == self.me {
            let found = Header {
                reply: true,
                hops: 0,
                there: h.hops,
                seq: 0,
                source: h.target,
                target: h.source,
                ..h
            };
            if let Ok(mut echo) = capsule.derive(Kind::Echo)
                && echo.set(&found.pack()).is_ok()
            {
                let _ = echo.send(&from);
            }
        } else if h.hops < h.limit && capsule.write(0, &h.pack()).is_ok() {
            let _ = capsule.multicast_onward(&neighborhood);
        }
    }

    fn echo(&mut self, mut capsule: Capsule, head: &[u8]) {
        self.prepare();
        let (Some(mut h), Some(from)) = (Header::parse(head), capsule.from()) else { return };
        h.hops += 1;
        let _ = route::learn(h.source, from, ROUTE_MS);
        if h.target != self.me {
            if h.hops < h.limit
                && let Some(next) = route::next(h.target)
                && capsule.write(0, &h.pack()).is_ok()
            {
                let _ = capsule.send(&next);
            }
        } else if h.reply {
            self.answered(&h, capsule.len());
        } else {
            let turned =
                Header { reply: true, hops: 0, there: h.hops, source: h.target, target: h.source, ..h };
            if capsule.write(0, &turned.pack()).is_ok() {
                let _ = capsule.return_to_sender();
            }
        }
    }

    /// An answer for one of this node's requests.
    fn answered(&mut self, h: &Header, len: usize) {
        let now = node::clock();
        if let Some(slot) = self.slot(h.job)
            && let Some(job) = slot.job()
            && job.answered(h, len, now) == Step::Over
        {
            *slot = Slot::Free;
        }
    }

    fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        self.jobs.iter_mut().find(|s| matches!(s, Slot::Busy(job) if job.id == id))
    }

    /// Lets a request do what is due.
    fn work(&mut self, id: u32, capsule: Option<Capsule>) {
        let neighborhood = self.prepare();
        let me = self.me;
        let Some(slot) = self.slot(id) else { return };
        let (Some(job), Some(mut capsule)) = (slot.job(), capsule) else { return };
        let (step, seek) = job.tick(node::clock(), |header, size| {
            let Some(next) = route::next(header.target) else { return false };
            let header = Header { source: me, ..header };
            let Ok(mut echo) = capsule.derive(Kind::Echo) else { return false };
            let made = echo.resize(size).and_then(|()| echo.write(0, &header.pack()));
            made.and_then(|()| echo.send(&next)).is_ok()
        });
        if let Some(header) = seek
            && let Some(neighborhood) = neighborhood
            && capsule.set(&Header { source: me, ..header }.pack()).is_ok()
        {
            let _ = capsule.multicast(&neighborhood);
        }
        if step == Step::Over {
            *slot = Slot::Free;
        }
    }

    fn request(&mut self, session: Session, line: &[u8]) -> Result<Option<u32>, &'static str> {
        self.prepare();
        let request = match Request::parse(line)? {
            Some(request) => request,
            None => {
                self.end(session, true);
                return Ok(None);
            }
        };
        if request.target() == self.me {
            return Err("that is this node");
        }
        let free = self.jobs.iter_mut().find(|s| matches!(s, Slot::Free));
        let slot = free.ok_or("too many requests at once")?;
        let job = Job::begin(request, session, node::clock());
        let id = job.id;
        let _ = session.reply(text!("PING ", job.name(), ": ", job.size, " bytes").as_bytes());
        *slot = Slot::Busy(job);
        Ok(Some(id))
    }

    /// Ends the requests of a session.
    fn end(&mut self, session: Session, tell: bool) {
        for slot in &mut self.jobs {
            if let Some(job) = slot.job()
                && job.session == session
            {
                job.end(tell, node::clock());
                *slot = Slot::Free;
            }
        }
    }
}

impl Protocol for Ping {
    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        match Kind::of(capsule.kind()) {
            Some(Kind::Seek) => self.seek(capsule, head),
            Some(Kind::Echo) => self.echo(capsule, head),
            None => {}
        }
    }

    fn timer(&mut self, capsule: Option<Capsule>, _: Timer, token: u64) {
        self.work(token as u32, capsule);
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => self.end(session, false),
            SessionEvent::Packet(..) => {
                let mut line = [0; 192];
                let line = session.read(0, &mut line).unwrap_or(&[]);
                match self.request(session, line) {
                    Ok(Some(id)) => self.work(id, capsule),
                    Ok(None) => {}
                    Err(why) => {
                        let _ = session.reply(text!("error ", why).as_bytes());
                    }
                }
            }
        }
    }
}
