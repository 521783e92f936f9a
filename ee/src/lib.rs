//! The execution environment: what makes a router out of NodeOS and mobile code (seed 004).
//!
//! [`Node`] is the whole machine; a platform drives it. Below it:
//!
//! | module                      | what it holds                                                       |
//! |-----------------------------|---------------------------------------------------------------------|
//! | [`node`]                    | the node: frames, flows, teams, control, sessions                    |
//! | [`config`]                  | its configuration                                                    |
//! | [`flow`], [`registry`]      | flows and the identifiers that belong to them                        |
//! | [`system`]                  | translation and download                                             |
//! | [`neighbor`], [`bans`], [`crash`], [`attempts`], [`uploads`], [`log`], [`counters`] | what a node keeps beside its flows |
//! | [`sandbox`]                 | one team's code and state                                            |
//! | [`engine`], [`admit`], [`job`], [`cache`] | from a module's bytes to shared machine code           |
//! | [`abi`], `guest`, [`integrity`] | the guest interface; marks on capsules                          |
//! | [`capsule`], [`cap`], [`soft`] | what guests hold: capsule objects, capabilities, soft state        |
//! | [`envelope`], [`sensor`]    | what teams hand to each other, what they may read of the machine     |
//! | [`blob`]                    | what teams keep on the node                                          |
//! | `exposition`                | how metrics are written                                              |
//! | `hash`                      | what tables that each capsule is looked up in are sorted by          |
//!
//! Nothing here reads a clock, touches a device or starts a thread (D1).
#![forbid(unsafe_code)]

pub mod abi;
pub mod admit;
pub mod attempts;
pub mod bans;
pub mod blob;
pub mod cache;
pub mod cap;
pub mod capsule;
pub mod config;
pub mod counters;
pub mod crash;
pub mod engine;
pub mod envelope;
mod exposition;
pub mod flow;
mod guest;
mod hash;
pub mod integrity;
pub mod job;
pub mod log;
pub mod neighbor;
pub mod node;
pub mod registry;
pub mod sandbox;
pub mod sensor;
pub mod soft;
pub mod system;
pub mod uploads;

pub use engine::{Engine, InterruptHandle, Metering};
pub use job::{Job, JobDone};
pub use node::{Node, Platform};
