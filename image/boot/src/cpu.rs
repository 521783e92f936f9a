//! Instructions that Rust has no words for.

use core::arch::asm;

/// QEMU's device that ends the emulator: a write of n makes its exit status 2n + 1.
const DEBUG_EXIT: u16 = 0xf4;

/// Writes a byte to a port.
pub fn out8(port: u16, value: u8) {
    // Safety: the ports used here do not change memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

/// Reads a byte from a port.
pub fn in8(port: u16) -> u8 {
    let value;
    // Safety: as for `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // Safety: every 64-bit processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ends the machine with an error: by QEMU's exit device, else by a triple fault.
pub fn shutdown() -> ! {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let none = Pointer(0, 0);
    // Safety: nothing runs after it. Without an interrupt table the breakpoint resets the processor.
    unsafe {
        asm!("out dx, eax", in("dx") DEBUG_EXIT, in("eax") 0u32, options(nomem, nostack));
        asm!("lidt [{}]", "int3", "2: hlt", "jmp 2b", in(reg) &none, options(noreturn))
    }
}
