//! Things that nobody may do. Each must end the machine at once, with an error.

use std::arch::asm;
use std::hint::black_box;
use std::mem::transmute;
use std::thread;

use super::Options;
use crate::Machine;

type Result = std::result::Result<(), String>;

/// `ret`.
const RETURN: u8 = 0xc3;

static CONSTANT: [u64; 4] = [1, 2, 3, 4];

fn write(address: usize) {
    // Safety: none; the processor must refuse it.
    unsafe { (black_box(address) as *mut u8).write_volatile(1) }
}

fn execute(address: usize) {
    // Safety: none; the processor must refuse it.
    unsafe { transmute::<usize, extern "C" fn()>(black_box(address))() }
}

/// Page 0 is not mapped.
pub fn null_write(_: &mut Machine, _: &Options) -> Result {
    write(8);
    Ok(())
}

/// Nothing is mapped where nobody mapped anything.
pub fn wild_read(_: &mut Machine, _: &Options) -> Result {
    // Safety: none; the processor must refuse it.
    unsafe { (black_box(0x1234_5678_9000usize) as *const u8).read_volatile() };
    Ok(())
}

/// Text is not writable.
pub fn text_write(_: &mut Machine, _: &Options) -> Result {
    write(text_write as *const () as usize);
    Ok(())
}

/// Constants are not writable.
pub fn constant_write(_: &mut Machine, _: &Options) -> Result {
    write((&raw const CONSTANT) as usize);
    Ok(())
}

/// The heap is not executable.
pub fn heap_execute(_: &mut Machine, _: &Options) -> Result {
    let code = black_box(vec![RETURN; 64]);
    execute(code.as_ptr() as usize);
    Ok(())
}

/// Stacks are not executable.
pub fn stack_execute(_: &mut Machine, _: &Options) -> Result {
    let code = black_box([RETURN; 64]);
    execute(code.as_ptr() as usize);
    Ok(())
}

/// The loader's text is not executable any more.
pub fn loader_execute(_: &mut Machine, _: &Options) -> Result {
    // The multiboot header is there, in text; whatever it means as code, it must not run.
    execute(0x10_0000);
    Ok(())
}

/// Never comes back.
pub fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + black_box(frame)[3] }
}

/// The main thread's stack has an end.
pub fn stack_overflow(_: &mut Machine, _: &Options) -> Result {
    black_box(recurse(0));
    Ok(())
}

/// So have the others'.
pub fn stack_overflow_thread(_: &mut Machine, _: &Options) -> Result {
    let thread = thread::spawn(|| black_box(recurse(0)));
    thread.join().map_err(|_| "the thread panicked")?;
    Ok(())
}

/// A panic ends the machine.
pub fn panic(_: &mut Machine, _: &Options) -> Result {
    panic!("as asked")
}

/// In any thread.
pub fn panic_thread(_: &mut Machine, _: &Options) -> Result {
    let thread = thread::Builder::new().name("victim".into()).spawn(|| panic!("as asked"));
    thread.map_err(|error| error.to_string())?.join().map_err(|_| "the thread panicked")?;
    Ok(())
}

/// So does `abort`.
pub fn abort(_: &mut Machine, _: &Options) -> Result {
    std::process::abort()
}

/// An exception that no handler expects.
pub fn undefined_instruction(_: &mut Machine, _: &Options) -> Result {
    // Safety: none; it raises an exception.
    unsafe { asm!("ud2") };
    Ok(())
}

/// More memory than there is.
pub fn out_of_memory(_: &mut Machine, _: &Options) -> Result {
    let mut all = Vec::new();
    for _ in 0..4096 {
        all.push(black_box(vec![1u8; 16 << 20]));
    }
    Err("64 GiB were to be had".into())
}
