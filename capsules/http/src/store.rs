//! What a node keeps of objects: their pieces, in soft state, until they expire or room is needed.

use bees_sdk::cache;
use bees_sdk::node::{self, Resource};

use crate::format::{Asked, MAX_BYTES, Piece};

/// Objects that a node keeps account of.
const MAX_OBJECTS: usize = 16;
/// Pieces that give way at a time.
const AT_ONCE: u16 = 32;
/// Memory that must be left for the store to grow, in bytes: soft state takes it in pieces of up to 256 KiB, and what is refused
/// is held against the flow.
const RESERVE: u64 = 320 * 1024;
/// The longest time that anything is kept, in seconds.
pub const MAX_LIFE: u32 = 24 * 3600;

/// The objects of which pieces are here.
pub struct Store {
    objects: [Object; MAX_OBJECTS],
    /// The most pieces that were kept at once: for so many there is memory.
    peak: u32,
    pub counts: Counts,
}

/// What a store has counted, in pieces.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Found here.
    pub hits: u32,
    /// Not found here.
    pub misses: u32,
    /// Kept.
    pub stored: u32,
    /// Not kept, for want of room or because the object is too large.
    pub unstored: u32,
    /// Given up for others.
    pub evicted: u32,
}

#[derive(Debug, Clone, Copy)]
struct Object {
    key: [u8; 16],
    /// 0: there is none.
    version: u64,
    /// Pieces up to here may be kept.
    count: u16,
    /// Pieces that were kept; some may have expired.
    kept: u16,
    used: u64,
}

bees_sdk::packed! {
    /// What stands before a piece that is kept.
    struct Kept {
        life: u32,
        /// When it expires, by this node's clock in microseconds.
        until: u64,
        count: u16,
        digest: [u8; 32],
    }
}

/// The longest entry, in bytes.
pub const MAX_ENTRY: usize = Kept::LEN + MAX_BYTES;

const NONE: Object = Object { key: [0; 16], version: 0, count: 0, kept: 0, used: 0 };

impl Store {
    pub const fn new() -> Self {
        let counts = Counts { hits: 0, misses: 0, stored: 0, unstored: 0, evicted: 0 };
        Self { objects: [NONE; MAX_OBJECTS], peak: 0, counts }
    }

    /// Looks for a piece: its head as it is sent, and its bytes.
    pub fn find<'b>(
        &mut self,
        asked: &Asked,
        now: u64,
        buffer: &'b mut [u8; MAX_ENTRY],
    ) -> Option<(Piece, &'b [u8])> {
        let found = Self::look(asked, now, buffer);
        match &found {
            Some((piece, _)) => {
                self.counts.hits += 1;
                let version = piece.version();
                let object = self.objects.iter_mut().find(|o| o.version == version && o.key == asked.key);
                object.into_iter().for_each(|o| o.used = now);
            }
            None => self.counts.misses += 1,
        }
        found
    }

    fn look<'b>(asked: &Asked, now: u64, buffer: &'b mut [u8; MAX_ENTRY]) -> Option<(Piece, &'b [u8])> {
        let version = match asked.version {
            0 => u64::from_le_bytes(cache::get_array(&newest_key(&asked.key))?),
            version => version,
        };
        let entry = cache::get(&piece_key(&asked.key, version, asked.index), buffer)?;
        let (kept, bytes) = (Kept::of(entry)?, entry.get(Kept::LEN..)?);
        // What would expire on the way is not worth sending.
        let left = u32::try_from(kept.until.saturating_sub(now) / 1_000_000).ok().filter(|left| *left > 0)?;
        let piece = Piece {
            hops: 0,
            key: asked.key,
            asked: asked.version,
            nonce: asked.nonce,
            index: asked.index,
            count: kept.count,
            life: kept.life,
            left: left.min(kept.life),
            digest: kept.digest,
        };
        Some((piece, bytes))
    }

    /// Keeps a piece, if it may be kept and there is room: `most` bytes in all.
    pub fn keep(&mut self, piece: &Piece, bytes: &[u8], most: u32, now: u64) {
        let left = piece.left.min(MAX_LIFE);
        if left == 0 {
            return;
        }
        let Some(at) = self.make_room(now, piece, most / MAX_ENTRY as u32) else {
            self.counts.unstored += 1;
            return;
        };
        let kept = Kept {
            life: piece.life,
            until: now + u64::from(left) * 1_000_000,
            count: piece.count,
            digest: piece.digest,
        };
        let mut entry = [0; MAX_ENTRY];
        entry[..Kept::LEN].copy_from_slice(&kept.bytes());
        let Some(to) = entry.get_mut(Kept::LEN..Kept::LEN + bytes.len()) else { return };
        to.copy_from_slice(bytes);
        let (version, ttl_ms) = (piece.version(), left * 1000);
        let key = piece_key(&piece.key, version, piece.index);
        if cache::put(&key, &entry[..Kept::LEN + bytes.len()], ttl_ms).is_err() {
            self.counts.unstored += 1;
            return;
        }
        self.counts.stored += 1;
        self.objects[at].kept = (self.objects[at].kept + 1).min(piece.count);
        self.peak = self.peak.max(self.held());
        if piece.index == 0 {
            let _ = cache::put(&newest_key(&piece.key), &version.to_le_bytes(), ttl_ms);
        }
    }

    /// Pieces that are kept.
    fn held(&self) -> u32 {
        self.objects.iter().map(|o| u32::from(o.kept)).sum()
    }

    /// The place of a piece's object, if there is room for one more of its pieces, after others that were not used for longest
    /// gave way.
    fn make_room(&mut self, now: u64, piece: &Piece, most: u32) -> Option<usize> {
        if u32::from(piece.count) > most {
            return None;
        }
        let version = piece.version();
        let known = self.objects.iter().position(|o| o.version == version && o.key == piece.key);
        let is_full = |store: &Self| {
            let tight = || node::budget_left(Resource::Memory).is_ok_and(|left| left < RESERVE);
            store.held() >= most || store.held() >= store.peak && tight()
        };
        if is_full(self) || known.is_none() && self.objects.iter().all(|o| o.version != 0) {
            self.evict(version);
        }
        if is_full(self) {
            return None;
        }
        let at = known.or_else(|| self.objects.iter().position(|o| o.version == 0))?;
        let kept = known.map_or(0, |at| self.objects[at].kept);
        self.objects[at] = Object { key: piece.key, version, count: piece.count, kept, used: now };
        Some(at)
    }

    /// Some pieces of the object give way that was not used for longest, the last ones first, but none of `version`.
    fn evict(&mut self, version: u64) {
        let objects = self.objects.iter_mut().filter(|o| o.version != 0 && o.version != version);
        let Some(oldest) = objects.min_by_key(|o| o.used) else { return };
        for _ in 0..AT_ONCE.min(oldest.count) {
            oldest.count -= 1;
            let gone = cache::remove(&piece_key(&oldest.key, oldest.version, oldest.count)).is_ok();
            self.counts.evicted += u32::from(gone);
            oldest.kept -= u16::from(gone).min(oldest.kept);
        }
        if oldest.count == 0 {
            *oldest = NONE;
        }
    }
}

fn newest_key(key: &[u8; 16]) -> [u8; 17] {
    let mut name = [b'v'; 17];
    name[1..].copy_from_slice(key);
    name
}

fn piece_key(key: &[u8; 16], version: u64, index: u16) -> [u8; 27] {
    let mut name = [b'd'; 27];
    name[1..17].copy_from_slice(key);
    name[17..25].copy_from_slice(&version.to_le_bytes());
    name[25..].copy_from_slice(&index.to_le_bytes());
    name
}
