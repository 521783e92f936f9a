//! The loader's heap. What the kernel gets to see (arguments, device tree, page tables) is made here
//! and never freed; it lies below the image, in memory that the kernel does not touch.

use alloc::alloc::Layout;
use core::alloc::GlobalAlloc;
use core::cell::UnsafeCell;

use linked_list_allocator::Heap;

use crate::Pages;

const SIZE: usize = 256 << 10;

static MEMORY: Pages<SIZE> = Pages::new();

struct Allocator(UnsafeCell<Heap>);

// Safety: the loader has one thread and no interrupts.
unsafe impl Sync for Allocator {}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(UnsafeCell::new(Heap::empty()));

/// Must be called once, before anything is allocated.
pub fn init() {
    // Safety: first and only use of that memory.
    unsafe { (*ALLOCATOR.0.get()).init(MEMORY.address(), SIZE) }
}

// Safety: forwards to an allocator that keeps the contract; one thread, so one user at a time.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout).map_or(core::ptr::null_mut(), |block| block.as_ptr())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = core::ptr::NonNull::new(block) {
            unsafe { (*self.0.get()).deallocate(block, layout) }
        }
    }
}
