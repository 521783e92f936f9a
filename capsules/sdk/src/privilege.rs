//! Privileges: what a flow asks for in its tuple and a node's Auth Agent may grant. A protocol that does not
//! get one gets [`Error::NotFound`] and goes on without.

use crate::error::{Error, check, done};
use crate::neighbor::Neighbor;
use crate::sys;

/// Whether the flow was granted the privilege of this name, and still has it: one of the node's own, or an interface's.
pub fn is_granted(name: &[u8]) -> bool {
    check(sys::cap_lookup(name)).is_ok()
}

/// Whether handlers may take longer than an event, in slices: the privilege `background`
/// (`docs/abi/background.md`).
pub fn in_background() -> bool {
    is_granted(b"background")
}

/// The longest name of a sensor, in bytes.
pub const MAX_SENSOR: usize = 64;

/// The privilege to read what the node measures of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sensors(u32);

/// The privilege to have the node sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeKey(u32);

/// The privilege to see how many frames wait for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queues(u32);

impl Queues {
    /// Asks for it.
    pub fn find() -> Result<Self, Error> {
        check(sys::cap_lookup(b"queues")).map(Self)
    }

    /// Frames that waited for the link to a neighbor when the event began.
    pub fn waiting(&self, to: &Neighbor) -> Result<u32, Error> {
        check(sys::link_waiting(self.0, to.to_bits()))
    }
}

impl Sensors {
    /// Asks for it.
    pub fn find() -> Result<Self, Error> {
        check(sys::cap_lookup(b"sensors")).map(Self)
    }

    /// The value of the sensor `name`; after the last dash of a name stands the unit.
    pub fn read(&self, name: &[u8]) -> Result<i64, Error> {
        let mut value = [0; 8];
        done(sys::sensor_read(self.0, name, &mut value))?;
        Ok(i64::from_le_bytes(value))
    }

    /// The names of all sensors as far as `buffer` takes them, each followed by a line feed.
    pub fn names<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let n = check(sys::sensor_list(self.0, buffer))? as usize;
        let n = n.min(buffer.len());
        Ok(&buffer[..n])
    }

    /// The capability's number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The capability that came in an envelope.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl NodeKey {
    /// Asks for it.
    pub fn find() -> Result<Self, Error> {
        check(sys::cap_lookup(b"node-key")).map(Self)
    }

    /// The node's Ed25519 signature over a context, this flow's hash and `bytes` (`docs/abi/key.md`).
    pub fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], Error> {
        let mut signature = [0; 64];
        done(sys::key_sign(self.0, bytes, &mut signature))?;
        Ok(signature)
    }

    /// The key by which others check that: the node's identity.
    pub fn public(&self) -> Result<[u8; 32], Error> {
        let mut public = [0; 32];
        done(sys::key_public(self.0, &mut public))?;
        Ok(public)
    }

    /// The capability's number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The capability that came in an envelope.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// Takes back a capability, its duplicates, and what other flows got of them by envelopes.
pub fn revoke(bits: u32) -> Result<(), Error> {
    done(sys::cap_revoke(bits))
}
