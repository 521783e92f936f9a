//! What programs say: lines of text, and payloads behind them.

use bees_sdk::session::Words;
use bees_sdk::text::Word;
use bees_sdk::{Capsule, Error, Neighbor, Session, Text, Timer, node, text};

use crate::filter::{Filter, Term};
use crate::format::{DATA_HEAD, Data, MAX_BYTES, Name};
use crate::{Kind, MAX_GROUPS, Multicast, NOW};

/// Terms that a program may ask for.
const MAX_OWN: usize = 4;
/// The longest request before a payload.
const MAX_LINE: usize = 192;

/// Why a request is refused.
type Refusal = &'static str;

impl Multicast {
    /// A program's request.
    pub(crate) fn request(&mut self, capsule: Option<Capsule>, session: Session) {
        let mut line = [0; MAX_LINE];
        let line = session.read(0, &mut line).unwrap_or(&[]);
        let mut words = Words::of(line);
        let (verb, name) = (words.next().unwrap_or(b""), words.next());
        if verb == b"show" {
            return self.show(session);
        }
        let Some(mut capsule) = capsule else { return session.refuse(Error::NoMemory.name()) };
        let Some(name) = name.and_then(Name::of) else {
            return session.refuse(
                "usage: source GROUP | send GROUP BYTES | join GROUP [TERM]... | leave GROUP | show; \
                 a group's name has 1 to 32 letters",
            );
        };
        let done = match verb {
            b"source" => self.begin(&mut capsule, session, name).map(|()| text!("ok")),
            b"send" => self.send(&mut capsule, session, name).map(|number| text!("ok ", number)),
            b"join" => return self.join(&mut capsule, session, name, words),
            b"leave" => self.quit(&mut capsule, session, name).map(|()| text!("ok")),
            _ => Err("know only: source, send, join, leave, show"),
        };
        match done {
            Ok(line) => {
                let _ = session.reply(line.as_bytes());
            }
            Err(why) => session.refuse(why),
        }
    }

    /// A program becomes a group's source.
    fn begin(&mut self, capsule: &mut Capsule, session: Session, name: Name) -> Result<(), Refusal> {
        let at = self.place(name).ok_or("no room: 8 groups are known already")?;
        let group = &mut self.groups[at];
        if group.source == Some(session) {
            return Ok(());
        }
        if group.is_live() {
            return Err("the group has a source");
        }
        let found = group.source.is_none();
        // Later than any before here, also in the same second.
        let before = self.ended.iter().filter(|ended| ended.0 == group.id).map(|ended| ended.1).max();
        let epoch = epoch().max(before.map_or(0, |before| before.saturating_add(1)));
        group.begin(session, epoch, crate::interval_ms());
        group.speak(node::clock());
        self.keep_time(at);
        if found {
            let line = self.found(at);
            self.members.tell(self.groups[at].id, line.as_bytes());
        }
        if let Ok(announce) = capsule.derive(Kind::Announce) {
            self.announce(at, announce);
        }
        Ok(())
    }

    /// Sends a payload: what stands behind the group's name and one blank.
    fn send(&mut self, capsule: &mut Capsule, session: Session, name: Name) -> Result<u32, Refusal> {
        let at = self.find(name.number()).filter(|at| self.groups[*at].source == Some(session));
        let at = at.ok_or("this program is not the group's source: say source GROUP first")?;
        let start = b"send ".len() + name.as_bytes().len() + 1;
        let mut head = [0; MAX_LINE];
        let written = session.read(0, &mut head).unwrap_or(&[]);
        let sound = written.starts_with(b"send ") && written.get(5..start - 1) == Some(name.as_bytes());
        if !sound {
            return Err("between words of a send there is one blank");
        }
        // One byte more than may be, to see whether there is.
        let payload = session.read(start, &mut self.buffer[..MAX_BYTES + 1]).map_err(Error::name)?;
        if payload.len() > MAX_BYTES {
            return Err("the payload has more than 1200 bytes");
        }
        let group = &mut self.groups[at];
        let data = Data { hops: 0, group: group.id, epoch: group.epoch, number: group.next_number() };
        let mut out = capsule.derive(Kind::Data).map_err(Error::name)?;
        let filled = out.put(&data).and_then(|()| out.resize(DATA_HEAD + payload.len()));
        filled.and_then(|()| out.write(DATA_HEAD, payload)).map_err(Error::name)?;
        self.counts.sent += 1;
        self.spread(&out, at, data.number, 0, 0);
        Ok(data.number)
    }

    fn join(&mut self, capsule: &mut Capsule, session: Session, name: Name, words: Words<'_>) {
        let filter = match read_filter(words) {
            Ok(filter) => filter,
            Err(why) => return session.refuse(why),
        };
        let Some(at) = self.place(name) else {
            return session.refuse("no room: 8 groups are known already");
        };
        let group = &self.groups[at];
        if !self.members.join(session, group.id, &filter) {
            self.counts.crowded += 1;
            self.tidy(at);
            return session.refuse("no room: there are 16 members here already");
        }
        let _ = session.reply(b"ok");
        if group.refused_until > node::clock() {
            let _ = session.reply(text!("crowded ", name.as_bytes()).as_bytes());
        } else if group.is_live() {
            let _ = session.reply(self.found(at).as_bytes());
        }
        self.join_up(at, false, || capsule.derive(Kind::Join).ok());
    }

    fn quit(&mut self, capsule: &mut Capsule, session: Session, name: Name) -> Result<(), Refusal> {
        let at = self.find(name.number()).ok_or("not a member")?;
        if !self.members.leave(session, self.groups[at].id) {
            return Err("not a member");
        }
        self.join_up(at, false, || capsule.derive(Kind::Join).ok());
        self.tidy(at);
        Ok(())
    }

    /// A program is gone: what only it wanted is left at once, in an event that brings a capsule.
    pub(crate) fn closed(&mut self, session: Session) {
        self.members.closed(session);
        for at in 0..MAX_GROUPS {
            let group = &mut self.groups[at];
            if group.source == Some(session) {
                group.source = None;
                self.ended.rotate_right(1);
                self.ended[0] = (group.id, group.epoch);
            }
            if group.id != 0 {
                let _ = Timer::once(0, at as u64 | NOW);
            }
        }
    }

    /// The line about a group's source.
    pub(crate) fn found(&self, at: usize) -> Text<256> {
        let group = &self.groups[at];
        text!("found ", group.name.as_bytes(), " hops ", group.hops)
    }

    /// Tells one program about a group.
    pub(crate) fn report(&self, session: Session, at: usize, what: &str) {
        let _ = session.reply(text!(what, self.groups[at].name.as_bytes()).as_bytes());
    }

    fn show(&mut self, session: Session) {
        for at in 0..MAX_GROUPS {
            if self.groups[at].id == 0 {
                continue;
            }
            let wanted = self.wanted(at);
            let group = &self.groups[at];
            let mut line = text!("group ", group.name.as_bytes(), " ");
            let mut name = [0; 64];
            if group.source.is_some() {
                line.push("source");
            } else if let Some(parent) = Neighbor::from_bits(group.parent) {
                line.push("member parent ");
                line.push(Word(parent.name(&mut name).unwrap_or(b"?")));
            } else {
                line.push("waiting");
            }
            let numbers = [
                (" hops ", group.hops.into()),
                (" links ", self.links.count(group.id)),
                (" members ", self.members.count(group.id)),
                (" terms ", wanted.terms().len()),
                (" last ", group.seen.newest as usize),
            ];
            for (name, number) in numbers {
                line.push(name);
                line.push(number);
            }
            let _ = session.reply(line.as_bytes());
        }
        let c = &self.counts;
        let mut line = text!("done");
        let counts = [
            (" sent ", c.sent),
            (" delivered ", c.delivered),
            (" forwarded ", c.forwarded),
            (" unsent ", c.unsent),
            (" duplicates ", c.duplicates),
            (" unwanted ", c.unwanted),
            (" thinned ", c.thinned),
            (" stale ", c.stale),
            (" unread ", c.unread),
            (" widened ", c.widened),
            (" crowded ", c.crowded),
            (" malformed ", c.malformed),
        ];
        for (name, count) in counts {
            line.push(name);
            line.push(count);
        }
        let _ = session.reply(line.as_bytes());
    }
}

/// What a program wants: terms, or everything.
fn read_filter(words: Words<'_>) -> Result<Filter, Refusal> {
    let mut filter = Filter::NOTHING;
    for (at, word) in words.enumerate() {
        if at == MAX_OWN {
            return Err("more than 4 terms");
        }
        filter.add(Term::parse(word).ok_or(USAGE)?);
    }
    if filter.is_nothing() {
        filter.add(Term::of(&[], 0).ok_or(USAGE)?);
    }
    Ok(filter)
}

const USAGE: &str =
    "a term is TEXT or x:HEX, of at most 16 bytes, and @RATE behind it (1 to 10000 in a second)";

/// When a source begins, and chance.
fn epoch() -> u64 {
    let mut random = [0; 2];
    let _ = node::random(&mut random);
    node::wall_clock().unwrap_or(0) << 16 | u64::from(u16::from_le_bytes(random))
}
