//! Envelopes: capabilities for other flows on the same node (`docs/abi/envelope.md`).

use crate::crypto::Scheme;
use crate::error::{Error, check, done};
use crate::sys;

/// The name of an envelope. Whoever knows it may try to open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope(pub [u8; 16]);

/// What seals envelopes, and what opens those that it sealed: numbers of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Seals.
    pub sealer: u32,
    /// Opens.
    pub unsealer: u32,
}

impl Pair {
    /// A new pair.
    pub fn new() -> Result<Self, Error> {
        let mut pair = [0; 2];
        done(sys::seal_make(&mut pair))?;
        Ok(Self { sealer: pair[0], unsealer: pair[1] })
    }
}

impl Envelope {
    /// Puts the capability `bits` into an envelope, for the flow of this hash or for any.
    pub fn new(bits: u32, flow: Option<&[u8; 32]>) -> Result<Self, Error> {
        let mut id = [0; 16];
        done(sys::envelope_make(bits, flow.map_or(&[], |f| f), &mut id))?;
        Ok(Self(id))
    }

    /// From now on only the unsealer of this pair opens it.
    pub fn seal(&self, sealer: u32) -> Result<(), Error> {
        done(sys::envelope_seal(&self.0, sealer))
    }

    /// From now on only a proof by this key opens it.
    pub fn lock(&self, scheme: Scheme, key: &[u8]) -> Result<(), Error> {
        done(sys::envelope_lock(&self.0, scheme as i32, key))
    }

    /// Opens it; gives the capability's number. What it takes depends on how it is sealed.
    pub fn open(&self, unsealer: Option<u32>, proof: &[u8]) -> Result<u32, Error> {
        check(sys::envelope_open(&self.0, unsealer.unwrap_or(0), proof))
    }

    /// Takes it back, if nobody opened it.
    pub fn void(&self) -> Result<(), Error> {
        done(sys::envelope_void(&self.0))
    }
}
