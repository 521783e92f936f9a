//! What a multiboot 1 boot loader tells (Multiboot Specification 0.6.96, section 3.3).

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::num::NonZeroU64;
use core::ops::Range;

const MAGIC: u32 = 0x2bad_b002;
/// Command line, modules and memory map are there.
const NEEDED: u32 = 1 << 2 | 1 << 3 | 1 << 6;
const USABLE: u32 = 1;

/// A copy of what is needed; the original may be overwritten.
pub struct Information {
    /// Where the original was.
    pub address: NonZeroU64,
    /// The arguments behind the loader's name.
    pub command_line: String,
    /// The modules in the order in which they were given: the image first.
    pub modules: Vec<Range<usize>>,
    /// Usable memory.
    pub memory: Vec<Range<u64>>,
    /// The root of the ACPI tables.
    pub rsdp: Option<usize>,
}

impl Information {
    /// Reads the structure at `address`.
    ///
    /// # Safety
    /// `address` and `magic` must be what the boot loader left in ebx and eax, and memory must be
    /// mapped to itself.
    pub unsafe fn read(address: usize, magic: u32) -> Result<Self, String> {
        if magic != MAGIC {
            return Err("not started by a multiboot boot loader".to_owned());
        }
        // Safety (here and below): the boot loader wrote these fields, says their flags.
        let word = |offset: usize| unsafe { *((address + offset) as *const u32) };
        if word(0) & NEEDED != NEEDED {
            return Err("the boot loader gave no command line, modules or memory map".to_owned());
        }
        let command_line = unsafe { CStr::from_ptr(word(16) as usize as *const _) };
        let command_line =
            command_line.to_str().map_err(|_| "the kernel's arguments are not UTF-8")?.to_owned();

        let list = word(24) as usize;
        let modules = (0..word(20) as usize).map(|index| {
            let entry = (list + 16 * index) as *const u32;
            unsafe { *entry as usize..*entry.add(1) as usize }
        });

        let mut memory = Vec::new();
        let (mut at, end) = (word(48) as usize, word(48) as usize + word(44) as usize);
        while at < end {
            let size = unsafe { (at as *const u32).read_unaligned() } as usize;
            let start = unsafe { ((at + 4) as *const u64).read_unaligned() };
            let length = unsafe { ((at + 12) as *const u64).read_unaligned() };
            let kind = unsafe { ((at + 20) as *const u32).read_unaligned() };
            if kind == USABLE {
                memory.push(start..start.saturating_add(length));
            }
            at += size + 4;
        }

        Ok(Self {
            address: NonZeroU64::new(address as u64).ok_or("no multiboot information")?,
            command_line,
            modules: modules.collect(),
            memory,
            rsdp: rsdp(),
        })
    }
}

/// Looks for the Root System Description Pointer (ACPI 6.5, section 5.2.5.1) in the BIOS area; the
/// extended BIOS data area may hold it as well.
fn rsdp() -> Option<usize> {
    // Safety: BIOS memory, mapped and only read. The word at 0x40e is in page 0, still mapped here.
    let ebda = (unsafe { (0x40e as *const u16).read_volatile() } as usize) << 4;
    let ebda = if (0x8_0000..0xa_0000).contains(&ebda) { ebda..ebda + 1024 } else { 0..0 };
    let sum =
        |at: usize| (at..at + 20).fold(0u8, |sum, byte| sum.wrapping_add(unsafe { *(byte as *const u8) }));
    ebda.step_by(16)
        .chain((0xe_0000..0x10_0000).step_by(16))
        .find(|at| unsafe { *(*at as *const [u8; 8]) } == *b"RSD PTR " && sum(*at) == 0)
}
