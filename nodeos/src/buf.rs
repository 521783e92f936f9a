//! Packet buffers: fixed blocks of [`BLOCK`] bytes, lent from a bounded pool and returned to it
//! when dropped.
//!
//! A block is aligned to its own size, so it never crosses a page: a driver may hand its address to
//! a device as it is. The first [`HEADROOM`] bytes are kept free for headers that are put in front
//! later (a virtio header, an Ethernet header on an outgoing capsule), so that a frame is forwarded
//! in the buffer that it arrived in.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;

/// Size and alignment of one block, in bytes.
pub const BLOCK: usize = 2048;
/// Bytes left free in front of a fresh buffer's contents.
pub const HEADROOM: usize = 160;

/// The memory of one buffer.
#[repr(C, align(2048))]
pub struct Block([u8; BLOCK]);

/// A bounded supply of buffers. Cloning gives another handle to the same supply.
#[derive(Clone)]
pub struct BufPool {
    shared: Arc<Shared>,
}

struct Shared {
    #[expect(clippy::vec_box, reason = "a block moves between pool and buffer without being copied")]
    free: Mutex<Vec<Box<Block>>>,
    made: AtomicUsize,
    limit: usize,
}

impl BufPool {
    /// A pool of at most `limit` buffers. Blocks are made on first use and then kept.
    pub fn new(limit: usize) -> Self {
        let free = Mutex::new(Vec::with_capacity(limit));
        Self { shared: Arc::new(Shared { free, made: AtomicUsize::new(0), limit }) }
    }

    /// An empty buffer with [`HEADROOM`] bytes in front, or `None` when all are lent.
    #[inline]
    pub fn take(&self) -> Option<Buf> {
        let recycled = self.shared.free.lock().pop();
        let block = match recycled {
            Some(block) => block,
            None => self.make()?,
        };
        Some(Buf { block: Some(block), home: self.shared.clone(), head: HEADROOM as u16, len: 0 })
    }

    /// A buffer holding a copy of `bytes`, or `None` when all are lent or `bytes` does not fit.
    pub fn copy_of(&self, bytes: &[u8]) -> Option<Buf> {
        let mut buf = self.take()?;
        buf.extend_from_slice(bytes).ok()?;
        Some(buf)
    }

    /// How many buffers are lent at the moment.
    pub fn lent(&self) -> usize {
        self.shared.made.load(Ordering::Relaxed) - self.shared.free.lock().len()
    }

    /// How many buffers there can be.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    fn make(&self) -> Option<Box<Block>> {
        let made = &self.shared.made;
        let limit = self.shared.limit;
        made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1)).ok()?;
        Some(Box::new(Block([0; BLOCK])))
    }
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufPool({} of {} lent)", self.lent(), self.limit())
    }
}

/// One packet buffer: the bytes of a frame or a part of it, with room in front and behind.
pub struct Buf {
    /// `Some` until dropped.
    block: Option<Box<Block>>,
    home: Arc<Shared>,
    /// Where in the block the contents begin. In few bytes, as the length: buffers are moved all the time.
    head: u16,
    len: u16,
}

/// The bytes do not fit into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes do not fit into the packet buffer")
    }
}

impl core::error::Error for NoRoom {}

impl Buf {
    /// How many bytes it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Whether it holds none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Free bytes in front of the contents.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.head.into()
    }

    /// Free bytes behind the contents.
    #[inline]
    pub fn tailroom(&self) -> usize {
        BLOCK - self.headroom() - self.len()
    }

    /// Makes room for `n` bytes in front and returns them, contents undefined.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        // No number here is above BLOCK, which has room in 16 bits.
        self.head = self.headroom().checked_sub(n).ok_or(NoRoom)? as u16;
        self.len += n as u16;
        Ok(&mut self[..n])
    }

    /// Drops the first `n` bytes (all of them when there are fewer).
    #[inline]
    pub fn pull_front(&mut self, n: usize) {
        let n = n.min(self.len()) as u16;
        self.head += n;
        self.len -= n;
    }

    /// Appends `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        if bytes.len() > self.tailroom() {
            return Err(NoRoom);
        }
        let old = self.len();
        self.len += bytes.len() as u16;
        self[old..].copy_from_slice(bytes);
        Ok(())
    }

    /// Sets the length to `len`: longer exposes bytes of undefined contents, shorter drops the end.
    #[inline]
    pub fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if len > BLOCK - self.headroom() {
            return Err(NoRoom);
        }
        self.len = len as u16;
        Ok(())
    }

    /// Empties the buffer and sets its head `headroom` bytes into the block.
    pub fn reset(&mut self, headroom: usize) {
        self.head = headroom.min(BLOCK) as u16;
        self.len = 0;
    }

    #[inline]
    fn block(&self) -> &Block {
        self.block.as_deref().expect("a buffer has its block until it is dropped")
    }
}

impl Deref for Buf {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.block().0[self.headroom()..][..self.len()]
    }
}

impl DerefMut for Buf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let (head, len) = (self.headroom(), self.len());
        let block = self.block.as_deref_mut().expect("a buffer has its block until it is dropped");
        &mut block.0[head..][..len]
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.home.free.lock().push(block);
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let pool = BufPool::new(2);
        let a = pool.take().unwrap();
        let b = pool.copy_of(b"capsule").unwrap();
        assert_eq!(&b[..], b"capsule");
        assert!(pool.take().is_none());
        drop(a);
        assert_eq!(pool.lent(), 1);
        assert!(pool.take().is_some());
    }

    #[test]
    fn room_is_checked() {
        let pool = BufPool::new(1);
        let mut b = pool.copy_of(b"payload").unwrap();
        b.push_front(HEADROOM).unwrap();
        assert_eq!(b.push_front(1), Err(NoRoom));
        b.pull_front(HEADROOM);
        assert_eq!(&b[..], b"payload");
        assert_eq!(b.extend_from_slice(&[0; BLOCK]), Err(NoRoom));
        assert_eq!(b.set_len(BLOCK), Err(NoRoom));
        b.pull_front(100);
        assert!(b.is_empty());
    }
}
