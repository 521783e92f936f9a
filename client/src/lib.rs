//! The `bees` command: what people and programs use to talk to nodes.
//!
//! | module      | what                                                                    |
//! |-------------|-------------------------------------------------------------------------|
//! | [`cli`]     | `bees OBJECT VERB`: the command line                                      |
//! | [`remote`]  | a node's control server                                                   |
//! | [`session`] | a protocol's session, for any program                                     |
//! | [`protocols`] | a protocol server and its client                                        |
//! | [`flow`]    | flow tuples: building, signing, verifying, printing, injecting            |
//! | [`http`]    | a proxy and a gateway for HTTP through the network                        |
//! | [`keys`]    | principals' private keys                                                  |
//! | [`lab`]     | several nodes on this machine, in QEMU or as processes                    |
//! | [`output`]  | tables, JSON, progress; [`exit`]: exit codes; [`files`]: files            |
//!
//! Tests use the library; [`cli::main`] is all that the program does.
#![forbid(unsafe_code)]

pub mod cli;
pub mod exit;
pub mod files;
pub mod flow;
pub mod http;
pub mod keys;
pub mod lab;
pub mod output;
pub mod protocols;
pub mod remote;
pub mod session;
