//! How a program talks to a protocol (seed 004, section VI): TCP to port 3323 of a node's management
//! address, first one line, then plain packets.
//!
//! ```text
//! program:  open NAME-OR-HASH\n         the protocol's name, or the flow's hash (or its first digits)
//! node:     ok FLOW-HASH\n              or: error WHY\n, and the connection ends
//! both:     length (2 bytes, big endian), packet
//! ```
//!
//! A program in any language needs nothing but a socket.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// The longest first line, in bytes, its end included.
pub const MAX_LINE: usize = 160;
/// The longest packet, in bytes.
pub const MAX_PACKET: usize = 16 * 1024;

/// The program erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The first line is not `open NAME`.
    Line,
    /// A packet longer than [`MAX_PACKET`].
    TooLong(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line => f.write_str("the first line must be: open NAME-OR-HASH"),
            Self::TooLong(n) => write!(f, "session packet of {n} bytes, {MAX_PACKET} are allowed"),
        }
    }
}

impl core::error::Error for Error {}

/// Cuts a byte stream into the first line and packets.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    /// Appends what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes wait to be cut.
    pub fn buffered(&self) -> usize {
        self.bytes.len()
    }

    /// Whether a packet is complete, or too long.
    pub fn has_packet(&self) -> bool {
        let [a, b, ..] = self.bytes[..] else { return false };
        let len = usize::from(u16::from_be_bytes([a, b]));
        len > MAX_PACKET || self.bytes.len() >= 2 + len
    }

    /// The first line without its end, once it is complete.
    pub fn line(&mut self) -> Result<Option<String>, Error> {
        let window = &self.bytes[..self.bytes.len().min(MAX_LINE)];
        let Some(end) = window.iter().position(|&b| b == b'\n') else {
            return if self.bytes.len() >= MAX_LINE { Err(Error::Line) } else { Ok(None) };
        };
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        let text = core::str::from_utf8(&line).map_err(|_| Error::Line)?;
        Ok(Some(text.trim_end().to_string()))
    }

    /// The next packet, once it is complete.
    pub fn packet(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let [a, b, ..] = self.bytes[..] else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes([a, b]));
        if len > MAX_PACKET {
            return Err(Error::TooLong(len));
        }
        if self.bytes.len() < 2 + len {
            return Ok(None);
        }
        Ok(Some(self.bytes.drain(..2 + len).skip(2).collect()))
    }
}

/// The flow that an `open` line names.
pub fn parse_open(line: &str) -> Result<&str, Error> {
    let name = line.strip_prefix("open ").ok_or(Error::Line)?.trim();
    if name.is_empty() || name.contains(char::is_whitespace) { Err(Error::Line) } else { Ok(name) }
}

/// The bytes of one packet, or `None` when it is too long.
pub fn frame(packet: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(packet.len()).ok().filter(|&n| usize::from(n) <= MAX_PACKET)?;
    let mut out = Vec::with_capacity(2 + packet.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(packet);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_then_packets() {
        let mut r = Reader::default();
        r.push(b"open he");
        assert_eq!(r.line(), Ok(None));
        r.push(b"llo\r\n\x00\x02ab\x00");
        assert_eq!(parse_open(&r.line().unwrap().unwrap()), Ok("hello"));
        assert!(r.has_packet());
        assert_eq!(r.packet(), Ok(Some(b"ab".to_vec())));
        assert!(!r.has_packet());
        assert_eq!(r.packet(), Ok(None));
    }

    #[test]
    fn hostile_lengths_are_refused() {
        let mut r = Reader::default();
        r.push(&[b'x'; MAX_LINE]);
        assert_eq!(r.line(), Err(Error::Line));
        let mut r = Reader::default();
        r.push(&[0xff, 0xff]);
        assert!(r.has_packet(), "to be refused");
        assert_eq!(r.packet(), Err(Error::TooLong(0xffff)));
        assert_eq!(frame(&[0; MAX_PACKET + 1]), None);
        assert_eq!(parse_open("open a b"), Err(Error::Line));
    }

    proptest! {
        #[test]
        fn packets_survive_any_cutting(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8), cut in 1usize..9) {
            let stream: Vec<u8> = packets.iter().flat_map(|p| frame(p).unwrap()).collect();
            let mut r = Reader::default();
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                r.push(piece);
                while let Some(p) = r.packet().unwrap() { got.push(p); }
            }
            prop_assert_eq!(got, packets);
        }
    }
}
