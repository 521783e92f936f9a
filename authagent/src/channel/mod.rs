//! The control channel between a client and a node, on a byte stream (TCP port 3322).
//!
//! ```text
//!   client                                                 node
//!     e                                       -->                        32 bytes
//!                  <--   e, ee, s, es, certificate                      192 bytes
//!     ------------------------- all that follows is sealed -------------------------
//!     wire::control::Login                    -->
//!                  <--                        wire::control::LoginAnswer
//!     messages                               <-->                       messages
//! ```
//!
//! The handshake is Noise NX (`Noise_NX_25519_ChaChaPoly_SHA256`, prologue
//! [`LOGIN_CONTEXT`]). The node proves its identity with the certificate
//! (see [`crate::keys`]), the client its principal with a signature over the handshake's hash, which no
//! other handshake has. Every Noise message goes in a record: its length in two bytes, high byte first,
//! then the message.
//!
//! [`Client`] and [`Server`] are the two ends, without a socket: received bytes go into `push`, which
//! appends what they mean to a list, and `take_output` gives the bytes to send. An error ends the
//! channel: send what `take_output` still has, and close the stream. Both ends are [`Send`], so that a
//! node can shake hands in a job.
//!
//! What a stranger can cost a node before the login: 32 bytes of entropy when it connects; one X25519
//! multiplication by the base point and two by other points for its 34 bytes, at most 618 bytes of
//! buffer for its login, and the check of one Ed25519 signature. Then the channel is open or closed.
//! The node bounds how many strangers there are at once and how long each may take.

mod client;
mod error;
pub(crate) mod noise;
mod server;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use snow::{HandshakeState, TransportState};
use wire::control::{LOGIN_CONTEXT, MAX_MESSAGE};

use crate::keys::CERTIFICATE_LEN;
use noise::{KEY_LEN, TAG_LEN};

pub use client::{Client, ClientEvent};
pub use error::{ChannelError, LoginFault};
pub use server::{Gate, PrincipalKeys, Server, ServerEvent};

/// Length of the client's handshake message, in bytes.
const HELLO_LEN: usize = KEY_LEN;
/// Length of the node's handshake message, in bytes.
const REPLY_LEN: usize = KEY_LEN + KEY_LEN + TAG_LEN + CERTIFICATE_LEN + TAG_LEN;
/// The longest login, in bytes: what a name and a signature of full length need.
const MAX_LOGIN: usize = 600;
/// The longest answer to a login, in bytes.
const MAX_LOGIN_ANSWER: usize = 300;

/// What a principal signs to log in.
fn login_statement(handshake_hash: &[u8]) -> Vec<u8> {
    [LOGIN_CONTEXT, handshake_hash].concat()
}

/// Takes records out of a stream; holds at most one that is not complete.
#[derive(Default)]
struct Records {
    partial: Vec<u8>,
}

impl Records {
    /// Takes from `bytes` what the next record lacks; the record's content once it is complete. A
    /// length that is not `allowed` is refused as soon as it is known.
    fn take(
        &mut self,
        bytes: &mut &[u8],
        allowed: RangeInclusive<usize>,
    ) -> Result<Option<Vec<u8>>, ChannelError> {
        self.fill(bytes, 2);
        let Some(&length) = self.partial.first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(length));
        if !allowed.contains(&length) {
            return Err(ChannelError::Length(length));
        }
        self.fill(bytes, 2 + length);
        if self.partial.len() < 2 + length {
            return Ok(None);
        }
        let mut record = core::mem::take(&mut self.partial);
        record.drain(..2);
        Ok(Some(record))
    }

    fn fill(&mut self, bytes: &mut &[u8], goal: usize) {
        let missing = goal.saturating_sub(self.partial.len()).min(bytes.len());
        let (now, later) = bytes.split_at(missing);
        self.partial.extend_from_slice(now);
        *bytes = later;
    }
}

/// What both ends have: how far the channel is, what came and what is to be sent. `L` is what an end must
/// remember for the login.
struct Line<L> {
    /// Nothing once the channel is closed.
    stage: Option<Stage<L>>,
    /// Length of the other side's handshake message.
    hello: usize,
    /// Longest message of the other side in the login.
    login: usize,
    records: Records,
    output: Vec<u8>,
}

/// What an end waits for.
enum Stage<L> {
    /// The other side's handshake message.
    Hello(Box<HandshakeState>),
    /// The other side's part of the login.
    Login(Box<TransportState>, L),
    /// Messages.
    Open(Box<TransportState>),
}

/// A record's content, and the stage for which it came.
type Arrived<L> = (Stage<L>, Vec<u8>);

impl<L> Line<L> {
    fn new(state: HandshakeState, hello: usize, login: usize) -> Self {
        let stage = Some(Stage::Hello(Box::new(state)));
        Self { stage, hello, login, records: Records::default(), output: Vec::new() }
    }

    /// The next complete record, and the stage for which it came. The channel is closed until whoever
    /// handles the record puts the next stage in, so every error closes it.
    fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Arrived<L>>, ChannelError> {
        let stage = self.stage.take().ok_or(ChannelError::Closed)?;
        let allowed = match stage {
            Stage::Hello(_) => self.hello..=self.hello,
            Stage::Login(..) => TAG_LEN..=self.login + TAG_LEN,
            Stage::Open(_) => TAG_LEN..=MAX_MESSAGE + TAG_LEN,
        };
        let record = self.records.take(bytes, allowed)?;
        if record.is_none() {
            self.stage = Some(stage);
            return Ok(None);
        }
        Ok(record.map(|record| (stage, record)))
    }

    /// Opens a message after the login.
    fn message(
        &mut self,
        mut transport: Box<TransportState>,
        record: &[u8],
    ) -> Result<Vec<u8>, ChannelError> {
        let message = open(&mut transport, record)?;
        self.stage = Some(Stage::Open(transport));
        Ok(message)
    }

    fn send(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        if message.len() > MAX_MESSAGE {
            return Err(ChannelError::TooLong(message.len()));
        }
        match &mut self.stage {
            Some(Stage::Open(transport)) => seal(transport, &mut self.output, message),
            Some(_) => Err(ChannelError::NotLoggedIn),
            None => Err(ChannelError::Closed),
        }
    }

    fn finish(&self) -> Result<(), ChannelError> {
        match self.stage {
            None => Ok(()),
            Some(Stage::Open(_)) if self.records.partial.is_empty() => Ok(()),
            Some(_) => Err(ChannelError::Truncated),
        }
    }
}

impl<L> fmt::Debug for Line<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.stage {
            Some(Stage::Hello(_)) => "before the handshake",
            Some(Stage::Login(..)) => "before the login",
            Some(Stage::Open(_)) => "open",
            None => "closed",
        })
    }
}

/// Appends a record to what is to be sent.
fn put_record(output: &mut Vec<u8>, content: &[u8]) {
    // No record is longer than a Noise message, and that is at most 65535 bytes.
    output.extend_from_slice(&(content.len() as u16).to_be_bytes());
    output.extend_from_slice(content);
}

/// Seals a message into a record.
fn seal(transport: &mut TransportState, output: &mut Vec<u8>, message: &[u8]) -> Result<(), ChannelError> {
    let mut sealed = vec![0; message.len() + TAG_LEN];
    let n = transport.write_message(message, &mut sealed).map_err(|_| ChannelError::Exhausted)?;
    put_record(output, &sealed[..n]);
    Ok(())
}

/// Opens a record.
fn open(transport: &mut TransportState, record: &[u8]) -> Result<Vec<u8>, ChannelError> {
    let mut message = vec![0; record.len().saturating_sub(TAG_LEN)];
    let n = transport.read_message(record, &mut message).map_err(|_| ChannelError::Record)?;
    message.truncate(n);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_however_the_stream_is_cut() {
        let mut stream = vec![];
        let contents: [&[u8]; 3] = [b"", b"one", &[7; 300]];
        contents.iter().for_each(|c| put_record(&mut stream, c));
        for size in 1..stream.len() {
            let (mut records, mut found) = (Records::default(), vec![]);
            for mut bytes in stream.chunks(size) {
                while let Some(r) = records.take(&mut bytes, 0..=300).unwrap() {
                    found.push(r);
                }
                assert!(bytes.is_empty() && records.partial.len() < 302);
            }
            assert_eq!(found, contents, "pieces of {size}");
        }
    }

    #[test]
    fn a_wrong_length_is_refused_before_its_content_comes() {
        let mut records = Records::default();
        assert_eq!(records.take(&mut &[0xff][..], 16..=20), Ok(None));
        assert_eq!(records.take(&mut &[0xff][..], 16..=20), Err(ChannelError::Length(65535)));
        assert_eq!(Records::default().take(&mut &[0, 15][..], 16..=20), Err(ChannelError::Length(15)));
    }
}
