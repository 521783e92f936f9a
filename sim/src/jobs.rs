//! Jobs in virtual time: how long each takes, and results that are computed once for all nodes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ee::engine::{Code, CompileError};
use ee::job::{Done, Job, JobDone, Work};
use sha2::{Digest, Sha256};

/// How long jobs take.
#[derive(Debug, Clone, Copy)]
pub struct JobTimes {
    /// Each compilation, whatever its size.
    pub compile: Duration,
    /// On top of that, for each KiB of the module.
    pub compile_per_kib: Duration,
    /// Each verification of a signature, and each step of a handshake.
    pub verify: Duration,
    /// Each write of blobs to a node's disk.
    pub store: Duration,
}

impl Default for JobTimes {
    /// About what a hosted node takes.
    fn default() -> Self {
        Self {
            compile: Duration::from_millis(2),
            compile_per_kib: Duration::from_micros(500),
            verify: Duration::from_micros(100),
            store: Duration::from_millis(1),
        }
    }
}

/// Runs nodes' jobs. A module is compiled once, however many nodes want it.
///
/// Modules are told apart by the SHA-256 of their bytes, computed here, so that sharing a result does not
/// depend on any node having checked what it was sent. All nodes of a simulation have the same engine.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    compiled: HashMap<[u8; 32], Result<Code, CompileError>>,
}

impl Worker {
    /// The job's result, and how long it takes.
    pub(crate) fn run(&mut self, job: Job, times: &JobTimes) -> (JobDone, Duration) {
        match job.work() {
            Work::Compile { module, .. } => {
                let kib = u32::try_from(module.len().div_ceil(1024)).unwrap_or(u32::MAX);
                let time = times.compile + times.compile_per_kib * kib;
                (self.compile(job), time)
            }
            Work::Store { .. } => (job.run(), times.store),
            Work::Verify { .. } | Work::Check { .. } | Work::Handshake { .. } => (job.run(), times.verify),
        }
    }

    /// Each node gets an [`Arc`] of its own, because it judges by the count whether code is in use.
    fn compile(&mut self, job: Job) -> JobDone {
        let id = job.id();
        let Work::Compile { module, .. } = job.work() else { return job.run() };
        let key: [u8; 32] = Sha256::digest(module).into();
        if let Some(known) = self.compiled.get(&key) {
            return JobDone { id, units: 0, result: Done::Compiled(known.clone().map(Arc::new)) };
        }
        let done = job.run();
        if let Done::Compiled(result) = &done.result {
            self.compiled.insert(key, result.as_deref().cloned().map_err(Clone::clone));
        }
        done
    }

    /// How many different modules were compiled.
    pub(crate) fn compiled(&self) -> usize {
        self.compiled.len()
    }
}
