//! A program's request that is asked in rounds, until it is answered or so many rounds in a row bring no news: what
//! is lost or refused in one round comes in the next.

use crate::{Error, Session, Timer, node};

/// The request that is under way on this node, if there is one.
#[derive(Debug)]
pub struct Rounds {
    session: Option<Session>,
    timer: Option<Timer>,
    begun: u64,
    limit: u16,
    quiet_limit: u16,
    round: u16,
    quiet: u16,
    news: bool,
}

/// How a request is asked: the values of the parameters `interval`, `rounds` and `quiet`, where the flow has them.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Milliseconds between two rounds: 10 to 60,000.
    pub interval: u32,
    /// Rounds at most: 1 to 60,000.
    pub rounds: u32,
    /// Rounds without news after which it ends: 1 to 10,000.
    pub quiet: u32,
}

impl Pace {
    /// What the flow's parameters say, or this.
    pub fn or(self) -> Self {
        Self {
            interval: node::param_or("interval", self.interval),
            rounds: node::param_or("rounds", self.rounds),
            quiet: node::param_or("quiet", self.quiet),
        }
    }
}

impl Rounds {
    /// No request.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self {
            session: None,
            timer: None,
            begun: 0,
            limit: 0,
            quiet_limit: 0,
            round: 0,
            quiet: 0,
            news: false,
        }
    }

    /// A request begins: its timer fires with `token` when a round is due.
    pub fn begin(&mut self, session: Session, pace: Pace, token: u64) -> Result<(), Error> {
        let interval = u64::from(pace.interval.clamp(10, 60_000)) * 1000;
        let timer = Timer::every(interval, token)?;
        self.end();
        (self.session, self.timer, self.begun) = (Some(session), Some(timer), node::clock());
        (self.limit, self.quiet_limit) =
            (pace.rounds.clamp(1, 60_000) as u16, pace.quiet.clamp(1, 10_000) as u16);
        (self.round, self.quiet, self.news) = (0, 0, false);
        Ok(())
    }

    /// Counts a round; `None` when there was no news for too long, or there were too many.
    pub fn next_round(&mut self) -> Option<u16> {
        self.quiet = if self.news { 0 } else { self.quiet + 1 };
        self.news = false;
        if self.round > 0 && (self.quiet >= self.quiet_limit || self.round >= self.limit) {
            return None;
        }
        self.round += 1;
        Some(self.round)
    }

    /// Something came that was not known.
    pub fn news(&mut self) {
        self.news = true;
    }

    /// The round, from 1.
    pub fn round(&self) -> u16 {
        self.round
    }

    /// When the request began, by the node's clock.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Milliseconds since the request began.
    pub fn ms(&self) -> u64 {
        (node::clock() - self.begun) / 1000
    }

    /// Whether it is this session's request.
    pub fn is_of(&self, session: Session) -> bool {
        self.session == Some(session)
    }

    /// Sends a packet to the program.
    pub fn reply(&self, packet: &[u8]) -> Result<(), Error> {
        self.session.ok_or(Error::BadHandle)?.reply(packet)
    }

    /// The request is over.
    pub fn end(&mut self) {
        if let Some(timer) = self.timer.take() {
            let _ = timer.cancel();
        }
        self.session = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_it_and_news_do_not() {
        let mut r = Rounds { limit: 6, quiet_limit: 2, ..Rounds::new() };
        assert_eq!((r.next_round(), r.next_round()), (Some(1), None));
        let mut r = Rounds { limit: 6, quiet_limit: 2, ..Rounds::new() };
        for round in 1..=6 {
            assert_eq!(r.next_round(), Some(round));
            r.news();
        }
        assert_eq!(r.next_round(), None);
    }
}
