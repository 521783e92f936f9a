//! pathfinder: a spanning tree toward one node, the root; what a leaf says comes to the root, and what the root says
//! comes to everybody. Alone it serves the programs that have a session with it, as a companion the protocol
//! that it is a companion of. README.md is the manual.
//!
//! | module     | what                                     |
//! |------------|------------------------------------------|
//! | [`format`] | what capsules look like                   |
//! | [`tree`]   | a node's place in the tree                |
//! | [`alone`]  | sessions, where there is no main protocol |
#![cfg_attr(target_arch = "wasm32", no_std)]

mod alone;
mod format;
#[cfg(test)]
mod graphs;
#[cfg(test)]
mod tests;
mod tree;

use bees_sdk::bytes::{Pack, Reader, Writer};
use bees_sdk::companion::{Call, Companion};
use bees_sdk::pathfinder::{self as interface, HERE, MAX_BYTES, News, Operation, Place};
use bees_sdk::{
    Capsule, Error, Neighbor, Neighborhood, Protocol, Session, SessionEvent, Timer, flow, neighbor, node,
    privilege,
};

use alone::Programs;
use format::{Configuration, HOPS, MULTICAST_HEAD, Multicast, SINK_HEAD, sink_hops};
use tree::{Due, INTERVALS, Role, TICKS, Terms, Tree};

bees_sdk::protocol! {
    name: "pathfinder",
    state: Pathfinder = Pathfinder::new(),
    capsules: {
        // To all neighbors: once an interval, again for who missed it, and onward.
        Configuration { multicasts: 1 } -> [],
        // One step toward the root.
        Sink { sends: 1 } -> [],
        // From the root to everybody.
        Multicast { multicasts: 1 } -> [],
        // What a program, or the main protocol, asks for.
        Request { derives: 1 } -> [Configuration, Sink, Multicast],
    },
    events: { timer: Configuration, session: Request },
    session: true,
    params: { "interval": "1000", "expiry": "4", "repeats": "1" },
}

/// The privilege to have the parent watched.
pub const LIVENESS: &[u8] = b"bees.liveness";
/// Shortest and longest time between two pokes to it, in microseconds, and how many of them it may leave unanswered.
const POKES: (u64, u64) = (100_000, 1_000_000);
const UNANSWERED: u64 = 3;

const BUFFER: usize = MAX_BYTES + MULTICAST_HEAD;

/// The protocol on one node.
pub struct Pathfinder {
    tree: Tree,
    timer: Option<Timer>,
    /// Between looks at the clock, in microseconds.
    tick: u64,
    /// The parent that is watched; 0 for none.
    watched: u32,
    /// Since when capsules come without a root being known; 0: they do not.
    strayed: u64,
    programs: Programs,
    buffer: [u8; BUFFER],
}

impl Pathfinder {
    /// Knows no root.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self {
            tree: Tree::new(),
            timer: None,
            tick: 0,
            watched: 0,
            strayed: 0,
            programs: Programs::new(),
            buffer: [0; BUFFER],
        }
    }

    /// Has the clock looked at as often as the interval needs.
    fn keep_time(&mut self) {
        let tick = self.tree.interval() / TICKS;
        if tick == self.tick {
            return;
        }
        if let Some(timer) = self.timer.take() {
            let _ = timer.cancel();
        }
        match Timer::every(tick, 0) {
            Ok(timer) => (self.timer, self.tick) = (Some(timer), tick),
            Err(why) => bees_sdk::log!(Error, "no timer: ", why),
        }
    }

    /// Makes this node the root.
    fn root(&mut self, request: &mut Capsule) -> Result<(), Error> {
        if self.tree.role() == Role::Root {
            return Ok(());
        }
        let former = self.tree.parent();
        let word = self.tree.become_root(node::clock(), epoch());
        self.moved(former);
        self.keep_time();
        let mut capsule = request.derive(Kind::Configuration as u8)?;
        capsule.put(&word)?;
        // Without neighbors there is nobody to tell yet.
        capsule.multicast(&Neighborhood::all()?).map(drop)
    }

    /// Sends the buffer's first bytes toward the root. At the root they are [`HERE`].
    fn sink(&mut self, request: &mut Capsule, len: usize) -> Result<u32, Error> {
        if self.tree.role() == Role::Root {
            return Ok(HERE);
        }
        let parent = self.parent().ok_or(Error::NotFound)?;
        let mut capsule = request.derive(Kind::Sink as u8)?;
        capsule.resize(SINK_HEAD + len)?;
        capsule.write(0, &[2, 0])?;
        capsule.write(SINK_HEAD, &self.buffer[..len])?;
        capsule.send(&parent).map(|()| 0)
    }

    /// Sends the buffer's first bytes to everybody else.
    fn multicast(&mut self, request: &mut Capsule, len: usize) -> Result<(), Error> {
        let number = self.tree.next_multicast().ok_or(Error::NotPermitted)?;
        let mut head = [0; MULTICAST_HEAD];
        let mut w = Writer::new(&mut head);
        Multicast { hops: 0, epoch: self.tree.epoch(), number }.pack(&mut w);
        let mut capsule = request.derive(Kind::Multicast as u8)?;
        capsule.resize(MULTICAST_HEAD + len)?;
        capsule.write(0, &head)?;
        capsule.write(MULTICAST_HEAD, &self.buffer[..len])?;
        capsule.multicast(&Neighborhood::all()?).map(drop)
    }

    fn configured(&mut self, mut capsule: Capsule, head: &[u8]) {
        let (Some(said), Some(from)) = (Configuration::unpack(&mut Reader::new(head)), capsule.from()) else {
            return;
        };
        let former = self.tree.parent();
        let heard = self.tree.hear(node::clock(), from.to_bits(), &said);
        if heard.moved {
            self.moved(former);
        }
        if self.tree.role() == Role::Member {
            self.strayed = 0;
            self.keep_time();
        }
        if let Some(word) = heard.say
            && let Ok(all) = Neighborhood::all()
            && capsule.put(&word).is_ok()
        {
            let _ = capsule.multicast_onward(&all);
        }
    }

    fn sunk(&mut self, mut capsule: Capsule, head: &[u8]) {
        let Some(hops) = sink_hops(head) else { return };
        match self.parent() {
            _ if self.tree.role() == Role::Root => {
                // The hops stand before the bytes, as in the message to the main protocol.
                let message = &mut self.buffer[..1 + MAX_BYTES];
                if let Ok(len) = capsule.read(HOPS, message).map(|m| m.len()) {
                    message[0] = hops + 1;
                    self.tell(News::Sink { hops: hops + 1, len: len - 1 });
                }
            }
            // From the parent it would go in a circle.
            Some(parent) if Some(parent) != capsule.from() => {
                if capsule.write(HOPS, &[hops + 1]).is_ok() {
                    let _ = capsule.send(&parent);
                }
            }
            _ => self.stray(),
        }
    }

    fn multicasted(&mut self, mut capsule: Capsule, head: &[u8]) {
        let Some(head) = Multicast::unpack(&mut Reader::new(head)) else { return };
        if !self.tree.first_seen(node::clock(), head.epoch, head.number) {
            return;
        }
        // One byte more in front: there the hops are told.
        let message = &mut self.buffer[..1 + MAX_BYTES];
        let Ok(len) = capsule.read(MULTICAST_HEAD - 1, message).map(|m| m.len() - 1) else { return };
        message[0] = head.hops + 1;
        if self.tree.passes_on()
            && let Ok(all) = Neighborhood::all()
            && capsule.write(HOPS, &[head.hops + 1]).is_ok()
        {
            let _ = capsule.multicast_onward(&all);
        }
        self.tell(News::Multicast { len });
        self.stray();
    }

    /// A capsule came, and no root is known: where one is, it will be heard of soon.
    fn stray(&mut self) {
        if self.tree.role() == Role::Outside && self.strayed == 0 {
            self.strayed = node::clock();
            self.keep_time();
        }
    }

    /// Nothing was heard of the root for too long: the flow ends here, unless it wants to wait for another root.
    fn lost(&mut self) {
        self.strayed = 0;
        self.watch_parent();
        if !self.tell(News::Lost)
            && let Err(why) = flow::end()
        {
            bees_sdk::log!(Error, "cannot end: ", why);
        }
    }

    /// Tells whoever is served, with the hops and the bytes at the buffer's beginning; whether the result is above 0.
    fn tell(&mut self, news: News) -> bool {
        let len = match news {
            News::Sink { len, .. } | News::Multicast { len } => News::BYTES + len,
            News::Lost => 0,
        };
        let message = &self.buffer[..len];
        match Companion::parent().and_then(|main| news.tell(&main, message)) {
            // It is the main protocol itself.
            Err(Error::NotFound) => self.programs.tell(news, message.get(News::BYTES..).unwrap_or(&[])),
            told => told.is_ok_and(|result| result > 0),
        }
    }

    /// There is another parent than this one, or none.
    fn moved(&mut self, former: Option<u32>) {
        // Once the tree ends, what is said to the parent must not bring the flow back to it.
        self.serve(former, true);
        self.serve(self.tree.parent(), false);
        self.watch_parent();
    }

    /// Has the parent watched, where the flow may.
    fn watch_parent(&mut self) {
        let parent = self.tree.parent().unwrap_or(0);
        if self.watched == parent || !privilege::is_granted(LIVENESS) {
            return;
        }
        if let Some(former) = Neighbor::from_bits(self.watched) {
            // It may be gone.
            let _ = former.unwatch();
        }
        let poke = (self.tree.interval() / TICKS).clamp(POKES.0, POKES.1);
        let watched = self.parent().is_some_and(|parent| parent.watch(poke, UNANSWERED * poke).is_ok());
        self.watched = if watched { parent } else { 0 };
    }

    /// Whether a neighbor gets the flow's code.
    fn serve(&self, neighbor: Option<u32>, serve: bool) {
        if let Some(neighbor) = neighbor.and_then(Neighbor::from_bits) {
            // It may be gone.
            let _ = neighbor.serve(serve);
        }
    }

    fn place(&self) -> Place {
        let role = match self.tree.role() {
            Role::Outside => interface::Role::Outside,
            Role::Member => interface::Role::Member,
            Role::Root => interface::Role::Root,
        };
        Place {
            role,
            hops: self.tree.hops(),
            epoch: self.tree.epoch(),
            sequence: self.tree.sequence(),
            age_ms: (self.tree.age(node::clock()) / 1000).min(u32::MAX.into()) as u32,
            interval_ms: (self.tree.interval() / 1000) as u32,
        }
    }

    fn parent(&self) -> Option<Neighbor> {
        self.tree.parent().and_then(Neighbor::from_bits)
    }
}

/// A number that is greater in each of a root's lives, where the node knows the time of day.
fn epoch() -> u64 {
    let mut random = [0; 2];
    let _ = node::random(&mut random);
    node::wall_clock().unwrap_or(0) << 16 | u64::from(u16::from_le_bytes(random))
}

impl Protocol for Pathfinder {
    fn boot(&mut self, _: Option<Capsule>) {
        let param = |name, or| node::param_number(name).unwrap_or(or);
        self.tree.set_terms(Terms {
            interval: u64::from(param("interval", 1000)) * 1000,
            expiry: param("expiry", 4).clamp(2, 100) as u8,
            repeats: param("repeats", 1).min(u32::from(u8::MAX)) as u8,
        });
    }

    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        match Kind::of(capsule.kind()) {
            Some(Kind::Configuration) => self.configured(capsule, head),
            Some(Kind::Sink) => self.sunk(capsule, head),
            Some(Kind::Multicast) => self.multicasted(capsule, head),
            Some(Kind::Request) | None => {}
        }
    }

    fn neighbor(&mut self, neighbor: Neighbor, news: neighbor::News) {
        let gone = news == neighbor::News::Gone;
        if gone && self.watched == neighbor.to_bits() {
            self.watched = 0;
        }
        if (gone || news == neighbor::News::Dead) && self.tree.neighbor_lost(neighbor.to_bits()) {
            self.moved(Some(neighbor.to_bits()));
        }
    }

    fn timer(&mut self, capsule: Option<Capsule>, _: Timer, _: u64) {
        let now = node::clock();
        match self.tree.tick(now) {
            Due::Nothing => {}
            Due::Say(word) => {
                if let (Some(mut capsule), Ok(all)) = (capsule, Neighborhood::all())
                    && capsule.put(&word).is_ok()
                {
                    let _ = capsule.multicast(&all);
                }
            }
            Due::Lost => return self.lost(),
        }
        let patience = self.tree.interval().max(INTERVALS.0) * 8;
        if self.strayed != 0 && now >= self.strayed + patience {
            self.lost();
        }
    }

    fn companion(&mut self, capsule: Option<Capsule>, call: Call<'_>) -> Result<u32, Error> {
        // Only the main protocol is served.
        if call.from != Companion::parent()? {
            return Err(Error::NotPermitted);
        }
        let operation = Operation::of(call.operation).ok_or(Error::BadArgument)?;
        match operation {
            Operation::Configure => {
                let terms =
                    interface::Terms::unpack(&mut Reader::new(call.head)).ok_or(Error::BadArgument)?;
                self.tree.set_terms(Terms {
                    interval: u64::from(terms.interval_ms) * 1000,
                    expiry: terms.expiry,
                    repeats: terms.repeats,
                });
                return Ok(0);
            }
            Operation::Place => {
                let mut bytes = [0; Place::LEN];
                let mut w = Writer::new(&mut bytes);
                self.place().pack(&mut w);
                return call.reply(&bytes).map(|()| 0);
            }
            Operation::Root | Operation::Sink | Operation::Multicast => {}
        }
        if call.len > MAX_BYTES {
            return Err(Error::TooLarge);
        }
        let mut request = capsule.ok_or(Error::Depleted)?;
        let len = call.read(0, &mut self.buffer)?.len();
        match operation {
            Operation::Root => self.root(&mut request).map(|()| 0),
            Operation::Multicast => self.multicast(&mut request, len).map(|()| 0),
            _ => self.sink(&mut request, len),
        }
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => self.programs.closed(session),
            SessionEvent::Packet(..) => self.request(capsule, session),
        }
    }
}
