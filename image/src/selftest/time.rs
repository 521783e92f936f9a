//! Clocks, random bytes, threads and their priorities.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nodeos::platform::{Entropy, Interrupter};

use super::{Options, check};
use crate::Machine;
use crate::clock::tsc;
use crate::interrupt::Watchdog;
use crate::jobs::Worker;
use crate::kernel;

/// There are random bytes, and never the same.
pub fn entropy(machine: &mut Machine, _: &Options) -> Result<(), String> {
    let (mut a, mut b) = ([0; 32], [0; 32]);
    for out in [&mut a, &mut b] {
        machine.random.fill(out).map_err(|error| error.to_string())?;
    }
    machine.console.line(format_args!("sources {:?}: {a:02x?}", machine.random.sources()));
    check(a != b && a != [0; 32], "the same bytes twice")?;
    let mut long = vec![0; 1 << 20];
    let start = tsc();
    machine.random.fill(&mut long).map_err(|error| error.to_string())?;
    machine.console.line(format_args!("1 MiB in {} us", machine.clock.micros(tsc() - start)));
    let ones: u64 = long.iter().map(|byte| u64::from(byte.count_ones())).sum();
    check(ones.abs_diff(4 << 20) < 16 << 10, "not balanced")
}

/// Our clock, the kernel's and the wall clock agree.
pub fn clock(machine: &mut Machine, options: &Options) -> Result<(), String> {
    let seconds = options.seconds.unwrap_or(1);
    let (ours, theirs) = (machine.clock.mono(), std::time::Instant::now());
    kernel::wait_for_interrupt(kernel::interrupt_count(), Some(seconds * 1_000_000));
    let ours = machine.clock.mono().since(ours).as_micros() as u64;
    let theirs = theirs.elapsed().as_micros() as u64;
    let wall = machine.clock.now().wall;
    machine.console.line(format_args!("ours {ours} us, the kernel's {theirs} us, wall clock {wall:?}"));
    check(ours.abs_diff(theirs) * 100 < theirs, "they differ by more than 1 %")?;
    check(ours >= seconds * 990_000, "woken too early")
}

/// Allocation stays cheap with many live objects.
pub fn allocate(machine: &mut Machine, _: &Options) -> Result<(), String> {
    const COUNT: u64 = 100_000;
    let start = tsc();
    let mut boxes: Vec<_> = (0..COUNT).map(|n| Box::new([n; 4])).collect();
    let filled = machine.clock.micros(tsc() - start) * 1000 / COUNT;
    let start = tsc();
    for index in 0..boxes.len() {
        let other = (index * 7919) % boxes.len();
        boxes[other] = black_box(Box::new([index as u64; 4]));
    }
    let replaced = machine.clock.micros(tsc() - start) * 1000 / COUNT;
    machine.console.line(format_args!("{filled} ns to allocate, {replaced} ns to replace"));
    check(replaced < 20_000, "the allocator is slow")
}

/// A thread that gives back a lock lets a more urgent one go on at once.
pub fn priority(machine: &mut Machine, _: &Options) -> Result<(), String> {
    let lock = Arc::new(Mutex::new(0u64));
    let theirs = lock.clone();
    let clock = machine.clock;
    let released = Arc::new(AtomicU64::new(0));
    let release = released.clone();
    // The job has the lock; somebody waits for it.
    let [has, wanted] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (it_has, it_is_wanted) = (has.clone(), wanted.clone());
    let mut worker = Worker::start().map_err(|error| error.to_string())?;
    worker.submit(move || {
        let mut guard = theirs.lock().expect("nobody panics");
        it_has.store(true, Ordering::Relaxed);
        while !it_is_wanted.load(Ordering::Relaxed) {
            core::hint::spin_loop();
        }
        spin(5_000, &clock);
        *guard += 1;
        release.store(tsc(), Ordering::Relaxed);
        drop(guard);
        // Long work that must not delay the other thread.
        spin(200_000, &clock);
    });
    while !has.load(Ordering::Relaxed) {
        kernel::wait_for_interrupt(kernel::interrupt_count(), Some(500));
    }
    wanted.store(true, Ordering::Relaxed);
    let guard = lock.lock().expect("nobody panics");
    let late = machine.clock.micros(tsc() - released.load(Ordering::Relaxed));
    machine.console.line(format_args!("had the lock {late} us after it was given back"));
    check(*guard == 1, "had the lock too early")?;
    check(late < 20_000, "had to wait for the end of the job")
}

/// The main loop keeps its deadlines while a job runs.
pub fn preempt(machine: &mut Machine, _: &Options) -> Result<(), String> {
    const ROUNDS: u64 = 500;
    let clock = machine.clock;
    let mut worker = Worker::start().map_err(|error| error.to_string())?;
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    worker.submit(move || {
        let mut work = 0u64;
        while !theirs.load(Ordering::Relaxed) {
            work += 1;
        }
        work
    });
    let mut late: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let due = clock.mono() + Duration::from_millis(1);
            while clock.mono() < due {
                machine.idle.wait(&mut machine.nics, &clock, Some(due), worker.busy());
            }
            clock.mono().since(due).as_micros() as u64
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    while worker.busy() && worker.finished().is_none_or(|work| work == 0) {
        machine.idle.wait(&mut machine.nics, &clock, None, true);
    }
    late.sort_unstable();
    let [median, most] = [late[late.len() / 2], late[late.len() * 99 / 100]];
    machine.console.line(format_args!(
        "late by {median} us (median), {most} us (99 %), {} us (worst)",
        late[late.len() - 1]
    ));
    check(median < 50_000, "the job was not preempted")
}

/// The watchdog ticks when it is late, and only then; arming it costs next to nothing.
pub fn watchdog(machine: &mut Machine, _: &Options) -> Result<(), String> {
    const EVENTS: u64 = 100_000;
    let clock = machine.clock;
    let ticked = Arc::new(AtomicU64::new(0));
    let theirs = ticked.clone();
    let watchdog = Watchdog::start(clock, move || theirs.store(tsc(), Ordering::Relaxed))
        .map_err(|error| error.to_string())?;
    for limit in [500, 2_000, 20_000, 1_000] {
        ticked.store(0, Ordering::Relaxed);
        let start = tsc();
        watchdog.arm(clock.cycles(limit));
        while ticked.load(Ordering::Relaxed) == 0 && clock.micros(tsc() - start) < 1_000_000 {}
        watchdog.disarm();
        let after = clock.micros(ticked.load(Ordering::Relaxed).saturating_sub(start));
        machine.console.line(format_args!("deadline {limit} us: interrupted after {after} us"));
        check(after >= limit, "too early, or not at all")?;
    }
    let before = watchdog.ticks();
    let start = tsc();
    for _ in 0..EVENTS {
        watchdog.arm(clock.cycles(2_000));
        watchdog.disarm();
    }
    let nanos = clock.micros(tsc() - start) * 1000 / EVENTS;
    machine.console.line(format_args!("arm and disarm: {nanos} ns"));
    // The host may stop the whole machine between arming and disarming; that is late, too.
    check(watchdog.ticks() - before <= EVENTS / 1000, "ticked without a reason")
}

fn spin(micros: u64, clock: &crate::clock::Clock) {
    let start = tsc();
    while clock.micros(tsc() - start) < micros {
        std::hint::spin_loop();
    }
}
