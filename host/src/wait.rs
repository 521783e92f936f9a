//! Waiting for descriptors until an exact time, and waking whoever waits.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::time::Duration;

/// Lets the calling thread wake up on time: by default Linux may be 50 us late to save power.
pub fn exact_timers() {
    // Safety: PR_SET_TIMERSLACK takes plain numbers (nanoseconds) and concerns the calling thread only.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong);
    }
}

/// How long the calling thread wants to run at a time, in nanoseconds: the shortest that Linux allows.
const SLICE: u64 = 100_000;

/// Lets the calling thread run as soon as it has something to do, where others share its processor: of threads
/// that are due Linux (6.12 and later) takes the one with the shorter slice. Its part of the processor's time stays
/// what it was, and so does a class that an operator gave the process.
pub fn short_slices() {
    // Safety: the first two calls take plain numbers; the third reads a sched_attr, for which zero is a value, whose
    // size stands in it, and concerns the calling thread only. Where it fails, the thread runs as before.
    unsafe {
        if libc::syscall(libc::SYS_sched_getscheduler, 0) != libc::c_long::from(libc::SCHED_OTHER) {
            return;
        }
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        attributes.size = size_of::<libc::sched_attr>() as u32;
        attributes.sched_policy = libc::SCHED_OTHER as u32;
        attributes.sched_nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        attributes.sched_runtime = SLICE;
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}

/// Wakes a waiting thread from another one: eventfd(2).
#[derive(Debug)]
pub struct Waker {
    event: File,
}

impl Waker {
    /// A quiet waker.
    pub fn new() -> io::Result<Self> {
        // Safety: the call takes plain numbers and returns a new descriptor or -1.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // Safety: the descriptor was just made and nobody else owns it.
        Ok(Self { event: unsafe { File::from_raw_fd(fd) } })
    }

    /// Wakes.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then it is readable already.
        let _ = (&self.event).write(&1u64.to_ne_bytes());
    }

    /// Takes note of all wakes so far.
    pub fn quiet(&self) {
        // It fails only when there was no wake.
        let _ = (&self.event).read(&mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Descriptors to wait for, in the order in which they were added. Their owners must keep them open; a
/// closed one counts as ready.
#[derive(Default)]
pub struct Set {
    fds: Vec<libc::pollfd>,
}

impl Set {
    /// Adds a descriptor to be read from.
    pub fn add(&mut self, source: &impl AsFd) {
        self.fds.push(libc::pollfd { fd: source.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 });
    }

    /// Waits until a descriptor is readable or `timeout` is over (`None`: for ever). A signal ends the
    /// wait early.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        wait(&mut self.fds, timeout)
    }

    /// Whether the descriptor added as number `at` was readable, or broken, after the last wait.
    pub fn is_ready(&self, at: usize) -> bool {
        self.fds.get(at).is_some_and(|fd| fd.revents != 0)
    }
}

fn wait(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let limit = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(t.subsec_nanos() as i32),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // Safety: pointer and length describe `fds`, which is borrowed for the call; `limit` is null or points
    // to a live timespec; a null signal mask leaves the mask as it is.
    let n = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit, std::ptr::null()) };
    if n < 0 {
        let error = io::Error::last_os_error();
        for fd in fds {
            fd.revents = 0;
        }
        return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// The thread's policy and slice.
    fn scheduled() -> (u32, u64) {
        // Safety: the call writes to a sched_attr whose size it is told.
        unsafe {
            let mut attributes: libc::sched_attr = std::mem::zeroed();
            let size = size_of::<libc::sched_attr>();
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0), 0);
            (attributes.sched_policy, attributes.sched_runtime)
        }
    }

    #[test]
    fn an_operators_class_stays() {
        let (before, after) = std::thread::spawn(|| {
            // Safety: the call reads a sched_param, and concerns the calling thread only.
            let set = unsafe {
                let param: libc::sched_param = std::mem::zeroed();
                libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const param)
            };
            assert_eq!(set, 0);
            let before = scheduled();
            short_slices();
            (before, scheduled())
        })
        .join()
        .unwrap();
        assert_eq!(before.0, libc::SCHED_BATCH as u32);
        assert_eq!(before, after);
    }

    #[test]
    fn wakes_and_timeouts() {
        let (a, b) = (Waker::new().unwrap(), Waker::new().unwrap());
        let mut set = Set::default();
        set.add(&a);
        set.add(&b);
        b.wake();
        b.wake();
        set.wait(None).unwrap();
        assert!(!set.is_ready(0) && set.is_ready(1) && !set.is_ready(2));
        b.quiet();
        let start = Instant::now();
        set.wait(Some(Duration::from_millis(3))).unwrap();
        assert!(!set.is_ready(1));
        assert!(start.elapsed() >= Duration::from_millis(3));
    }
}
