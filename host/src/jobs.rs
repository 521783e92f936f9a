//! Slow work (compiling a module) on a thread of its own, at a lower priority than frames.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::wait::Waker;

/// How much the worker gives way to others: nice(1). As much as can be, but for the scheduling class that never
/// runs on a busy machine.
const NICE: libc::c_int = 19;

/// A worker that turns jobs `J` into results `D`, one after another.
pub struct Jobs<J, D> {
    jobs: Sender<J>,
    done: Receiver<D>,
    waker: Arc<Waker>,
}

impl<J: Send + 'static, D: Send + 'static> Jobs<J, D> {
    /// Starts the worker. Its results wake whoever waits for `waker`.
    pub fn start(work: impl Fn(J) -> D + Send + 'static) -> io::Result<Self> {
        let waker = Arc::new(Waker::new()?);
        let (jobs, todo) = channel();
        let (results, done) = channel();
        let wake = waker.clone();
        thread::Builder::new().name("jobs".into()).spawn(move || {
            give_way();
            while let Ok(job) = todo.recv() {
                if results.send(work(job)).is_err() {
                    break;
                }
                wake.wake();
            }
        })?;
        Ok(Self { jobs, done, waker })
    }

    /// Queues a job. The core bounds how many there are at a time.
    pub fn run(&self, job: J) {
        // The worker lives as long as this sender: a panic there ends the process.
        let _ = self.jobs.send(job);
    }

    /// The next result, if there is one. Call until `None`: only then the waker is quiet.
    pub fn done(&self) -> Option<D> {
        self.done.try_recv().ok()
    }

    /// Becomes readable when a result is there.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// Lowers the priority of the calling thread.
fn give_way() {
    // Safety: the call takes plain numbers. 0 names the calling thread (on Linux priorities are per
    // thread). That it may fail is of no consequence: the worker then runs at normal priority.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn results_come_in_order_and_wake() {
        let jobs = Jobs::start(|n: u32| n * 2).unwrap();
        for n in 0..10 {
            jobs.run(n);
        }
        let mut got = Vec::new();
        let start = Instant::now();
        while got.len() < 10 {
            assert!(start.elapsed() < Duration::from_secs(10));
            let mut set = crate::wait::Set::default();
            set.add(jobs.waker());
            set.wait(Some(Duration::from_secs(10))).unwrap();
            jobs.waker().quiet();
            got.extend(std::iter::from_fn(|| jobs.done()));
        }
        assert_eq!(got, (0..10).map(|n| n * 2).collect::<Vec<_>>());
    }
}
