//! http: requests of programs travel from hop to hop to the gateway, whose program fetches objects from their servers; the
//! pieces come back the same way, and every node on it keeps them while they may be kept, for whoever asks next. README.md
//! is the manual.
//!
//! | module      | what                                              |
//! |-------------|---------------------------------------------------|
//! | [`format`]  | what capsules look like                           |
//! | [`job`]     | a program's request: window, losses, time         |
//! | [`pending`] | who waits for which piece                         |
//! | [`store`]   | what is kept                                      |
#![cfg_attr(target_arch = "wasm32", no_std)]

mod format;
mod job;
mod pending;
mod store;
#[cfg(test)]
mod tests;

use bees_sdk::session::{Words, parse};
use bees_sdk::{
    Capsule, Error, Neighbor, Neighborhood, Protocol, Session, SessionEvent, Text, Timer, node, text,
};

use format::{Announce, Get, HOPS, MAX_HOPS, MAX_MESSAGE, MAX_URL, Piece, RELOAD};
use job::{Job, TICK, Taken, WINDOW};
use pending::{Asker, Pending};
use store::{MAX_ENTRY, Store};

bees_sdk::protocol! {
    name: "http",
    state: Http = Http::new(),
    capsules: {
        // The clock: the gateway announces itself; what is lost is asked for again.
        Tick { derives: 16 } -> [Announce, Message],
        // What programs say.
        Request { derives: 8 } -> [Announce, Message],
        // From the gateway to everybody.
        Announce { multicasts: 1 } -> [],
        // A get, a step toward the gateway; or a piece, back to who asked, and the next gets in its place.
        Message { sends: 6 } -> [],
    },
    events: { timer: Tick, session: Request },
    session: true,
    params: { "interval": "1000", "expiry": "5", "keep": "262144" },
}

/// Requests that one node works on at once.
const MAX_JOBS: usize = 4;
/// Gets that a piece which came brings about.
const PER_PIECE: usize = 2;
/// Timers: the gateway's announcements, and the requests at work.
const ANNOUNCE: u64 = 1;
const WORK: u64 = 2;
/// The longest request of a program.
const MAX_REQUEST: usize = MAX_URL + 32;
/// What a piece for a program begins with, and what stands before the piece.
const FOR_PROGRAM: u8 = 4;
const PROGRAM_HEAD: usize = 5;

/// The protocol on one node.
pub struct Http {
    way: Way,
    /// The gateway's program, if it is here.
    gateway: Option<Session>,
    jobs: [Option<Job>; MAX_JOBS],
    announcing: Option<Timer>,
    working: Option<Timer>,
    pending: Pending,
    store: Store,
    counts: Counts,
}

/// The way to the gateway.
#[derive(Debug, Clone, Copy)]
struct Way {
    epoch: u64,
    sequence: u32,
    hops: u8,
    /// 0: none is known.
    next: u32,
    heard: u64,
}

/// What a node has counted.
#[derive(Debug, Clone, Copy)]
struct Counts {
    /// Gets that came from neighbors.
    gets: u32,
    /// Gets that went on toward the gateway, and to its program.
    forwarded: u32,
    fetched: u32,
    /// Pieces that came, from neighbors and from the gateway's program.
    pieces: u32,
    /// Pieces that nobody had asked for.
    unasked: u32,
    /// Messages that are none.
    malformed: u32,
}

impl Http {
    /// Knows no gateway.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self {
            way: Way { epoch: 0, sequence: 0, hops: 0, next: 0, heard: 0 },
            gateway: None,
            jobs: [None; MAX_JOBS],
            announcing: None,
            working: None,
            pending: Pending::new(),
            store: Store::new(),
            counts: Counts { gets: 0, forwarded: 0, fetched: 0, pieces: 0, unasked: 0, malformed: 0 },
        }
    }

    /// The next node on the way to the gateway.
    fn next(&self) -> Option<Neighbor> {
        let lasts = interval() * u64::from(node::param_or("expiry", 5).clamp(2, 100));
        let known = node::clock().saturating_sub(self.way.heard) <= lasts;
        Neighbor::from_bits(self.way.next).filter(|_| known && self.gateway.is_none())
    }

    fn announced(&mut self, mut capsule: Capsule, head: &[u8]) {
        let (Some(said), Some(from)) = (Announce::of(head).filter(|a| a.hops < MAX_HOPS), capsule.from())
        else {
            self.counts.malformed += 1;
            return;
        };
        let way = self.way;
        let (here, there) = ((way.epoch, way.sequence), (said.epoch, said.sequence));
        let lost = self.gateway.is_none() && self.next().is_none();
        let newer = lost && there != here || there > here;
        let nearer = there == here && said.hops + 1 < way.hops;
        if !(newer || nearer) {
            return;
        }
        if let Some(session) = self.gateway.take() {
            let _ = session.reply(b"error another program is the gateway now");
            self.silence();
        }
        let heard = if newer { node::clock() } else { way.heard };
        let hops = said.hops + 1;
        self.way = Way { epoch: said.epoch, sequence: said.sequence, hops, next: from.to_bits(), heard };
        if let Ok(all) = Neighborhood::all()
            && capsule.write(HOPS, &[hops]).is_ok()
        {
            let _ = capsule.multicast_onward(&all);
        }
    }

    /// The gateway says that it is there.
    fn announce(&mut self, mut capsule: Capsule) {
        self.way.sequence = self.way.sequence.saturating_add(1);
        let word = Announce { hops: 0, epoch: self.way.epoch, sequence: self.way.sequence };
        if let Ok(mut announce) = capsule.derive(Kind::Announce)
            && announce.put(&word).is_ok()
            && let Ok(all) = Neighborhood::all()
        {
            let _ = announce.multicast(&all);
        }
    }

    fn silence(&mut self) {
        if let Some(timer) = self.announcing.take() {
            let _ = timer.cancel();
        }
    }

    fn message(&mut self, capsule: Capsule) {
        let mut bytes = [0; MAX_MESSAGE];
        let Some(from) = capsule.from() else { return };
        let bytes = capsule.read(0, &mut bytes).unwrap_or(&[]);
        if let Some((get, url)) = Get::read(bytes) {
            self.got(capsule, from, &get, url);
        } else if let Some((piece, rest)) = Piece::read(bytes) {
            self.came(capsule, from, piece, rest);
        } else {
            self.counts.malformed += 1;
        }
    }

    /// A neighbor asks for a piece.
    fn got(&mut self, mut capsule: Capsule, from: Neighbor, get: &Get, url: &[u8]) {
        self.counts.gets += 1;
        let (asked, now) = (get.asked(url), node::clock());
        let mut buffer = [0; MAX_ENTRY];
        if get.flags & RELOAD == 0
            && let Some((piece, bytes)) = self.store.find(&asked, now, &mut buffer)
        {
            if fill(&mut capsule, &piece.bytes(), bytes).is_ok() {
                let _ = capsule.send(&from);
            }
            return;
        }
        let next = self.next();
        // Back where it came from it would go in a circle.
        let via = match (self.gateway, next) {
            (Some(_), _) => 0,
            (None, Some(next)) if next != from => next.to_bits(),
            _ => return,
        };
        if !self.pending.ask(asked, Asker::Neighbor(from.to_bits()), via, now) {
            return;
        }
        let onward = Get { hops: get.hops + 1, ..*get };
        if let Some(program) = self.gateway {
            self.counts.fetched += u32::from(tell(program, &onward.bytes(), url));
        } else if let Some(next) = next
            && capsule.write(HOPS, &[onward.hops]).is_ok()
            && capsule.send(&next).is_ok()
        {
            self.counts.forwarded += 1;
        }
    }

    /// A piece came from a neighbor.
    fn came(&mut self, mut capsule: Capsule, from: Neighbor, piece: Piece, bytes: &[u8]) {
        let piece = Piece { hops: piece.hops + 1, ..piece };
        let now = node::clock();
        self.counts.pieces += 1;
        let Some(waiting) = self.pending.answered(&piece.asked(), from.to_bits(), now) else {
            self.counts.unasked += 1;
            return;
        };
        self.store.keep(&piece, bytes, node::param_or("keep", 262_144), now);
        if capsule.write(HOPS, &[piece.hops]).is_ok() {
            waiting.neighbors().filter_map(Neighbor::from_bits).for_each(|to| {
                let _ = capsule.send_copy(&to);
            });
        }
        if waiting.here() {
            self.hand(&piece, bytes, PER_PIECE, &mut |get, url, next| {
                fill(&mut capsule, &get.bytes(), url).and_then(|()| capsule.send_copy(next)).is_ok()
            });
        }
    }

    /// The gateway's program gives a piece.
    fn given(&mut self, mut capsule: Capsule, session: Session) {
        let mut bytes = [0; MAX_MESSAGE];
        let bytes = session.read(0, &mut bytes).unwrap_or(&[]);
        let Some((piece, rest)) = Piece::read(bytes).filter(|_| self.gateway == Some(session)) else {
            self.counts.malformed += 1;
            return;
        };
        let (piece, now) = (Piece { hops: 0, ..piece }, node::clock());
        self.counts.pieces += 1;
        let Some(waiting) = self.pending.answered(&piece.asked(), 0, now) else {
            self.counts.unasked += 1;
            return;
        };
        self.store.keep(&piece, rest, node::param_or("keep", 262_144), now);
        if waiting.neighbors().next().is_some()
            && let Ok(mut out) = capsule.derive(Kind::Message)
            && fill(&mut out, &piece.bytes(), rest).is_ok()
        {
            waiting.neighbors().filter_map(Neighbor::from_bits).for_each(|to| {
                let _ = out.send_copy(&to);
            });
        }
        if waiting.here() {
            self.hand(&piece, rest, PER_PIECE, &mut |get, url, next| send(&mut capsule, get, url, next));
        }
    }

    /// Gives a piece to the requests here that asked for it, and sends what they ask for next: gets, `most` for each.
    fn hand(&mut self, piece: &Piece, bytes: &[u8], most: usize, send: &mut Sending<'_>) {
        for at in 0..MAX_JOBS {
            let wants = |job: &Job| job.key == piece.key && job.asked_for(piece);
            if self.jobs[at].as_ref().is_some_and(wants) {
                give(&mut self.jobs[at], piece, bytes);
                self.pump(at, most, send);
            }
        }
    }

    /// Sends what a request asks for next; what is here already it gets at once.
    fn pump(&mut self, at: usize, most: usize, send: &mut Sending<'_>) {
        let (now, next) = (node::clock(), self.next());
        let mut sent = 0;
        for _ in 0..2 * WINDOW {
            let Some(job) = self.jobs[at].as_mut().filter(|_| sent < most) else { return };
            let Some(get) = job.next(now) else { return };
            let asked = get.asked(job.url());
            let mut buffer = [0; MAX_ENTRY];
            if get.flags & RELOAD == 0
                && let Some((piece, bytes)) = self.store.find(&asked, now, &mut buffer)
            {
                give(&mut self.jobs[at], &piece, bytes);
                continue;
            }
            let via = next.map_or(0, |next| next.to_bits());
            if (next.is_none() && self.gateway.is_none()) || !self.pending.ask(asked, Asker::Here, via, now) {
                continue;
            }
            sent += 1;
            if let Some(program) = self.gateway {
                self.counts.fetched += u32::from(tell(program, &get.bytes(), job.url()));
            } else if let Some(next) = &next
                && send(&get, job.url(), next)
            {
                self.counts.forwarded += 1;
            }
        }
    }

    /// Looks at the clock for all requests.
    fn work(&mut self, mut capsule: Capsule) {
        let now = node::clock();
        for at in 0..MAX_JOBS {
            let Some(job) = &mut self.jobs[at] else { continue };
            if job.has_failed(now) {
                let why = if self.way.next == 0 && self.gateway.is_none() {
                    " no gateway is known"
                } else {
                    " nothing came for 30 s"
                };
                let job = self.jobs[at].take();
                job.into_iter()
                    .for_each(|job| _ = job.session.reply(text!("error ", job.id, why).as_bytes()));
                continue;
            }
            job.tick(now);
            self.pump(at, WINDOW / MAX_JOBS, &mut |get, url, next| send(&mut capsule, get, url, next));
        }
        if self.jobs.iter().all(Option::is_none)
            && let Some(timer) = self.working.take()
        {
            let _ = timer.cancel();
        }
    }

    fn request(&mut self, mut capsule: Capsule, session: Session) {
        let mut line = [0; MAX_REQUEST + 1];
        let line = session.read(0, &mut line).unwrap_or(&[]);
        let mut words = Words::of(line);
        match words.next().unwrap_or(b"") {
            b"serve" => match self.serve(capsule, session) {
                Ok(()) => _ = session.reply(b"ok"),
                Err(why) => session.refuse(why),
            },
            b"get" => {
                let Some(id) = words.next().and_then(parse) else {
                    return session.refuse("a number is missing");
                };
                let (url, how) = (words.next().unwrap_or(b""), words.next());
                if let Err(why) = self.begin(&mut capsule, session, id, url, how) {
                    let _ = session.reply(text!("error ", id, " ", why).as_bytes());
                }
            }
            b"cancel" => {
                let id = words.next().and_then(parse);
                self.drop_jobs(|job| job.session == session && Some(job.id) == id);
            }
            b"stats" => self.stats(session),
            _ => session.refuse("usage: get ID URL [reload] | cancel ID | serve | stats"),
        }
    }

    /// A program here becomes the gateway.
    fn serve(&mut self, capsule: Capsule, session: Session) -> Result<(), &'static str> {
        if self.gateway.is_some_and(|gateway| gateway != session) || self.next().is_some() {
            return Err("there is a gateway");
        }
        if self.announcing.is_none() {
            let timer = Timer::every(interval(), ANNOUNCE).map_err(Error::name)?;
            self.announcing = Some(timer);
        }
        let mut random = [0; 2];
        let _ = node::random(&mut random);
        let epoch = node::wall_clock().unwrap_or(0) << 16 | u64::from(u16::from_le_bytes(random));
        let epoch = epoch.max(self.way.epoch.saturating_add(1));
        self.way = Way { epoch, sequence: 0, hops: 0, next: 0, heard: 0 };
        self.gateway = Some(session);
        self.announce(capsule);
        Ok(())
    }

    /// A program wants an object.
    fn begin(
        &mut self,
        capsule: &mut Capsule,
        session: Session,
        id: u32,
        url: &[u8],
        how: Option<&[u8]>,
    ) -> Result<(), &'static str> {
        if !format::is_url(url) {
            return Err("a URL has 1 to 1024 graphic characters");
        }
        let flags = match how {
            None => 0,
            Some(b"reload") => RELOAD,
            Some(_) => return Err("know only: reload"),
        };
        let at = self.jobs.iter().position(Option::is_none).ok_or("too many requests at once")?;
        if self.working.is_none() {
            self.working = Some(Timer::every(TICK, WORK).map_err(Error::name)?);
        }
        let nonce = node::unique() as u32;
        self.jobs[at] = Some(Job::begin(session, id, url, format::key(url), flags, nonce, node::clock()));
        self.pump(at, PER_PIECE, &mut |get, url, next| send(capsule, get, url, next));
        Ok(())
    }

    fn drop_jobs(&mut self, gone: impl Fn(&Job) -> bool) {
        self.jobs.iter_mut().filter(|job| job.as_ref().is_some_and(&gone)).for_each(|job| *job = None);
    }

    fn stats(&self, session: Session) {
        let (c, s) = (&self.counts, &self.store.counts);
        let mut line: Text<256> = text!("done");
        let counts = [
            (" hits ", s.hits),
            (" misses ", s.misses),
            (" stored ", s.stored),
            (" unstored ", s.unstored),
            (" evicted ", s.evicted),
            (" gets ", c.gets),
            (" forwarded ", c.forwarded),
            (" fetched ", c.fetched),
            (" pieces ", c.pieces),
            (" unasked ", c.unasked),
            (" malformed ", c.malformed),
        ];
        for (name, count) in counts {
            line.push(name);
            line.push(count);
        }
        line.push(if self.gateway.is_some() {
            " gateway here"
        } else if self.next().is_some() {
            " gateway known"
        } else {
            " gateway none"
        });
        let _ = session.reply(line.as_bytes());
    }
}

/// Sends a get with its URL to the next node; whether it could be.
type Sending<'a> = dyn FnMut(&Get, &[u8], &Neighbor) -> bool + 'a;

/// Sends a get with a capsule made for it.
fn send(capsule: &mut Capsule, get: &Get, url: &[u8], next: &Neighbor) -> bool {
    let Ok(mut out) = capsule.derive(Kind::Message) else { return false };
    fill(&mut out, &get.bytes(), url).and_then(|()| out.send(next)).is_ok()
}

/// Makes a head and what follows it the payload.
fn fill(capsule: &mut Capsule, head: &[u8], rest: &[u8]) -> Result<(), Error> {
    capsule.resize(head.len() + rest.len())?;
    capsule.write(0, head)?;
    capsule.write(head.len(), rest)
}

/// Gives the gateway's program a get; whether it could be.
fn tell(program: Session, get: &[u8; Get::LEN], url: &[u8]) -> bool {
    let mut packet = [0; Get::LEN + MAX_URL];
    let Some(to) = packet.get_mut(Get::LEN..Get::LEN + url.len()) else { return false };
    to.copy_from_slice(url);
    packet[..Get::LEN].copy_from_slice(get);
    program.reply(&packet[..Get::LEN + url.len()]).is_ok()
}

/// Gives a request a piece, and its program if it is new there. What the program has no room for comes again.
fn give(slot: &mut Option<Job>, piece: &Piece, bytes: &[u8]) {
    let Some(job) = slot else { return };
    if job.wants(piece) {
        let mut packet = [FOR_PROGRAM; PROGRAM_HEAD + MAX_MESSAGE];
        packet[1..PROGRAM_HEAD].copy_from_slice(&job.id.to_le_bytes());
        let start = PROGRAM_HEAD + Piece::LEN;
        packet[PROGRAM_HEAD..start].copy_from_slice(&piece.bytes());
        let Some(to) = packet.get_mut(start..start + bytes.len()) else { return };
        to.copy_from_slice(bytes);
        if job.session.reply(&packet[..start + bytes.len()]).is_err() {
            return;
        }
    }
    let (session, id) = (job.session, job.id);
    let line = match job.take(piece, node::unique() as u32, node::clock()) {
        Taken::Known | Taken::New => return,
        Taken::Changed => {
            let _ = session.reply(text!("again ", id).as_bytes());
            return;
        }
        Taken::Last => text!("end ", id),
        Taken::Unsteady => text!("error ", id, " the object changes all the time"),
    };
    let _ = session.reply(line.as_bytes());
    *slot = None;
}

/// Between two announcements, in microseconds.
fn interval() -> u64 {
    u64::from(node::param_or("interval", 1000).clamp(100, 3_600_000)) * 1000
}

impl Protocol for Http {
    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        match Kind::of(capsule.kind()) {
            Some(Kind::Announce) => self.announced(capsule, head),
            Some(Kind::Message) => self.message(capsule),
            _ => self.counts.malformed += 1,
        }
    }

    fn timer(&mut self, capsule: Option<Capsule>, _: Timer, token: u64) {
        let Some(capsule) = capsule else { return };
        match token {
            ANNOUNCE if self.gateway.is_some() => self.announce(capsule),
            WORK => self.work(capsule),
            _ => {}
        }
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => {
                self.drop_jobs(|job| job.session == session);
                if self.gateway == Some(session) {
                    self.gateway = None;
                    self.silence();
                }
            }
            SessionEvent::Packet(head, _) => match capsule {
                Some(capsule) if head.first() == Some(&3) => self.given(capsule, session),
                Some(capsule) => self.request(capsule, session),
                None => session.refuse(Error::NoMemory.name()),
            },
        }
    }
}
