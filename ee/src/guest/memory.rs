//! The single door to guest memory.
//!
//! A pointer and a length from a guest are an allegation. [`GuestSlice`] is that allegation; only its two
//! methods turn it into bytes, after checking it against the memory as it is now and against the cap of
//! 64 KiB. Never index guest memory in another way.

use crate::abi::{Error, MAX_LEN};

/// What a guest says is a stretch of its memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuestSlice {
    ptr: u32,
    len: u32,
}

impl GuestSlice {
    pub const fn new(ptr: u32, len: u32) -> Self {
        Self { ptr, len }
    }

    /// The bytes, to read.
    pub fn read(self, memory: &[u8]) -> Result<&[u8], Error> {
        memory.get(self.range()?).ok_or(Error::BadPointer)
    }

    /// The bytes, to write.
    pub fn write(self, memory: &mut [u8]) -> Result<&mut [u8], Error> {
        memory.get_mut(self.range()?).ok_or(Error::BadPointer)
    }

    fn range(self) -> Result<std::ops::Range<usize>, Error> {
        if self.len > MAX_LEN {
            return Err(Error::BadPointer);
        }
        let start = self.ptr as usize;
        let end = start.checked_add(self.len as usize).ok_or(Error::BadPointer)?;
        Ok(start..end)
    }
}

/// Copies as much of `from` as fits into `to`; how much that is.
pub(crate) fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let n = from.len().min(to.len());
    to[..n].copy_from_slice(&from[..n]);
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_allegation_reaches_outside(ptr in prop_oneof![0u32..70_000, any::<u32>()], len in prop_oneof![0u32..70_000, any::<u32>()]) {
            let mut memory = vec![0u8; 65_536 + 4096];
            let fits = len <= MAX_LEN && u64::from(ptr) + u64::from(len) <= memory.len() as u64;
            let slice = GuestSlice::new(ptr, len);
            prop_assert_eq!(slice.read(&memory).map(<[u8]>::len).ok(), fits.then_some(len as usize));
            prop_assert_eq!(slice.write(&mut memory).is_ok(), fits);
        }
    }
}
