//! Benchmarks of the active node, and the peers that it is measured against: `docs/benchmarks.md`.
//!
//! | module           | what it measures                                                    |
//! |------------------|---------------------------------------------------------------------|
//! | [`relay`]        | packets per second of a C program, NodeOS and Bees, on one machine   |
//! | [`image`]        | the bootable node: rate, boot, size, memory, download                |
//! | [`isolation`]    | a node under attack against the same node at rest                    |
//! | [`instructions`] | instructions per capsule, and their budget                           |
//! | [`flow`]         | the flow that they relay                                            |
//! | [`hop`]          | the node that gives the flow to the one under test                  |
//! | [`sys`]          | namespaces and processor affinity                                   |
//! | [`table`]        | figures for people                                                  |

pub mod flow;
pub mod hop;
pub mod image;
pub mod instructions;
pub mod isolation;
pub mod relay;
pub mod sys;
pub mod table;
