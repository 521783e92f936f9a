//! The page tables (Intel SDM volume 3, section 4.5). The node runs in ring 0 and the tables lie in
//! memory that is mapped to itself, so they can be read and changed directly.

use std::arch::asm;

use crate::kernel;

/// Bytes in the smallest page.
pub const PAGE: usize = 4096;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What memory may be used for. There is no way to say writable and executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Data.
    ReadWrite,
    /// Constants.
    ReadOnly,
    /// Code.
    Execute,
}

/// The memory is not mapped, or there is no memory for a page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageError;

/// The physical address behind `address`, if that is mapped.
pub fn physical(address: usize) -> Option<u64> {
    let (entry, level) = lookup(address)?;
    let mask = (1u64 << shift(level)) - 1;
    // Safety: `lookup` returns entries of live tables.
    let base = unsafe { *entry } & ADDRESS;
    Some(base & !mask | address as u64 & mask)
}

/// Changes the rights of the pages from `start` on, for `size` bytes; both in whole pages. Large
/// pages are split. Physical memory need not be contiguous.
///
/// # Safety
/// The memory must belong to the caller, and nobody may count on rights that it loses.
pub unsafe fn protect(start: usize, size: usize, rights: Rights) -> Result<(), PageError> {
    let flags = match rights {
        Rights::ReadWrite => WRITABLE | NO_EXECUTE,
        Rights::ReadOnly => NO_EXECUTE,
        Rights::Execute => 0,
    };
    let end = start.checked_add(size).ok_or(PageError)?;
    let mut page = start / PAGE * PAGE;
    while page < end {
        let (entry, level) = lookup(page).ok_or(PageError)?;
        // Safety (here and below): an entry of a live table for a page that belongs to the caller.
        if unsafe { *entry } & (WRITABLE | NO_EXECUTE) == flags {
            // As it should be, for as much as this entry maps.
            page = (page >> shift(level)) + 1 << shift(level);
            continue;
        }
        let entry = small(page)?;
        unsafe {
            *entry = *entry & !(WRITABLE | NO_EXECUTE) | flags;
            asm!("invlpg [{}]", in(reg) page, options(nostack, preserves_flags));
        }
        page += PAGE;
    }
    Ok(())
}

/// The entry that maps `address`, and its level: 0 for small pages.
fn lookup(address: usize) -> Option<(*mut u64, u32)> {
    let mut table: u64;
    // Safety: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) table, options(nomem, nostack, preserves_flags)) };
    for level in (0..4).rev() {
        let index = address >> shift(level) & 511;
        let entry = ((table & ADDRESS) as usize + index * 8) as *mut u64;
        // Safety: tables are mapped to themselves and always complete.
        let value = unsafe { *entry };
        if value & PRESENT == 0 {
            return None;
        }
        if level == 0 || value & LARGE != 0 {
            return Some((entry, level));
        }
        table = value;
    }
    None
}

/// The entry of the small page at `address`; splits larger ones.
fn small(address: usize) -> Result<*mut u64, PageError> {
    loop {
        let (entry, level) = lookup(address).ok_or(PageError)?;
        if level == 0 {
            return Ok(entry);
        }
        let table = kernel::map(PAGE).ok_or(PageError)?.as_ptr().cast::<u64>();
        let place = physical(table as usize).ok_or(PageError)?;
        // Safety: the new table maps exactly what the large page mapped, with the same rights, so
        // nobody notices. It is never freed. At level 1 the parts are small pages, whose bit 7
        // means something else.
        unsafe {
            let large = *entry;
            let size = 1u64 << shift(level - 1);
            let base = large & ADDRESS & !((1u64 << shift(level)) - 1);
            let flags = large & !ADDRESS & !if level == 1 { LARGE } else { 0 };
            for index in 0..512 {
                *table.add(index) = base + size * index as u64 | flags;
            }
            *entry = place & ADDRESS | PRESENT | WRITABLE;
            asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
        }
    }
}

const fn shift(level: u32) -> u32 {
    12 + 9 * level
}
