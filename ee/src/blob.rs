//! The node's blob store as its teams and its worker share it: [`nodeos::store`] behind a lock, and the device
//! behind another. A flow's area is named by its tuple's hash; the node's own is [`nodeos::store::NODE`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nodeos::account::Account;
use nodeos::store::{Batch, Bounds, Disk, DiskError, Store, StoreError, Writer};
use nodeos::units::Size;
use serde::{Deserialize, Serialize};

use crate::abi::Error;

/// The `[store]` section of a node's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Bytes of the node's memory for areas that no running flow uses, and for the node's own.
    pub memory: Size,
    /// Blobs of one flow.
    pub blobs: u16,
    /// Blobs in all.
    pub total: u16,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { memory: Size(1 << 20), blobs: 64, total: 1024 }
    }
}

impl StoreConfig {
    /// The most that [`blobs`](Self::blobs) may be: their names fit one answer of the control protocol.
    pub const MAX_BLOBS: u16 = 512;

    /// The bounds of a store.
    pub fn bounds(&self) -> Bounds {
        Bounds { area: self.blobs.into(), total: self.total.into() }
    }
}

/// A block device that a platform lends.
pub type SharedDisk = Arc<Mutex<dyn Disk>>;

/// All areas of a node; every team has this.
#[derive(Clone)]
pub struct Blobs(Arc<Mutex<Store>>);

impl Blobs {
    /// A store to share.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// The store, while nobody else has it.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Blobs {
    /// In memory, with the usual bounds and nothing unclaimed.
    fn default() -> Self {
        Self::new(Store::new(Account::root(0), StoreConfig::default().bounds()))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Name => Self::BadArgument,
            StoreError::TooLarge => Self::TooLarge,
            StoreError::Missing => Self::NotFound,
            StoreError::Full => Self::NoRoom,
            StoreError::Memory => Self::NoMemory,
            StoreError::Busy => Self::Unavailable,
        }
    }
}

/// A device and what writes to it; used by one job at a time.
#[derive(Clone)]
pub struct Device {
    disk: SharedDisk,
    writer: Arc<Mutex<Writer>>,
}

impl Device {
    /// A device that the store has read.
    pub fn new(disk: SharedDisk, writer: Writer) -> Self {
        Self { disk, writer: Arc::new(Mutex::new(writer)) }
    }

    /// Writes a batch and waits until it is there.
    pub fn write(&self, batch: &Batch) -> Result<(), DiskError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write(&mut *disk, batch)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Device")
    }
}
