//! Memory for compiled guest code: the C functions that wasmtime's custom platform calls
//! (`custom-virtual-memory`). Linked in, they are used by every engine; nothing has to be passed on.
//!
//! Memory comes from the heap. wasmtime makes a finished module read-only and then its text executable;
//! both go through the page tables, which know no page that is writable and executable. Linear
//! memories stay what heap memory is. Guests are not protected by guard pages but by the checks that
//! the compiler puts into their code (`signals_based_traps(false)`), so memory that is "reserved"
//! may as well be accessible.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ptr::null_mut;

use crate::pages::{PAGE, Rights, protect};

const PROT_READ: u32 = 1 << 0;
const PROT_WRITE: u32 = 1 << 1;
const PROT_EXEC: u32 = 1 << 2;

// The usual error numbers; wasmtime only shows them.
const NO_MEMORY: i32 = 12;
const INVALID: i32 = 22;
const NOT_SUPPORTED: i32 = 38;

thread_local! {
    static SLOTS: [Cell<*mut u8>; 2] = const { [Cell::new(null_mut()), Cell::new(null_mut())] };
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, PAGE).ok().filter(|layout| layout.size() > 0)
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_mmap_new(size: usize, _protection: u32, result: &mut *mut u8) -> i32 {
    let Some(layout) = layout(size) else {
        return INVALID;
    };
    // Safety: the layout is not empty.
    *result = unsafe { alloc_zeroed(layout) };
    if result.is_null() { NO_MEMORY } else { 0 }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn wasmtime_mmap_remap(start: *mut u8, size: usize, protection: u32) -> i32 {
    // Safety: wasmtime owns that memory and wants it back empty.
    unsafe {
        if protect(start as usize, size, Rights::ReadWrite).is_err() {
            return NO_MEMORY;
        }
        start.write_bytes(0, size);
        wasmtime_mprotect(start, size, protection)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn wasmtime_munmap(start: *mut u8, size: usize) -> i32 {
    let Some(layout) = layout(size) else {
        return INVALID;
    };
    // Safety: wasmtime gives back what `wasmtime_mmap_new` gave it. The heap gets plain data memory.
    unsafe {
        if protect(start as usize, size, Rights::ReadWrite).is_err() {
            return NO_MEMORY;
        }
        dealloc(start, layout);
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn wasmtime_mprotect(start: *mut u8, size: usize, protection: u32) -> i32 {
    let rights = match protection {
        // Accessible, see above.
        0 => Rights::ReadWrite,
        PROT_READ => Rights::ReadOnly,
        p if p == PROT_READ | PROT_WRITE => Rights::ReadWrite,
        p if p == PROT_READ | PROT_EXEC => Rights::Execute,
        _ => return INVALID,
    };
    // Safety: wasmtime owns that memory and says what it wants to do with it.
    match unsafe { protect(start as usize, size, rights) } {
        Ok(()) => 0,
        Err(_) => NO_MEMORY,
    }
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_page_size() -> usize {
    PAGE
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_new(_: *const u8, _: usize, result: &mut *mut u8) -> i32 {
    // No image, which is not an error: memories are initialised by copying.
    *result = null_mut();
    0
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_map_at(_: *mut u8, _: *mut u8, _: usize) -> i32 {
    NOT_SUPPORTED
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_free(_: *mut u8) {}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_get(slot: usize) -> *mut u8 {
    SLOTS.with(|slots| slots[slot].get())
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_set(slot: usize, value: *mut u8) {
    SLOTS.with(|slots| slots[slot].set(value));
}
