//! multicast: what a program at one node says, to all programs that want it. Groups have names; each has one source,
//! whose announcements show the way to it; joins travel that way, merged from hop to hop, and payloads come back only over
//! links behind which somebody wants them. README.md is the manual.
//!
//! | module       | what                                                |
//! |--------------|-----------------------------------------------------|
//! | [`format`]   | what capsules look like                             |
//! | [`filter`]   | what somebody wants, merged, and held against payloads |
//! | [`group`]    | the way to a group's source                         |
//! | [`links`]    | what neighbors want                                 |
//! | [`members`]  | what programs here want                             |
//! | [`requests`] | what programs say                                   |
#![cfg_attr(target_arch = "wasm32", no_std)]

mod filter;
mod format;
mod group;
mod links;
mod members;
mod requests;
#[cfg(test)]
mod tests;

use bees_sdk::bytes::{Pack, Reader, Writer};
use bees_sdk::{Capsule, Error, Neighbor, Neighborhood, Protocol, Session, SessionEvent, Text, Timer, node};

use filter::{Filter, MAX_PREFIX, Verdict};
use format::{Announce, DATA_HEAD, Data, HOPS, Join, MAX_BYTES, MAX_JOIN, MAX_NAME, Name};
use group::{Due, Group, Heard, TICKS};
use links::Links;
use members::Members;

bees_sdk::protocol! {
    name: "multicast",
    state: Multicast = Multicast::new(),
    capsules: {
        // The clock: a source announces its group, somebody else says it once more; a node says what it wants.
        Tick { derives: 3 } -> [Announce, Join],
        // What a program asks for.
        Request { derives: 1 } -> [Announce, Data, Join],
        // To all neighbors; who has a new parent by it joins there.
        Announce { multicasts: 1, derives: 1 } -> [Join],
        // Over the links that want it; over one that should not have brought it a Join goes back.
        Data { sends: 16, derives: 1 } -> [Join],
        // To the parent; back, as a refusal, where there is no room for it.
        Join { sends: 1, returns: 1 } -> [],
    },
    events: { timer: Tick, session: Request },
    session: true,
    params: { "interval": "1000", "expiry": "5" },
}

/// Groups that a node knows at once.
const MAX_GROUPS: usize = 8;
/// Sources that ended here and are remembered.
const MAX_ENDED: usize = 16;
/// The longest line before a payload: `data NAME NUMBER HOPS `.
const LINE: usize = MAX_NAME + 24;
/// In a timer's token: it is no look at the clock, but to be done now.
const NOW: u64 = 1 << 8;

/// The protocol on one node.
pub struct Multicast {
    groups: [Group; MAX_GROUPS],
    clocks: [Clock; MAX_GROUPS],
    links: Links,
    members: Members,
    /// Drawn when the flow started here.
    life: u32,
    /// Joins so far.
    serial: u32,
    /// Groups and epochs of the sources that ended here last: what comes of those has been here before.
    ended: [(u64, u64); MAX_ENDED],
    counts: Counts,
    buffer: [u8; LINE + MAX_BYTES],
}

/// A group's timer.
#[derive(Debug, Clone, Copy)]
struct Clock {
    timer: Option<Timer>,
    period: u64,
}

/// What a node has counted.
#[derive(Debug, Clone, Copy)]
struct Counts {
    /// Payloads of programs here.
    sent: u32,
    /// To programs here.
    delivered: u32,
    /// Over links.
    forwarded: u32,
    /// That a link would not take.
    unsent: u32,
    /// That came again.
    duplicates: u32,
    /// That came although nobody here, or behind here, wants such.
    unwanted: u32,
    /// That were more than the rate of a program or a link.
    thinned: u32,
    /// Of another life of the source, or of a source that ended here, or of a group that is not known.
    stale: u32,
    /// Members that did not read them.
    unread: u32,
    /// Filters that were merged to more than was asked for.
    widened: u32,
    /// Groups and links that there was no room for.
    crowded: u32,
    /// Capsules that are none.
    malformed: u32,
}

const UNCOUNTED: Counts = Counts {
    sent: 0,
    delivered: 0,
    forwarded: 0,
    unsent: 0,
    duplicates: 0,
    unwanted: 0,
    thinned: 0,
    stale: 0,
    unread: 0,
    widened: 0,
    crowded: 0,
    malformed: 0,
};

impl Multicast {
    /// Knows no group.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self {
            groups: [Group::NONE; MAX_GROUPS],
            clocks: [Clock { timer: None, period: 0 }; MAX_GROUPS],
            links: Links::new(),
            members: Members::new(),
            life: 0,
            serial: 0,
            ended: [(0, 0); MAX_ENDED],
            counts: UNCOUNTED,
            buffer: [0; LINE + MAX_BYTES],
        }
    }

    fn find(&self, id: u64) -> Option<usize> {
        self.groups.iter().position(|g| id != 0 && g.id == id)
    }

    /// The group's place, new if it is not known yet.
    fn place(&mut self, name: Name) -> Option<usize> {
        let id = name.number();
        let known = self.find(id);
        let at = known.or_else(|| self.groups.iter().position(|g| g.id == 0));
        let Some(at) = at else {
            self.counts.crowded += 1;
            return None;
        };
        if known.is_none() {
            self.groups[at] = Group::new(name, id, interval_ms());
        }
        self.keep_time(at);
        Some(at)
    }

    /// Forgets a group that nobody here has to do with, if it is one.
    fn tidy(&mut self, at: usize) {
        let group = &self.groups[at];
        if group.id == 0 || group.is_live() || self.members.count(group.id) > 0 {
            return;
        }
        self.links.forget(group.id);
        self.groups[at] = Group::NONE;
        if let Some(timer) = self.clocks[at].timer.take() {
            let _ = timer.cancel();
        }
        self.clocks[at].period = 0;
    }

    /// Has the clock looked at as often as the group needs.
    fn keep_time(&mut self, at: usize) {
        let period = self.groups[at].interval() / TICKS;
        if period == self.clocks[at].period {
            return;
        }
        if let Some(timer) = self.clocks[at].timer.take() {
            let _ = timer.cancel();
        }
        match Timer::every(period, at as u64) {
            Ok(timer) => self.clocks[at] = Clock { timer: Some(timer), period },
            Err(why) => bees_sdk::log!(Error, "no timer: ", why),
        }
    }

    /// What is wanted of a group here and behind here.
    fn wanted(&mut self, at: usize) -> Filter {
        let Group { id, parent, .. } = self.groups[at];
        let mut wanted = Filter::NOTHING;
        if self.links.merge(id, parent, &mut wanted) | self.members.merge(id, &mut wanted) {
            self.counts.widened += 1;
        }
        wanted
    }

    /// Tells the parent what is wanted, if that is due, with a capsule that `make` gives.
    fn join_up(&mut self, at: usize, ticked: bool, make: impl FnOnce() -> Option<Capsule>) {
        let wanted = self.wanted(at);
        let group = &mut self.groups[at];
        if group.due(node::clock(), &wanted, ticked) == Due::Join
            && let Some(parent) = Neighbor::from_bits(group.parent)
            && let Some(capsule) = make()
        {
            self.say(at, capsule, parent, &wanted);
        }
    }

    /// Tells a neighbor what is wanted of it.
    fn say(&mut self, at: usize, mut capsule: Capsule, to: Neighbor, filter: &Filter) {
        // One count for all groups: a group that was forgotten and came back goes on with it.
        self.serial = self.serial.wrapping_add(1);
        let join = Join { group: self.groups[at].id, life: self.life, serial: self.serial, filter: *filter };
        if put(&mut capsule, &join).is_ok() {
            let _ = capsule.send(&to);
        }
    }

    /// Whether a source of this node's said so that is one no more: its neighbors repeat it for a moment.
    fn has_ended(&self, said: &Announce) -> bool {
        self.ended.iter().any(|(group, epoch)| *epoch == said.epoch && *group == said.name.number())
    }

    /// Says the newest announcement onward.
    fn announce(&self, at: usize, mut capsule: Capsule) {
        if let Ok(all) = Neighborhood::all()
            && capsule.put(&self.groups[at].word()).is_ok()
        {
            let _ = capsule.multicast_onward(&all);
        }
    }

    fn announced(&mut self, mut capsule: Capsule, head: &[u8]) {
        let (Some(said), Some(from)) = (Announce::unpack(&mut Reader::new(head)), capsule.from()) else {
            self.counts.malformed += 1;
            return;
        };
        if self.has_ended(&said) {
            self.counts.stale += 1;
            return;
        }
        let Some(at) = self.place(said.name) else { return };
        let heard = self.groups[at].hear(node::clock(), from.to_bits(), &said);
        let Heard::News { found, deposed, .. } = heard else { return };
        self.keep_time(at);
        if let Some(session) = deposed {
            self.report(session, at, "deposed ");
        }
        if found {
            let line = self.found(at);
            self.members.tell(self.groups[at].id, line.as_bytes());
        }
        self.join_up(at, false, || capsule.derive(Kind::Join).ok());
        self.announce(at, capsule);
    }

    fn joined(&mut self, mut capsule: Capsule) {
        let mut bytes = [0; MAX_JOIN];
        let bytes = capsule.read(0, &mut bytes).unwrap_or(&[]);
        let Some(from) = capsule.from() else { return };
        if let Some(id) = format::refused(bytes) {
            return self.refused(id, from);
        }
        let Some(join) = Join::unpack(&mut Reader::new(bytes)) else {
            self.counts.malformed += 1;
            return;
        };
        // Who has not heard of the group yet will be asked again.
        let Some(at) = self.find(join.group) else { return };
        let now = node::clock();
        let group = &self.groups[at];
        let until = now + group.interval() * u64::from(expiry());
        let refused = group.refused_until > now;
        let full = self.links.hear(from, &join, until).is_err();
        self.counts.crowded += u32::from(full);
        if (full || refused && !join.filter.is_nothing()) && capsule.set(&format::refusal(join.group)).is_ok()
        {
            let _ = capsule.return_copy();
        }
        self.join_up(at, false, || Some(capsule));
    }

    /// A neighbor has no room for this node.
    fn refused(&mut self, id: u64, from: Neighbor) {
        let Some(at) = self.find(id) else { return };
        let (now, group) = (node::clock(), &mut self.groups[at]);
        if group.parent != from.to_bits() {
            return;
        }
        let until = now + 2 * group.interval();
        let before = core::mem::replace(&mut group.refused_until, until);
        if before <= now {
            let name = group.name;
            let line = bees_sdk::text!("crowded ", name.as_bytes());
            self.members.tell(id, line.as_bytes());
        }
    }

    fn arrived(&mut self, mut capsule: Capsule, head: &[u8]) {
        let (Some(data), Some(from)) = (Data::unpack(&mut Reader::new(head)), capsule.from()) else {
            self.counts.malformed += 1;
            return;
        };
        let at = self.find(data.group).filter(|at| self.groups[*at].epoch == data.epoch);
        let Some(at) = at else {
            self.counts.stale += 1;
            return leave(data.group, &mut capsule, from);
        };
        let hops = data.hops + 1;
        let group = &mut self.groups[at];
        let from_parent = group.parent == from.to_bits();
        if group.source.is_some() || !group.seen.first(data.epoch, data.number) {
            self.counts.duplicates += 1;
            // Of two ways the parent's stays.
            let other = if from_parent {
                Neighbor::from_bits(core::mem::take(&mut group.former))
            } else {
                Some(from)
            };
            if let Some(other) = other
                && let Ok(join) = capsule.derive(Kind::Join)
            {
                self.say(at, join, other, &Filter::NOTHING);
            }
            return;
        }
        if capsule.write(HOPS, &[hops]).is_err() {
            return;
        }
        let mut join = capsule.derive(Kind::Join).ok();
        if self.spread(&capsule, at, data.number, hops, from.to_bits()) {
            return;
        }
        self.counts.unwanted += 1;
        // What it was told was lost, or had to be wider than what is wanted.
        let wanted = self.wanted(at);
        let (now, group) = (node::clock(), &mut self.groups[at]);
        if from_parent && now.saturating_sub(group.told_at) >= group.interval() / TICKS {
            group.told_at = now;
            if let Some(join) = join.take() {
                self.say(at, join, from, &wanted);
            }
        } else if !from_parent && let Some(join) = join.take() {
            self.say(at, join, from, &Filter::NOTHING);
        }
    }

    /// Gives a payload to programs here and to the links that want it, but for the one that it came by; whether anybody
    /// wants such.
    fn spread(&mut self, capsule: &Capsule, at: usize, number: u32, hops: u8, from: u32) -> bool {
        let (now, group) = (node::clock(), &self.groups[at]);
        let mut line: Text<LINE> = Text::new();
        line.push("data ");
        line.push(group.name.as_bytes());
        line.push(" ");
        line.push(number);
        line.push(" ");
        line.push(hops);
        line.push(" ");
        let start = line.as_bytes().len();
        self.buffer[..start].copy_from_slice(line.as_bytes());
        let read = capsule.read(DATA_HEAD, &mut self.buffer[start..]).map_or(0, |p| p.len());
        let packet = &self.buffer[..start + read];
        let payload = &packet[start..][..read.min(MAX_PREFIX)];
        let (mut wanted, counts) = (false, &mut self.counts);
        self.links.look(group.id, from, payload, now, |to, verdict| {
            wanted |= verdict != Verdict::Unwanted;
            match verdict {
                Verdict::Pass if capsule.send_copy(&to).is_ok() => counts.forwarded += 1,
                Verdict::Pass => counts.unsent += 1,
                Verdict::Thinned => counts.thinned += 1,
                Verdict::Unwanted => {}
            }
        });
        let here = self.members.deliver(group.id, payload, packet, now);
        counts.delivered += here.told;
        counts.thinned += here.thinned;
        counts.unread += here.unread;
        wanted || here != members::Delivered::default()
    }

    /// The clock was looked at.
    fn tick(&mut self, at: usize, mut capsule: Capsule) {
        let now = node::clock();
        self.links.expire(now);
        self.members.expire(now);
        let group = &mut self.groups[at];
        if group.is_silent(now, expiry()) {
            group.lose();
            let line = bees_sdk::text!("lost ", group.name.as_bytes());
            self.members.tell(self.groups[at].id, line.as_bytes());
            return self.tidy(at);
        }
        let speaks = group.source.is_some()
            && now.saturating_sub(group.heard) + group.interval() / 8 >= group.interval();
        if speaks {
            group.speak(now);
        }
        if (speaks || core::mem::take(&mut group.repeat))
            && let Ok(announce) = capsule.derive(Kind::Announce)
        {
            self.announce(at, announce);
        }
        if let Some(former) = Neighbor::from_bits(core::mem::take(&mut self.groups[at].former))
            && let Ok(join) = capsule.derive(Kind::Join)
        {
            self.say(at, join, former, &Filter::NOTHING);
        }
        self.join_up(at, true, || capsule.derive(Kind::Join).ok());
        self.tidy(at);
    }
}

/// Wants nothing of a group that is not known here.
fn leave(group: u64, capsule: &mut Capsule, from: Neighbor) {
    // There is no count that it could go on.
    let join = Join { group, life: node::unique() as u32, serial: 0, filter: Filter::NOTHING };
    if let Ok(mut capsule) = capsule.derive(Kind::Join)
        && put(&mut capsule, &join).is_ok()
    {
        let _ = capsule.send(&from);
    }
}

/// Makes a join the payload.
fn put(capsule: &mut Capsule, join: &Join) -> Result<(), Error> {
    let mut bytes = [0; MAX_JOIN];
    let mut w = Writer::new(&mut bytes);
    join.pack(&mut w);
    capsule.set(w.finish().ok_or(Error::NoRoom)?)
}

fn interval_ms() -> u32 {
    node::param_or("interval", 1000).clamp(format::INTERVALS.0, format::INTERVALS.1)
}

/// Intervals without a word after which something is gone.
fn expiry() -> u32 {
    node::param_or("expiry", 5).clamp(2, 100)
}

impl Protocol for Multicast {
    fn boot(&mut self, _: Option<Capsule>) {
        self.life = node::unique() as u32;
    }

    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        match Kind::of(capsule.kind()) {
            Some(Kind::Announce) => self.announced(capsule, head),
            Some(Kind::Data) => self.arrived(capsule, head),
            Some(Kind::Join) => self.joined(capsule),
            _ => self.counts.malformed += 1,
        }
    }

    fn timer(&mut self, capsule: Option<Capsule>, _: Timer, token: u64) {
        let at = (token & 0xff) as usize;
        let Some(mut capsule) = capsule.filter(|_| at < MAX_GROUPS && self.groups[at].id != 0) else {
            return;
        };
        if token & NOW == 0 {
            self.tick(at, capsule);
        } else {
            self.join_up(at, false, || capsule.derive(Kind::Join).ok());
            self.tidy(at);
        }
    }

    fn room(&mut self, session: Session) {
        self.members.hears(session);
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => self.closed(session),
            SessionEvent::Packet(..) => self.request(capsule, session),
        }
    }
}
