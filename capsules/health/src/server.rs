//! The server: who reported last, what is believed, and the lines that programs get.

use core::num::NonZeroU32;

use bees_sdk::node::Resource;
use bees_sdk::{Error, Session, Text, cache, node, text};

use crate::format::Report;

/// Nodes that a server keeps account of.
pub const MAX_NODES: usize = 1024;
/// Programs that are told of every report.
const WATCHERS: usize = 4;
/// Lines in the answer to one `list`.
const PAGE: usize = 16;
/// Memory that is left to what must be had, in bytes: 64 packets of 2 KiB that wait for the agent, 64 KiB that wait for
/// a program, and what soft state takes at a time.
const RESERVE: u64 = (64 * 2 + 64 + 64) * 1024;
/// The longest line, in bytes.
const LINE: usize = 1500;

/// What a server knows.
pub struct Server {
    nodes: [Entry; MAX_NODES],
    len: usize,
    watchers: [Option<Watcher>; WATCHERS],
    /// The second in which there was no memory for a line.
    short: Option<u32>,
    pub counts: Counts,
}

/// What a server has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reports that were believed.
    pub reports: u32,
    /// Numbers that were left out in between: reports that did not come.
    pub lost: u32,
    /// Older than the newest of their node, or too old.
    pub stale: u32,
    /// With a wrong signature, or without the right one.
    pub forged: u32,
    /// No reports at all.
    pub malformed: u32,
    /// Of nodes that there is no room for.
    pub crowded: u32,
    /// Lines that a watching program was not told: it read too slowly, or there was no memory for what waits for it.
    pub untold: u32,
}

/// A program that is told of every report.
#[derive(Debug, Clone, Copy)]
struct Watcher {
    session: Session,
    /// The second, from 1 on, in which it was last refused a line; until there is room, or the next second, it is not told
    /// of others. Not an `Option<u32>`: a table of nobody is then all zeros, and no part of the module.
    refused: Option<NonZeroU32>,
    /// Lines that it was not told since.
    missed: u32,
}

/// What is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Seconds that a report may be old.
    pub freshness: u64,
    /// Seconds that a node is remembered without a report.
    pub retention: u32,
    /// Whether every report must be signed.
    pub signed: bool,
}

/// A node's newest report.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: u64,
    key: u64,
    /// Seconds since 1970 when it was made; 0: unknown.
    wall: u32,
    sequence: u32,
    /// Seconds since this node's start when it came.
    seen: u32,
    lost: u32,
}

const EMPTY: Entry = Entry { id: 0, key: 0, wall: 0, sequence: 0, seen: 0, lost: 0 };

impl Server {
    pub const fn new() -> Self {
        let counts = Counts { reports: 0, lost: 0, stale: 0, forged: 0, malformed: 0, crowded: 0, untold: 0 };
        Self { nodes: [EMPTY; MAX_NODES], len: 0, watchers: [None; WATCHERS], short: None, counts }
    }

    /// A report has come, over so many hops.
    pub fn take(&mut self, bytes: &[u8], hops: u8, rules: &Rules) {
        let Some(report) = Report::parse(bytes) else {
            self.counts.malformed += 1;
            return;
        };
        let (id, now) = (node::short_hash(report.name), seconds());
        let lapsed = |e: &Entry| now.saturating_sub(e.seen) > rules.retention;
        let at = self.nodes[..self.len].iter().position(|e| e.id == id);
        let known = at.map(|at| self.nodes[at]).filter(|e| !lapsed(e));
        let wall = node::wall_clock();
        let late = wall.is_some_and(|wall| report.wall != 0 && wall.abs_diff(report.wall) > rules.freshness);
        if late || known.is_some_and(|e| !newer(&report, &e)) {
            self.counts.stale += 1;
            return;
        }
        // Whoever signed first under this name goes on under it.
        let stranger = known.is_some_and(|e| e.key != 0 && e.key != report.key());
        if stranger || rules.signed && report.key() == 0 || !report.is_sound() {
            self.counts.forged += 1;
            return;
        }
        let free = || self.nodes[..self.len].iter().position(lapsed);
        let Some(at) = at.or_else(|| (self.len < MAX_NODES).then_some(self.len)).or_else(free) else {
            self.counts.crowded += 1;
            return;
        };
        let left_out = known.map_or(0, |e| report.sequence.saturating_sub(e.sequence).saturating_sub(1));
        self.counts.lost = self.counts.lost.saturating_add(left_out);
        self.counts.reports = self.counts.reports.saturating_add(1);
        self.len = self.len.max(at + 1);
        self.nodes[at] = Entry {
            id,
            key: report.key(),
            wall: report.wall.min(u32::MAX.into()) as u32,
            sequence: report.sequence,
            seen: now,
            lost: known.map_or(0, |e| e.lost).saturating_add(left_out),
        };
        self.show(&report, hops, self.nodes[at].lost, rules);
    }

    /// Keeps a report's line, and tells it to who watches.
    fn show(&mut self, report: &Report<'_>, hops: u8, lost: u32, rules: &Rules) {
        let mut line: Text<LINE> = Text::new();
        line.push("report ");
        line.push(report.name);
        for (name, number) in [(" hops ", hops.into()), (" sequence ", report.sequence), (" lost ", lost)] {
            line.push(name);
            line.push(number);
        }
        line.push(" wall ");
        line.push(report.wall);
        line.push(" key ");
        match report.key_head() {
            Some(key) => key.iter().for_each(|b| {
                let digit = |d: u8| if d < 10 { b'0' + d } else { b'a' + d - 10 };
                line.push(&[digit(b >> 4), digit(b & 15)][..]);
            }),
            None => line.push("-"),
        }
        for (name, value) in report.sensors() {
            line.push(" ");
            line.push(name);
            line.push(if value < 0 { " -" } else { " " });
            line.push(value.unsigned_abs());
        }
        self.keep(report.name, line.as_bytes(), rules);
        for place in &mut self.watchers {
            let Some(watcher) = place else { continue };
            match watcher.tell(line.as_bytes()) {
                Ok(()) => {}
                Err(Error::BadHandle) => *place = None,
                Err(_) => self.counts.untold = self.counts.untold.saturating_add(1),
            }
        }
    }

    /// Keeps a line for [`Server::list`]. What does not fit the budget is told to who watches only: asking for more and
    /// more would be held against the flow.
    fn keep(&mut self, name: &[u8], line: &[u8], rules: &Rules) {
        let now = seconds();
        let fits = node::budget_left(Resource::Memory).is_ok_and(|left| left > RESERVE);
        if fits && self.short != Some(now) {
            let put = cache::put(&key_of(node::short_hash(name)), line, rules.retention.saturating_mul(1000));
            self.short = (put == Err(Error::NoMemory)).then_some(now);
        }
    }

    /// A program takes lines again.
    pub fn room(&mut self, session: Session) {
        let its = self.watchers.iter_mut().flatten().filter(|w| w.session == session);
        its.for_each(|w| w.refused = None);
    }

    /// Tells a program the newest reports from the one at `from` on, each with the seconds since it came.
    pub fn list(&self, session: Session, from: usize) {
        let mut told = 0;
        let mut buffer = [0; LINE];
        for (at, entry) in self.nodes[..self.len].iter().enumerate().skip(from) {
            let Some(line) = cache::get(&key_of(entry.id), &mut buffer) else { continue };
            if told == PAGE {
                let mut line: Text<16> = Text::new();
                line.push("more ");
                line.push(at);
                let _ = session.reply(line.as_bytes());
                return;
            }
            let mut whole: Text<{ LINE + 24 }> = Text::new();
            whole.push("age ");
            whole.push(seconds().saturating_sub(entry.seen));
            whole.push(" ");
            if let Ok(line) = core::str::from_utf8(line) {
                whole.push(line);
            }
            let _ = session.reply(whole.as_bytes());
            told += 1;
        }
        self.done(session);
    }

    /// Ends an answer.
    pub fn done(&self, session: Session) {
        let c = &self.counts;
        let mut line: Text<224> = Text::new();
        line.push("done nodes ");
        line.push(self.len);
        let counts = [
            (" reports ", c.reports),
            (" lost ", c.lost),
            (" stale ", c.stale),
            (" forged ", c.forged),
            (" malformed ", c.malformed),
            (" crowded ", c.crowded),
            (" untold ", c.untold),
        ];
        for (name, count) in counts {
            line.push(name);
            line.push(count);
        }
        let _ = session.reply(line.as_bytes());
    }

    /// A program wants every report; whether there is room.
    pub fn watch(&mut self, session: Session) -> bool {
        let known = self.watchers.iter().flatten().any(|w| w.session == session);
        let free = self.watchers.iter_mut().find(|w| w.is_none());
        match free {
            _ if known => true,
            Some(free) => {
                *free = Some(Watcher { session, refused: None, missed: 0 });
                true
            }
            None => false,
        }
    }

    /// A program is gone.
    pub fn closed(&mut self, session: Session) {
        let its = self.watchers.iter_mut().filter(|w| w.is_some_and(|w| w.session == session));
        its.for_each(|w| *w = None);
    }
}

impl Watcher {
    /// Tells it a line, and before that how many it was not told.
    fn tell(&mut self, line: &[u8]) -> Result<(), Error> {
        let now = NonZeroU32::MIN.saturating_add(seconds());
        let told = match self.refused {
            Some(then) if then == now => Err(Error::NoRoom),
            _ if self.missed > 0 => self.tell_missed().and_then(|()| self.session.reply(line)),
            _ => self.session.reply(line),
        };
        self.refused = told.is_err().then_some(now);
        self.missed = self.missed.saturating_add(u32::from(told.is_err()));
        told
    }

    fn tell_missed(&mut self) -> Result<(), Error> {
        self.session.reply(text!("missed ", self.missed).as_bytes())?;
        self.missed = 0;
        Ok(())
    }
}

/// Whether a report is newer than the newest so far: by its number, or because its node was started anew since.
fn newer(report: &Report<'_>, than: &Entry) -> bool {
    report.sequence > than.sequence || than.wall != 0 && report.wall > than.wall.into()
}

fn key_of(id: u64) -> [u8; 9] {
    let mut key = [b'l'; 9];
    key[1..].copy_from_slice(&id.to_le_bytes());
    key
}

/// Seconds since the node's start.
fn seconds() -> u32 {
    (node::clock() / 1_000_000) as u32
}
