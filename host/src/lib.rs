//! The node as a Linux process: what the program `bees-node` is made of.
//!
//! | module        | what it holds                                                              |
//! |---------------|----------------------------------------------------------------------------|
//! | [`link`](mod@link) | frames in batches over Unix datagrams, UDP, and network interfaces     |
//! | [`jobs`]      | slow work on a thread of its own                                           |
//! | [`interrupt`] | the watchdog that stops guest code past its deadline                       |
//! | [`meter`]     | the processor's cycle counter                                              |
//! | [`clock`]     | monotonic and wall time                                                    |
//! | [`entropy`]   | the kernel's random bytes                                                  |
//! | [`disk`]      | a file as the node's disk                                                  |
//! | [`sensors`]   | what Linux measures, read on a thread of its own                            |
//! | [`signals`]   | a clean exit on SIGTERM and SIGINT                                         |
//! | [`wait`]      | waiting until an exact time                                                |
//! | [`console`]   | the node's log on standard output                                          |
//! | [`run`](mod@run) | the loop that drives a node                                             |
//!
//! System calls are made with `libc`; each `unsafe` block says why it is sound.

pub mod clock;
pub mod console;
pub mod disk;
pub mod entropy;
pub mod interrupt;
pub mod jobs;
pub mod link;
pub mod meter;
pub mod run;
pub mod sensors;
pub mod signals;
pub mod wait;
