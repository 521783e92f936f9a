//! NodeOS: what lies between a platform and the execution environment.
//!
//! | module        | what it holds                                                          |
//! |---------------|------------------------------------------------------------------------|
//! | [`platform`]  | time, and the traits that a platform implements                        |
//! | [`units`]     | rates, sizes and durations as people write them                        |
//! | [`config`]    | links, neighbors and team bounds in the node's configuration           |
//! | [`slab`]      | bounded tables and the handles that name their members                 |
//! | [`account`]   | memory: charged before it is used, refunded when dropped               |
//! | [`pool`]      | variable-size bytes of one team, reached by handle                     |
//! | [`bucket`]    | bandwidth: token buckets                                               |
//! | [`team`]      | the tree of teams, their budgets, and the policy that ends them        |
//! | [`sched`]     | events: bounded queues, served by share of processor time              |
//! | [`timer`]     | what is to happen later                                                |
//! | [`buf`]       | packet buffers                                                         |
//! | [`link`]      | one NIC as the core sees it                                            |
//! | [`channel`]   | what received frames mean, and how outgoing ones are built             |
//! | [`nexthop`]   | IP address to MAC address, for UDP channels                            |
//! | [`ip`]        | the rest of IP: ICMP echo, DHCP, TCP streams                           |
//! | [`store`]     | blobs (files): in memory, written through to a block device            |
//! | [`net`]       | links, channels and IP together: the one to use                        |
//!
//! Nothing here reads a clock, touches a device or starts a thread: `now` is an argument, frames come in
//! by [`net::Net::frame`] and go out by [`net::Net::transmit`].
#![no_std]
#![deny(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod account;
pub mod bucket;
pub mod buf;
pub mod channel;
pub mod config;
pub mod ip;
pub mod link;
pub mod net;
pub mod nexthop;
pub mod platform;
pub mod pool;
pub mod queue;
pub mod sched;
pub mod slab;
pub mod store;
pub mod team;
pub mod timer;

pub use wire::units;
