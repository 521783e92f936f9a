//! The node that asks: what it knows, and when it is done.

use bees_sdk::rounds::{Pace, Rounds};
use bees_sdk::session::Words;
use bees_sdk::{Error, Session, Text, node, text};

use crate::format::{MAX_SENSORS, MAX_TEXT, Question, Report};

/// Nodes that a search can find.
pub const MAX_NODES: usize = 1000;

/// The search of this node, if there is one.
pub struct Search {
    number: u32,
    rounds: Rounds,
    text: [u8; MAX_TEXT],
    text_len: usize,
    limit: u8,
    ids: [u64; MAX_NODES],
    len: usize,
}

impl Search {
    pub const fn new() -> Self {
        Self {
            number: 0,
            rounds: Rounds::new(),
            text: [0; MAX_TEXT],
            text_len: 0,
            limit: 0,
            ids: [0; MAX_NODES],
            len: 0,
        }
    }

    /// Whether a timer's token is this search's.
    pub fn is(&self, token: u64) -> bool {
        self.number != 0 && u64::from(self.number) == token
    }

    /// A program's request; whether a search begins now.
    pub fn request(&mut self, session: Session, line: &[u8]) -> bool {
        let begun = self.begin(session, line);
        if let Err(why) = begun {
            session.refuse(why);
        }
        begun.is_ok()
    }

    fn begin(&mut self, session: Session, line: &[u8]) -> Result<(), &'static str> {
        if self.number != 0 {
            return Err("a search is under way on this node");
        }
        let mut words = Words::of(line);
        if words.next().is_some_and(|verb| verb != b"read") {
            return Err("usage: read [SENSOR ...]");
        }
        let mut text: Text<MAX_TEXT> = Text::new();
        let mut count = 0;
        for word in words {
            count += 1;
            if count > MAX_SENSORS || text.as_bytes().len() + word.len() >= MAX_TEXT {
                return Err("at most 4 sensors, 160 characters");
            }
            text.push(word);
            text.push(" ");
        }
        self.text_len = match text.as_bytes() {
            [] => node::param("sensors", &mut self.text).map_or(0, <[u8]>::len),
            named => {
                self.text[..named.len()].copy_from_slice(named);
                named.len()
            }
        };
        let number = (node::unique() as u32).max(1);
        let pace = Pace { interval: 250, rounds: 60, quiet: 10 }.or();
        self.rounds.begin(session, pace, number.into()).map_err(Error::name)?;
        self.number = number;
        self.limit = node::param_or("hops", 64).clamp(1, 254) as u8;
        self.len = 0;
        Ok(())
    }

    /// Counts a round and says what to ask; `None` when the search has ended.
    pub fn next_round(&mut self, origin: u64) -> Option<Question<'_>> {
        if self.number == 0 {
            return None;
        }
        let Some(round) = self.rounds.next_round() else {
            self.finish();
            return None;
        };
        Some(Question {
            hops: 0,
            limit: self.limit,
            origin,
            search: self.number,
            round,
            text: &self.text[..self.text_len],
        })
    }

    /// A report came.
    pub fn learn(&mut self, report: &Report<'_>) {
        let id = node::short_hash(report.name);
        if self.number != report.search || self.len == MAX_NODES || self.ids[..self.len].contains(&id) {
            return;
        }
        match self.show(report) {
            Ok(()) => {
                self.ids[self.len] = id;
                self.len += 1;
                self.rounds.news();
            }
            // The program is slow: the node will report again.
            Err(Error::NoRoom | Error::NoMemory) => {}
            Err(_) => self.end(),
        }
    }

    /// A session is gone, and with it its search.
    pub fn closed(&mut self, session: Session) {
        if self.rounds.is_of(session) {
            self.end();
        }
    }

    fn show(&self, report: &Report<'_>) -> Result<(), Error> {
        let mut line: Text<320> = Text::new();
        line.push("node ");
        line.push(report.name);
        line.push(" hops ");
        line.push(report.hops);
        match report.values {
            None => line.push(" router"),
            Some(values) => {
                let names = Words::of(&self.text[..self.text_len]);
                for (name, value) in names.zip(values) {
                    line.push(" ");
                    line.push(name);
                    match value {
                        None => line.push(" -"),
                        Some(value) => {
                            line.push(if value < 0 { " -" } else { " " });
                            line.push(value.unsigned_abs());
                        }
                    }
                }
            }
        }
        self.rounds.reply(line.as_bytes())
    }

    fn finish(&mut self) {
        let (round, ms) = (self.rounds.round(), self.rounds.ms());
        let _ = self.rounds.reply(text!("done rounds ", round, " nodes ", self.len, " ms ", ms).as_bytes());
        self.end();
    }

    fn end(&mut self) {
        self.rounds.end();
        self.number = 0;
    }
}
