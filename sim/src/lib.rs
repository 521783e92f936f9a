//! Many nodes in one process, in virtual time, with faults from a seed; and the lab files that describe
//! them, which QEMU labs and hosted labs share.
//!
//! | module       | what it holds                                                           |
//! |--------------|-------------------------------------------------------------------------|
//! | [`lab`]      | lab files, topologies, addresses and configurations                     |
//! | [`medium`]   | rate, delay, jitter, loss, reordering, duplication of a link            |
//! | [`pcap`]     | capture files                                                           |
//! | [`Sim`]      | the simulation: time, links, crashes, programs beside nodes             |
//! | [`random`]   | chance from a seed                                                      |
//! | [`queue`]    | events in order                                                         |
//! | [`trial`]    | a built protocol on trial: what programs say to it and hear             |
//! | [`platform`] | what the simulator lends to a node in place of a machine                |
//!
//! Two runs of one lab, seed and program are the same, byte for byte: [`Sim::trace`] compares them.
//!
//! ```
//! use std::time::Duration;
//! use sim::{Options, Sim, lab::Lab};
//!
//! let mut sim = Sim::new(&Lab::ring(5), 42, Options::default()).unwrap();
//! sim.run_for(Duration::from_secs(1));
//! assert_eq!(sim.now().micros(), 1_000_000);
//! ```
#![forbid(unsafe_code)]

mod error;
mod frames;
mod jobs;
pub mod lab;
pub mod medium;
pub mod pcap;
pub mod platform;
mod program;
pub mod queue;
pub mod random;
pub mod trial;
mod world;

pub use error::SimError;
pub use jobs::JobTimes;
pub use program::Session;
pub use world::{Options, Sim, Stats};
