//! Benchmarks of the active node, and the peers that it is measured against: `docs/benchmarks.md`.
//!
//! | module           | what it measures                                                    |
//! |------------------|---------------------------------------------------------------------|
//! | [`relay`]        | packets per second of a C program, NodeOS and Bees, on one machine   |
//! | [`image`]        | the bootable node: rate, boot, size, memory, download                |
//! | [`isolation`]    | a node under attack against the same node at rest                    |
//! | [`instructions`] | instructions per capsule, and their budget                           |
//! | [`teams`]        | memory, time and events of a thousand teams                          |
//! | [`fairness`]     | processor time and bandwidth by shares                               |
//! | [`accounting`]   | what measuring and stopping guests costs                             |
//! | [`companions`]   | what a call from protocol to protocol costs                          |
//! | [`local`]        | the node that the last four measure                                  |
//! | [`flow`]         | the flows                                                           |
//! | [`hop`]          | the node that gives the flow to the one under test                  |
//! | [`sys`]          | namespaces and processor affinity                                   |
//! | [`table`]        | figures for people                                                  |

pub mod accounting;
pub mod companions;
pub mod fairness;
pub mod flow;
pub mod hop;
pub mod image;
pub mod instructions;
pub mod isolation;
pub mod local;
pub mod relay;
pub mod sys;
pub mod table;
pub mod teams;

use peak_alloc::PeakAlloc;

/// Counts what the process has from the heap.
#[global_allocator]
pub static HEAP: PeakAlloc = PeakAlloc;
