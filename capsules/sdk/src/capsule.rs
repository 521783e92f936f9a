//! Capsule objects: a payload, the type that rules what may be done with it, and where it came from.

use crate::bytes::{Pack, Reader, Writer};
use crate::error::{Error, check, done};
use crate::neighbor::{Neighbor, Neighborhood};
use crate::sys;

/// What depletes a capsule object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Send it back to where it came from.
    Returns = 0,
    /// Send it to one neighbor.
    Sends = 1,
    /// Send it to a neighborhood.
    Multicasts = 2,
    /// Make another capsule from it.
    Derives = 3,
}

const KEEP: i32 = 1;
const NOT_BACK: i32 = 2;

/// A capsule object. It is good until the event's method returns; sending it uses it up.
#[derive(Debug)]
pub struct Capsule {
    handle: u32,
    kind: u8,
    len: u32,
    from: Option<Neighbor>,
}

impl Capsule {
    /// The object that the node handed over, for [`protocol!`](crate::protocol).
    #[doc(hidden)]
    pub fn received(handle: u32, kind: u8, len: u32, from: u32) -> Self {
        Self { handle, kind, len, from: Neighbor::from_bits(from) }
    }

    /// The object of an event that is no capsule's arrival, for [`protocol!`](crate::protocol).
    #[doc(hidden)]
    pub fn of_event(handle: u32) -> Option<Self> {
        let kind = u8::try_from(sys::capsule_kind(handle)).ok()?;
        (handle != 0).then_some(Self { handle, kind, len: 0, from: None })
    }

    /// The object that calls from another protocol brought, for [`protocol!`](crate::protocol).
    #[doc(hidden)]
    pub fn of_call(handle: u32) -> Option<Self> {
        let len = u32::try_from(sys::capsule_len(handle)).unwrap_or(0);
        Self::of_event(handle).map(|capsule| Self { len, ..capsule })
    }

    /// The handle; 0 for none.
    #[doc(hidden)]
    pub fn to_bits(&self) -> u32 {
        self.handle
    }

    /// The position of its type in the protocol's list.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// Length of the payload, in bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The neighbor that it came from.
    pub fn from(&self) -> Option<Neighbor> {
        self.from
    }

    /// How often `operation` can still be done.
    pub fn left(&self, operation: Operation) -> u32 {
        check(sys::capsule_left(self.handle, operation as i32)).unwrap_or(0)
    }

    /// Copies payload from `offset` on into `buffer`; returns what was copied.
    pub fn read<'a>(&self, offset: usize, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let n = check(sys::capsule_read(self.handle, offset as u32, buffer))? as usize;
        buffer.get(..n).ok_or(Error::Unavailable)
    }

    /// Overwrites payload from `offset` on; it must be long enough.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        done(sys::capsule_write(self.handle, offset as u32, bytes))
    }

    /// Makes the payload `len` bytes long; new bytes are 0.
    pub fn resize(&mut self, len: usize) -> Result<(), Error> {
        done(sys::capsule_resize(self.handle, len as u32))?;
        self.len = len as u32;
        Ok(())
    }

    /// Makes `bytes` the payload.
    pub fn set(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.len() != bytes.len() {
            self.resize(bytes.len())?;
        }
        self.write(0, bytes)
    }

    /// Reads a structure from the payload's beginning.
    pub fn get<T: Pack>(&self) -> Option<T> {
        let mut buffer = [0; crate::INBOX];
        T::unpack(&mut Reader::new(self.read(0, &mut buffer).ok()?))
    }

    /// Makes a structure the payload.
    pub fn put<T: Pack>(&mut self, value: &T) -> Result<(), Error> {
        let mut buffer = [0; crate::INBOX];
        let mut writer = Writer::new(&mut buffer);
        value.pack(&mut writer);
        self.set(writer.finish().ok_or(Error::NoRoom)?)
    }

    /// Sends it to a neighbor; nothing is copied.
    pub fn send(self, to: &Neighbor) -> Result<(), Error> {
        done(sys::capsule_send(self.handle, to.to_bits(), 0))
    }

    /// Sends a copy to a neighbor.
    pub fn send_copy(&self, to: &Neighbor) -> Result<(), Error> {
        done(sys::capsule_send(self.handle, to.to_bits(), KEEP))
    }

    /// Sends it back to where it came from.
    pub fn return_to_sender(self) -> Result<(), Error> {
        done(sys::capsule_return(self.handle, 0))
    }

    /// Sends a copy back to where it came from.
    pub fn return_copy(&self) -> Result<(), Error> {
        done(sys::capsule_return(self.handle, KEEP))
    }

    /// Sends it to all neighbors; returns how many were reached.
    pub fn multicast(self, to: &Neighborhood) -> Result<u32, Error> {
        check(sys::capsule_multicast(self.handle, to.to_bits(), 0))
    }

    /// Sends it to all neighbors but the one that it came from; returns how many were reached.
    pub fn multicast_onward(self, to: &Neighborhood) -> Result<u32, Error> {
        check(sys::capsule_multicast(self.handle, to.to_bits(), NOT_BACK))
    }

    /// Sends copies to all neighbors; returns how many were reached.
    pub fn multicast_copy(&self, to: &Neighborhood) -> Result<u32, Error> {
        check(sys::capsule_multicast(self.handle, to.to_bits(), KEEP))
    }

    /// Makes an empty capsule of another type: a `Kind`, or its number.
    pub fn derive(&mut self, kind: impl Into<u8>) -> Result<Self, Error> {
        let kind = kind.into();
        let handle = check(sys::capsule_derive(self.handle, i32::from(kind)))?;
        Ok(Self { handle, kind, len: 0, from: None })
    }

    /// Gives it up before the event ends, for its memory.
    pub fn discard(self) {
        sys::capsule_drop(self.handle);
    }
}
