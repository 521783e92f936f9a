//! The kernel's calls that `std` has no words for, each wrapped so that it is safe to use.
//! The last four are our own, see `image/kernel/wait.rs`.

use std::ptr::NonNull;

unsafe extern "C" {
    fn sys_mmap(size: usize, protection: u32, result: &mut *mut u8) -> i32;
    fn sys_munmap(start: *mut u8, size: usize) -> i32;
    fn sys_set_current_task_priority(priority: u8);
    fn sys_get_processor_frequency() -> u16;
    fn sys_exit(status: i32) -> !;
    fn sys_interrupt_count() -> u32;
    fn sys_interrupt_wait(seen: u32, until: u64);
    fn sys_interrupt_notify();
    fn sys_timer_ticks() -> usize;
}

/// How urgent a thread is; one starts in the middle between these, as the main loop does. A thread gives
/// way only to more urgent ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Priority {
    /// Long work that may wait for everything else.
    Background = 1,
    /// Short work that cannot wait: the watchdog.
    Urgent = 3,
}

/// Changes the calling thread's priority.
pub fn set_priority(priority: Priority) {
    // Safety: changes a number in the kernel; 0 and numbers above 30 would not be allowed.
    unsafe { sys_set_current_task_priority(priority as u8) }
}

/// Maps fresh memory that is contiguous in physical memory, readable, writable and page-aligned.
/// `size` is rounded up to whole pages; the contents are undefined.
pub fn map(size: usize) -> Option<NonNull<u8>> {
    const READ_WRITE: u32 = 0b11;
    let mut start = std::ptr::null_mut();
    // Safety: the kernel writes one pointer to `start`.
    match unsafe { sys_mmap(size, READ_WRITE, &mut start) } {
        0 => NonNull::new(start),
        _ => None,
    }
}

/// Gives back what [`map`] gave.
///
/// # Safety
/// `start` and `size` must be those of one call of [`map`], and nothing may use that memory.
pub unsafe fn unmap(start: NonNull<u8>, size: usize) {
    // Safety: as promised by the caller.
    unsafe { sys_munmap(start.as_ptr(), size) };
}

/// The frequency of the time-stamp counter as the kernel knows it, in MHz.
pub fn megahertz() -> u16 {
    // Safety: reads a number.
    unsafe { sys_get_processor_frequency() }
}

/// Ends the machine.
pub fn exit(status: i32) -> ! {
    // Safety: nothing runs afterwards.
    unsafe { sys_exit(status) }
}

/// The number of device interrupts so far, modulo 2^32.
pub fn interrupt_count() -> u32 {
    // Safety: reads a number.
    unsafe { sys_interrupt_count() }
}

/// Blocks until [`interrupt_count`] differs from `seen`, or `micros` have passed; for ever without.
/// Meanwhile threads of lower priority run. Only one thread may wait at a time.
pub fn wait_for_interrupt(seen: u32, micros: Option<u64>) {
    // Safety: blocks the calling thread, nothing else.
    unsafe {
        let until = micros.map_or(u64::MAX, |micros| (sys_timer_ticks() as u64).saturating_add(micros));
        sys_interrupt_wait(seen, until);
    }
}

/// Wakes the thread in [`wait_for_interrupt`].
pub fn notify() {
    // Safety: counts up a number and makes a thread ready.
    unsafe { sys_interrupt_notify() }
}
