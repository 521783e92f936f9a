//! What `virtio-drivers` needs to know about this machine: DMA memory and physical addresses.

use std::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use crate::kernel;
use crate::pages::{PAGE, physical};

/// Where the loader's map of physical memory to itself ends.
const IDENTITY_MAP: u64 = 1 << 32;

/// The machine.
pub struct Machine;

// Safety: `dma_alloc` returns fresh, zeroed, contiguous pages; device memory below 4 GiB is mapped
// to itself by the loader and used by no other driver; `share` returns true physical addresses.
unsafe impl Hal for Machine {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = kernel::map(pages * PAGE).expect("memory for a device's queue");
        // Safety: just mapped, that long.
        unsafe { memory.write_bytes(0, pages * PAGE) };
        let address = physical(memory.as_ptr() as usize).expect("mapped memory has an address");
        (address, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        // Safety: the caller promises that it came from `dma_alloc`.
        unsafe { kernel::unmap(memory, pages * PAGE) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        let end = address.checked_add(size as u64);
        assert!(
            end.is_some_and(|end| end <= IDENTITY_MAP),
            "a device's registers at {address:#x} are beyond the identity map"
        );
        NonNull::new(address as usize as *mut u8).expect("no device has registers at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        // Packet buffers do not cross a page; other buffers are small and aligned or come from
        // contiguous memory.
        let start = buffer.as_ptr().cast::<u8>() as usize;
        let address = physical(start).expect("a buffer is mapped");
        debug_assert_eq!(
            physical(start + buffer.len() - 1),
            Some(address + buffer.len() as u64 - 1),
            "a buffer is contiguous"
        );
        address
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
