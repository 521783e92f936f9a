//! Why a control channel ended, and who is to blame.

use alloc::string::String;
use core::fmt;

use wire::control::{Erred, MAX_MESSAGE, VERSION};

use crate::NoEntropy;
use crate::keys::Ed25519Key;

/// Why a channel ended, or a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelError {
    /// There are no random bytes for a handshake.
    Entropy,
    /// A record has a length that cannot be at this place.
    Length(usize),
    /// The other side's handshake message is wrong or was changed on the way.
    Handshake,
    /// The node's certificate is wrong.
    Certificate,
    /// The node is not the one that was expected.
    WrongNode {
        /// The identity that was expected.
        expected: Ed25519Key,
        /// The identity that the node proved.
        found: Ed25519Key,
    },
    /// A sealed record was changed, repeated, left out or moved.
    Record,
    /// The node answered the login with something else.
    Answer,
    /// The node speaks another version of the control protocol.
    Version(u16),
    /// The client's login was refused (on the node; the client learns only [`Self::Refused`]).
    Login(LoginFault),
    /// The node refused the login and does not say why.
    Refused,
    /// The stream ended in the middle of a record, or before the login.
    Truncated,
    /// A message cannot be sent before the login.
    NotLoggedIn,
    /// A message to be sent is too long, or a principal's name to log in with.
    TooLong(usize),
    /// The channel has sent as many messages as its keys allow.
    Exhausted,
    /// The channel ended before.
    Closed,
}

/// What was wrong with a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginFault {
    /// Not a login message, or a name that can be nobody's.
    Malformed,
    /// Another version of the control protocol.
    Version(u16),
    /// Nobody has this name, or no key of the scheme that was used.
    UnknownPrincipal(String),
    /// The proof is not this principal's signature over this handshake.
    WrongProof(String),
}

impl ChannelError {
    /// Who is to blame; `Node` is whoever owns this end of the channel.
    pub fn erred(&self) -> Erred {
        match self {
            Self::Length(_)
            | Self::Handshake
            | Self::Certificate
            | Self::WrongNode { .. }
            | Self::Record
            | Self::Answer
            | Self::Version(_)
            | Self::Truncated
            | Self::Login(LoginFault::Malformed | LoginFault::Version(_)) => Erred::Peer,
            Self::Login(LoginFault::UnknownPrincipal(_) | LoginFault::WrongProof(_)) | Self::Refused => {
                Erred::Principal
            }
            Self::Entropy | Self::NotLoggedIn | Self::TooLong(_) | Self::Exhausted | Self::Closed => {
                Erred::Node
            }
        }
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entropy => NoEntropy.fmt(f),
            Self::Length(n) => write!(f, "a record of {n} bytes cannot be here"),
            Self::Handshake => f.write_str("the handshake failed: wrong or changed message"),
            Self::Certificate => f.write_str("the node's certificate is wrong"),
            Self::WrongNode { expected, found } => {
                write!(f, "this is another node: expected identity {expected}, found {found}")
            }
            Self::Record => f.write_str("a sealed record was changed, repeated, left out or moved"),
            Self::Answer => f.write_str("the node's answer to the login makes no sense"),
            Self::Version(v) => write!(f, "control protocol {v}, this release speaks {VERSION}"),
            Self::Login(fault) => fault.fmt(f),
            Self::Refused => {
                f.write_str("the node refused the login: wrong key, unknown principal or other version")
            }
            Self::Truncated => f.write_str("the connection was closed before its time"),
            Self::NotLoggedIn => f.write_str("messages can be sent only after the login"),
            Self::TooLong(n) => write!(f, "{n} bytes are too many, {MAX_MESSAGE} are allowed in a message"),
            Self::Exhausted => f.write_str("the channel's keys are used up"),
            Self::Closed => f.write_str("the channel is closed"),
        }
    }
}

impl core::error::Error for ChannelError {}

impl From<NoEntropy> for ChannelError {
    fn from(_: NoEntropy) -> Self {
        Self::Entropy
    }
}

impl fmt::Display for LoginFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("login refused: not a login message"),
            Self::Version(v) => {
                write!(f, "login refused: control protocol {v}, this release speaks {VERSION}")
            }
            Self::UnknownPrincipal(name) => write!(f, "login refused: no such principal or key: {name}"),
            Self::WrongProof(name) => write!(f, "login refused: wrong proof for {name}"),
        }
    }
}

/// What went wrong in a handshake.
pub(super) fn handshake_error(error: snow::Error) -> ChannelError {
    match error {
        snow::Error::Rng => ChannelError::Entropy,
        _ => ChannelError::Handshake,
    }
}
