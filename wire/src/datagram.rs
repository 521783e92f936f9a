//! Sessions by UDP, port 3323 of a node's management address: for programs that would rather lose a packet than
//! wait for it. Nothing is repeated or put in order.
//!
//! ```text
//! program:  open NAME-OR-HASH\n           zeros behind it up to 160 bytes
//! node:     cookie COOKIE\n               nothing is kept
//! program:  open NAME-OR-HASH COOKIE\n    zeros behind it up to 160 bytes
//! node:     ok TOKEN FLOW-HASH\n          or: error WHY\n
//! both:     0, token (8 bytes), packet    at most 1200 bytes
//! both:     1, token                      the session is over
//! program:  2, token                      is it still there? The node answers with the same
//! ```
//!
//! COOKIE and TOKEN are 16 hexadecimal digits. No answer is longer than what it answers until a cookie has come
//! back, which shows that the program reads what is sent to its address. An `open` may be repeated: with the same
//! cookie it is the same session.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The shortest datagram with an `open`: no answer to one is longer.
pub const MIN_OPEN: usize = 160;
/// The longest packet, in bytes: with all headers it fits the smallest MTU of IPv6.
pub const MAX_PACKET: usize = 1200;
/// Bytes in front of a packet.
pub const HEADER: usize = 1 + 8;
/// The longest datagram, in bytes.
pub const MAX_DATAGRAM: usize = HEADER + MAX_PACKET;
/// A program that says nothing for so long, in seconds, has lost its session.
pub const IDLE_SECONDS: u64 = 60;
/// A node sends no more than so many bytes, headers included, until it hears of the program again.
pub const CREDIT: usize = 64 * 1024;

const PACKET: u8 = 0;
const CLOSE: u8 = 1;
const ALIVE: u8 = 2;

/// Names a session; or shows that its program reads what is sent to its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 8]);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Token {
    /// Reads 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits && text.len() == 16)?;
        Some(Self(number.to_be_bytes()))
    }
}

/// The other side erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// An `open` in fewer bytes than [`MIN_OPEN`].
    Short,
    /// Neither a line that is known, with nothing but zeros behind it, nor something of a session.
    Malformed,
    /// A packet longer than [`MAX_PACKET`].
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "an open is padded to {MIN_OPEN} bytes"),
            Self::Malformed => f.write_str("not a datagram of a session"),
            Self::TooLong => write!(f, "a packet by UDP has at most {MAX_PACKET} bytes"),
        }
    }
}

impl core::error::Error for Error {}

/// What either side says in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// A packet.
    Packet(Token, &'a [u8]),
    /// The session is over.
    Close(Token),
    /// It is still there; from a program: is it?
    Alive(Token),
}

/// What a program sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromProgram<'a> {
    /// It wants a session.
    Open {
        /// The protocol's name, or the flow's hash or its first digits.
        flow: &'a str,
        /// The cookie that it was sent.
        cookie: Option<Token>,
    },
    /// It has one.
    Said(Said<'a>),
}

/// What a node sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromNode<'a> {
    /// Ask again with this.
    Cookie(Token),
    /// The session is open.
    Opened(Token, &'a str),
    /// There is none, and why.
    Refused(&'a str),
    /// In a session.
    Said(Said<'a>),
}

impl<'a> FromProgram<'a> {
    /// Reads what arrived at a node.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if let Some(said) = Said::parse(bytes)? {
            return Ok(Self::Said(said));
        }
        let mut words = line(bytes)?.split(' ');
        let (Some("open"), Some(flow), cookie, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Error::Malformed);
        };
        if flow.is_empty() || flow.contains(char::is_whitespace) {
            return Err(Error::Malformed);
        }
        if bytes.len() < MIN_OPEN {
            return Err(Error::Short);
        }
        let cookie = cookie.map(|text| Token::parse(text).ok_or(Error::Malformed)).transpose()?;
        Ok(Self::Open { flow, cookie })
    }
}

impl<'a> FromNode<'a> {
    /// Reads what arrived at a program.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if let Some(said) = Said::parse(bytes)? {
            return Ok(Self::Said(said));
        }
        let (word, rest) = line(bytes)?.split_once(' ').ok_or(Error::Malformed)?;
        let token = |text| Token::parse(text).ok_or(Error::Malformed);
        match word {
            "cookie" => Ok(Self::Cookie(token(rest)?)),
            "error" => Ok(Self::Refused(rest)),
            "ok" => {
                let (session, flow) = rest.split_once(' ').ok_or(Error::Malformed)?;
                Ok(Self::Opened(token(session)?, flow))
            }
            _ => Err(Error::Malformed),
        }
    }
}

impl<'a> Said<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Error> {
        let Some((&kind, rest)) = bytes.split_first().filter(|(kind, _)| **kind <= ALIVE) else {
            return Ok(None);
        };
        let (token, rest) = rest.split_first_chunk().ok_or(Error::Malformed)?;
        let token = Token(*token);
        match kind {
            PACKET if rest.len() > MAX_PACKET => Err(Error::TooLong),
            PACKET => Ok(Some(Self::Packet(token, rest))),
            _ if !rest.is_empty() => Err(Error::Malformed),
            CLOSE => Ok(Some(Self::Close(token))),
            _ => Ok(Some(Self::Alive(token))),
        }
    }

    /// Its bytes; the packet is no longer than [`MAX_PACKET`].
    pub fn encode(&self) -> Vec<u8> {
        let (kind, token, packet) = match *self {
            Self::Packet(token, packet) => (PACKET, token, packet),
            Self::Close(token) => (CLOSE, token, &[][..]),
            Self::Alive(token) => (ALIVE, token, &[][..]),
        };
        let mut out = Vec::with_capacity(HEADER + packet.len());
        out.push(kind);
        out.extend_from_slice(&token.0);
        out.extend_from_slice(packet);
        out
    }
}

/// A program's `open`, padded.
pub fn open(flow: &str, cookie: Option<Token>) -> Vec<u8> {
    let mut text = String::from("open ");
    text.push_str(flow);
    if let Some(cookie) = cookie {
        // Writing to a string does not fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!(" {cookie}"));
    }
    text.push('\n');
    let mut out = text.into_bytes();
    out.resize(out.len().max(MIN_OPEN), 0);
    out
}

/// A node's line that answers an `open`, cut to its length.
pub fn answer(text: &str) -> Vec<u8> {
    let cut = (0..MIN_OPEN.min(text.len() + 1)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let mut out = Vec::with_capacity(cut + 1);
    out.extend_from_slice(&text.as_bytes()[..cut]);
    out.push(b'\n');
    out
}

/// The line at the beginning; nothing but zeros follows.
fn line(bytes: &[u8]) -> Result<&str, Error> {
    let end = bytes.iter().take(MIN_OPEN).position(|&b| b == b'\n').ok_or(Error::Malformed)?;
    let (line, rest) = bytes.split_at(end);
    if bytes.len() > MAX_DATAGRAM || rest.iter().skip(1).any(|&b| b != 0) {
        return Err(Error::Malformed);
    }
    core::str::from_utf8(line).map_err(|_| Error::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: Token = Token([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]);

    #[test]
    fn a_session_is_opened_with_a_cookie() {
        let first = open("hello", None);
        assert_eq!(FromProgram::parse(&first), Ok(FromProgram::Open { flow: "hello", cookie: None }));
        let second = open("hello", Some(TOKEN));
        let asked = FromProgram::Open { flow: "hello", cookie: Some(TOKEN) };
        assert_eq!((second.len(), FromProgram::parse(&second)), (MIN_OPEN, Ok(asked)));
        let text = alloc::format!("ok {TOKEN} 1234");
        assert_eq!(FromNode::parse(&answer(&text)), Ok(FromNode::Opened(TOKEN, "1234")));
        assert_eq!(FromNode::parse(&answer("error no such flow")), Ok(FromNode::Refused("no such flow")));
        let text = alloc::format!("cookie {TOKEN}");
        assert_eq!(FromNode::parse(&answer(&text)), Ok(FromNode::Cookie(TOKEN)));
    }

    #[test]
    fn no_answer_is_longer_than_the_shortest_question() {
        for text in ["x".repeat(1000), "ä".repeat(100), alloc::format!("x{}", "ä".repeat(100))] {
            let bytes = answer(&text);
            assert!((MIN_OPEN - 1..=MIN_OPEN).contains(&bytes.len()), "{}", bytes.len());
            assert!(core::str::from_utf8(&bytes).is_ok());
        }
    }

    #[test]
    fn hostile_datagrams_are_refused() {
        let parse = |bytes: &[u8]| FromProgram::parse(bytes).map(drop);
        assert_eq!(parse(b""), Err(Error::Malformed));
        assert_eq!(parse(b"open hello\n"), Err(Error::Short));
        assert_eq!(parse(&[0; 8]), Err(Error::Malformed), "a token is cut");
        assert_eq!(parse(&[0; MAX_DATAGRAM + 1]), Err(Error::TooLong));
        assert_eq!(parse(&[1; 10]), Err(Error::Malformed), "a close has no packet");
        let mut bytes = open("hello", None);
        *bytes.last_mut().unwrap() = 1;
        assert_eq!(parse(&bytes), Err(Error::Malformed), "no zeros");
        for text in ["open \n", "open a 12\n", "open a b c\n", "open a +123456789abcdef\n", "shut a\n"] {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(MIN_OPEN, 0);
            assert_eq!(parse(&bytes), Err(Error::Malformed), "{text:?}");
        }
        let mut long = open("hello", None);
        long.resize(MAX_DATAGRAM + 1, 0);
        assert_eq!(parse(&long), Err(Error::Malformed));
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood(token in any::<[u8; 8]>(), packet in proptest::collection::vec(any::<u8>(), 0..MAX_PACKET + 1)) {
            for said in [Said::Packet(Token(token), &packet), Said::Close(Token(token)), Said::Alive(Token(token))] {
                let bytes = said.encode();
                prop_assert_eq!(FromProgram::parse(&bytes), Ok(FromProgram::Said(said)));
                prop_assert_eq!(FromNode::parse(&bytes), Ok(FromNode::Said(said)));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "open [a-z0-9 ]{0,40}\n\0*") {
            for bytes in [&bytes, text.as_bytes()] {
                if let Ok(FromProgram::Open { flow, .. }) = FromProgram::parse(bytes) {
                    prop_assert!(bytes.len() >= MIN_OPEN && !flow.is_empty());
                }
                let _ = FromNode::parse(bytes);
            }
        }

        #[test]
        fn names_survive(name in "[!-~]{1,64}", cookie in any::<[u8; 8]>()) {
            let bytes = open(&name, Some(Token(cookie)));
            prop_assert_eq!(FromProgram::parse(&bytes), Ok(FromProgram::Open { flow: &name, cookie: Some(Token(cookie)) }));
        }
    }
}
