//! A virtio block device (virtio 1.2, section 5.2): where the node's blobs outlive it.
//!
//! Requests are made one at a time, and waited for: at start by the main loop, later only by the worker thread,
//! which gives way to everything else meanwhile. What is read and written passes through memory of the
//! disk's own, because a device needs it in one piece.

use std::ptr::NonNull;
use std::slice;

use nodeos::store::{Disk, DiskError, SECTOR};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::DeviceType;

use crate::hal::Machine;
use crate::kernel;
use crate::nic::Quiet;
use crate::pci::Device;

/// Bytes of a request.
const PIECE: usize = 64 << 10;

/// One disk.
pub struct BlockDevice {
    raw: VirtIOBlk<Machine, Quiet>,
    piece: NonNull<u8>,
}

// Safety: the memory belongs to the disk alone, whichever thread has that.
unsafe impl Send for BlockDevice {}

/// Opens the first disk on the bus, if there is one.
pub fn open(devices: &mut Vec<Device>) -> Option<Result<BlockDevice, String>> {
    let first = devices.iter().position(|device| device.kind == DeviceType::Block)?;
    let device = devices.remove(first);
    let place = device.place.to_string();
    Some(BlockDevice::new(device).map_err(|error| format!("disk {place}: {error}")))
}

impl BlockDevice {
    fn new(device: Device) -> Result<Self, String> {
        let mut raw = VirtIOBlk::new(Quiet(device.open_silently()?)).map_err(|error| error.to_string())?;
        raw.disable_interrupts();
        let piece = kernel::map(PIECE).ok_or("no memory")?;
        Ok(Self { raw, piece })
    }

    /// The disk and its memory, as much of that as a request of `len` bytes needs.
    fn request(&mut self, len: usize) -> (&mut VirtIOBlk<Machine, Quiet>, &mut [u8]) {
        // Safety: so many bytes were mapped; they are the disk's alone, and lent only as long as it is.
        (&mut self.raw, unsafe { slice::from_raw_parts_mut(self.piece.as_ptr(), len.min(PIECE)) })
    }
}

impl Disk for BlockDevice {
    fn sectors(&self) -> u64 {
        self.raw.capacity()
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        for (sector, part) in (at as usize..).step_by(PIECE / SECTOR).zip(into.chunks_mut(PIECE)) {
            let (raw, memory) = self.request(part.len());
            raw.read_blocks(sector, memory).map_err(DiskError::new)?;
            part.copy_from_slice(memory);
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        for (sector, part) in (at as usize..).step_by(PIECE / SECTOR).zip(bytes.chunks(PIECE)) {
            let (raw, memory) = self.request(part.len());
            memory.copy_from_slice(part);
            raw.write_blocks(sector, memory).map_err(DiskError::new)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.raw.flush().map_err(DiskError::new)
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        // Safety: nobody uses the memory any more: every request was waited for.
        unsafe { kernel::unmap(self.piece, PIECE) };
    }
}
