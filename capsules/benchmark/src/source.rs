//! Where a stream begins: finds the sink, sends at the asked rate, asks for the report.

use bees_sdk::session::Words;
use bees_sdk::{Error, Session, Timer, node, route, text};

use crate::BURST;
use crate::format::{Header, MAX_NAME, Report, What};

/// A tick of the source while it sends.
const TICK_US: u64 = 1000;
/// Between two attempts to find the sink, or to get its report.
const RETRY_US: u64 = 250_000;
/// Attempts to find the sink: long enough for code to travel some hops.
const MAX_SEEKS: u32 = 80;
/// Attempts to get the report.
const MAX_ASKS: u32 = 20;

/// The stream of this node, if there is one.
pub struct Source {
    stream: u32,
    session: Option<Session>,
    timer: Option<Timer>,
    name: [u8; MAX_NAME],
    name_len: u8,
    target: u64,
    size: u16,
    count: u32,
    rate: u32,
    sent: u32,
    tries: u32,
    begun: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Seeking,
    Sending,
    Asking,
}

impl Source {
    pub const fn new() -> Self {
        Self {
            stream: 0,
            session: None,
            timer: None,
            name: [0; MAX_NAME],
            name_len: 0,
            target: 0,
            size: 0,
            count: 0,
            rate: 0,
            sent: 0,
            tries: 0,
            begun: 0,
            state: State::Seeking,
        }
    }

    /// Whether a timer's token is this stream's.
    pub fn is(&self, token: u64) -> bool {
        self.stream != 0 && token == u64::from(self.stream)
    }

    /// Reads a request and begins its stream; [`tick`](Self::tick) does the work.
    pub fn begin(&mut self, session: Session, words: &mut Words<'_>, me: u64) -> Result<(), &'static str> {
        if self.stream != 0 {
            return Err("a stream is under way on this node");
        }
        let target = words.next().ok_or("usage: send NAME [count N] [rate N] [size N]")?;
        let (mut count, mut rate, mut size) = (1000, 1000, 64);
        while let Some(word) = words.next() {
            let number = words.number().ok_or("a number is missing")?;
            match word {
                b"count" => count = number,
                b"rate" => rate = number,
                b"size" => size = number,
                _ => return Err("know only: count, rate, size"),
            }
        }
        self.name.get_mut(..target.len()).ok_or("the name is too long")?.copy_from_slice(target);
        self.name_len = target.len() as u8;
        self.target = node::short_hash(target);
        if self.target == me {
            return Err("that is this node");
        }
        self.stream = (node::unique() as u32).max(1);
        (self.count, self.rate) = (count.max(1), rate);
        self.size = size.clamp(Header::LEN as u32, 1400) as u16;
        (self.sent, self.tries) = (0, 0);
        self.session = Some(session);
        // With a way that is known or was set by hand there is nothing to look for.
        self.go(if route::next(self.target).is_some() { State::Sending } else { State::Seeking });
        Ok(())
    }

    /// Does what is due; `emit` sends a capsule of this header and size.
    pub fn tick(&mut self, now: u64, mut emit: impl FnMut(Header, usize) -> Result<(), Error>) {
        if self.stream == 0 {
            return;
        }
        match self.state {
            State::Seeking => {
                self.tries += 1;
                if self.tries > MAX_SEEKS {
                    return self.fail(" is not found");
                }
                let _ = emit(self.header(What::Seek, self.tries), Header::LEN);
            }
            State::Sending => {
                if self.begun == 0 {
                    self.begun = now.max(1);
                }
                // The first is due at once.
                let due = match u64::from(self.rate) {
                    0 => u64::MAX,
                    rate => (now - self.begun.min(now)) * rate / 1_000_000 + 1,
                };
                for _ in 0..BURST {
                    if self.sent >= self.count || u64::from(self.sent) >= due {
                        break;
                    }
                    // What the link cannot take now is sent later: the stream is late, not lossy.
                    if emit(self.header(What::Data, self.sent), usize::from(self.size)).is_err() {
                        break;
                    }
                    self.sent += 1;
                }
                if self.sent >= self.count {
                    self.go(State::Asking);
                }
            }
            State::Asking => {
                self.tries += 1;
                if self.tries > MAX_ASKS {
                    return self.fail(" does not report");
                }
                let _ = emit(self.header(What::Last, self.sent), Header::LEN);
            }
        }
    }

    /// A report came: the sink was found, or the stream is over.
    pub fn answered(&mut self, r: &Report) {
        if r.header.stream != self.stream || self.stream == 0 || r.header.source != self.target {
            return;
        }
        match self.state {
            State::Seeking => self.go(State::Sending),
            State::Sending => {}
            // A late answer to a seek says nothing was received; it is none to the last capsule.
            State::Asking if r.header.sequence != self.sent => {}
            State::Asking => {
                let rate =
                    (u64::from(r.received.saturating_sub(1)) * 1_000_000).checked_div(r.us).unwrap_or(0);
                let line = text!(
                    "result target ",
                    self.target_name(),
                    " sent ",
                    self.sent,
                    " received ",
                    r.received,
                    " duplicates ",
                    r.duplicates,
                    " reordered ",
                    r.reordered,
                    " relays ",
                    r.relays,
                    " us ",
                    r.us,
                    " rate ",
                    rate
                );
                self.finish(line.as_bytes());
            }
        }
    }

    /// A program is gone or wants no more.
    pub fn end(&mut self, session: Session) {
        if self.session == Some(session) {
            self.stop();
        }
    }

    fn header(&self, what: What, sequence: u32) -> Header {
        Header { what, counter: 0, target: self.target, source: 0, stream: self.stream, sequence }
    }

    fn target_name(&self) -> &[u8] {
        &self.name[..usize::from(self.name_len)]
    }

    /// Enters a state and sets the timer for it.
    fn go(&mut self, state: State) {
        (self.state, self.tries, self.begun) = (state, 0, 0);
        let period = match (state, u64::from(self.rate)) {
            (State::Sending, 0) => TICK_US,
            (State::Sending, rate) => TICK_US.max(1_000_000 / rate),
            _ => RETRY_US,
        };
        if let Some(timer) = self.timer.take() {
            let _ = timer.cancel();
        }
        self.timer = Timer::every(period, u64::from(self.stream)).ok();
        if self.timer.is_none() {
            self.finish(b"error no timer is free");
        }
    }

    fn fail(&mut self, why: &str) {
        let line = text!("error ", self.target_name(), why);
        self.finish(line.as_bytes());
    }

    fn finish(&mut self, line: &[u8]) {
        if let Some(session) = self.session {
            let _ = session.reply(line);
        }
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(timer) = self.timer.take() {
            let _ = timer.cancel();
        }
        self.session = None;
        self.stream = 0;
    }
}
