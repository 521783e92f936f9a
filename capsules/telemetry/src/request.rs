//! The node that asks: what it wants, what came of it, and the lines about it.

use bees_sdk::bytes::Reader;
use bees_sdk::rounds::{Pace, Rounds};
use bees_sdk::session::Words;
use bees_sdk::text::Word;
use bees_sdk::{Error, Session, node, text};

use crate::format::{Header, Phase, Record, UNKNOWN};

/// The longest name that can be asked for, in bytes.
const MAX_TARGET: usize = 64;

/// The request of this node, if there is one.
pub struct Request {
    /// Its number; 0: there is none.
    pub number: u32,
    rounds: Rounds,
    name: [u8; MAX_TARGET],
    name_len: usize,
    limit: u8,
    count: u16,
    sent: u16,
    received: u16,
    /// The target has answered a flood.
    found: bool,
    /// The round of the last trace that came back.
    last: u16,
}

/// What is to be sent in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The header, of a flood.
    pub header: Header,
    /// A trace is to be sent.
    pub trace: bool,
    /// A flood is to be sent: the target is not known, or the last trace was lost.
    pub seek: bool,
}

impl Request {
    /// None.
    pub const fn new() -> Self {
        Self {
            number: 0,
            rounds: Rounds::new(),
            name: [0; MAX_TARGET],
            name_len: 0,
            limit: 0,
            count: 0,
            sent: 0,
            received: 0,
            found: false,
            last: 0,
        }
    }

    /// Whether a timer's token, or a capsule, is this request's.
    pub fn is(&self, number: u64) -> bool {
        self.number != 0 && u64::from(self.number) == number
    }

    /// A program's line; whether a request begins now.
    pub fn begin(&mut self, session: Session, line: &[u8]) -> bool {
        let begun = self.try_begin(session, line);
        if let Err(why) = begun {
            session.refuse(why);
        }
        begun.is_ok()
    }

    fn try_begin(&mut self, session: Session, line: &[u8]) -> Result<(), &'static str> {
        const USAGE: &str = "usage: trace NAME [count N]";
        if self.number != 0 {
            return Err("a request is under way on this node");
        }
        let mut words = Words::of(line);
        if words.next() != Some(b"trace") {
            return Err(USAGE);
        }
        let name = words.next().ok_or(USAGE)?;
        self.name.get_mut(..name.len()).ok_or("the name is too long")?.copy_from_slice(name);
        self.name_len = name.len();
        if node::short_hash(name) == node::id() {
            return Err("that is this node");
        }
        let count = match words.next() {
            None => 1,
            Some(b"count") => words.number().ok_or(USAGE)?,
            Some(_) => return Err(USAGE),
        };
        let number = (node::unique() as u32).max(1);
        let pace = Pace { interval: 250, rounds: 60_000, quiet: 40 }.or();
        self.rounds.begin(session, pace, number.into()).map_err(Error::name)?;
        self.number = number;
        self.limit = node::param_or("hops", 64).clamp(2, 255) as u8;
        self.count = count.clamp(1, 10_000) as u16;
        (self.sent, self.received, self.found, self.last) = (0, 0, false, 0);
        Ok(())
    }

    /// What the next round sends; `None` when the request has ended.
    pub fn next_round(&mut self, origin: u64) -> Option<Due> {
        if self.number == 0 {
            return None;
        }
        // One that came back came in the round that it was sent in, or in one of the next.
        let lost = self.sent > 0 && self.last < self.rounds.round();
        let Some(round) = self.rounds.next_round() else {
            self.finish();
            return None;
        };
        let target = node::short_hash(&self.name[..self.name_len]);
        let header = Header {
            phase: Phase::Seek,
            hops: 0,
            limit: self.limit,
            missed: 0,
            origin,
            target,
            request: self.number,
            round,
        };
        self.sent = self.sent.saturating_add(u16::from(self.found));
        Some(Due { header, trace: self.found, seek: !self.found || lost })
    }

    /// The target was found.
    pub fn found(&mut self) {
        if !self.found {
            self.found = true;
            self.rounds.news();
        }
    }

    /// A trace came back; `own` is this node's record at the end of its way.
    pub fn came_back(&mut self, header: &Header, records: &[u8], own: &Record<'_>) {
        if header.round <= self.last {
            return;
        }
        self.last = header.round;
        let first = Record::parse(&mut Reader::new(records));
        let time = first.map_or(0, |first| own.arrived.saturating_sub(first.arrived));
        let mut line = text!("trace ", Word(&self.name[..self.name_len]));
        line.push(" round ");
        line.push(header.round);
        line.push(" hops ");
        line.push(header.hops);
        line.push(" us ");
        line.push(time);
        line.push(" missed ");
        line.push(header.missed);
        let mut shown = self.rounds.reply(line.as_bytes());
        let mut reader = Reader::new(records);
        let mut at = 0u32;
        while let Some(record) = Record::parse(&mut reader)
            && shown.is_ok()
        {
            shown = self.show(at, &record);
            at += 1;
        }
        if shown.is_ok() {
            shown = self.show(at, own);
        }
        match shown {
            Ok(()) => {
                self.received += 1;
                self.rounds.news();
                if self.received == self.count {
                    self.finish();
                }
            }
            // The program is slow: there will be another trace.
            Err(Error::NoRoom | Error::NoMemory) => {}
            Err(_) => self.end(),
        }
    }

    fn show(&self, at: u32, record: &Record<'_>) -> Result<(), Error> {
        let mut line = text!("hop ", at, " ", Word(record.name));
        line.push(" arrived ");
        line.push(record.arrived);
        line.push(" stay ");
        line.push(record.stay);
        line.push(" waiting ");
        match record.waiting {
            UNKNOWN => line.push("-"),
            waiting => line.push(waiting),
        }
        line.push(" next ");
        match record.next {
            [] => line.push("-"),
            next => line.push(Word(next)),
        }
        self.rounds.reply(line.as_bytes())
    }

    /// A session is gone, and with it its request.
    pub fn closed(&mut self, session: Session) {
        if self.rounds.is_of(session) {
            self.end();
        }
    }

    fn finish(&mut self) {
        let _ = match self.found {
            true => {
                let (sent, received) = (self.sent, self.received);
                self.rounds.reply(text!("done sent ", sent, " received ", received).as_bytes())
            }
            false => {
                let name = &self.name[..self.name_len];
                self.rounds.reply(text!("error ", name, " is not found").as_bytes())
            }
        };
        self.end();
    }

    fn end(&mut self) {
        self.rounds.end();
        self.number = 0;
    }
}
