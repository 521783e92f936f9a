//! What the build changes in the kernel's sources, and why. `cargo xtask image` applies these edits
//! to a copy; one that does not match exactly `count` times is an error, so a new kernel release
//! cannot slip through with an edit lost. `wait.rs` beside this file is added as a module.

/// One replacement in one file.
pub struct Edit {
    /// Path below the kernel's folder.
    pub file: &'static str,
    /// Why it is needed.
    pub why: &'static str,
    /// The text to find, exactly.
    pub find: &'static str,
    /// What takes its place.
    pub replace: &'static str,
    /// How often it must occur.
    pub count: usize,
}

const fn edit(
    file: &'static str,
    why: &'static str,
    find: &'static str,
    replace: &'static str,
    count: usize,
) -> Edit {
    Edit { file, why, find, replace, count }
}

/// The crate that is edited, and its only accepted version.
pub const CRATE: (&str, &str) = ("hermit-kernel", "0.11.0");

const NAKED: &str = "stable compilers spell it unsafe(naked)";
const ABORT: &str = "a fault must end the machine, not one thread of it";
const WAKE: &str = "a thread whose time-out has just passed may be woken by hand as well";
const TIMER: &str = "calibrate the timer in 5 ms instead of 30, but against the time that really passed";
const WAIT: &str = "wait.rs: threads wait for device interrupts";

/// All edits, in the order in which they are applied.
pub const EDITS: &[Edit] = &[
    edit("src/lib.rs", "the feature is stable by now", "#![feature(naked_functions)]\n", "", 1),
    edit("src/syscalls/table.rs", NAKED, "#[naked]", "#[unsafe(naked)]", 1),
    edit("src/arch/x86_64/kernel/switch.rs", NAKED, "#[naked]", "#[unsafe(naked)]", 2),
    edit("src/arch/x86_64/kernel/start.rs", NAKED, "#[naked]", "#[unsafe(naked)]", 1),
    edit("src/arch/x86_64/kernel/syscall.rs", NAKED, "#[naked]", "#[unsafe(naked)]", 1),
    edit("src/arch/x86_64/kernel/scheduler.rs", NAKED, "#[naked]", "#[unsafe(naked)]", 1),
    edit(
        "src/mm/allocator.rs",
        "aligning every allocation to a cache line makes the allocator's search quadratic",
        ".max(core::mem::align_of::<crossbeam_utils::CachePadded<u8>>());",
        ".max(1);",
        1,
    ),
    // Faults.
    edit("src/scheduler/mod.rs", ABORT, "core_scheduler().exit(-1)\n", "shutdown(1)\n", 1),
    edit(
        "src/syscalls/mod.rs",
        "statistics at the end take locks that a dying thread may hold",
        "\tcrate::arch::kernel::print_statistics();\n",
        "",
        1,
    ),
    edit(
        "src/logging.rs",
        "an error is printed by a thread that may hold the console's lock",
        "\t\tif self.enabled(record.metadata()) {\n",
        "\t\tif record.level() == Level::Error {\n\
         \t\t\tcrate::scheduler::wait::count_error();\n\
         \t\t\tpanic_println!(\"[kernel] {}\", record.args());\n\
         \t\t} else if self.enabled(record.metadata()) {\n",
        1,
    ),
    edit(
        "src/arch/x86_64/mm/paging.rs",
        "say in one line what happened and where; the offset finds the source line",
        "\terror!(\"Page fault (#PF)!\");\n\
         \terror!(\"page_fault_linear_address = {:p}\", Cr2::read().unwrap());\n\
         \terror!(\"error_code = {error_code:?}\");\n\
         \terror!(\"fs = {:#X}\", processor::readfs());\n\
         \terror!(\"gs = {:#X}\", processor::readgs());\n\
         \terror!(\"stack_frame = {stack_frame:#?}\");\n\
         \tscheduler::abort();\n\
         }\n\
         \n\
         #[cfg(feature = \"common-os\")]\n",
        "\tlet address = Cr2::read_raw();\n\
         \tlet code = stack_frame.instruction_pointer.as_u64();\n\
         \tlet kind = crate::core_local::core_scheduler().fault_kind(address);\n\
         \terror!(\n\
         \t\t\"{kind}: address {address:#x}, instruction {code:#x} (image offset {:#x}), {error_code:?}\",\n\
         \t\tcode.wrapping_sub(env::get_base_address().as_u64())\n\
         \t);\n\
         \terror!(\"fs = {:#X}\", processor::readfs());\n\
         \terror!(\"{stack_frame:?}\");\n\
         \tscheduler::abort();\n\
         }\n\
         \n\
         #[cfg(feature = \"common-os\")]\n",
        1,
    ),
    // Memory.
    edit(
        "src/arch/x86_64/mm/physicalmem.rs",
        "data is not executable",
        "let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;",
        "let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE;",
        1,
    ),
    edit(
        "src/mm/mod.rs",
        "the total counts from the kernel's end on, so what lies below must not be taken off again",
        "\t\t(kernel_addr_range.end.as_u64() - env::get_ram_address().as_u64() + reserved_space as u64)\n\
         \t\t\tas usize\n",
        "\t\treserved_space\n",
        1,
    ),
    // Random numbers.
    edit(
        "src/arch/x86_64/kernel/processor.rs",
        "where there is no RDSEED, RDRAND is good enough for the seeds of hash tables",
        "\t\tSome(buf)\n\t} else {\n\t\tNone\n\t}\n",
        "\t\tSome(buf)\n\
         \t} else if CpuId::new().get_feature_info().is_some_and(|f| f.has_rdrand()) {\n\
         \t\tfor word in buf.chunks_mut(8) {\n\
         \t\t\tlet mut value = 0;\n\
         \t\t\tlet mut tries = 10;\n\
         \t\t\twhile unsafe { core::arch::x86_64::_rdrand64_step(&mut value) } != 1 {\n\
         \t\t\t\ttries -= 1;\n\
         \t\t\t\tif tries == 0 {\n\
         \t\t\t\t\treturn None;\n\
         \t\t\t\t}\n\
         \t\t\t}\n\
         \t\t\tword.copy_from_slice(&value.to_ne_bytes());\n\
         \t\t}\n\
         \t\tSome(buf)\n\
         \t} else {\n\
         \t\tNone\n\
         \t}\n",
        1,
    ),
    // Time.
    edit(
        "src/arch/x86_64/kernel/apic.rs",
        TIMER,
        "let microseconds = 30_000;",
        "let microseconds = 5_000;",
        1,
    ),
    edit(
        "src/arch/x86_64/kernel/apic.rs",
        TIMER,
        "\tlocal_apic_write(IA32_X2APIC_INIT_COUNT, u64::from(u32::MAX));\n",
        "\tlet (start, ()) = crate::scheduler::wait::timed(|| {\n\
         \t\tlocal_apic_write(IA32_X2APIC_INIT_COUNT, u64::from(u32::MAX));\n\
         \t});\n",
        1,
    ),
    edit(
        "src/arch/x86_64/kernel/apic.rs",
        TIMER,
        "\tlet calibrated_counter_value =\n\
         \t\t(u64::from(u32::MAX - local_apic_read(IA32_X2APIC_CUR_COUNT))) / microseconds;\n",
        "\tlet (end, left) =\n\
         \t\tcrate::scheduler::wait::timed(|| local_apic_read(IA32_X2APIC_CUR_COUNT));\n\
         \tlet cycles = end - start;\n\
         \tlet counted = u64::from(u32::MAX - left) * u64::from(processor::get_frequency());\n\
         \tlet calibrated_counter_value = (counted + cycles / 2) / cycles;\n",
        1,
    ),
    // Threads.
    edit(
        "src/scheduler/task.rs",
        WAKE,
        "pub fn custom_wakeup(&mut self, task: TaskHandle) -> Rc<RefCell<Task>> {",
        "pub fn custom_wakeup(&mut self, task: TaskHandle) -> Option<Rc<RefCell<Task>>> {",
        1,
    ),
    edit("src/scheduler/task.rs", WAKE, "return task_ref;", "return Some(task_ref);", 1),
    edit("src/scheduler/task.rs", WAKE, "\t\tunreachable!();\n", "\t\tNone\n", 1),
    edit(
        "src/scheduler/mod.rs",
        WAKE,
        "\t\twhile let Some(task) = input_locked.wakeup_tasks.pop_front() {\n\
         \t\t\tlet task = self.blocked_tasks.custom_wakeup(task);\n",
        "\t\twhile let Some(task) = input_locked.wakeup_tasks.pop_front() {\n\
         \t\t\tlet Some(task) = self.blocked_tasks.custom_wakeup(task) else { continue };\n",
        1,
    ),
    edit(
        "src/scheduler/mod.rs",
        WAKE,
        "let task = self.blocked_tasks.custom_wakeup(task);",
        "let Some(task) = self.blocked_tasks.custom_wakeup(task) else { return };",
        2,
    ),
    edit(
        "src/syscalls/futex.rs",
        "wait.rs: a thread that was woken runs at once if it is more urgent",
        "\tsynch::futex_wake(address as *const AtomicU32, count)\n",
        "\tlet woken = synch::futex_wake(address as *const AtomicU32, count);\n\
         \tcrate::scheduler::wait::preempt();\n\
         \twoken\n",
        1,
    ),
    edit("src/scheduler/mod.rs", WAIT, "pub mod task;\n", "pub mod task;\npub(crate) mod wait;\n", 1),
    edit(
        "src/scheduler/task.rs",
        WAIT,
        "\t/// Manually wake up a blocked task.\n",
        "\t/// When the first thread that waits with a time-out is due.\n\
         \tpub fn next_wakeup(&self) -> Option<u64> {\n\
         \t\tself.list.front().and_then(|node| node.wakeup_time)\n\
         \t}\n\
         \n\
         \t/// Manually wake up a blocked task.\n",
        1,
    ),
    edit(
        "src/arch/x86_64/kernel/apic.rs",
        WAIT,
        "\t\t__set_oneshot_timer(wakeup_time);\n",
        "\t\t__set_oneshot_timer(crate::scheduler::wait::earliest(wakeup_time));\n",
        1,
    ),
    edit(
        "src/arch/x86_64/kernel/interrupts.rs",
        WAIT,
        "\tincrement_irq_counter(index);\n\n\tcrate::executor::run();\n",
        "\tincrement_irq_counter(index);\n\n\tcore_scheduler().device_interrupt();\n",
        1,
    ),
];
