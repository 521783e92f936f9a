//! How protocols are fetched (seed 004, section VI): a protocol server gives signed flow tuples and their parts to
//! nodes that have just started, and to any program. TCP, port 3325 unless said otherwise; any number of questions,
//! one after the other:
//!
//! ```text
//! asks:     list\n                    which flows there are
//!           tuple NAME-OR-HASH\n      a flow's tuple, by its main protocol's name or the tuple's hash
//!           part SHA-256\n            a module or data part
//! answers:  ok LENGTH\n, bytes        of a list: lines HASH NAME\n
//!           error WHY\n               and the next question may follow
//! ```
//!
//! Nothing that a server says is believed: parts are checked against the tuple, and who signed the tuple is judged by
//! whoever fetched it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::id::PartHash;
use crate::tuple::MAX_PART;

/// The longest line, in bytes, its end included.
pub const MAX_LINE: usize = 160;
/// The longest answer, in bytes.
pub const MAX_ANSWER: u32 = MAX_PART;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Which flows there are.
    List,
    /// A tuple: by name or hash.
    Tuple(String),
    /// A part.
    Part(PartHash),
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// So many bytes follow.
    Ok(u32),
    /// There is no answer, and why.
    Error(String),
}

/// The other side erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Not a question or not an answer, or a line longer than [`MAX_LINE`].
    Line,
    /// More bytes than [`MAX_ANSWER`].
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line => f.write_str("not a line of the protocol server's"),
            Self::TooLong => write!(f, "more than {MAX_ANSWER} bytes"),
        }
    }
}

impl core::error::Error for Error {}

impl fmt::Display for Question {
    /// As it is sent, without the line's end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => f.write_str("list"),
            Self::Tuple(flow) => write!(f, "tuple {flow}"),
            Self::Part(hash) => write!(f, "part {hash}"),
        }
    }
}

impl Question {
    /// Reads a line, its end cut off.
    pub fn parse(line: &str) -> Result<Self, Error> {
        if line == "list" {
            return Ok(Self::List);
        }
        match line.split_once(' ') {
            Some(("tuple", flow)) if is_selector(flow) => Ok(Self::Tuple(flow.to_string())),
            Some(("part", hash)) => hash.parse().map(Self::Part).map_err(|_| Error::Line),
            _ => Err(Error::Line),
        }
    }
}

impl Head {
    /// Reads a line, its end cut off.
    pub fn parse(line: &str) -> Result<Self, Error> {
        match line.split_once(' ') {
            Some(("ok", len)) if len.bytes().all(|b| b.is_ascii_digit()) => {
                let len = len.parse().map_err(|_| Error::TooLong)?;
                if len > MAX_ANSWER { Err(Error::TooLong) } else { Ok(Self::Ok(len)) }
            }
            Some(("error", why)) => Ok(Self::Error(why.to_string())),
            _ => Err(Error::Line),
        }
    }
}

/// Whether this may name a flow: short, and without blanks.
pub fn is_selector(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
}

/// Takes the first line, without its end, out of what has arrived, once it is complete.
pub fn take_line(bytes: &mut Vec<u8>) -> Result<Option<String>, Error> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|&b| b == b'\n') else {
        return if bytes.len() >= MAX_LINE { Err(Error::Line) } else { Ok(None) };
    };
    let line: Vec<u8> = bytes.drain(..=end).collect();
    let text = core::str::from_utf8(&line).map_err(|_| Error::Line)?;
    Ok(Some(text.trim_end().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn questions_and_answers() {
        let part = Question::Part(PartHash::of(b"x"));
        for question in [Question::List, Question::Tuple("hello".into()), part] {
            assert_eq!(Question::parse(&question.to_string()), Ok(question));
        }
        assert_eq!(Head::parse("ok 17"), Ok(Head::Ok(17)));
        assert_eq!(Head::parse("error no such flow"), Ok(Head::Error("no such flow".into())));
    }

    #[test]
    fn hostile_lines_are_refused() {
        for line in ["", "lists", "tuple", "tuple ", "tuple a b", "part 12", "part", "tuple a\u{7}"] {
            assert_eq!(Question::parse(line), Err(Error::Line), "{line:?}");
        }
        for line in ["", "ok", "ok -1", "ok +1", "yes 1", "ok 1 2"] {
            assert_eq!(Head::parse(line), Err(Error::Line), "{line:?}");
        }
        for len in [u64::from(MAX_ANSWER) + 1, u64::MAX] {
            assert_eq!(Head::parse(&alloc::format!("ok {len}")), Err(Error::TooLong));
        }
        assert_eq!(take_line(&mut alloc::vec![b'x'; MAX_LINE]), Err(Error::Line));
        assert_eq!(take_line(&mut b"\xff\n".to_vec()), Err(Error::Line));
    }

    proptest! {
        #[test]
        fn lines_survive_any_cutting(lines in proptest::collection::vec("[ -~]{0,40}[!-~]", 0..6), cut in 1usize..9) {
            let stream: Vec<u8> = lines.iter().flat_map(|l| alloc::format!("{l}\r\n").into_bytes()).collect();
            let (mut bytes, mut got) = (Vec::new(), Vec::new());
            for piece in stream.chunks(cut) {
                bytes.extend_from_slice(piece);
                while let Some(line) = take_line(&mut bytes).unwrap() { got.push(line); }
            }
            prop_assert_eq!(got, lines);
        }

        #[test]
        fn any_line_is_refused_or_read(line in "\\PC{0,60}", words in "(list|tuple|part|ok|error) [a-f0-9 ]{0,70}") {
            for line in [&line, &words] {
                if let Ok(question) = Question::parse(line) {
                    prop_assert_eq!(Question::parse(&question.to_string()), Ok(question));
                }
                let _ = Head::parse(line);
            }
        }
    }
}
