//! Variable-size bytes of one team: soft state, blobs, chunks that wait.
//!
//! A [`Pool`] gets its memory in a few *segments*, each charged to the team's account before it is
//! allocated and given back as soon as it is empty (the smallest one may stay), so what a team holds is
//! always what its account says. Inside a segment `linked_list_allocator` places *chunks*, which are
//! reached by [`Handle`] and never by reference: a stale handle finds nothing, and dropping the pool
//! returns everything at once.
//!
//! # Bounds
//! * A chunk takes its length rounded up to a multiple of 16 bytes, at least 16.
//! * A new segment takes no more than a quarter of what the account has left, unless a chunk is longer or the first
//!   segment was.
//! * Free memory in a segment lies in holes, which are merged when they touch. So a segment with `n` chunks
//!   has at most `n + 1` holes, and `alloc` and `free` look at no more than `chunks + segments` holes in
//!   all ([`Pool::max_holes`]).
//! * What holes can cost: a request may fail although there are as many free bytes, when no hole is long
//!   enough. First fit never needs more than about `live * log2(longest / 16)` bytes (Robson 1977) to
//!   place chunks that together have `live` bytes.
//!
//! This is the one module of the crate with `unsafe`: the allocator writes its list of holes into the
//! free memory itself, which needs raw memory. What keeps it sound is local: segments are only made and
//! freed here, offsets and lengths of chunks come from the allocator and are never changed, and bytes are
//! only lent together with the borrow of the pool.
#![allow(unsafe_code)]

use crate::account::{Account, Charge, Refused};
use crate::slab::{Handle, NoSlot, Slab, pay_for_move};
use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use linked_list_allocator::Heap;

/// Alignment of segments.
const ALIGN: usize = align_of::<usize>();
/// All places are multiples of this, which is what one of the allocator's list nodes takes. So what a
/// placement leaves of a hole is either nothing or a hole again, and a chunk fits wherever it is no longer
/// than the hole.
const GRAIN: usize = 2 * size_of::<usize>();

/// How large a pool may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Bytes of the first segment; each next one is twice as large.
    pub first_segment: usize,
    /// Bytes of the largest segment, and so of the longest chunk.
    pub largest_segment: usize,
    /// Segments at once.
    pub segments: usize,
    /// Chunks at once.
    pub chunks: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { first_segment: 16 << 10, largest_segment: 256 << 10, segments: 32, chunks: 2048 }
    }
}

/// Why there is no room for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocError {
    /// The team's memory budget has too little left.
    Memory(Refused),
    /// There are as many chunks as there may be.
    TooManyChunks,
    /// There are as many segments as there may be, and none has a hole long enough.
    TooManySegments,
    /// No segment can be long enough.
    TooLong,
    /// The node itself is out of memory.
    Exhausted,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(refused) => refused.fmt(f),
            Self::TooManyChunks => f.write_str("the team's pool has no room for one more chunk"),
            Self::TooManySegments => f.write_str("the team's pool has no hole long enough"),
            Self::TooLong => f.write_str("longer than a chunk of the team's pool can be"),
            Self::Exhausted => f.write_str("the node is out of memory"),
        }
    }
}

impl core::error::Error for AllocError {}

/// Bytes of one team, in chunks reached by handle.
pub struct Pool {
    segments: Vec<Option<Segment>>,
    chunks: Slab<Chunk>,
    account: Account,
    limits: PoolLimits,
    /// For the table of segments; that of chunks has a charge of its own.
    table: Option<Charge>,
}

struct Chunk {
    segment: u16,
    offset: u32,
    len: u32,
}

impl Pool {
    /// An empty pool. Its tables and its contents are charged to `account` as they come.
    pub fn new(account: &Account, limits: PoolLimits) -> Result<Self, Refused> {
        let clean = |bytes: usize| bytes.clamp(256, 1 << 30) / GRAIN * GRAIN;
        let first_segment = clean(limits.first_segment);
        let limits = PoolLimits {
            first_segment,
            largest_segment: clean(limits.largest_segment).max(first_segment),
            segments: limits.segments.min(1024),
            chunks: limits.chunks,
        };
        let chunks = Slab::charged(limits.chunks, account)?;
        let table = Some(account.charge(0)?);
        Ok(Self { segments: Vec::new(), chunks, account: account.clone(), limits, table })
    }

    /// A new chunk of `len` zero bytes.
    pub fn alloc(&mut self, len: usize) -> Result<Handle, AllocError> {
        let layout = layout(len).ok_or(AllocError::TooLong)?;
        if layout.size() > self.limits.largest_segment {
            return Err(AllocError::TooLong);
        }
        self.chunks.reserve().map_err(|why| match why {
            NoSlot::Full => AllocError::TooManyChunks,
            NoSlot::Memory(refused) => AllocError::Memory(refused),
        })?;
        let (segment, offset) = match self.place(layout) {
            Some(place) => place,
            None => self.place_in_new_segment(layout)?,
        };
        let chunk = Chunk { segment: segment as u16, offset: offset as u32, len: len as u32 };
        let handle = self.chunks.insert(chunk).map_err(|_| AllocError::TooManyChunks)?;
        if let Some(bytes) = self.get_mut(handle) {
            bytes.fill(0);
        }
        Ok(handle)
    }

    /// A new chunk that holds a copy of `bytes`.
    pub fn alloc_copy(&mut self, bytes: &[u8]) -> Result<Handle, AllocError> {
        let handle = self.alloc(bytes.len())?;
        if let Some(chunk) = self.get_mut(handle) {
            chunk.copy_from_slice(bytes);
        }
        Ok(handle)
    }

    /// The bytes of a chunk.
    pub fn get(&self, handle: Handle) -> Option<&[u8]> {
        let chunk = self.chunks.get(handle)?;
        let segment = self.segments.get(usize::from(chunk.segment))?.as_ref()?;
        Some(segment.bytes(chunk))
    }

    /// The bytes of a chunk, to change them.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut [u8]> {
        let chunk = self.chunks.get(handle)?;
        let segment = self.segments.get_mut(usize::from(chunk.segment))?.as_mut()?;
        Some(segment.bytes_mut(chunk))
    }

    /// Frees a chunk. False if there was none of that name.
    pub fn free(&mut self, handle: Handle) -> bool {
        let Some(chunk) = self.chunks.remove(handle) else { return false };
        let index = usize::from(chunk.segment);
        let Some(Some(segment)) = self.segments.get_mut(index) else { return false };
        segment.free(&chunk);
        // One small segment stays, so that a pool that is emptied and filled again does not thrash.
        let empty = segment.is_empty();
        let keep = segment.size == self.limits.first_segment
            && !self
                .segments
                .iter()
                .enumerate()
                .any(|(n, s)| n != index && s.as_ref().is_some_and(Segment::is_empty));
        if empty && !keep {
            self.segments[index] = None;
        }
        true
    }

    /// Bytes of all segments: what the pool's contents cost the account.
    pub fn held(&self) -> u64 {
        self.segments.iter().flatten().map(|segment| segment.size as u64).sum()
    }

    /// Bytes of all segments that chunks take up, rounding included.
    pub fn used(&self) -> u64 {
        self.segments.iter().flatten().map(|segment| segment.heap.used() as u64).sum()
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The most holes that there can be now: the bound on what `alloc` and `free` look at.
    pub fn max_holes(&self) -> usize {
        self.chunks.len() + self.segments.iter().flatten().count()
    }

    fn place(&mut self, layout: Layout) -> Option<(usize, usize)> {
        let segments = self.segments.iter_mut().enumerate();
        let mut segments = segments.filter_map(|(n, segment)| Some((n, segment.as_mut()?)));
        segments.find_map(|(n, segment)| Some((n, segment.alloc(layout)?)))
    }

    /// A place for one more segment.
    fn add_place(&mut self) -> Result<usize, AllocError> {
        let (there, segments) = (self.segments.len(), &mut self.segments);
        if there >= self.limits.segments {
            return Err(AllocError::TooManySegments);
        }
        if there == segments.capacity() {
            let more = there.max(2).min(self.limits.segments - there);
            let bytes = |n: usize| n * size_of::<Option<Segment>>();
            let work = || segments.reserve_exact(more);
            pay_for_move(&mut self.table, bytes(there), bytes(there + more), work)
                .map_err(AllocError::Memory)?;
        }
        segments.push(None);
        Ok(there)
    }

    fn place_in_new_segment(&mut self, layout: Layout) -> Result<(usize, usize), AllocError> {
        let free = match self.segments.iter().position(Option::is_none) {
            Some(free) => free,
            None => self.add_place()?,
        };
        let present = self.segments.iter().flatten().count() as u32;
        let doubled = self.limits.first_segment.checked_shl(present).unwrap_or(usize::MAX);
        // What is left is not taken all at once: the team needs memory for other things, too.
        let part = usize::try_from(self.account.left() / 4).unwrap_or(usize::MAX) / GRAIN * GRAIN;
        let usual = doubled.min(self.limits.largest_segment).min(part.max(self.limits.first_segment));
        let usual = usual.max(layout.size());
        // Where the usual size is refused, what is just enough may still fit.
        let just_enough = layout.size().max(self.limits.first_segment);
        let made = Segment::new(&self.account, usual).or_else(|_| Segment::new(&self.account, just_enough));
        let segment = self.segments[free].insert(made?);
        let offset = segment.alloc(layout).ok_or(AllocError::TooManySegments)?;
        Ok((free, offset))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} chunks, {} of {} bytes used)", self.len(), self.used(), self.held())
    }
}

/// Memory from the node's allocator, managed by a list of holes.
struct Segment {
    heap: Heap,
    size: usize,
    _charge: Charge,
}

impl Segment {
    fn new(account: &Account, size: usize) -> Result<Self, AllocError> {
        let layout = Layout::from_size_align(size, ALIGN).map_err(|_| AllocError::TooLong)?;
        let charge = account.charge(size as u64).map_err(AllocError::Memory)?;
        // Safety: `size` is at least the 256 bytes that `Pool::new` sees to, so not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).ok_or(AllocError::Exhausted)?;
        // Safety: the memory is valid for `size` bytes, aligned for list nodes, used by nothing else, and
        // lives until `drop`, after which this heap is not used.
        let heap = unsafe { Heap::new(memory.as_ptr(), size) };
        Ok(Self { heap, size, _charge: charge })
    }

    /// Finds room; returns its offset from the start of the segment.
    fn alloc(&mut self, layout: Layout) -> Option<usize> {
        if layout.size() > self.heap.free() {
            return None;
        }
        let place = self.heap.allocate_first_fit(layout).ok()?;
        Some(place.as_ptr() as usize - self.heap.bottom() as usize)
    }

    fn free(&mut self, chunk: &Chunk) {
        let Some(layout) = layout(chunk.len as usize) else { return };
        // Safety: `chunk` was placed by `alloc` of this segment with the same layout (the layout depends
        // on the length alone, which never changes), and is freed once: its only record was just removed.
        unsafe {
            let place = NonNull::new_unchecked(self.heap.bottom().add(chunk.offset as usize));
            self.heap.deallocate(place, layout);
        }
    }

    fn bytes(&self, chunk: &Chunk) -> &[u8] {
        // Safety: `alloc` gave `chunk.len` bytes at this offset to this chunk alone. They are initialized:
        // segments are zeroed when made, and only ever hold chunk contents and list nodes. While they are
        // borrowed `self` is borrowed, so neither the allocator nor `bytes_mut` writes.
        unsafe {
            core::slice::from_raw_parts(self.heap.bottom().add(chunk.offset as usize), chunk.len as usize)
        }
    }

    fn bytes_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        // Safety: as in `bytes`; and `self` is borrowed mutably, so nothing else reads or writes.
        unsafe {
            core::slice::from_raw_parts_mut(self.heap.bottom().add(chunk.offset as usize), chunk.len as usize)
        }
    }

    fn is_empty(&self) -> bool {
        self.heap.used() == 0
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.size, ALIGN) {
            // Safety: `new` allocated this memory with the same layout; its start is aligned, so that the
            // heap's bottom is where it starts. No chunk is reachable any more: `self` is gone.
            unsafe { dealloc(self.heap.bottom(), layout) };
        }
    }
}

/// The place that a chunk of `len` bytes needs.
fn layout(len: usize) -> Option<Layout> {
    let size = len.max(1).checked_next_multiple_of(GRAIN)?;
    Layout::from_size_align(size, ALIGN).ok().filter(|_| u32::try_from(size).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn limits() -> PoolLimits {
        PoolLimits { first_segment: 1024, largest_segment: 8192, segments: 6, chunks: 100 }
    }

    fn tables(pool: &Pool) -> u64 {
        pool.table.as_ref().map_or(0, Charge::bytes) + pool.chunks.paid()
    }

    #[test]
    fn a_pool_can_move_between_threads() {
        fn is_send<T: Send>() {}
        is_send::<Pool>();
    }

    #[test]
    fn everything_comes_back_when_the_pool_goes() {
        let account = Account::root(1 << 20);
        let mut pool = Pool::new(&account, limits()).unwrap();
        for n in 0..50 {
            pool.alloc(n * 7).unwrap();
        }
        assert_eq!(account.used(), tables(&pool) + pool.held());
        drop(pool);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn freed_segments_come_back_except_one_small_one() {
        let account = Account::root(1 << 20);
        let mut pool = Pool::new(&account, limits()).unwrap();
        let handles: Vec<_> = (0..20).map(|_| pool.alloc(500).unwrap()).collect();
        assert!(pool.held() > 10_000);
        for handle in handles {
            assert!(pool.free(handle));
            assert!(!pool.free(handle));
            assert_eq!(pool.get(handle), None);
        }
        assert!(pool.held() <= 1024 && pool.used() == 0);
    }

    #[test]
    fn every_bound_holds() {
        let account = Account::root(12_000);
        let mut pool = Pool::new(&account, limits()).unwrap();
        assert_eq!(pool.alloc(8193), Err(AllocError::TooLong));
        assert_eq!(pool.alloc(usize::MAX), Err(AllocError::TooLong));
        let longest = pool.alloc(8192).unwrap();
        let refused = loop {
            match pool.alloc(200) {
                Ok(_) => assert!(account.used() <= 12_000),
                Err(e) => break e,
            }
        };
        assert!(matches!(refused, AllocError::Memory(_)), "{refused}");
        assert!(pool.free(longest));
        pool.alloc(200).unwrap();

        let account = Account::root(1 << 20);
        let mut pool = Pool::new(&account, limits()).unwrap();
        while pool.alloc(1).is_ok() {}
        assert_eq!((pool.len(), pool.alloc(1)), (100, Err(AllocError::TooManyChunks)));
        let mut pool = Pool::new(&account, limits()).unwrap();
        while pool.alloc(1000).is_ok() {}
        assert_eq!(pool.alloc(1000), Err(AllocError::TooManySegments));
    }

    #[test]
    fn new_chunks_are_zero() {
        let account = Account::root(1 << 20);
        let mut pool = Pool::new(&account, limits()).unwrap();
        let other = pool.alloc(10).unwrap();
        let secret = pool.alloc_copy(&[0xaa; 600]).unwrap();
        pool.free(secret);
        let handle = pool.alloc(600).unwrap();
        assert_eq!(pool.get(handle), Some(&[0; 600][..]));
        assert_eq!(pool.get(other), Some(&[0; 10][..]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Contents stay intact, charges are exact, and everything comes back, whatever the order.
        #[test]
        fn random_use(
            ops in proptest::collection::vec((0u8..10, 0usize..1500, any::<prop::sample::Index>()), 1..300),
            limit in 4000u64..30_000,
        ) {
            let account = Account::root(limit);
            let Ok(mut pool) = Pool::new(&account, limits()) else { return Ok(()) };
            let mut model: Vec<(Handle, Vec<u8>)> = vec![];
            for (n, (op, len, pick)) in ops.into_iter().enumerate() {
                match op {
                    0..=5 => {
                        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + n) as u8).collect();
                        match pool.alloc_copy(&bytes) {
                            Ok(handle) => model.push((handle, bytes)),
                            Err(AllocError::Memory(_) | AllocError::TooManySegments) => (),
                            Err(AllocError::TooManyChunks) => prop_assert_eq!(pool.len(), 100),
                            Err(e) => prop_assert!(false, "{}", e),
                        }
                    }
                    6..=8 if !model.is_empty() => {
                        let (handle, _) = model.swap_remove(pick.index(model.len()));
                        prop_assert!(pool.free(handle));
                        prop_assert_eq!(pool.get(handle), None);
                    }
                    _ if !model.is_empty() => {
                        let at = pick.index(model.len());
                        let (handle, bytes) = &mut model[at];
                        bytes.fill(n as u8);
                        pool.get_mut(*handle).unwrap().fill(n as u8);
                    }
                    _ => (),
                }
                prop_assert_eq!(account.used(), tables(&pool) + pool.held());
                prop_assert!(account.used() <= limit);
                let rounded: usize = model.iter().map(|(_, b)| layout(b.len()).unwrap().size()).sum();
                prop_assert_eq!(pool.used(), rounded as u64);
                prop_assert!(pool.max_holes() <= model.len() + 6);
            }
            for (handle, bytes) in &model {
                prop_assert_eq!(pool.get(*handle), Some(&bytes[..]));
            }
            for (handle, _) in model {
                pool.free(handle);
            }
            prop_assert!(pool.held() <= 1024);
            // All holes have merged: what is left is one hole that takes the longest chunk it can.
            if pool.held() > 0 {
                prop_assert!(pool.alloc(1024).is_ok());
                prop_assert_eq!(pool.held(), 1024);
            }
            drop(pool);
            prop_assert_eq!(account.used(), 0);
        }
    }
}
