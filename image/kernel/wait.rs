//! Ours, added to the kernel by the build: waiting for whatever comes first, a device's interrupt or
//! a moment in time, without polling and without starving other threads.
//!
//! A program drives its devices itself, so the kernel has no handler for them. It only counts their
//! interrupts. The program reads the count, looks at its rings, and when they are empty calls
//! `sys_interrupt_wait` with the count it saw: an interrupt that came in between has changed the
//! count, so no wake-up is lost. While it waits, ready threads of a lower priority run; an interrupt
//! preempts them at once. One thread may wait at a time.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hermit_sync::{InterruptTicketMutex, without_interrupts};
use memory_addresses::VirtAddr;
use x86_64::instructions::interrupts;

use super::PerCoreScheduler;
use super::task::TaskHandle;
use crate::arch::core_local::core_scheduler;
use crate::arch::processor::{get_frequency, get_timer_ticks, get_timestamp};
use crate::scheduler::PerCoreSchedulerExt;

/// How many lines a dying kernel may print. A fault inside the fault handler would go on for ever.
const ERROR_LINES: u32 = 100;

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
static WAITER: InterruptTicketMutex<Option<TaskHandle>> = InterruptTicketMutex::new(None);
/// When the thread that halts the processor wants to go on; never for `u64::MAX`.
static DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);
static ERRORS: AtomicU32 = AtomicU32::new(0);

/// The earlier of `other` and the deadline of the thread that waits: when the timer has to fire.
pub(crate) fn earliest(other: Option<u64>) -> Option<u64> {
	let deadline = DEADLINE.load(Ordering::Relaxed);
	match other {
		Some(time) => Some(time.min(deadline)),
		None => (deadline != u64::MAX).then_some(deadline),
	}
}

/// Called for each line logged as an error; ends the machine when there are too many.
pub(crate) fn count_error() {
	if ERRORS.fetch_add(1, Ordering::Relaxed) >= ERROR_LINES {
		crate::arch::processor::shutdown(1)
	}
}

/// Does something to a device and says when, in cycles of the time-stamp counter. An emulator may be
/// interrupted for milliseconds; it is done again until that did not happen in between.
pub(crate) fn timed<T>(mut action: impl FnMut() -> T) -> (u64, T) {
	let limit = u64::from(get_frequency()) * 20;
	let mut tries = 50;
	loop {
		let before = get_timestamp();
		let result = action();
		let after = get_timestamp();
		tries -= 1;
		if after - before < limit || tries == 0 {
			return (before + (after - before) / 2, result);
		}
	}
}

/// Lets a thread of a higher priority run that has just been made ready. Without it a thread that
/// gives back a lock would keep the processor from a more urgent one that waits for it.
pub(crate) fn preempt() {
	let scheduler = core_scheduler();
	let ready = without_interrupts(|| {
		let highest = 63 - (*scheduler.get_priority_bitmap() | 1).leading_zeros();
		highest > u32::from(scheduler.get_current_task_prio().into())
	});
	if ready {
		scheduler.reschedule();
	}
}

impl PerCoreScheduler {
	/// Counts a device's interrupt and makes the waiting thread ready. Interrupts must be off.
	pub(crate) fn device_interrupt(&mut self) {
		INTERRUPTS.fetch_add(1, Ordering::Relaxed);
		let waiter = WAITER.lock().take();
		if let Some(task) = waiter {
			self.custom_wakeup(task);
		}
	}

	/// What a page fault at `address` means to the thread that runs.
	pub(crate) fn fault_kind(&self, address: u64) -> &'static str {
		let Ok(task) = self.current_task.try_borrow() else {
			return "page fault";
		};
		let guard = |stack: VirtAddr| (stack.as_u64().saturating_sub(4096)..stack.as_u64()).contains(&address);
		if guard(task.stacks.get_user_stack()) || guard(task.stacks.get_kernel_stack()) {
			"stack overflow"
		} else if address < 4096 {
			"null pointer"
		} else {
			"page fault"
		}
	}

	fn wait(&mut self, until: u64) {
		if self.ready_queue.is_empty() {
			// Nobody else wants the processor: halt here, that saves two context switches.
			DEADLINE.store(until, Ordering::Relaxed);
			crate::arch::set_oneshot_timer(self.blocked_tasks.next_wakeup());
			interrupts::enable_and_hlt();
			interrupts::disable();
			DEADLINE.store(u64::MAX, Ordering::Relaxed);
		} else {
			*WAITER.lock() = Some(self.get_current_task_handle());
			self.block_current_task((until != u64::MAX).then_some(until));
			self.reschedule();
			WAITER.lock().take();
		}
	}
}

fn interrupt_wait(seen: u32, until: u64) {
	without_interrupts(|| {
		while INTERRUPTS.load(Ordering::Relaxed) == seen && get_timer_ticks() < until {
			core_scheduler().wait(until);
		}
	});
}

/// The number of device interrupts since boot, modulo 2^32.
#[hermit_macro::system]
#[unsafe(no_mangle)]
pub extern "C" fn sys_interrupt_count() -> u32 {
	INTERRUPTS.load(Ordering::Relaxed)
}

/// Returns when the number of device interrupts is not `seen`, or at `until` (microseconds since
/// boot as `sys_timer_ticks` counts them, `u64::MAX` for no limit).
#[hermit_macro::system]
#[unsafe(no_mangle)]
pub extern "C" fn sys_interrupt_wait(seen: u32, until: u64) {
	interrupt_wait(seen, until);
}

/// Counts as a device's interrupt: wakes the thread that waits.
#[hermit_macro::system]
#[unsafe(no_mangle)]
pub extern "C" fn sys_interrupt_notify() {
	without_interrupts(|| core_scheduler().device_interrupt());
	preempt();
}

/// The kernel's clock: microseconds since the processor was reset.
#[hermit_macro::system]
#[unsafe(no_mangle)]
pub extern "C" fn sys_timer_ticks() -> usize {
	get_timer_ticks() as usize
}
