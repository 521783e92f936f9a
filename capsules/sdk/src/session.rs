//! Sessions: programs that talk to the protocol on this node, packet by packet.

use crate::error::{Error, check, done};
use crate::sys;

/// A program's session. It lasts until one side closes it, also after the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session(u32);

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent<'a> {
    /// A program opened it.
    Opened,
    /// The program sent a packet: its beginning (at most 64 bytes) and its length.
    Packet(&'a [u8], usize),
    /// The program is gone; nothing can be sent any more.
    Closed,
}

impl Session {
    /// Copies the packet of this event from `offset` on.
    pub fn read<'a>(&self, offset: usize, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let n = check(sys::session_read(self.0, offset as u32, buffer))? as usize;
        buffer.get(..n).ok_or(Error::Unavailable)
    }

    /// Sends a packet to the program. [`Error::NoRoom`]: it has not read what it was sent before;
    /// [`Protocol::room`](crate::Protocol::room) tells when it has. [`Error::TooLarge`]: more than 16384 bytes, or 1200
    /// where the program speaks by UDP.
    pub fn reply(&self, packet: &[u8]) -> Result<(), Error> {
        done(sys::session_reply(self.0, packet))
    }

    /// Tells the program why its request is none: `error WHY`.
    pub fn refuse(&self, why: &str) {
        let _ = self.reply(crate::text!("error ", why).as_bytes());
    }

    /// Ends it.
    pub fn close(self) -> Result<(), Error> {
        done(sys::session_close(self.0))
    }

    /// Its number, to be handed over ([`Takeover::session`](crate::handover::Takeover::session)).
    pub fn number(self) -> u32 {
        self.0
    }

    /// The handle that the node gave, for [`protocol!`](crate::protocol).
    #[doc(hidden)]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The handle.
    #[doc(hidden)]
    pub fn to_bits(self) -> u32 {
        self.0
    }
}

/// Cuts a request into words and reads `KEY NUMBER` pairs out of it.
#[derive(Debug, Clone)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The words of `line`, between white space.
    pub fn of(line: &'a [u8]) -> Self {
        Self(line)
    }

    /// The next word as a decimal number.
    pub fn number(&mut self) -> Option<u32> {
        parse(self.next()?)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0.trim_ascii_start();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (word, rest) = line.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// A decimal number, nothing else.
pub fn parse(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u32, |n, d| match d {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u32::from(d - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_cut() {
        let mut w = Words::of(b" ping  c count 5\r\n");
        assert_eq!(w.next(), Some(&b"ping"[..]));
        assert_eq!(w.next(), Some(&b"c"[..]));
        assert_eq!(w.next(), Some(&b"count"[..]));
        assert_eq!(w.number(), Some(5));
        assert_eq!(w.next(), None);
        assert_eq!(parse(b"4294967296"), None);
        assert_eq!(parse(b"-1"), None);
        assert_eq!(parse(b""), None);
    }
}
