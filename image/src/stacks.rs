//! Stacks of fibers, with a page below each that faults: what overflows ends the machine, as on any other
//! stack, and never writes into memory of another team.
//!
//! Guest code keeps to its part of the stack by checks of its own; the page is for host functions.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;

use wasmtime::{Result, StackCreator, StackMemory, format_err};

use crate::pages::{PAGE, Rights, protect};

/// Makes stacks from heap memory.
pub struct Stacks;

struct Stack {
    /// The guard page; the stack is above it.
    base: NonNull<u8>,
    layout: Layout,
}

// Safety: plain memory, owned by its value.
unsafe impl Send for Stack {}
// Safety: a shared reference only tells addresses.
unsafe impl Sync for Stack {}

// Safety: each stack is memory of its own, in whole pages, with a guard page.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> Result<Box<dyn StackMemory>> {
        let layout = size
            .checked_next_multiple_of(PAGE)
            .and_then(|size| Layout::from_size_align(size.checked_add(PAGE)?, PAGE).ok())
            .ok_or_else(|| format_err!("no stack has {size} bytes"))?;
        // Safety: the layout is not empty.
        let base = unsafe { if zeroed { alloc_zeroed(layout) } else { alloc(layout) } };
        let base = NonNull::new(base).ok_or_else(|| format_err!("no memory for a stack"))?;
        // Dropped when the page cannot be protected, too.
        let stack = Stack { base, layout };
        // Safety: the page is ours, and nobody writes to it. Stacks are probed page by page (by writes), so none
        // grows past it unnoticed.
        unsafe { protect(base.as_ptr() as usize, PAGE, Rights::ReadOnly) }
            .map_err(|_| format_err!("no memory for a page table"))?;
        Ok(Box::new(stack))
    }
}

// Safety: as above.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.layout.size())
    }

    fn range(&self) -> Range<usize> {
        self.base.as_ptr() as usize + PAGE..self.top() as usize
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.base.as_ptr()..self.base.as_ptr().wrapping_add(PAGE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Safety: the memory is ours, and the heap gets it back as it gave it. A page that could not be made
        // data again stays with us.
        unsafe {
            if protect(self.base.as_ptr() as usize, PAGE, Rights::ReadWrite).is_ok() {
                dealloc(self.base.as_ptr(), self.layout);
            }
        }
    }
}
