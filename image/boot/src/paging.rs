//! Takes away every right to memory that nobody needs, before the kernel starts.
//!
//! What is left: page 0 is not mapped; text is readable and executable; read-only data, and data
//! that is read-only once relocated, are readable; everything else in the first 4 GiB (data, heap,
//! modules, devices) is readable and writable. Nothing is both writable and executable. The loader's
//! own text stays executable until the node, once started, seals it (its range is in the kernel's
//! arguments).

use alloc::alloc::{Layout, alloc_zeroed};
use alloc::format;
use alloc::string::String;
use core::arch::asm;

use crate::Pages;
use crate::multiboot::Information;
use crate::place::Image;

/// The tables that entry.s fills: level 4, level 3, four of level 2, the first of level 1.
pub static TABLES: Pages<0x7000> = Pages::new();

const PAGE: usize = 4096;
const LARGE: usize = 2 << 20;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const IS_LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const DATA: u64 = PRESENT | WRITABLE | NO_EXECUTE;
const READ_ONLY: u64 = PRESENT | NO_EXECUTE;
const TEXT: u64 = PRESENT;

// Program header fields (ELF-64 Object File Format 1.5, section 7).
const PT_LOAD: u32 = 1;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const PF_X: u32 = 1;
const PF_W: u32 = 2;

unsafe extern "C" {
    static _text: u8;
    static _text_end: u8;
}

/// The loader's text.
pub fn own_text() -> (usize, usize) {
    (&raw const _text as usize, &raw const _text_end as usize)
}

/// Sets the final rights for the whole of memory.
pub fn protect(image: &Image, modules_end: usize, information: &Information) -> Result<(), String> {
    let tables = TABLES.address().cast::<u64>();
    // Safety: these are the tables in use, and this is the only code that knows them. What runs now
    // (the loader's text, stack and data) keeps the rights that it needs throughout.
    unsafe {
        for large in tables.add(2 * 512).cast::<[u64; 4 * 512]>().as_mut_unchecked() {
            if *large & IS_LARGE != 0 {
                *large |= NO_EXECUTE;
            }
        }
        for small in tables.add(6 * 512).cast::<[u64; 512]>().as_mut_unchecked() {
            *small |= NO_EXECUTE;
        }
        *tables.add(6 * 512) = 0;
    }
    let (text, text_end) = own_text();
    set(text, text_end, TEXT);

    let end = image.start + image_size(image);
    if modules_end > image.start || end > information.memory.iter().map(|m| m.end).max().unwrap_or(0) as usize
    {
        return Err("the image overlaps the modules or the end of memory".into());
    }
    let mut previous_end = image.start;
    for segment in segments(image.elf) {
        let start = image.start + segment.address;
        let end = start + segment.size;
        match segment.kind {
            PT_LOAD => {
                if start / PAGE * PAGE < previous_end {
                    return Err(format!("two segments of the image share the page of {start:#x}"));
                }
                previous_end = end;
                set(
                    start,
                    end,
                    match segment.flags & (PF_X | PF_W) {
                        0 => READ_ONLY,
                        PF_X => TEXT,
                        PF_W => DATA,
                        _ => return Err("a segment of the image is writable and executable".into()),
                    },
                );
            }
            PT_GNU_RELRO => set(start, end / PAGE * PAGE, READ_ONLY),
            _ => (),
        }
    }
    // Safety: the mapping of what runs now does not change.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack)) };
    Ok(())
}

fn image_size(image: &Image) -> usize {
    let range = &image.loaded.load_info.kernel_image_addr_range;
    (range.end - range.start) as usize
}

/// Gives the pages from `start` to `end` the rights `flags`.
fn set(start: usize, end: usize, flags: u64) {
    for page in (start / PAGE * PAGE..end).step_by(PAGE) {
        // Safety: `small` returns an entry of a level 1 table.
        unsafe { *small(page) = page as u64 | flags };
    }
}

/// The level 1 entry of `page`; splits the large page that it is part of.
fn small(page: usize) -> *mut u64 {
    let tables = TABLES.address().cast::<u64>();
    // Safety: `page` is below 4 GiB, so its entry is in one of the four level 2 tables. A new table
    // maps what the large page mapped. Tables lie in identity-mapped memory.
    unsafe {
        let large = tables.add(2 * 512 + page / LARGE);
        if *large & IS_LARGE != 0 {
            let table = alloc_zeroed(Layout::new::<[u64; 512]>().align_to(PAGE).expect("a power of two"));
            assert!(!table.is_null(), "no memory for page tables");
            let base = *large & ADDRESS & !(LARGE as u64 - 1);
            let flags = *large & (PRESENT | WRITABLE | NO_EXECUTE);
            for index in 0..512 {
                *table.cast::<u64>().add(index) = base + (index * PAGE) as u64 | flags;
            }
            *large = table as u64 | PRESENT | WRITABLE;
        }
        let table = (*large & ADDRESS) as *mut u64;
        table.add(page / PAGE % 512)
    }
}

/// A program header. The address counts from the image's first byte.
pub struct Segment {
    pub kind: u32,
    flags: u32,
    pub address: usize,
    pub size: usize,
}

/// The program headers of a file that has been parsed before.
pub fn segments(elf: &[u8]) -> impl Iterator<Item = Segment> + '_ {
    let word = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().expect("4 bytes"));
    let long = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().expect("8 bytes")) as usize;
    let table = long(0x20);
    let [size, count] = [0x36, 0x38].map(|at| usize::from(u16::from_le_bytes([elf[at], elf[at + 1]])));
    (0..count).map(move |index| {
        let header = table + index * size;
        Segment {
            kind: word(header),
            flags: word(header + 4),
            address: long(header + 16),
            size: long(header + 40),
        }
    })
}
