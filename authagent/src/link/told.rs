//! What a protected link tells its node: events, what a frame was, and why one was refused.

use core::fmt;

use wire::control::Erred;

use crate::NoEntropy;
use crate::keys::Ed25519Key;

/// Something happened to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// The neighbor proved this identity: packets can be sent.
    Up(Ed25519Key),
    /// The neighbor is gone, or started anew.
    Down,
    /// New keys replaced old ones.
    Renewed,
    /// There are no random bytes for a handshake.
    NoEntropy,
}

/// What a received frame was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A packet of so many bytes, which are in the caller's buffer.
    Packet(usize),
    /// Part of a handshake, or a sign of life.
    Handled,
}

/// Why a frame was refused. The peer erred unless [`Self::erred`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A frame that is not protected, on a link that is.
    Unprotected,
    /// Not a frame.
    Malformed,
    /// Not sealed by the neighbor, or changed on the way.
    Forged,
    /// Heard before, or too old to tell.
    Replayed,
    /// For keys or a handshake that this end does not have (any more).
    Stale,
    /// The neighbor proved to be somebody else, or its handshake message is wrong.
    Handshake,
    /// More handshake messages than are looked at in a second.
    Limited,
    /// There are no random bytes for a handshake.
    Entropy,
}

impl Refused {
    /// Who is to blame.
    pub fn erred(&self) -> Erred {
        if *self == Self::Entropy { Erred::Node } else { Erred::Peer }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unprotected => "sent an unprotected frame on a protected link",
            Self::Malformed => "sent a malformed frame on a protected link",
            Self::Forged => "sent a frame that the neighbor did not seal",
            Self::Replayed => "sent a frame again, or far too late",
            Self::Stale => "sent a frame under keys that are not known here",
            Self::Handshake => "did not prove that it is the neighbor",
            Self::Limited => "sends too many handshake messages",
            Self::Entropy => "no healthy source of random bytes",
        })
    }
}

impl core::error::Error for Refused {}

impl From<NoEntropy> for Refused {
    fn from(_: NoEntropy) -> Self {
        Self::Entropy
    }
}
