//! Slow work (compiling a module, checking signatures) on a thread of lower priority: it runs while
//! the main loop waits for frames, and stops for each one that arrives.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::kernel::{self, Priority};

/// Cranelift recurses with the size of what it compiles.
const STACK: usize = 2 << 20;

type Work<T> = Box<dyn FnOnce() -> T + Send>;

/// A worker thread whose jobs give a `T` each, in the order in which they were given.
pub struct Worker<T> {
    work: Sender<Work<T>>,
    done: Receiver<T>,
    open: usize,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (work, inbox) = channel::<Work<T>>();
        let (outbox, done) = channel();
        thread::Builder::new().name("jobs".into()).stack_size(STACK).spawn(move || {
            kernel::set_priority(Priority::Background);
            for job in inbox {
                if outbox.send(job()).is_err() {
                    return;
                }
                kernel::notify();
            }
        })?;
        // A new thread has our priority until it sets its own.
        thread::yield_now();
        Ok(Self { work, done, open: 0 })
    }

    /// Gives the thread a job. It starts when the main loop waits.
    pub fn submit(&mut self, job: impl FnOnce() -> T + Send + 'static) {
        // The thread ends only when `self` is gone.
        if self.work.send(Box::new(job)).is_ok() {
            self.open += 1;
        }
    }

    /// The result of the next job that is done.
    pub fn finished(&mut self) -> Option<T> {
        let result = self.done.try_recv().ok()?;
        self.open -= 1;
        Some(result)
    }

    /// A job is waiting or running.
    pub fn busy(&self) -> bool {
        self.open > 0
    }
}
