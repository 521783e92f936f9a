//! The loader: takes the node's image and its modules from a multiboot 1 boot loader (QEMU's
//! `-kernel`, or GRUB), puts the image into memory, takes away every right to memory that nobody
//! needs, and enters the kernel. `docs/boot.md` describes the whole sequence.

#![no_std]
#![no_main]

extern crate alloc;

mod cpu;
mod fdt;
mod heap;
mod multiboot;
mod paging;
mod place;
mod relocate;
mod tsc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;

use hermit_entry::boot_info::{
    BootInfo, DeviceTreeAddress, HardwareInfo, PlatformInfo, RawBootInfo, SerialPortBase,
};

use multiboot::Information;

global_asm!(
    include_str!("entry.s"),
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    tables = sym paging::TABLES,
    main = sym main,
);

/// The kernel starts on this stack too, and wants 32 KiB.
const STACK_SIZE: usize = 64 << 10;
const COM1: u16 = 0x3f8;

/// Memory that assembly code, the processor or a device knows as well.
#[repr(C, align(4096))]
pub(crate) struct Pages<const N: usize>(UnsafeCell<MaybeUninit<[u8; N]>>);

// Safety: the loader has one thread, and each of these has one user.
unsafe impl<const N: usize> Sync for Pages<N> {}

impl<const N: usize> Pages<N> {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }

    pub(crate) const fn address(&'static self) -> *mut u8 {
        self.0.get().cast()
    }
}

static STACK: Pages<STACK_SIZE> = Pages::new();

/// Never returns: enters the kernel or ends the machine.
extern "C" fn main(information: usize, magic: u32) -> ! {
    heap::init();
    match boot(information, magic) {
        Err(error) => fail(format_args!("{error}")),
        Ok(never) => match never {},
    }
}

fn boot(information: usize, magic: u32) -> Result<core::convert::Infallible, String> {
    let entered = cpu::tsc();
    let calibration = tsc::Calibration::start();
    // Safety: the address comes from the boot loader, memory is still mapped as it was.
    let information = unsafe { Information::read(information, magic) }?;
    let plan = place::plan(&information)?;
    let image = place::load(&plan)?;

    let khz = calibration.finish();
    let arguments = arguments(&information, &plan, khz, entered);
    let tree = fdt::build(&information, &arguments);
    paging::protect(&image, plan.modules_end, &information)?;

    let boot_info = RawBootInfo::from(BootInfo {
        hardware_info: HardwareInfo {
            phys_addr_range: 0..0,
            serial_port_base: SerialPortBase::new(COM1),
            device_tree: DeviceTreeAddress::new(tree.as_ptr() as u64),
        },
        load_info: image.loaded.load_info,
        platform_info: PlatformInfo::Multiboot {
            command_line: Some(String::leak(arguments)),
            multiboot_info_addr: information.address,
        },
    });
    let boot_info = Box::leak(Box::new(boot_info));
    // Safety: the image has been loaded there. The kernel adds the size of its stack to rsp, so it
    // gets the lower end of ours, whose contents nobody needs any more.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "jmp {entry}",
            stack = in(reg) STACK.address(),
            entry = in(reg) image.loaded.entry_point,
            in("rdi") boot_info,
            in("esi") 0,
            options(noreturn)
        )
    }
}

/// The kernel's arguments: what the user gave, where the modules are, how fast the clock is.
fn arguments(information: &Information, plan: &place::Plan, khz: u32, entered: u64) -> String {
    let (text, text_end) = paging::own_text();
    let mut extra = format!(
        " env=BEES_TSC_KHZ={khz} env=BEES_LOADER={text:#x}:{:#x} env=BEES_LOADED={entered}:{} env=BEES_MODULES={}",
        text_end - text,
        cpu::tsc(),
        plan.modules.len()
    );
    // Without it the kernel measures for itself, which takes 40 ms. It knows whole MHz only.
    if khz >= 1000 && !information.command_line.contains("-freq ") {
        let _ = write!(extra, " -freq {}", (khz + 500) / 1000);
    }
    for (index, (start, size)) in plan.modules.iter().enumerate() {
        let _ = write!(extra, " env=BEES_MODULE{index}={start:#x}:{size:#x}");
    }
    let given = &information.command_line;
    // QEMU puts the loader's own name first; the kernel takes it for the program's path.
    match given.find(" -- ") {
        Some(at) => format!("{}{extra}{}", &given[..at], &given[at..]),
        None => format!("{given}{extra}"),
    }
}

/// Says what is wrong and ends the machine.
pub(crate) fn fail(what: fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Com1, "[loader] {what}");
    cpu::shutdown()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}

struct Com1;

impl Write for Com1 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            cpu::out8(COM1, byte);
        }
        Ok(())
    }
}
