//! From one version of a protocol to the next, while it runs: [`Protocol::handover`](crate::Protocol::handover) writes
//! what the next version must know, and that one's [`Protocol::takeover`](crate::Protocol::takeover) reads it. The
//! simplest state is one [`packed!`](crate::packed) structure.

use crate::bytes::{Fixed, Reader, Writer};
use crate::error::{Error, check, done};
use crate::{Session, sys};

/// The longest structure that [`Handover::put`] and [`Takeover::get`] take, in bytes.
pub const MAX_STRUCTURE: usize = 512;

/// Where a version writes its state.
#[derive(Debug)]
pub struct Handover(());

/// What the version before wrote, from the front.
#[derive(Debug)]
pub struct Takeover {
    len: usize,
    at: usize,
}

impl Handover {
    /// Writes behind what there is; 256 KiB fit, and what both versions' memory budgets hold.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        done(sys::handover_write(bytes))
    }

    /// Writes a structure of at most [`MAX_STRUCTURE`] bytes.
    pub fn put<T: Fixed>(&mut self, structure: &T) -> Result<(), Error> {
        let mut bytes = [0; MAX_STRUCTURE];
        let bytes = bytes.get_mut(..T::LEN).ok_or(Error::TooLarge)?;
        structure.pack(&mut Writer::new(bytes));
        self.write(bytes)
    }

    /// For [`protocol!`](crate::protocol).
    #[doc(hidden)]
    pub fn begin() -> Self {
        Self(())
    }
}

impl Takeover {
    /// How many bytes have not been read.
    pub fn left(&self) -> usize {
        self.len - self.at
    }

    /// Reads on: as much as fits `buffer`.
    pub fn read<'a>(&mut self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let n = check(sys::handover_read(self.at as u32, buffer))? as usize;
        let read = buffer.get(..n.min(self.left())).ok_or(Error::Unavailable)?;
        self.at += read.len();
        Ok(read)
    }

    /// Reads a structure. [`Error::BadArgument`]: what comes is none.
    pub fn get<T: Fixed>(&mut self) -> Result<T, Error> {
        let mut bytes = [0; MAX_STRUCTURE];
        let bytes = bytes.get_mut(..T::LEN).ok_or(Error::TooLarge)?;
        let read = self.read(bytes)?;
        if read.len() < T::LEN {
            return Err(Error::BadArgument);
        }
        T::unpack(&mut Reader::new(read)).ok_or(Error::BadArgument)
    }

    /// The session that the version before knew by this number ([`Session::number`]). [`Error::NotFound`]: it is over.
    pub fn session(&self, number: u32) -> Result<Session, Error> {
        check(sys::handover_session(number)).map(Session::from_bits)
    }

    /// For [`protocol!`](crate::protocol).
    #[doc(hidden)]
    pub fn begin(len: usize) -> Self {
        Self { len, at: 0 }
    }
}

/// What a handler gave, as the number that the node gets.
#[doc(hidden)]
pub fn result(result: Result<(), Error>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => -(error as i32),
    }
}
