//! Frames of a protected link: the handshake of two neighbors, and sealed packets.
//!
//! ```text
//!  ANEP header, type 0xBEE6, no flags, no options                           8
//!  kind(1) | 0 0 0 | index(4)                                               8
//!  1 hello   index = sender's    | cookie(16) | Noise 1 (32)  | zeros(148)
//!  2 answer  index = receiver's  | sender(4)  | Noise 2 (192)
//!  3 proof   index = receiver's  | Noise 3 (160)
//!  4 cookie  index = receiver's  | cookie(16)
//!  5 sealed  index = receiver's  | counter(8) | ciphertext, tag(16)
//! ```
//!
//! No frame is longer than the one that it answers: a hello is padded to the length of an answer. Numbers are
//! big endian. An index names a handshake and then its keys, at the end that chose it. There is one way
//! to write each frame, and no other is read.

use crate::anep;
use core::fmt;

/// Length of what is common to all frames, ANEP header included.
const COMMON: usize = anep::HEADER_LEN + 8;
/// Length of a cookie in bytes.
pub const COOKIE_LEN: usize = 16;
/// Length of the first Noise message: an ephemeral key.
pub const HELLO_NOISE: usize = 32;
/// Length of the second: an ephemeral key, a static key and its tag, a certificate and its tag.
pub const ANSWER_NOISE: usize = 32 + 48 + 112;
/// Length of the third: a static key and its tag, a certificate and its tag.
pub const PROOF_NOISE: usize = 48 + 112;
/// Zeros behind a hello.
const PADDING: usize = 4 + ANSWER_NOISE - COOKIE_LEN - HELLO_NOISE;
/// Length of the longest handshake frame in bytes.
pub const MAX_HANDSHAKE: usize = COMMON + 4 + ANSWER_NOISE;
/// Bytes in front of the ciphertext of a sealed frame.
pub const SEALED_HEADER: usize = COMMON + 8;
/// Length of the tag behind a ciphertext.
pub const TAG_LEN: usize = 16;
/// Bytes that sealing adds to a packet.
pub const OVERHEAD: usize = SEALED_HEADER + TAG_LEN;

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Begins a handshake.
    Hello {
        /// The sender's index.
        sender: u32,
        /// What the other end gave in a [`Frame::Cookie`], or zeros.
        cookie: [u8; COOKIE_LEN],
        /// The first Noise message.
        noise: &'a [u8; HELLO_NOISE],
    },
    /// Answers a hello.
    Answer {
        /// The index in the hello.
        receiver: u32,
        /// The sender's own.
        sender: u32,
        /// The second Noise message.
        noise: &'a [u8; ANSWER_NOISE],
    },
    /// Ends a handshake.
    Proof {
        /// The index in the answer.
        receiver: u32,
        /// The third Noise message.
        noise: &'a [u8; PROOF_NOISE],
    },
    /// Asks for the hello again, with this cookie in it.
    Cookie {
        /// The index in the hello.
        receiver: u32,
        /// The cookie.
        cookie: [u8; COOKIE_LEN],
    },
    /// A packet under the keys of a handshake.
    Sealed {
        /// The index that the receiver chose.
        receiver: u32,
        /// The nonce: no two frames of one end have the same.
        counter: u64,
        /// Ciphertext and tag.
        sealed: &'a [u8],
    },
}

/// Why a packet is no frame of a protected link. The peer erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The ANEP header is malformed.
    Anep(anep::Error),
    /// An ANEP packet of another type.
    Type(u16),
    /// No frame of its kind looks like this.
    Form,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anep(e) => e.fmt(f),
            Self::Type(t) => write!(f, "peer sent ANEP type {t:#06x} on a protected link"),
            Self::Form => f.write_str("peer sent a malformed frame on a protected link"),
        }
    }
}

impl core::error::Error for Error {}

impl<'a> Frame<'a> {
    /// Reads the frame in `packet` (an ANEP packet, possibly with link padding behind it).
    pub fn parse(packet: &'a [u8]) -> Result<Self, Error> {
        let anep = anep::Packet::new_checked(packet).map_err(Error::Anep)?;
        if anep.type_id() != anep::TYPE_LINK {
            return Err(Error::Type(anep.type_id()));
        }
        if anep.flags() != 0 || anep.header_len() != anep::HEADER_LEN {
            return Err(Error::Form);
        }
        let body = &packet[anep::HEADER_LEN..anep.packet_len()];
        Self::body(body).ok_or(Error::Form)
    }

    fn body(body: &'a [u8]) -> Option<Self> {
        let (&[kind, 0, 0, 0], rest) = body.split_first_chunk()? else { return None };
        let (index, rest) = number(rest)?;
        match kind {
            1 => {
                let (cookie, rest) = rest.split_first_chunk()?;
                let (noise, padding) = rest.split_first_chunk()?;
                let padded = padding.len() == PADDING && padding.iter().all(|b| *b == 0);
                padded.then_some(Self::Hello { sender: index, cookie: *cookie, noise })
            }
            2 => {
                let (sender, rest) = number(rest)?;
                Some(Self::Answer { receiver: index, sender, noise: rest.try_into().ok()? })
            }
            3 => Some(Self::Proof { receiver: index, noise: rest.try_into().ok()? }),
            4 => Some(Self::Cookie { receiver: index, cookie: rest.try_into().ok()? }),
            5 => {
                let (counter, sealed) = rest.split_first_chunk()?;
                let whole = sealed.len() >= TAG_LEN;
                let counter = u64::from_be_bytes(*counter);
                whole.then_some(Self::Sealed { receiver: index, counter, sealed })
            }
            _ => None,
        }
    }

    /// Length of the frame with its ANEP header, in bytes.
    pub fn len(&self) -> usize {
        COMMON
            + match self {
                Self::Hello { .. } => COOKIE_LEN + HELLO_NOISE + PADDING,
                Self::Answer { .. } => 4 + ANSWER_NOISE,
                Self::Proof { .. } => PROOF_NOISE,
                Self::Cookie { .. } => COOKIE_LEN,
                Self::Sealed { sealed, .. } => 8 + sealed.len(),
            }
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the frame into `out[..self.len()]`.
    ///
    /// # Panics
    /// When `out` is shorter, or the frame longer than an ANEP packet may be: the caller erred.
    pub fn emit(&self, out: &mut [u8]) {
        let (head, body) = out[..self.len()].split_at_mut(COMMON);
        let mut put = |kind: u8, index: u32| common(head, kind, index, body.len());
        match self {
            Self::Hello { sender, cookie, noise } => {
                put(1, *sender);
                let (first, rest) = body.split_at_mut(COOKIE_LEN);
                first.copy_from_slice(cookie);
                rest[..HELLO_NOISE].copy_from_slice(&noise[..]);
                rest[HELLO_NOISE..].fill(0);
            }
            Self::Answer { receiver, sender, noise } => {
                put(2, *receiver);
                body[..4].copy_from_slice(&sender.to_be_bytes());
                body[4..].copy_from_slice(&noise[..]);
            }
            Self::Proof { receiver, noise } => {
                put(3, *receiver);
                body.copy_from_slice(&noise[..]);
            }
            Self::Cookie { receiver, cookie } => {
                put(4, *receiver);
                body.copy_from_slice(cookie);
            }
            Self::Sealed { receiver, counter, sealed } => {
                put(5, *receiver);
                body[..8].copy_from_slice(&counter.to_be_bytes());
                body[8..].copy_from_slice(sealed);
            }
        }
    }
}

/// Writes what precedes `sealed_len` bytes of ciphertext and tag into `out[..SEALED_HEADER]`.
///
/// # Panics
/// As [`Frame::emit`].
pub fn emit_sealed_header(out: &mut [u8], receiver: u32, counter: u64, sealed_len: usize) {
    common(out, 5, receiver, 8 + sealed_len);
    out[COMMON..SEALED_HEADER].copy_from_slice(&counter.to_be_bytes());
}

fn common(head: &mut [u8], kind: u8, index: u32, rest: usize) {
    anep::emit_header(head, anep::TYPE_LINK, 8 + rest);
    head[anep::HEADER_LEN..COMMON - 4].copy_from_slice(&[kind, 0, 0, 0]);
    head[COMMON - 4..COMMON].copy_from_slice(&index.to_be_bytes());
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const COOKIE: [u8; COOKIE_LEN] = [7; COOKIE_LEN];

    fn frames() -> [Frame<'static>; 5] {
        [
            Frame::Hello { sender: 0x0102_0304, cookie: COOKIE, noise: &[1; HELLO_NOISE] },
            Frame::Answer { receiver: 1, sender: 2, noise: &[2; ANSWER_NOISE] },
            Frame::Proof { receiver: 3, noise: &[3; PROOF_NOISE] },
            Frame::Cookie { receiver: 4, cookie: COOKIE },
            Frame::Sealed { receiver: 5, counter: 0x0506_0708_090a_0b0c, sealed: &[4; 40] },
        ]
    }

    fn written(frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = vec![0xee; frame.len()];
        frame.emit(&mut bytes);
        bytes
    }

    #[test]
    fn every_frame_comes_back_with_padding_behind_it() {
        for frame in frames() {
            let mut bytes = written(&frame);
            bytes.extend([9; 30]);
            assert_eq!(Frame::parse(&bytes), Ok(frame));
        }
    }

    #[test]
    fn the_documented_bytes() {
        let bytes = written(&frames()[4]);
        assert_eq!(&bytes[..8], [1, 0, 0xbe, 0xe6, 0, 2, 0, 64]);
        assert_eq!(&bytes[8..24], [5, 0, 0, 0, 0, 0, 0, 5, 5, 6, 7, 8, 9, 10, 11, 12]);
        let mut header = [0; SEALED_HEADER];
        emit_sealed_header(&mut header, 5, 0x0506_0708_090a_0b0c, 40);
        assert_eq!(header, bytes[..SEALED_HEADER]);
        assert_eq!((OVERHEAD, MAX_HANDSHAKE), (40, 212));
    }

    #[test]
    fn no_answer_is_longer_than_what_it_answers() {
        let [hello, answer, proof, cookie, _] = frames().map(|f| f.len());
        let confirmation = Frame::Sealed { receiver: 0, counter: 0, sealed: &[0; TAG_LEN] }.len();
        assert!(answer <= hello && cookie <= hello && proof <= answer && confirmation <= proof);
    }

    #[test]
    fn there_is_one_way_to_write_a_frame() {
        for frame in frames() {
            let good = written(&frame);
            for at in [1, 9, 10, 11] {
                let mut bad = good.clone();
                bad[at] = 1;
                assert_eq!(Frame::parse(&bad), Err(Error::Form), "{frame:?}, byte {at}");
            }
            for len in 0..good.len() {
                assert!(Frame::parse(&good[..len]).is_err());
            }
        }
        let mut hello = written(&frames()[0]);
        *hello.last_mut().unwrap() = 1;
        assert_eq!(Frame::parse(&hello), Err(Error::Form));
        hello[2..4].copy_from_slice(&anep::TYPE_CAPSULE.to_be_bytes());
        assert_eq!(Frame::parse(&hello), Err(Error::Type(anep::TYPE_CAPSULE)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::parse(&bytes);
        }

        #[test]
        fn what_is_read_is_what_is_written(
            kind in 0u8..7, len in 0usize..260, fill in any::<u8>(), tail in 0usize..9,
        ) {
            let mut bytes = vec![fill; COMMON + len];
            common(&mut bytes, kind, u32::from(fill), len);
            bytes.extend(vec![0; tail]);
            if let Ok(frame) = Frame::parse(&bytes) {
                prop_assert_eq!(&written(&frame)[..], &bytes[..bytes.len() - tail]);
            }
        }
    }
}
