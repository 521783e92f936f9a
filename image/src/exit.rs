//! How the node ends: always by ending the machine, with a status that says whether all was well.
//! QEMU's own exit status is then 3 for success and 1 for failure (device `isa-debug-exit` at 0xf4).

use std::panic;

use crate::kernel;

/// A panic in any thread prints where it was and ends the machine.
pub fn install() {
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        eprintln!("[thread {name}] {info}");
        kernel::exit(1)
    }));
}

/// Ends the machine: all went well.
pub fn success() -> ! {
    kernel::exit(0)
}

/// Says what went wrong and ends the machine.
pub fn failure(what: impl std::fmt::Display) -> ! {
    eprintln!("failed: {what}");
    kernel::exit(1)
}
