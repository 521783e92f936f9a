//! Companions: the protocols of the same flow, which serve this one or are served by it.
//!
//! The tuple says which module serves an interface; a protocol names the interface alone. A call runs the
//! other protocol within the caller's event and on its time, and moves bytes and nothing else.

use crate::error::{Error, check, done};
use crate::neighbor::Neighbor;
use crate::{Text, sys};

/// The longest message and the longest answer, in bytes.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// What companions' names begin with among those of capabilities.
const PREFIX: &str = "companion/";

/// A capability for another protocol of the same flow. It lasts as long as the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Companion(u32);

/// A call from another protocol of the same flow.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Who calls; it can be called back in a later event.
    pub from: Companion,
    /// What is wanted: a number that the two agree on.
    pub operation: u32,
    /// The message's beginning, at most [`INBOX`](crate::INBOX) bytes.
    pub head: &'a [u8],
    /// Length of the message, in bytes.
    pub len: usize,
}

impl Companion {
    /// The companion that serves this interface.
    pub fn find(interface: &str) -> Result<Self, Error> {
        let mut name = Text::<80>::new();
        name.push(PREFIX);
        name.push(interface);
        check(sys::cap_lookup(name.as_bytes())).map(Self)
    }

    /// The protocol that this one serves.
    pub fn parent() -> Result<Self, Error> {
        check(sys::cap_lookup(b"parent")).map(Self)
    }

    /// Has it do something; the result is what it returned. What it answered beside is read with
    /// [`answer`] until the next call.
    pub fn call(&self, operation: u32, message: &[u8]) -> Result<u32, Error> {
        check(sys::companion_call(self.0, operation, message))
    }

    /// Has it do something; the result is the beginning of what it answered, as much as fits `buffer`.
    pub fn ask<'a>(&self, operation: u32, message: &[u8], buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        self.call(operation, message)?;
        answer(0, buffer)
    }

    /// Keeps it, and whoever serves it, from a neighbor for good. A parent cannot be kept from anything.
    pub fn deny(&self, neighbor: Neighbor) -> Result<(), Error> {
        done(sys::companion_deny(self.0, neighbor.to_bits()))
    }

    /// The capability's number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The protocol of a capability's number.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// Copies from what the last call in this event answered, from `offset` on.
pub fn answer(offset: usize, buffer: &mut [u8]) -> Result<&[u8], Error> {
    let n = check(sys::companion_answer(offset as u32, buffer))? as usize;
    buffer.get(..n).ok_or(Error::Unavailable)
}

impl Call<'_> {
    /// Copies the message from `offset` on.
    pub fn read<'a>(&self, offset: usize, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let n = check(sys::companion_read(offset as u32, buffer))? as usize;
        buffer.get(..n).ok_or(Error::Unavailable)
    }

    /// Sets what the caller gets beside the result; the last one counts.
    pub fn reply(&self, answer: &[u8]) -> Result<(), Error> {
        done(sys::companion_reply(answer))
    }
}

/// What a protocol returned for a call as the number that the caller gets.
pub fn result(result: Result<u32, Error>) -> i32 {
    match result {
        Ok(value) => value.min(i32::MAX as u32) as i32,
        Err(error) => -(error as i32),
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;
