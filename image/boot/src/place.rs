//! Decides where the image goes, and puts it there.
//!
//! The boot loader leaves the modules right behind the loader: first the image's ELF file, then the
//! others. Whatever lies below the loaded image is lost to the kernel, so the small modules move
//! down next to the loader and the ELF file moves up to the end of memory, where the kernel may
//! overwrite it once the image has been loaded.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ops::Range;

use hermit_entry::elf::{KernelObject, LoadedKernel};

use crate::multiboot::Information;
use crate::paging::segments;
use crate::relocate::relocate;

const PAGE: usize = 4096;
const LARGE: usize = 2 << 20;
/// The segment that tells where the relocations are (ELF-64 Object File Format 1.5, section 7).
const PT_DYNAMIC: u32 = 2;
/// What a loaded image may take at most.
const IMAGE_LIMIT: usize = 256 << 20;

/// Where things are after they were moved.
pub struct Plan {
    /// The image's ELF file.
    elf: &'static [u8],
    /// Start and size of each further module.
    pub modules: Vec<(usize, usize)>,
    /// The first byte behind loader and modules.
    pub modules_end: usize,
    /// Where the image goes.
    target: Range<usize>,
}

/// The loaded image.
pub struct Image {
    /// For the kernel.
    pub loaded: LoadedKernel,
    /// The file, to see the segments.
    pub elf: &'static [u8],
    /// Where it starts.
    pub start: usize,
}

unsafe extern "C" {
    static _end: u8;
}

/// Moves the modules and reserves the image's place.
pub fn plan(information: &Information) -> Result<Plan, String> {
    let (image, others) = information
        .modules
        .split_first()
        .ok_or("no image: give it as the first module (-initrd node,config.toml)")?;
    let first = align(&raw const _end as usize, PAGE);
    if information.modules.iter().any(|module| module.start < first || module.end < module.start) {
        return Err("a module lies where the loader is".to_owned());
    }
    let size: usize = others.iter().map(|module| align(module.len(), PAGE)).sum();
    let modules_end = first + size;

    // The file goes to the end of the memory that holds it all.
    let memory = information
        .memory
        .iter()
        .map(|range| range.start as usize..range.end.min(1 << 32) as usize)
        .find(|range| range.contains(&first))
        .ok_or("the loader is not in usable memory")?;
    let top = (memory.end - image.len()) & !(PAGE - 1);
    if others.iter().any(|module| module.end > top) || top < modules_end {
        return Err("not enough memory for the modules".to_owned());
    }
    // Safety: both ranges are usable memory. The other modules lie below `top`, as just checked.
    let elf = unsafe {
        core::ptr::copy(image.start as *const u8, top as *mut u8, image.len());
        core::slice::from_raw_parts(top as *const u8, image.len())
    };

    let mut modules = Vec::new();
    let mut at = first;
    for module in others {
        if module.start < at {
            return Err("the boot loader did not put the modules in order".to_owned());
        }
        // Safety: it moves down into the place that the image or an earlier module has left.
        unsafe { core::ptr::copy(module.start as *const u8, at as *mut u8, module.len()) };
        modules.push((at, module.len()));
        at += align(module.len(), PAGE);
    }

    let target = align(modules_end, LARGE)..top;
    Ok(Plan { elf, modules, modules_end, target })
}

/// Loads the image into its place.
pub fn load(plan: &Plan) -> Result<Image, String> {
    let kernel = KernelObject::parse(plan.elf).map_err(|error| format!("{error}"))?;
    if let Some(start) = kernel.start_addr() {
        return Err(format!("the image wants to be loaded at {start:#x}, but it must be relocatable"));
    }
    let size = kernel.mem_size();
    let start = plan.target.start;
    if size > IMAGE_LIMIT || start + size > plan.target.end {
        return Err(format!("not enough memory: the image needs {} KiB", size >> 10));
    }
    // Safety: usable memory between the modules and the ELF file.
    let memory = unsafe { core::slice::from_raw_parts_mut(start as *mut MaybeUninit<u8>, size) };
    let loaded = kernel.load_kernel(memory, start as u64);
    if let Some(dynamic) = segments(plan.elf).find(|segment| segment.kind == PT_DYNAMIC) {
        // Safety: the same memory, whose other borrow is over. What lies between the segments has not
        // been written, but is the machine's memory, where every byte has a value.
        let memory = unsafe { core::slice::from_raw_parts_mut(start as *mut u8, size) };
        relocate(memory, dynamic.address..dynamic.address.saturating_add(dynamic.size), start as u64)?;
    }
    Ok(Image { loaded, elf: plan.elf, start })
}

/// `address` rounded up to a multiple of `to`.
pub const fn align(address: usize, to: usize) -> usize {
    address.next_multiple_of(to)
}
