//! Slow work, done away from the data path (D1). A node hands a [`Job`] to its platform, the platform
//! runs it where any arriving frame comes first, and gives the [`JobDone`] back. Who no longer wants a
//! result drops it.

use std::fmt;
use std::sync::Arc;

use authagent::agent::Verification;
use authagent::keys::PublicKey;
use authagent::link::{Finished, Task};
use nodeos::platform::Meter;
use nodeos::store::{Batch, DiskError};
use wire::id::{PartHash, TupleHash};
use wire::tuple::{Scheme, Tuple};

use crate::blob::Device;
use crate::engine::{Code, CompileError, Engine};
use crate::neighbor::NeighborId;

/// Names a job: the node's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Work that may be done on any thread.
pub struct Job {
    id: JobId,
    work: Work,
    meter: Option<Arc<dyn Meter>>,
}

/// What is to be done.
pub enum Work {
    /// Admit and compile a module.
    Compile {
        /// The compiler.
        engine: Engine,
        /// The module's name.
        hash: PartHash,
        /// Its bytes, which have that hash.
        module: Arc<[u8]>,
    },
    /// Verify a tuple's signature for the Auth Agent.
    Verify {
        /// The flow.
        flow: TupleHash,
        /// Its tuple.
        tuple: Arc<Tuple>,
        /// The key that the agent names.
        key: PublicKey,
    },
    /// A step of the handshake with a neighbor.
    Handshake {
        /// The neighbor.
        neighbor: NeighborId,
        /// The step.
        task: Task,
    },
    /// Write blobs to the node's device.
    Store {
        /// The device.
        device: Device,
        /// What to write.
        batch: Batch,
    },
    /// Check another signature for the Auth Agent.
    Check {
        /// The agent's number.
        check: u32,
        /// The key.
        key: PublicKey,
        /// How the signature claims to be made.
        scheme: Scheme,
        /// What it covers.
        message: Vec<u8>,
        /// The signature.
        signature: Vec<u8>,
    },
}

/// What became of a job.
#[derive(Debug)]
pub struct JobDone {
    /// Which job.
    pub id: JobId,
    /// Units of work that it took, if they were measured.
    pub units: u64,
    /// Its result.
    pub result: Done,
}

/// A job's result.
#[derive(Debug)]
pub enum Done {
    /// Of [`Work::Compile`].
    Compiled(Result<Arc<Code>, CompileError>),
    /// Of [`Work::Verify`].
    Verified {
        /// The flow.
        flow: TupleHash,
        /// What the agent asked for.
        verification: Verification,
    },
    /// Of [`Work::Handshake`].
    Handshake {
        /// The neighbor.
        neighbor: NeighborId,
        /// What came of the step.
        finished: Finished,
    },
    /// Of [`Work::Store`].
    Stored(Result<(), DiskError>),
    /// Of [`Work::Check`].
    Checked {
        /// The agent's number.
        check: u32,
        /// Whether the signature is right.
        valid: bool,
    },
}

impl Job {
    /// A job.
    pub fn new(id: JobId, work: Work) -> Self {
        Self { id, work, meter: None }
    }

    /// The same job, whose work `meter` measures.
    pub fn measured_by(self, meter: Arc<dyn Meter>) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// Its name.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// What is to be done.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Does the work. Takes milliseconds to seconds.
    pub fn run(self) -> JobDone {
        let count = |meter: &Option<Arc<dyn Meter>>| meter.as_ref().map_or(0, |meter| meter.count());
        let before = count(&self.meter);
        let result = match self.work {
            Work::Compile { engine, hash, module } => {
                Done::Compiled(engine.compile(hash, &module).map(Arc::new))
            }
            Work::Verify { flow, tuple, key } => {
                Done::Verified { flow, verification: Verification::of(&tuple, key) }
            }
            Work::Handshake { neighbor, task } => Done::Handshake { neighbor, finished: task.run() },
            Work::Store { device, batch } => Done::Stored(device.write(&batch)),
            Work::Check { check, key, scheme, message, signature } => {
                Done::Checked { check, valid: key.verify(scheme, &message, &signature).is_ok() }
            }
        };
        JobDone { id: self.id, units: count(&self.meter).saturating_sub(before), result }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({}, {:?})", self.id.0, self.work)
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compile { hash, module, .. } => write!(f, "Compile({hash:.8}, {} bytes)", module.len()),
            Self::Verify { flow, .. } => write!(f, "Verify({flow:.8})"),
            Self::Handshake { task, .. } => write!(f, "Handshake({task:?})"),
            Self::Store { .. } => f.write_str("Store"),
            Self::Check { check, .. } => write!(f, "Check({check})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_results_travel_between_threads() {
        fn send<T: Send>() {}
        send::<Job>();
        send::<JobDone>();
    }
}
