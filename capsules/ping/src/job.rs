//! One request: what was sent, what came back, and the lines about it.

use bees_sdk::session::Words;
use bees_sdk::text::Thousandths;
use bees_sdk::{Session, Timer, node, text};

use crate::format::{Header, MAX_NAME};

/// Echoes that can be on their way at once.
const WINDOW: usize = 64;
/// Between two floods while the target is not found.
const SEEK_US: u64 = 250_000;
/// Floods before the target counts as not there: long enough for code to travel some hops.
const MAX_SEEKS: u16 = 80;

/// Whether a request goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Going,
    Over,
}

/// What a program asks for.
pub struct Request {
    name: [u8; MAX_NAME],
    name_len: u8,
    count: u16,
    interval_us: u64,
    timeout_us: u64,
    size: u16,
}

/// A request at work.
pub struct Job {
    /// Its number.
    pub id: u32,
    /// Whose it is.
    pub session: Session,
    /// Payload of an echo, in bytes.
    pub size: u16,
    request: Request,
    timer: Option<Timer>,
    begun: u64,
    found: bool,
    lost: bool,
    seeks: u16,
    sent: u16,
    received: u16,
    /// When each echo on its way was sent; 0: answered or given up.
    waiting: [u64; WINDOW],
    /// The first echo that may still be waiting.
    oldest: u16,
    min: u64,
    max: u64,
    sum: u64,
    squares: u64,
}

impl Request {
    /// Reads a request; `None`: stop.
    pub fn parse(line: &[u8]) -> Result<Option<Self>, &'static str> {
        const USAGE: &str = "usage: ping NAME [count N] [interval MS] [size N] [timeout MS], or stop";
        let mut words = Words::of(line);
        match words.next() {
            Some(b"ping") => {}
            Some(b"stop") => return Ok(None),
            _ => return Err(USAGE),
        }
        let target = words.next().ok_or(USAGE)?;
        let mut name = [0; MAX_NAME];
        name.get_mut(..target.len()).ok_or("the name is too long")?.copy_from_slice(target);
        let (mut count, mut interval, mut size, mut timeout) = (5, 1000, 64, 1000);
        while let Some(word) = words.next() {
            let number = words.number().ok_or("a number is missing")?;
            match word {
                b"count" => count = number,
                b"interval" => interval = number,
                b"size" => size = number,
                b"timeout" => timeout = number,
                _ => return Err("know only: count, interval, size, timeout"),
            }
        }
        Ok(Some(Self {
            name,
            name_len: target.len() as u8,
            count: count.clamp(1, 65_000) as u16,
            interval_us: u64::from(interval.clamp(1, 600_000)) * 1000,
            timeout_us: u64::from(timeout.clamp(1, 600_000)) * 1000,
            size: size.clamp(Header::LEN as u32, 1400) as u16,
        }))
    }

    /// The number of the node that is meant.
    pub fn target(&self) -> u64 {
        node::short_hash(self.name())
    }

    fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.name_len)]
    }
}

impl Job {
    /// A request begins; it works in [`tick`](Self::tick).
    pub fn begin(request: Request, session: Session, now: u64) -> Self {
        Self {
            id: (node::unique() as u32).max(1),
            session,
            size: request.size,
            request,
            timer: None,
            begun: now,
            found: false,
            lost: false,
            seeks: 0,
            sent: 0,
            received: 0,
            waiting: [0; WINDOW],
            oldest: 1,
            min: u64::MAX,
            max: 0,
            sum: 0,
            squares: 0,
        }
    }

    /// The name of the node that is meant.
    pub fn name(&self) -> &[u8] {
        self.request.name()
    }

    /// Does what is due: sends an echo with `send`, asks for a flood, or ends.
    pub fn tick(&mut self, now: u64, send: impl FnOnce(Header, usize) -> bool) -> (Step, Option<Header>) {
        // It has just fired.
        self.timer = None;
        let seek = if self.found { self.echo(now, send) } else { self.search() };
        let after = match (self.found, self.sent < self.request.count) {
            (false, _) if self.seeks > MAX_SEEKS => {
                self.say(text!("error ", self.name(), " is not found").as_bytes());
                return (Step::Over, None);
            }
            (false, _) => SEEK_US,
            (true, true) => self.request.interval_us,
            (true, false) => match self.first_waiting() {
                None => {
                    self.end(true, now);
                    return (Step::Over, None);
                }
                Some(since) => (since + self.request.timeout_us).saturating_sub(now).max(1),
            },
        };
        (self.wake(after), seek)
    }

    /// Sets the one timer of this request.
    fn wake(&mut self, after_us: u64) -> Step {
        if let Some(timer) = self.timer.take() {
            let _ = timer.cancel();
        }
        self.timer = Timer::once(after_us, u64::from(self.id)).ok();
        if self.timer.is_none() {
            self.say(b"error no timer is free");
            return Step::Over;
        }
        Step::Going
    }

    fn search(&mut self) -> Option<Header> {
        self.seeks += 1;
        Some(self.header(self.seeks))
    }

    fn echo(&mut self, now: u64, send: impl FnOnce(Header, usize) -> bool) -> Option<Header> {
        self.expire(now);
        if self.sent < self.request.count {
            self.sent += 1;
            let at = usize::from(self.sent) % WINDOW;
            if self.sent - self.oldest >= WINDOW as u16 {
                self.give_up();
            }
            self.waiting[at] = now.max(1);
            self.lost |= !send(self.header(self.sent), usize::from(self.size));
        }
        // Something was lost: look for the way again, besides.
        if core::mem::take(&mut self.lost) { self.search() } else { None }
    }

    fn header(&self, seq: u16) -> Header {
        let limit = node::param_number("hops").unwrap_or(64).clamp(2, 255) as u8;
        let target = self.request.target();
        Header { reply: false, hops: 0, limit, there: 0, source: 0, target, job: self.id, seq }
    }

    /// An answer came.
    pub fn answered(&mut self, h: &Header, len: usize, now: u64) -> Step {
        if h.seq == 0 {
            if !self.found {
                self.found = true;
                return self.wake(0);
            }
            return Step::Going;
        }
        let at = usize::from(h.seq) % WINDOW;
        if h.seq < self.oldest || h.seq > self.sent || self.waiting[at] == 0 {
            return Step::Going;
        }
        let time = now.saturating_sub(self.waiting[at]);
        self.waiting[at] = 0;
        self.received += 1;
        self.min = self.min.min(time);
        self.max = self.max.max(time);
        self.sum += time;
        self.squares = self.squares.saturating_add(time.saturating_mul(time));
        let line = text!(
            len,
            " bytes from ",
            self.name(),
            ": seq=",
            h.seq,
            " hops=",
            h.there,
            " time=",
            Thousandths(time),
            " ms"
        );
        self.say(line.as_bytes());
        if self.sent == self.request.count && self.first_waiting().is_none() {
            self.end(true, now);
            return Step::Over;
        }
        Step::Going
    }

    /// Gives up echoes that are over their time.
    fn expire(&mut self, now: u64) {
        while let Some(since) = self.first_waiting() {
            if since + self.request.timeout_us > now {
                break;
            }
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let at = usize::from(self.oldest) % WINDOW;
        if self.waiting[at] != 0 {
            self.say(text!("no answer: seq=", self.oldest).as_bytes());
            self.waiting[at] = 0;
            self.lost = true;
        }
        self.oldest += 1;
    }

    /// When the oldest echo that still waits was sent.
    fn first_waiting(&mut self) -> Option<u64> {
        while self.oldest <= self.sent {
            match self.waiting[usize::from(self.oldest) % WINDOW] {
                0 => self.oldest += 1,
                since => return Some(since),
            }
        }
        None
    }

    /// Ends the request, with its statistics if the program is still there.
    pub fn end(&mut self, tell: bool, now: u64) {
        if let Some(timer) = self.timer.take() {
            let _ = timer.cancel();
        }
        if !tell {
            return;
        }
        let (sent, received) = (u64::from(self.sent), u64::from(self.received));
        self.say(text!("--- ", self.name(), " ping statistics ---").as_bytes());
        let loss = ((sent - received) * 100).checked_div(sent).unwrap_or(0);
        let ms = (now - self.begun) / 1000;
        self.say(
            text!(sent, " sent, ", received, " received, ", loss, "% loss, time ", ms, " ms").as_bytes(),
        );
        let means = self.sum.checked_div(received).zip(self.squares.checked_div(received));
        if let Some((average, square)) = means {
            let deviation = square.saturating_sub(average.saturating_mul(average)).isqrt();
            let line = text!(
                "rtt min/avg/max/mdev = ",
                Thousandths(self.min),
                "/",
                Thousandths(average),
                "/",
                Thousandths(self.max),
                "/",
                Thousandths(deviation),
                " ms"
            );
            self.say(line.as_bytes());
        }
        self.say(text!("done sent ", sent, " received ", received).as_bytes());
    }

    fn say(&self, line: &[u8]) {
        // A program that does not read its lines loses them.
        let _ = self.session.reply(line);
    }
}
