//! The node's blobs: what the NodeOS calls files. Every byte is in memory, and written through to a block
//! device where there is one.
//!
//! A [`Store`] has areas by owner, and blobs by name in each. An area in use is charged to its team's
//! account from [`Store::claim`] on; one that nobody has claimed (found on the device at start) to the
//! store's own account, and the oldest of those go when room is needed. The node's own area is
//! [`NODE`] and stays.
//!
//! The store does no I/O: [`open`](Store::open) reads a [`Disk`] once, at start; from then on
//! [`batch`](Store::batch) says what is to be written, a job hands it to [`Writer::write`], and
//! [`written`](Store::written) hears of the end. The order of changes is kept. A device that fails makes
//! the store go on in memory.

mod device;
mod journal;
mod record;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

pub use device::{Batch, Damage, Disk, DiskError, MAX_DISK, MIN_DISK, RamDisk, Unusable, Writer};
pub use journal::MAX_WAITING;
pub use record::SECTOR;

use crate::account::{Account, Charge};
use device::Found;
use journal::Journal;

/// Whose an area is: the hash of a flow's tuple, or [`NODE`].
pub type Owner = [u8; 32];

/// The owner of the node's own area.
pub const NODE: Owner = [0; 32];
/// The longest blob, in bytes.
pub const MAX_BLOB: usize = 64 << 10;
/// The longest name, in bytes.
pub const MAX_NAME: usize = 64;
/// What a blob is charged beside its bytes: its name and its places in tables.
pub const BLOB_BYTES: u64 = 256;
/// What an area is charged beside its blobs.
pub const AREA_BYTES: u64 = 256;
/// What a change is charged while it waits for the device, beside the bytes of its blob.
pub const WAITING_BYTES: u64 = 160;

/// Why nothing was stored or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// A name has 1 to 64 bytes.
    Name,
    /// The blob is longer than [`MAX_BLOB`].
    TooLarge,
    /// There is no such blob.
    Missing,
    /// The area, the store or the device is full.
    Full,
    /// The account has too little left.
    Memory,
    /// Too many changes of this area wait for the device.
    Busy,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a name has 1 to 64 bytes",
            Self::TooLarge => "a blob has at most 64 KiB",
            Self::Missing => "there is no such blob",
            Self::Full => "the area, the store or its device is full",
            Self::Memory => "the memory budget is used up",
            Self::Busy => "too many changes wait for the device",
        })
    }
}

impl core::error::Error for StoreError {}

/// How much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Blobs in an area.
    pub area: usize,
    /// Blobs in all.
    pub total: usize,
}

/// One change, as the device gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A blob, in place of one of the same name.
    Put {
        /// Whose.
        owner: Owner,
        /// Its name.
        name: Box<[u8]>,
        /// Its bytes.
        data: Arc<[u8]>,
    },
    /// A blob goes.
    Remove {
        /// Whose.
        owner: Owner,
        /// Its name.
        name: Box<[u8]>,
    },
    /// An area goes.
    RemoveArea {
        /// Whose.
        owner: Owner,
    },
}

impl Op {
    fn owner(&self) -> &Owner {
        match self {
            Self::Put { owner, .. } | Self::Remove { owner, .. } | Self::RemoveArea { owner } => owner,
        }
    }

    fn sectors(&self) -> u64 {
        match self {
            Self::Put { data, .. } => record::sectors(data.len()),
            _ => 1,
        }
    }

    fn tag(&self) -> u64 {
        match self {
            Self::Put { owner, name, .. } | Self::Remove { owner, name } => record::tag(owner, name),
            Self::RemoveArea { owner } => record::tag(owner, &[]),
        }
    }
}

/// What reading the device gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opened {
    /// Areas and blobs that were found.
    pub areas: usize,
    /// Blobs that were found.
    pub blobs: usize,
    /// Areas for which there was no room.
    pub dropped: u64,
    /// What could not be read.
    pub damage: Damage,
}

/// An area, as its operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AreaInfo {
    /// Whose it is.
    pub owner: Owner,
    /// Names and lengths of its blobs.
    pub blobs: Vec<(Box<[u8]>, usize)>,
    /// Bytes that it is charged.
    pub charged: u64,
    /// Whether a running team uses it.
    pub claimed: bool,
    /// Blobs that were damaged on the device.
    pub damaged: u64,
}

struct Area {
    owner: Owner,
    /// In the order of names.
    blobs: Vec<Blob>,
    /// For the area and all of its blobs.
    charge: Charge,
    claimed: bool,
    /// When it was last written to: the store's own count.
    written_at: u64,
    damaged: u64,
    /// Whether the device has, or may have, something of it.
    on_device: bool,
}

struct Blob {
    name: Box<[u8]>,
    data: Arc<[u8]>,
}

/// All areas of a node.
///
/// Its tables are sorted lists: they are short, and seldom change as often as a device could follow.
pub struct Store {
    /// In the order of owners.
    areas: Vec<Area>,
    /// Pays for what nobody has claimed, and for the node's own.
    account: Account,
    bounds: Bounds,
    blobs: usize,
    /// Sectors that all blobs would take on a device.
    sectors: u64,
    clock: u64,
    journal: Option<Journal>,
    dropped: u64,
}

impl Store {
    /// An empty store in memory.
    pub fn new(account: Account, bounds: Bounds) -> Self {
        Self { areas: Vec::new(), account, bounds, blobs: 0, sectors: 0, clock: 0, journal: None, dropped: 0 }
    }

    /// Reads a device, once, before anything else; from then on the store writes to it. Nothing is written
    /// here.
    pub fn open(&mut self, disk: &mut dyn Disk) -> Result<(Writer, Opened), Unusable> {
        let (mut damaged, total) = (Vec::new(), self.bounds.total);
        let found = |found| match found {
            Found::Blob { owner, name, data } => self.adopt(owner, name.into(), data.into()),
            Found::Damaged(owner) => damaged.push(owner),
        };
        let (writer, damage) = device::open(disk, total, found)?;
        damaged.into_iter().for_each(|owner| self.note_damage(owner));
        self.journal = Some(Journal::new(&writer));
        let opened =
            Opened { areas: self.areas.len(), blobs: self.blobs, dropped: self.take_dropped(), damage };
        Ok((writer, opened))
    }

    /// Takes in a blob that was on the device. Nobody has claimed it yet.
    fn adopt(&mut self, owner: Owner, name: Box<[u8]>, data: Arc<[u8]>) {
        let (bytes, bound) = (BLOB_BYTES + data.len() as u64, self.bounds.area);
        if self.area(&owner).is_some_and(|area| area.blobs.len() >= bound) {
            self.dropped += 1;
            return;
        }
        loop {
            let charged = match self.area_mut(&owner) {
                Some(area) => area.charge.grow(bytes),
                None => self.account.charge(AREA_BYTES + bytes).map(|charge| {
                    self.add(Area { on_device: true, ..Area::new(owner, charge, owner == NODE) });
                }),
            };
            if charged.is_ok() {
                break;
            }
            if !self.drop_oldest(Some(&owner)) {
                // There is no other area left to make room.
                self.remove_area(&owner);
                self.dropped += 1;
                return;
            }
        }
        self.keep(&owner, name, data);
    }

    /// An area is shown even where nothing but the damage is left of it.
    fn note_damage(&mut self, owner: Owner) {
        if self.area(&owner).is_none() {
            let Ok(charge) = self.account.charge(AREA_BYTES) else { return };
            self.add(Area::new(owner, charge, owner == NODE));
        }
        if let Some(area) = self.area_mut(&owner) {
            area.damaged += 1;
            area.on_device = true;
        }
    }

    /// A team takes over the area of its flow, if there is one: from now on `account` is charged for it.
    pub fn claim(&mut self, owner: &Owner, account: &Account) -> Result<(), StoreError> {
        if let Some(area) = self.area_mut(owner).filter(|a| !a.claimed) {
            area.charge = account.charge(area.charge.bytes()).map_err(|_| StoreError::Memory)?;
            area.claimed = true;
        }
        Ok(())
    }

    /// Stores a blob, in place of one of the same name, at the expense of `account`.
    pub fn put(
        &mut self,
        owner: &Owner,
        account: &Account,
        name: &[u8],
        data: &[u8],
    ) -> Result<(), StoreError> {
        if !(1..=MAX_NAME).contains(&name.len()) {
            return Err(StoreError::Name);
        }
        if data.len() > MAX_BLOB {
            return Err(StoreError::TooLarge);
        }
        self.claim(owner, account)?;
        let area = self.area(owner);
        let old = area.and_then(|a| a.get(name)).map(|blob| blob.len());
        if old.is_none() && area.is_some_and(|a| a.blobs.len() >= self.bounds.area) {
            return Err(StoreError::Full);
        }
        self.may_change(owner)?;
        // Lengths are at most 64 KiB. Nobody's area goes for what there is no memory for anyway.
        let (new, old_bytes) = (BLOB_BYTES + data.len() as u64, old.map_or(0, |len| BLOB_BYTES + len as u64));
        if account.left() < new.saturating_sub(old_bytes) {
            return Err(StoreError::Memory);
        }
        while !self.has_room(old, data.len()) {
            if !self.drop_oldest(None) {
                return Err(StoreError::Full);
            }
        }
        let waits = self.waiting_charge(account, data.len())?;
        match self.area_mut(owner) {
            Some(area) => {
                let bytes = area.charge.bytes() - old_bytes + new;
                area.charge.resize(bytes).map_err(|_| StoreError::Memory)?;
            }
            None => {
                let charge = account.charge(AREA_BYTES + new).map_err(|_| StoreError::Memory)?;
                self.add(Area::new(*owner, charge, true));
            }
        }
        let (name, data): (Box<[u8]>, Arc<[u8]>) = (name.into(), data.into());
        self.keep(owner, name.clone(), data.clone());
        if let Some(journal) = &mut self.journal {
            journal.push(Op::Put { owner: *owner, name, data }, waits);
        }
        Ok(())
    }

    /// A blob's bytes.
    pub fn get(&self, owner: &Owner, name: &[u8]) -> Option<&Arc<[u8]>> {
        self.area(owner)?.get(name)
    }

    /// The name of an area's blob at this position, in the order of names.
    pub fn name(&self, owner: &Owner, at: usize) -> Option<&[u8]> {
        self.area(owner)?.blobs.get(at).map(|blob| &*blob.name)
    }

    /// Removes a blob.
    pub fn remove(&mut self, owner: &Owner, name: &[u8]) -> Result<(), StoreError> {
        let area = self.find(owner).map_err(|_| StoreError::Missing)?;
        let blob = self.areas[area].find(name).map_err(|_| StoreError::Missing)?;
        self.may_change(owner)?;
        let Blob { name, data } = self.areas[area].blobs.remove(blob);
        self.areas[area].charge.shrink(BLOB_BYTES + data.len() as u64);
        let account = self.areas[area].charge.account().clone();
        if self.areas[area].blobs.is_empty() && self.areas[area].damaged == 0 {
            self.areas.remove(area);
        }
        self.count(Some(data.len()), None);
        if let Some(journal) = &mut self.journal {
            // Less than what has just come back.
            journal.push(Op::Remove { owner: *owner, name }, account.charge(WAITING_BYTES).ok());
        }
        Ok(())
    }

    /// Removes an area with all that is in it, at once in memory and as soon as can be on the device.
    /// Whether there was one.
    pub fn remove_area(&mut self, owner: &Owner) -> bool {
        let area = self.find(owner).ok().map(|at| self.areas.remove(at));
        for blob in area.iter().flat_map(|a| &a.blobs) {
            self.count(Some(blob.data.len()), None);
        }
        if let Some(journal) = &mut self.journal {
            // An area whose last blob was removed is not in the table and may still wait to be written.
            let known = area.as_ref().is_some_and(|a| a.on_device) || journal.waiting_of(owner) > 0;
            journal.forget(owner, known);
        }
        area.is_some()
    }

    /// What is to be written to the device now; the next one comes when this one was
    /// [`written`](Self::written).
    pub fn batch(&mut self) -> Option<Batch> {
        let areas = &self.areas;
        let all = || {
            let mut ops = Vec::new();
            for area in areas {
                for Blob { name, data } in &area.blobs {
                    ops.push(Op::Put { owner: area.owner, name: name.clone(), data: data.clone() });
                }
            }
            ops
        };
        let batch = self.journal.as_mut()?.batch(all)?;
        let (Batch::Append(ops) | Batch::Rewrite(ops)) = &batch;
        for op in ops {
            if let Some(area) = self.area_mut(op.owner()) {
                area.on_device = true;
            }
        }
        Some(batch)
    }

    /// A batch was written, or not. `false`: the device failed too often, and the store goes on without.
    pub fn written(&mut self, result: &Result<(), DiskError>) -> bool {
        let goes_on = self.journal.as_mut().is_none_or(|j| j.done(result));
        if !goes_on {
            self.journal = None;
        }
        goes_on
    }

    /// Areas that were dropped to make room since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        core::mem::take(&mut self.dropped)
    }

    /// Whether changes go to a device.
    pub fn has_device(&self) -> bool {
        self.journal.is_some()
    }

    /// How many areas and blobs there are.
    pub fn count_all(&self) -> (usize, usize) {
        (self.areas.len(), self.blobs)
    }

    /// Bytes that blobs take on the device, and how many may.
    pub fn device_use(&self) -> Option<(u64, u64)> {
        self.journal.as_ref().map(|j| (self.sectors * SECTOR as u64, j.bytes()))
    }

    /// All areas.
    pub fn areas(&self) -> impl Iterator<Item = AreaInfo> {
        self.areas.iter().map(|area| AreaInfo {
            owner: area.owner,
            blobs: area.blobs.iter().map(|b| (b.name.clone(), b.data.len())).collect(),
            charged: area.charge.bytes(),
            claimed: area.claimed,
            damaged: area.damaged,
        })
    }

    /// Where the area of this owner is, or would be.
    fn find(&self, owner: &Owner) -> Result<usize, usize> {
        self.areas.binary_search_by(|area| area.owner.cmp(owner))
    }

    fn area(&self, owner: &Owner) -> Option<&Area> {
        self.find(owner).ok().map(|at| &self.areas[at])
    }

    fn area_mut(&mut self, owner: &Owner) -> Option<&mut Area> {
        self.find(owner).ok().map(|at| &mut self.areas[at])
    }

    fn add(&mut self, area: Area) {
        if let Err(at) = self.find(&area.owner) {
            self.areas.insert(at, area);
        }
    }

    /// Puts a blob, which is charged for, into an area that is there.
    fn keep(&mut self, owner: &Owner, name: Box<[u8]>, data: Arc<[u8]>) {
        self.clock += 1;
        let (clock, new) = (self.clock, data.len());
        let Some(area) = self.area_mut(owner) else { return };
        area.written_at = clock;
        let old = match area.find(&name) {
            Ok(at) => Some(core::mem::replace(&mut area.blobs[at].data, data).len()),
            Err(at) => {
                area.blobs.insert(at, Blob { name, data });
                None
            }
        };
        self.count(old, Some(new));
    }

    /// Whether there is room for a blob of `new` bytes in place of one of `old`.
    fn has_room(&self, old: Option<usize>, new: usize) -> bool {
        let sectors = self.sectors - old.map_or(0, record::sectors) + record::sectors(new);
        let counted = old.is_some() || self.blobs < self.bounds.total;
        counted && self.journal.as_ref().is_none_or(|j| sectors <= j.room())
    }

    fn may_change(&self, owner: &Owner) -> Result<(), StoreError> {
        let waiting = self.journal.as_ref().map_or(0, |j| j.waiting_of(owner));
        if waiting < MAX_WAITING { Ok(()) } else { Err(StoreError::Busy) }
    }

    /// The charge for a change that waits for the device, where there is one.
    fn waiting_charge(&self, account: &Account, len: usize) -> Result<Option<Charge>, StoreError> {
        let charge = self.journal.as_ref().map(|_| account.charge(WAITING_BYTES + len as u64));
        charge.transpose().map_err(|_| StoreError::Memory)
    }

    /// A blob of one length gives way to one of another.
    fn count(&mut self, old: Option<usize>, new: Option<usize>) {
        self.blobs = self.blobs + usize::from(new.is_some()) - usize::from(old.is_some());
        let sectors = |len: Option<usize>| len.map_or(0, record::sectors);
        self.sectors = self.sectors + sectors(new) - sectors(old);
    }

    /// Drops the area that nobody has claimed and that was not written to for longest.
    fn drop_oldest(&mut self, but: Option<&Owner>) -> bool {
        let unclaimed = self.areas.iter().filter(|a| !a.claimed && but != Some(&a.owner));
        let Some(oldest) = unclaimed.min_by_key(|a| a.written_at).map(|a| a.owner) else { return false };
        self.dropped += 1;
        self.remove_area(&oldest)
    }
}

impl Area {
    fn new(owner: Owner, charge: Charge, claimed: bool) -> Self {
        Self { owner, blobs: Vec::new(), charge, claimed, written_at: 0, damaged: 0, on_device: false }
    }

    /// Where the blob of this name is, or would be.
    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.blobs.binary_search_by(|blob| (*blob.name).cmp(name))
    }

    fn get(&self, name: &[u8]) -> Option<&Arc<[u8]>> {
        self.find(name).ok().map(|at| &self.blobs[at].data)
    }
}
