//! Parts that a client puts on a node ahead of the tuple that names them.

use std::collections::HashMap;
use std::time::Duration;

use nodeos::account::{Account, Charge};
use nodeos::platform::Instant;
use wire::id::PartHash;
use wire::tuple::MAX_PART;

/// How long a part waits for its tuple.
pub const KEPT_FOR: Duration = Duration::from_secs(60);

/// Bytes of a part's record, at most.
const RECORD: u64 = 256;

#[derive(Debug)]
struct Upload {
    bytes: Vec<u8>,
    total: usize,
    charge: Charge,
    until: Instant,
}

/// The parts that wait, and who pays for them.
#[derive(Debug)]
pub struct Uploads {
    parts: HashMap<PartHash, Upload>,
    account: Account,
    /// Not later than the first end of a part's time.
    next: Option<Instant>,
}

/// The operator's client erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadError {
    /// Longer than a part may be, or a piece that lies outside the part.
    Bounds,
    /// Not the piece that comes next.
    Order,
    /// The bytes are not the named part.
    Hash,
    /// Too many parts wait already.
    NoMemory,
}

impl std::fmt::Display for UploadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bounds => "the piece lies outside the part, or the part is longer than a part may be",
            Self::Order => "pieces must be put in their order, starting at 0",
            Self::Hash => "the bytes do not have the part's hash",
            Self::NoMemory => "too many parts wait for their tuples: inject those, or wait a minute",
        })
    }
}

impl std::error::Error for UploadError {}

impl Uploads {
    /// An empty store that `account` pays for.
    pub fn new(account: Account) -> Self {
        Self { parts: HashMap::new(), account, next: None }
    }

    /// Takes a piece; the first one reserves the memory for the whole part.
    pub fn put(
        &mut self,
        now: Instant,
        part: PartHash,
        total: u32,
        offset: u32,
        piece: &[u8],
    ) -> Result<(), UploadError> {
        self.due(now);
        let (total, offset) = (total as usize, offset as usize);
        if total == 0 || total > MAX_PART as usize || offset + piece.len() > total {
            return Err(UploadError::Bounds);
        }
        if offset == 0 {
            self.parts.remove(&part);
            let charge = self.account.charge(total as u64 + RECORD).map_err(|_| UploadError::NoMemory)?;
            let upload = Upload { bytes: Vec::with_capacity(total), total, charge, until: now + KEPT_FOR };
            self.parts.insert(part, upload);
        }
        let upload = self.parts.get_mut(&part).ok_or(UploadError::Order)?;
        if upload.bytes.len() != offset || upload.total != total {
            return Err(UploadError::Order);
        }
        upload.bytes.extend_from_slice(piece);
        upload.until = now + KEPT_FOR;
        self.next.get_or_insert(upload.until);
        if upload.bytes.len() == total && PartHash::of(&upload.bytes) != part {
            self.parts.remove(&part);
            return Err(UploadError::Hash);
        }
        Ok(())
    }

    /// Lets go of what has waited too long.
    pub fn due(&mut self, now: Instant) {
        if self.next.is_some_and(|at| at <= now) {
            self.parts.retain(|_, u| u.until > now);
            self.next = self.parts.values().map(|u| u.until).min();
        }
    }

    /// When [`due`](Self::due) must be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Who pays for what waits.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Takes a complete part out.
    pub fn take(&mut self, part: &PartHash) -> Option<Vec<u8>> {
        let complete = self.parts.get(part).is_some_and(|u| u.bytes.len() == u.total);
        let upload = if complete { self.parts.remove(part) } else { None }?;
        drop(upload.charge);
        Some(upload.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_a_part() {
        let mut u = Uploads::new(Account::root(1000));
        let hash = PartHash::of(b"module");
        let now = Instant::ZERO;
        assert_eq!(u.put(now, hash, 6, 3, b"ule"), Err(UploadError::Order));
        u.put(now, hash, 6, 0, b"mod").unwrap();
        assert_eq!(u.take(&hash), None);
        u.put(now, hash, 6, 3, b"ule").unwrap();
        assert_eq!(u.take(&hash).unwrap(), b"module");
        assert_eq!(u.account.used(), 0);
    }

    #[test]
    fn hostile_pieces_are_refused_and_cost_nothing() {
        let mut u = Uploads::new(Account::root(1000));
        let hash = PartHash::of(b"module");
        let now = Instant::ZERO;
        assert_eq!(u.put(now, hash, 6, 0, b"nodule"), Err(UploadError::Hash));
        assert_eq!(u.put(now, hash, 6, 5, b"xx"), Err(UploadError::Bounds));
        assert_eq!(u.put(now, hash, u32::MAX, 0, b"x"), Err(UploadError::Bounds));
        assert_eq!(u.put(now, hash, 1001 - RECORD as u32, 0, b"x"), Err(UploadError::NoMemory));
        assert_eq!(u.account.used(), 0);
        u.put(now, hash, 700, 0, b"x").unwrap();
        assert_eq!(u.put(now, PartHash([0; 32]), 700, 0, b"x"), Err(UploadError::NoMemory));
        u.put(now + KEPT_FOR, PartHash([0; 32]), 700, 0, b"x").unwrap();
    }
}
