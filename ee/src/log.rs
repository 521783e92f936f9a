//! The node's log: one line per state change, kept in a ring for `bees node log` and handed to the platform's
//! console. Lines about refused things are rate limited, because whoever is refused decides how often. The
//! audit lines (who was allowed what) have a ring of their own, so that no noise washes them away, and a
//! limit that only an attack reaches.

use std::collections::VecDeque;
use std::time::Duration;

use nodeos::platform::Instant;
use wire::control::{LogClass, LogEntry};

/// How many lines are kept.
const KEPT: usize = 512;
/// How many lines wait for a slow console.
const WAITING: usize = 256;
/// The longest line, in bytes.
const MAX_LINE: usize = 240;
/// Rate-limited lines per [`PERIOD`].
const BURST: u32 = 20;
/// Audit lines per [`PERIOD`].
const AUDIT_BURST: u32 = 200;
const PERIOD: Duration = Duration::from_secs(1);

/// The log.
#[derive(Debug, Default)]
pub struct Log {
    ring: VecDeque<LogEntry>,
    audit: VecDeque<LogEntry>,
    console: VecDeque<LogEntry>,
    next: u64,
    refused: Window,
    guests: Window,
    audits: Window,
}

/// Counts the lines of one second.
#[derive(Debug, Default)]
struct Window {
    start: Instant,
    lines: u32,
}

impl Window {
    fn allows(&mut self, now: Instant, burst: u32) -> bool {
        if now.since(self.start) >= PERIOD {
            *self = Self { start: now, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= burst
    }
}

impl Log {
    /// Writes a line about the node.
    pub fn line(&mut self, now: Instant, text: impl Into<String>) {
        self.write(now, LogClass::Node, text.into());
    }

    /// Writes a line about a flow; `false` when it was left out by the rate limit.
    pub fn flow(&mut self, now: Instant, text: impl FnOnce() -> String) -> bool {
        let allowed = self.refused.allows(now, BURST);
        if allowed {
            self.write(now, LogClass::Flow, text());
        }
        allowed
    }

    /// Writes a line about something refused; `false` when it was left out by the rate limit.
    pub fn limited(&mut self, now: Instant, text: impl FnOnce() -> String) -> bool {
        let allowed = self.refused.allows(now, BURST);
        if allowed {
            self.write(now, LogClass::Refused, text());
        }
        allowed
    }

    /// Writes a guest's line; `false` when it was left out. Guests have a rate limit of their own: they
    /// cannot make the node silent about what it refuses.
    pub fn guest(&mut self, now: Instant, text: impl FnOnce() -> String) -> bool {
        let allowed = self.guests.allows(now, BURST);
        if allowed {
            self.write(now, LogClass::Guest, text());
        }
        allowed
    }

    /// Writes a line about who was allowed what; `false` when it was left out.
    pub fn audit(&mut self, now: Instant, text: impl FnOnce() -> String) -> bool {
        let allowed = self.audits.allows(now, AUDIT_BURST);
        if allowed {
            self.write(now, LogClass::Audit, text());
        }
        allowed
    }

    fn write(&mut self, now: Instant, class: LogClass, mut text: String) {
        // What came from outside must not forge lines or move the cursor.
        text.retain(|c| !c.is_control());
        if text.len() > MAX_LINE {
            let cut = (0..=MAX_LINE).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            text.truncate(cut);
        }
        let entry = LogEntry { number: self.next, at_us: now.micros(), text, class };
        self.next += 1;
        let ring = if class == LogClass::Audit { &mut self.audit } else { &mut self.ring };
        push_bounded(ring, entry.clone(), KEPT);
        push_bounded(&mut self.console, entry, WAITING);
    }

    /// Lines with a number of at least `from`, as many as fit one answer.
    pub fn since(&self, from: u64) -> Vec<LogEntry> {
        let (mut lines, mut audit) = (self.ring.iter().peekable(), self.audit.iter().peekable());
        let merged = std::iter::from_fn(|| {
            let audit_first = match (lines.peek(), audit.peek()) {
                (Some(line), Some(audit)) => audit.number < line.number,
                (line, _) => line.is_none(),
            };
            if audit_first { audit.next() } else { lines.next() }
        });
        merged.filter(|e| e.number >= from).take(128).cloned().collect()
    }

    /// The next line for the console.
    pub fn next_for_console(&mut self) -> Option<LogEntry> {
        self.console.pop_front()
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, bound: usize) {
    if queue.len() == bound {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_one_line() {
        let mut log = Log::default();
        log.line(Instant::ZERO, format!("a\nb\x1b[2J{}", "é".repeat(400)));
        let entry = log.next_for_console().unwrap();
        assert!(entry.text.starts_with("ab[2J") && entry.text.len() <= MAX_LINE);
    }

    #[test]
    fn refused_things_do_not_flood() {
        let mut log = Log::default();
        let written = (0..1000).filter(|_| log.limited(Instant::ZERO, || "refused".into())).count();
        assert_eq!(written, BURST as usize);
        assert!(log.guest(Instant::ZERO, || "a guest's".into()));
        assert!(log.limited(Instant::ZERO + PERIOD, || "again".into()));
        assert_eq!(log.since(20).len(), 2);
    }

    #[test]
    fn noise_does_not_wash_the_audit_away() {
        let mut log = Log::default();
        assert!(log.audit(Instant::ZERO, || "deny".into()));
        for n in 0..2000 {
            log.line(Instant::ZERO, format!("noise {n}"));
        }
        assert!(log.audit(Instant::ZERO, || "grant".into()));
        let first = log.since(0);
        assert_eq!((first[0].class, first[0].text.as_str()), (LogClass::Audit, "deny"));
        assert!(first.is_sorted_by_key(|e| e.number));
        let last = log.since(2000);
        assert_eq!(last.iter().map(|e| e.class).collect::<Vec<_>>(), [LogClass::Node, LogClass::Audit]);
        let written = (0..1000).filter(|_| log.audit(Instant::ZERO, || "deny".into())).count();
        assert_eq!(written, AUDIT_BURST as usize - 2);
    }
}
