//! The node that searches: what it knows, and when it is done.
//!
//! Every answer carries how many neighbors a node has heard and the sum of their numbers. When every known
//! node has heard all its neighbors, and the sum of all that was heard equals the sum of all known nodes'
//! numbers, each counted as often as it was heard, then whoever is anyone's neighbor is known: the list is
//! closed, and the search is complete. Otherwise it ends after so many rounds without news.

use bees_sdk::rounds::{Pace, Rounds};
use bees_sdk::session::Words;
use bees_sdk::{Error, Session, Text, node, text};

use crate::filter::Filter;
use crate::format::{Entry, Flood};

/// Nodes that a search can find.
pub const MAX_NODES: usize = 1000;
/// Rounds whose beginning is remembered.
const MAX_STARTS: usize = 16;

/// The search of this node, if there is one.
pub struct Origin {
    run: u64,
    rounds: Rounds,
    limit: u8,
    starts: [u64; MAX_STARTS],
    len: u16,
    incomplete: u16,
    /// Sum of the numbers heard, less those known: 0 when the list is closed.
    open: u64,
    ids: [u64; MAX_NODES],
    sums: [u64; MAX_NODES],
    heard: [(u8, u8); MAX_NODES],
}

impl Origin {
    pub const fn new() -> Self {
        Self {
            run: 0,
            rounds: Rounds::new(),
            limit: 0,
            starts: [0; MAX_STARTS],
            len: 0,
            incomplete: 0,
            open: 0,
            ids: [0; MAX_NODES],
            sums: [0; MAX_NODES],
            heard: [(0, 0); MAX_NODES],
        }
    }

    /// Whether `run` is this node's search.
    pub fn is(&self, run: u64) -> bool {
        run != 0 && run == self.run
    }

    /// The number of this node's search; 0: none.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// A program's request; whether a search begins now.
    pub fn request(&mut self, session: Session, line: &[u8]) -> bool {
        let mut words = Words::of(line);
        let begun = match words.next() {
            None | Some(b"find") => self.find(session, &mut words),
            Some(_) => Err("usage: find [hops N] [interval MS] [quiet N] [rounds N]"),
        };
        if let Err(why) = begun {
            session.refuse(why);
        }
        begun.is_ok()
    }

    fn find(&mut self, session: Session, words: &mut Words<'_>) -> Result<(), &'static str> {
        if self.run != 0 {
            return Err("a search is under way on this node");
        }
        let mut hops = node::param_or("hops", 64);
        let mut pace = Pace { interval: 250, rounds: 240, quiet: 20 }.or();
        while let Some(word) = words.next() {
            let number = words.number().ok_or("a number is missing")?;
            match word {
                b"hops" => hops = number,
                b"interval" => pace.interval = number,
                b"quiet" => pace.quiet = number,
                b"rounds" => pace.rounds = number,
                _ => return Err("know only: hops, interval, quiet, rounds"),
            }
        }
        let run = node::unique();
        self.rounds.begin(session, pace, run).map_err(Error::name)?;
        self.run = run;
        self.limit = hops.clamp(1, 254) as u8;
        (self.len, self.incomplete, self.open) = (0, 0, 0);
        Ok(())
    }

    /// Counts a round and says what to flood; `None` when the search has ended.
    pub fn next_round(&mut self) -> Option<Flood> {
        if self.run == 0 {
            return None;
        }
        let Some(round) = self.rounds.next_round() else {
            self.finish("incomplete");
            return None;
        };
        self.starts[usize::from(round) % MAX_STARTS] = node::clock();
        Some(Flood { hops: 0, limit: self.limit, run: self.run, round, sender: node::id() })
    }

    /// What the origin has, for this round's flood.
    pub fn filter(&self) -> Filter {
        let mut filter = Filter::new();
        let known = usize::from(self.len);
        for (id, (heard, _)) in self.ids[..known].iter().zip(&self.heard) {
            filter.add(*id, *heard, self.rounds.round());
        }
        filter
    }

    /// An answer came.
    pub fn learn(&mut self, entry: &Entry<'_>) {
        let id = entry.id();
        let known = usize::from(self.len);
        let at = match self.ids[..known].iter().position(|i| *i == id) {
            Some(at) => at,
            None if known == MAX_NODES => return,
            None => match self.tell(entry) {
                Ok(()) => {
                    self.len += 1;
                    self.ids[known] = id;
                    (self.sums[known], self.heard[known]) = (0, (0, 0));
                    self.rounds.news();
                    known
                }
                // The program is slow: the node will answer again.
                Err(Error::NoRoom | Error::NoMemory) => return,
                Err(_) => return self.end(),
            },
        };
        let (heard, neighbors) = self.heard[at];
        if (heard, neighbors, self.sums[at]) == (entry.heard, entry.neighbors, entry.sum)
            || heard > entry.heard
        {
            return;
        }
        self.rounds.news();
        self.open = self.open.wrapping_add(entry.sum).wrapping_sub(self.sums[at]);
        let more = u64::from(entry.heard - heard);
        self.open = self.open.wrapping_sub(id.wrapping_mul(more));
        self.incomplete -= u16::from(heard < neighbors);
        self.incomplete += u16::from(entry.heard < entry.neighbors);
        self.sums[at] = entry.sum;
        self.heard[at] = (entry.heard, entry.neighbors);
    }

    /// Ends the search if the list is closed.
    pub fn finish_if_closed(&mut self) {
        if self.run != 0 && self.len > 0 && self.incomplete == 0 && self.open == 0 {
            self.finish("complete");
        }
    }

    /// A session is gone, and with it its search.
    pub fn closed(&mut self, session: Session) {
        if self.rounds.is_of(session) {
            self.end();
        }
    }

    fn tell(&self, entry: &Entry<'_>) -> Result<(), Error> {
        let mut line: Text<200> = Text::new();
        line.push("node ");
        line.push(entry.name);
        line.push(" hops ");
        line.push(entry.hops);
        line.push(" us ");
        line.push(node::clock().saturating_sub(self.start_of(entry.round)));
        line.push(" via ");
        line.push(entry.via);
        line.push(" round ");
        line.push(self.rounds.round());
        if !entry.tag.is_empty() {
            line.push(" tag ");
            line.push(entry.tag);
        }
        self.rounds.reply(line.as_bytes())
    }

    fn start_of(&self, round: u16) -> u64 {
        let newest = self.rounds.round();
        let remembered = round <= newest && usize::from(newest - round) < MAX_STARTS;
        if remembered { self.starts[usize::from(round) % MAX_STARTS] } else { self.rounds.begun() }
    }

    fn finish(&mut self, how: &str) {
        let (round, ms) = (self.rounds.round(), self.rounds.ms());
        let line = text!("done rounds ", round, " nodes ", self.len, " ms ", ms, " ", how);
        let _ = self.rounds.reply(line.as_bytes());
        self.end();
    }

    fn end(&mut self) {
        self.rounds.end();
        self.run = 0;
    }
}
