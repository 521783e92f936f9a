//! The node that searches: what it knows, and when it is done.
//!
//! Every answer carries how many neighbors a node has heard and the sum of their numbers. When every known
//! node has heard all its neighbors, and the sum of all that was heard equals the sum of all known nodes'
//! numbers, each counted as often as it was heard, then whoever is anyone's neighbor is known: the list is
//! closed, and the search is complete. Otherwise it ends after so many rounds without news.

use bees_sdk::session::Words;
use bees_sdk::{Error, Session, Text, Timer, node, text};

use crate::filter::Filter;
use crate::format::{Entry, Flood};
use crate::run::own_id;

/// Nodes that a search can find.
pub const MAX_NODES: usize = 1000;
/// Rounds whose beginning is remembered.
const MAX_STARTS: usize = 16;

/// The search of this node, if there is one.
pub struct Origin {
    run: u64,
    session: Option<Session>,
    timer: Option<Timer>,
    limit: u8,
    quiet_limit: u16,
    round_limit: u16,
    round: u16,
    quiet: u16,
    news: bool,
    begun: u64,
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
            session: None,
            timer: None,
            limit: 0,
            quiet_limit: 0,
            round_limit: 0,
            round: 0,
            quiet: 0,
            news: false,
            begun: 0,
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
    pub fn request(&mut self, session: Session, line: &[u8], now: u64) -> bool {
        let mut words = Words::of(line);
        let begun = match words.next() {
            None | Some(b"find") => self.find(session, &mut words, now),
            Some(_) => Err("usage: find [hops N] [interval MS] [quiet N] [rounds N]"),
        };
        if let Err(why) = begun {
            let _ = session.reply(text!("error ", why).as_bytes());
        }
        begun.is_ok()
    }

    fn find(&mut self, session: Session, words: &mut Words<'_>, now: u64) -> Result<(), &'static str> {
        if self.run != 0 {
            return Err("a search is under way on this node");
        }
        let param = |name, or| node::param_number(name).unwrap_or(or);
        let (mut hops, mut interval) = (param("hops", 64), param("interval", 250));
        let (mut quiet, mut rounds) = (param("quiet", 20), param("rounds", 240));
        while let Some(word) = words.next() {
            let number = words.number().ok_or("a number is missing")?;
            match word {
                b"hops" => hops = number,
                b"interval" => interval = number,
                b"quiet" => quiet = number,
                b"rounds" => rounds = number,
                _ => return Err("know only: hops, interval, quiet, rounds"),
            }
        }
        let run = random_number(now);
        let timer = Timer::every(u64::from(interval.clamp(10, 60_000)) * 1000, run).map_err(Error::name)?;
        self.run = run;
        self.session = Some(session);
        self.timer = Some(timer);
        self.limit = hops.clamp(1, 254) as u8;
        self.quiet_limit = quiet.clamp(1, 10_000) as u16;
        self.round_limit = rounds.clamp(1, 60_000) as u16;
        self.begun = now;
        (self.round, self.quiet, self.news) = (0, 0, false);
        (self.len, self.incomplete, self.open) = (0, 0, 0);
        Ok(())
    }

    /// Counts a round and says what to flood; `None` when the search has ended.
    pub fn next_round(&mut self) -> Option<Flood> {
        if self.run == 0 {
            return None;
        }
        self.quiet = if self.news { 0 } else { self.quiet + 1 };
        self.news = false;
        if self.round > 0 && (self.quiet >= self.quiet_limit || self.round >= self.round_limit) {
            self.finish("incomplete");
            return None;
        }
        self.round += 1;
        self.starts[usize::from(self.round) % MAX_STARTS] = node::clock();
        Some(Flood { hops: 0, limit: self.limit, run: self.run, round: self.round, sender: own_id() })
    }

    /// What the origin has, for this round's flood.
    pub fn filter(&self) -> Filter {
        let mut filter = Filter::new();
        let known = usize::from(self.len);
        for (id, (heard, _)) in self.ids[..known].iter().zip(&self.heard) {
            filter.add(*id, *heard, self.round);
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
                    self.news = true;
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
        self.news = true;
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
        if self.session == Some(session) {
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
        line.push(self.round);
        if !entry.tag.is_empty() {
            line.push(" tag ");
            line.push(entry.tag);
        }
        self.session.ok_or(Error::BadHandle)?.reply(line.as_bytes())
    }

    fn start_of(&self, round: u16) -> u64 {
        let remembered = round <= self.round && usize::from(self.round - round) < MAX_STARTS;
        if remembered { self.starts[usize::from(round) % MAX_STARTS] } else { self.begun }
    }

    fn finish(&mut self, how: &str) {
        let ms = (node::clock() - self.begun) / 1000;
        let line = text!("done rounds ", self.round, " nodes ", self.len, " ms ", ms, " ", how);
        if let Some(session) = self.session {
            let _ = session.reply(line.as_bytes());
        }
        self.end();
    }

    fn end(&mut self) {
        if let Some(timer) = self.timer.take() {
            let _ = timer.cancel();
        }
        self.session = None;
        self.run = 0;
    }
}

/// A search's number: at random, or from the clock where the node has nothing random.
fn random_number(now: u64) -> u64 {
    let mut bytes = [0; 8];
    match node::random(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes).max(1),
        Err(_) => node::mix(now ^ own_id()).max(1),
    }
}
