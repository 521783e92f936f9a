//! The log on a device: what is read at start, and what writes it afterwards.
//!
//! Two superblocks of one sector, 4 KiB apart, then two halves. One half holds the log of the present
//! generation. When it is full, what is live goes to the other half under the next generation, and only
//! when all of that is on the device a superblock says so. A start never appends to the log that it
//! found: its first write goes to the other half. So whatever lies behind the log's end is never
//! mistaken for a part of it. An attempt to fill a half is announced in a superblock, so that no two
//! attempts share a generation; its end is written to both.
//!
//! A device may keep what was written since the last flush in any order, or not. So a record says up to which
//! one all were flushed before it: a gap among those is damage, which is skipped and told; a gap behind them
//! is the end of the log, and what comes after it was never written.
//!
//! Superblock: `BEESSTOR`, serial (8), generation (8), attempts (8), sectors of a half (8), records that the
//! log began with (8), half (1), 7 zeros, SHA-256 of all that. The one with the higher serial counts.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use wire::id::sha256;

use super::record::{self, Header, Kind, Place, SECTOR, TAGS, Tag, u64_at};
use super::{Op, Owner};

/// The smallest device that is used, in bytes.
pub const MIN_DISK: u64 = 64 << 10;
/// Of a larger one only so many bytes are used.
pub const MAX_DISK: u64 = 64 << 20;
/// Where the superblocks are.
const SUPERBLOCKS: [u64; 2] = [0, 8];
/// Where the halves begin.
const START: u64 = 16;
/// Sectors that are read at once.
const WINDOW: u64 = 64;
/// Bytes of records that are written at once, about.
const CHUNK: usize = 64 << 10;
const MAGIC: &[u8; 8] = b"BEESSTOR";
/// Bytes of a superblock that its check covers.
const CHECKED: usize = 56;
/// Records of a batch, about, that are remembered until it is known whether it was written whole.
const MAX_HELD: usize = 1024;

/// A block device, or what passes for one. Lengths and positions are whole sectors of 512 bytes.
pub trait Disk: Send {
    /// How many sectors there are.
    fn sectors(&self) -> u64;
    /// Reads from this sector on.
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError>;
    /// Writes from this sector on.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Returns when everything that was written would survive a loss of power.
    fn flush(&mut self) -> Result<(), DiskError>;
}

/// The device failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskError(pub Box<str>);

impl DiskError {
    /// An error with this text.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string().into())
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk: {}", self.0)
    }
}

impl core::error::Error for DiskError {}

/// Why a device is not used. Nothing was written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It is smaller than [`MIN_DISK`], or than the store on it.
    Small,
    /// It holds something that is no store, or no superblock of the store on it can be read.
    Foreign,
    /// It failed.
    Failed(DiskError),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small => write!(f, "it is too small: {MIN_DISK} bytes, or as large as it was"),
            Self::Foreign => {
                f.write_str("it holds something else, or is damaged; it is left as it is: zeros in its first 8 KiB make it new")
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Unusable {}

/// What was not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Damage {
    /// Records in the middle of the log that could not be read.
    pub records: u64,
    /// Of them those of which nobody knows what they were about: older content may have come back.
    pub unknown: u64,
    /// Whether the last changes were cut off: it is as if they had never been made.
    pub torn: bool,
}

/// What a reader finds.
pub(super) enum Found {
    Blob {
        owner: Owner,
        name: Vec<u8>,
        data: Vec<u8>,
    },
    /// A blob of this area is damaged.
    Damaged(Owner),
}

/// Writes the log.
#[derive(Debug)]
pub struct Writer {
    serial: u64,
    generation: u64,
    attempts: u64,
    /// Which half holds the log.
    half: u8,
    sectors: u64,
    /// Records that were written when everything was written anew.
    whole: u64,
    /// The next sector in the half.
    at: u64,
    /// What the next record says of its place.
    next: Place,
}

/// What is written in one go.
#[derive(Debug)]
pub enum Batch {
    /// These, behind what is there.
    Append(Vec<Op>),
    /// All that is live, to the other half.
    Rewrite(Vec<Op>),
}

impl Writer {
    /// Sectors of a half.
    pub(super) fn half(&self) -> u64 {
        self.sectors
    }

    /// Writes a batch and waits until it is there.
    pub fn write(&mut self, disk: &mut dyn Disk, batch: &Batch) -> Result<(), DiskError> {
        match batch {
            Batch::Append(ops) => {
                let mut bytes = Vec::new();
                ops.iter().for_each(|op| self.emit(op, &mut bytes));
                self.put(disk, &bytes)?;
                disk.flush()?;
                self.next.settled = self.next.sequence - 1;
            }
            Batch::Rewrite(ops) => {
                self.attempts = self.attempts.wrapping_add(1);
                self.superblock(disk)?;
                self.next = Place { generation: self.attempts, sequence: 1, settled: 0, tags: [0; TAGS] };
                self.at = 0;
                self.half ^= 1;
                if let Err(error) = self.fill(disk, ops) {
                    self.half ^= 1;
                    return Err(error);
                }
                (self.generation, self.whole) = (self.attempts, ops.len() as u64);
                self.next.settled = self.whole;
                // Twice: whichever of the superblocks is damaged, the other one knows of this log.
                self.superblock(disk)?;
                self.superblock(disk)?;
            }
        }
        Ok(())
    }

    fn fill(&mut self, disk: &mut dyn Disk, ops: &[Op]) -> Result<(), DiskError> {
        let mut bytes = Vec::new();
        for op in ops {
            self.emit(op, &mut bytes);
            if bytes.len() >= CHUNK {
                self.put(disk, &bytes)?;
                bytes.clear();
            }
        }
        self.put(disk, &bytes)?;
        disk.flush()
    }

    fn emit(&mut self, op: &Op, bytes: &mut Vec<u8>) {
        record::emit(op, &self.next, bytes);
        self.next.sequence += 1;
        self.next.tags.rotate_right(1);
        self.next.tags[0] = op.tag();
    }

    fn put(&mut self, disk: &mut dyn Disk, bytes: &[u8]) -> Result<(), DiskError> {
        let sectors = (bytes.len() / SECTOR) as u64;
        if self.at + sectors > self.sectors {
            return Err(DiskError::new("more is to be written than fits"));
        }
        disk.write(start(self.half, self.sectors) + self.at, bytes)?;
        self.at += sectors;
        Ok(())
    }

    fn superblock(&mut self, disk: &mut dyn Disk) -> Result<(), DiskError> {
        self.serial = self.serial.wrapping_add(1);
        let mut sector = [0; SECTOR];
        sector[..8].copy_from_slice(MAGIC);
        for (n, number) in
            [self.serial, self.generation, self.attempts, self.sectors, self.whole].iter().enumerate()
        {
            sector[8 + 8 * n..16 + 8 * n].copy_from_slice(&number.to_le_bytes());
        }
        sector[48] = self.half;
        let check = sha256(&sector[..CHECKED]);
        sector[CHECKED..CHECKED + 32].copy_from_slice(&check);
        disk.write(SUPERBLOCKS[(self.serial % 2) as usize], &sector)?;
        disk.flush()
    }

    fn of_superblock(sector: &[u8]) -> Option<Self> {
        if sector[..8] != MAGIC[..] || sha256(&sector[..CHECKED]) != sector[CHECKED..CHECKED + 32] {
            return None;
        }
        let [serial, generation, attempts, sectors, whole] = [8, 16, 24, 32, 40].map(|at| u64_at(sector, at));
        let half = sector[48];
        // A record has a sector at least.
        (half <= 1 && whole <= sectors).then(|| Self {
            serial,
            generation,
            attempts,
            whole,
            ..Self::new(half, sectors)
        })
    }

    /// Of a log that nothing is known of, but where it is.
    fn new(half: u8, sectors: u64) -> Self {
        let next = Place { generation: 0, sequence: 1, settled: 0, tags: [0; TAGS] };
        Self { serial: 0, generation: 0, attempts: 0, half, sectors, whole: 0, at: sectors, next }
    }
}

fn start(half: u8, sectors: u64) -> u64 {
    START + u64::from(half) * sectors
}

/// Reads a device. What is live is given to `take`, what was written first comes first; of more than
/// `max` blobs none but the first are. The first batch for the writer must be [`Batch::Rewrite`].
pub(super) fn open(
    disk: &mut dyn Disk,
    max: usize,
    mut take: impl FnMut(Found),
) -> Result<(Writer, Damage), Unusable> {
    let all = disk.sectors().min(MAX_DISK / SECTOR as u64);
    if all < MIN_DISK / SECTOR as u64 {
        return Err(Unusable::Small);
    }
    let mut head = vec![0; START as usize * SECTOR];
    disk.read(0, &mut head).map_err(Unusable::Failed)?;
    let read = |at: u64| Writer::of_superblock(&head[at as usize * SECTOR..][..SECTOR]);
    let Some(writer) = SUPERBLOCKS.into_iter().filter_map(read).max_by_key(|w| w.serial) else {
        if head.iter().any(|b| *b != 0) {
            return Err(Unusable::Foreign);
        }
        // The first log goes to the first half.
        let fresh = Writer::new(1, (all - START) / 2);
        return Ok((fresh, Damage::default()));
    };
    if writer.sectors > (all - START) / 2 || writer.sectors < (MIN_DISK / SECTOR as u64 - START) / 2 {
        return Err(Unusable::Small);
    }
    let damage = Reader::new(disk, &writer, max).read(&mut take);
    Ok((writer, damage))
}

/// One half's log, while it is read.
struct Reader<'a> {
    disk: &'a mut dyn Disk,
    start: u64,
    sectors: u64,
    generation: u64,
    /// Records up to this number were flushed.
    settled: u64,
    /// The last record that counted, or should have.
    sequence: u64,
    /// Sectors that were read ahead.
    window: Vec<u8>,
    window_at: u64,
    /// What would be there, in the order of writing.
    #[expect(clippy::vec_box, reason = "they move up with each that goes")]
    live: Vec<Box<Live>>,
    /// The most that may be live.
    max: usize,
    damage: Damage,
    /// Whose blobs are damaged.
    harmed: Vec<Owner>,
}

struct Live {
    header: Header,
    at: u64,
    /// The blob's, and its area's.
    tags: [Tag; 2],
}

impl<'a> Reader<'a> {
    fn new(disk: &'a mut dyn Disk, writer: &Writer, max: usize) -> Self {
        Self {
            disk,
            start: start(writer.half, writer.sectors),
            sectors: writer.sectors,
            generation: writer.generation,
            settled: writer.whole,
            sequence: 0,
            window: Vec::new(),
            window_at: 0,
            live: Vec::new(),
            max,
            damage: Damage::default(),
            harmed: Vec::new(),
        }
    }

    fn read(mut self, take: &mut dyn FnMut(Found)) -> Damage {
        // Records of which it is not known yet whether they were flushed.
        let mut held: VecDeque<(Header, u64)> = VecDeque::new();
        let (mut at, mut newest) = (0, 0);
        while at < self.sectors {
            let Some(header) = self.header(at).filter(|h| h.sequence > newest) else {
                at += 1;
                continue;
            };
            newest = header.sequence;
            self.settled = self.settled.max(header.settled.min(newest - 1));
            let length = header.sectors();
            held.push_back((header, at));
            at += length;
            while held.front().is_some_and(|(h, _)| h.sequence <= self.settled) || held.len() > MAX_HELD {
                let Some((header, at)) = held.pop_front() else { break };
                self.apply(header, at);
            }
        }
        for (header, at) in held {
            let gap = header.sequence - 1 > self.sequence.max(self.settled);
            if gap || header.kind == Kind::Put && self.blob(&header, at).is_none() {
                self.damage.torn = true;
                break;
            }
            self.apply(header, at);
        }
        // What a log began with is on the device, or was: with nothing behind it that would tell.
        self.damage.records = self.damage.records.saturating_add(self.settled.saturating_sub(self.sequence));
        for live in core::mem::take(&mut self.live) {
            let Live { header, at, .. } = *live;
            match self.blob(&header, at) {
                Some(data) => take(Found::Blob { owner: header.owner, name: header.name, data }),
                None => {
                    self.damage.records = self.damage.records.saturating_add(1);
                    self.harmed.push(header.owner);
                }
            }
        }
        self.harmed.drain(..).for_each(|owner| take(Found::Damaged(owner)));
        self.damage
    }

    /// A record that counts; those between it and the last one are damaged.
    fn apply(&mut self, header: Header, at: u64) {
        let missing = header.sequence - self.sequence - 1;
        self.damage.records = self.damage.records.saturating_add(missing);
        self.damage.unknown = self.damage.unknown.saturating_add(missing.saturating_sub(TAGS as u64));
        for lost in &header.tags[..missing.min(TAGS as u64) as usize] {
            self.lose(*lost);
        }
        self.sequence = header.sequence;
        if header.kind == Kind::RemoveArea {
            return self.live.retain(|live| live.header.owner != header.owner);
        }
        let tags = [record::tag(&header.owner, &header.name), record::tag(&header.owner, &[])];
        let same = |l: &Header| l.owner == header.owner && l.name == header.name;
        if let Some(before) = self.live.iter().position(|l| l.tags == tags && same(&l.header)) {
            self.live.remove(before);
        }
        if header.kind == Kind::Put {
            match self.live.len() < self.max {
                true => self.live.push(Box::new(Live { header, at, tags })),
                false => self.damage.records = self.damage.records.saturating_add(1),
            }
        }
    }

    /// A record is missing: what it was about is not what it was before.
    fn lose(&mut self, lost: Tag) {
        let harmed = &mut self.harmed;
        self.live.retain(|live| {
            let gone = live.tags.contains(&lost);
            if gone {
                harmed.push(live.header.owner);
            }
            !gone
        });
    }

    /// The record that begins at this sector of the half, if one does.
    fn header(&mut self, at: u64) -> Option<Header> {
        let ahead = (self.window.len() / SECTOR) as u64;
        if at < self.window_at || at >= self.window_at + ahead {
            self.window_at = at;
            self.window.resize(WINDOW.min(self.sectors - at) as usize * SECTOR, 0);
            if self.disk.read(self.start + at, &mut self.window).is_err() {
                // Of these perhaps only one is bad.
                self.window.truncate(SECTOR);
                if self.disk.read(self.start + at, &mut self.window).is_err() {
                    self.window.clear();
                    return None;
                }
            }
        }
        let offset = (at - self.window_at) as usize * SECTOR;
        let header = Header::read(self.window.get(offset..offset + SECTOR)?)?;
        let fits = at + header.sectors() <= self.sectors;
        // A record has a sector at least: higher numbers than this no log has.
        (header.generation == self.generation && fits && header.sequence <= self.sectors).then_some(header)
    }

    fn blob(&mut self, header: &Header, at: u64) -> Option<Vec<u8>> {
        let mut record = vec![0; header.sectors() as usize * SECTOR];
        self.disk.read(self.start + at, &mut record).ok()?;
        header.blob(&record)
    }
}

/// A disk of memory: for the simulator, and for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamDisk(pub Vec<u8>);

impl RamDisk {
    /// Zeros.
    pub fn new(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    fn range(&self, at: u64, len: usize) -> Result<core::ops::Range<usize>, DiskError> {
        let start = usize::try_from(at).ok().and_then(|at| at.checked_mul(SECTOR));
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        let inside = |r: &core::ops::Range<usize>| r.end <= self.0.len();
        range.filter(inside).ok_or_else(|| DiskError::new("beyond its end"))
    }
}

impl Disk for RamDisk {
    fn sectors(&self) -> u64 {
        (self.0.len() / SECTOR) as u64
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = self.range(at, into.len())?;
        into.copy_from_slice(&self.0[range]);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let range = self.range(at, bytes.len())?;
        self.0[range].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}
