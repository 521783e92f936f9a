//! A record of the log on a device: one change of the store, in whole sectors.
//!
//! | bytes of the first sector | what                                                              |
//! |---------------------------|-------------------------------------------------------------------|
//! | 0-8                       | `BEESBLOB`                                                         |
//! | 8-16                      | generation of the log                                             |
//! | 16-24                     | sequence number in it, from 1                                     |
//! | 24, 25                    | what it does: 1 put, 2 remove, 3 remove the area; length of the name |
//! | 26-30                     | length of the blob                                                |
//! | 32-64, 64-128             | the area's owner, the name                                        |
//! | 128-160                   | SHA-256 of the blob                                               |
//! | 160-168                   | up to which record all were flushed to the device before this one |
//! | 168-224                   | what the seven records before it are about: a tag of 8 bytes each |
//! | 224-256                   | SHA-256 of bytes 0-224                                            |
//! | 256-512                   | the blob's first 256 bytes                                        |
//!
//! Each further sector is `BEESMORE` and 504 bytes of the blob. What a guest writes therefore never lies at
//! the beginning of a sector, and cannot be taken for a record. Numbers are little endian.

use alloc::vec::Vec;

use wire::id::sha256;

use super::{MAX_BLOB, MAX_NAME, Op, Owner};

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Records before it of which a record says what they are about.
pub(super) const TAGS: usize = 7;

const MAGIC: &[u8; 8] = b"BEESBLOB";
const MORE: &[u8; 8] = b"BEESMORE";
/// Bytes of the blob in the first sector.
const FIRST: usize = 256;
/// Bytes of it in each further one.
const REST: usize = SECTOR - MORE.len();
/// Bytes that the header's own check covers.
const CHECKED: usize = 224;

/// What a record is about, in 8 bytes: a blob, or an area.
pub(super) type Tag = u64;

/// Sectors of a record with a blob of `len` bytes.
pub(super) const fn sectors(len: usize) -> u64 {
    1 + len.saturating_sub(FIRST).div_ceil(REST) as u64
}

/// The tag of a blob; with an empty name that of the area.
pub(super) fn tag(owner: &Owner, name: &[u8]) -> Tag {
    let mut bytes = Vec::with_capacity(owner.len() + name.len());
    bytes.extend_from_slice(owner);
    bytes.extend_from_slice(name);
    u64_at(&sha256(&bytes), 0)
}

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Put = 1,
    Remove = 2,
    RemoveArea = 3,
}

/// The first sector of a record, read and checked.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub generation: u64,
    pub sequence: u64,
    pub kind: Kind,
    pub owner: Owner,
    pub name: Vec<u8>,
    pub len: usize,
    pub hash: [u8; 32],
    /// Records up to this number were on the device before this one was written.
    pub settled: u64,
    /// Of the record before it first.
    pub tags: [Tag; TAGS],
}

impl Header {
    /// `None`: this sector is no record's first, or a damaged one.
    pub fn read(sector: &[u8]) -> Option<Self> {
        if sector.len() != SECTOR || sector[..8] != MAGIC[..] {
            return None;
        }
        if sha256(&sector[..CHECKED]) != sector[CHECKED..CHECKED + 32] {
            return None;
        }
        let kind = match sector[24] {
            1 => Kind::Put,
            2 => Kind::Remove,
            3 => Kind::RemoveArea,
            _ => return None,
        };
        let len = u32::from_le_bytes([sector[26], sector[27], sector[28], sector[29]]) as usize;
        let name = sector[64..64 + MAX_NAME].get(..usize::from(sector[25]))?;
        let fits = (kind == Kind::Put || len == 0) && (kind == Kind::RemoveArea) == name.is_empty();
        if len > MAX_BLOB || !fits {
            return None;
        }
        Some(Self {
            generation: u64_at(sector, 8),
            sequence: u64_at(sector, 16),
            kind,
            owner: sector[32..64].try_into().ok()?,
            name: name.to_vec(),
            len,
            hash: sector[128..160].try_into().ok()?,
            settled: u64_at(sector, 160),
            tags: core::array::from_fn(|n| u64_at(sector, 168 + 8 * n)),
        })
    }

    /// The blob, out of all sectors of its record. `None`: it is damaged.
    pub fn blob(&self, record: &[u8]) -> Option<Vec<u8>> {
        let (first, rest) = record.split_at_checked(SECTOR)?;
        let mut blob = Vec::with_capacity(self.len);
        blob.extend_from_slice(&first[FIRST..FIRST + self.len.min(FIRST)]);
        for sector in rest.chunks_exact(SECTOR) {
            let missing = self.len - blob.len();
            blob.extend_from_slice(&sector[MORE.len()..][..missing.min(REST)]);
        }
        (blob.len() == self.len && sha256(&blob) == self.hash).then_some(blob)
    }

    /// Sectors of the whole record.
    pub fn sectors(&self) -> u64 {
        sectors(self.len)
    }
}

/// Where in the log a record is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub generation: u64,
    pub sequence: u64,
    pub settled: u64,
    pub tags: [Tag; TAGS],
}

/// Appends the record of `op` to `out`.
pub(super) fn emit(op: &Op, place: &Place, out: &mut Vec<u8>) {
    let (kind, owner, name, blob): (_, _, &[u8], &[u8]) = match op {
        Op::Put { owner, name, data } => (Kind::Put, owner, name, data),
        Op::Remove { owner, name } => (Kind::Remove, owner, name, &[]),
        Op::RemoveArea { owner } => (Kind::RemoveArea, owner, &[], &[]),
    };
    let start = out.len();
    out.resize(start + SECTOR, 0);
    let head = &mut out[start..];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&place.generation.to_le_bytes());
    head[16..24].copy_from_slice(&place.sequence.to_le_bytes());
    // A name has at most 64 bytes, a blob at most 64 KiB.
    (head[24], head[25]) = (kind as u8, name.len() as u8);
    head[26..30].copy_from_slice(&(blob.len() as u32).to_le_bytes());
    head[32..64].copy_from_slice(owner);
    head[64..64 + name.len()].copy_from_slice(name);
    head[128..160].copy_from_slice(&sha256(blob));
    head[160..168].copy_from_slice(&place.settled.to_le_bytes());
    for (n, tag) in place.tags.iter().enumerate() {
        head[168 + 8 * n..176 + 8 * n].copy_from_slice(&tag.to_le_bytes());
    }
    let check = sha256(&head[..CHECKED]);
    head[CHECKED..CHECKED + 32].copy_from_slice(&check);
    let (first, rest) = blob.split_at(blob.len().min(FIRST));
    head[FIRST..FIRST + first.len()].copy_from_slice(first);
    for piece in rest.chunks(REST) {
        let start = out.len();
        out.resize(start + SECTOR, 0);
        out[start..start + MORE.len()].copy_from_slice(MORE);
        out[start + MORE.len()..][..piece.len()].copy_from_slice(piece);
    }
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn put(name: &[u8], data: &[u8]) -> Op {
        Op::Put { owner: [7; 32], name: name.into(), data: data.into() }
    }

    proptest! {
        #[test]
        fn a_record_comes_back(name in proptest::collection::vec(any::<u8>(), 1..=64), len in 0usize..=2000, at in any::<u64>()) {
            let blob: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
            let mut bytes = Vec::new();
            let place = Place { generation: at, sequence: at ^ 5, settled: at / 3, tags: [3; TAGS] };
            emit(&put(&name, &blob), &place, &mut bytes);
            prop_assert_eq!(bytes.len() as u64, sectors(len) * SECTOR as u64);
            let header = Header::read(&bytes[..SECTOR]).unwrap();
            prop_assert_eq!((header.generation, header.sequence, header.kind), (at, at ^ 5, Kind::Put));
            prop_assert_eq!((&header.name, header.owner), (&name, [7; 32]));
            prop_assert_eq!((header.settled, header.tags), (at / 3, [3; TAGS]));
            prop_assert_eq!(header.blob(&bytes), Some(blob));
        }

        #[test]
        fn a_changed_bit_is_seen(len in 0usize..=1500, at in any::<usize>(), bit in 0u8..8) {
            let blob = vec![0x5a; len];
            let mut bytes = Vec::new();
            let place = Place { generation: 1, sequence: 1, settled: 0, tags: [0; TAGS] };
            emit(&put(b"x", &blob), &place, &mut bytes);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let read = Header::read(&bytes[..SECTOR]).and_then(|h| h.blob(&bytes));
            // Padding and the mark of a further sector are not part of the blob.
            prop_assert!(read.is_none() || read == Some(blob));
        }

        #[test]
        fn any_sector_is_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), SECTOR..=SECTOR), kind in any::<u8>(), len in any::<u8>()) {
            bytes[..8].copy_from_slice(MAGIC);
            (bytes[24], bytes[25]) = (kind, len);
            let check = sha256(&bytes[..CHECKED]);
            bytes[CHECKED..CHECKED + 32].copy_from_slice(&check);
            if let Some(header) = Header::read(&bytes) {
                prop_assert!(header.len <= MAX_BLOB && header.name.len() <= MAX_NAME);
                let _ = header.blob(&bytes);
            }
        }
    }
}
