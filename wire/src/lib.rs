//! Bytes on links: everything that two nodes, or a node and a client, say to each other.
//!
//! | module      | what it holds                                                        | carried by                    |
//! |-------------|----------------------------------------------------------------------|-------------------------------|
//! | [`anep`]    | the Active Network Encapsulation Protocol header                     | Ethernet 0x88B5, UDP 3322     |
//! | [`capsule`] | a capsule: ANEP, 16-byte identifier, payload                          | the same                      |
//! | [`id`]      | hashes and the capsule identifier formula                             | -                             |
//! | [`tuple`](mod@tuple) | the flow tuple: what a flow is made of and who answers for it | system protocols, control     |
//! | [`budget`]  | budgets of a flow, by kind and name                                    | tuples, control, configuration |
//! | [`limits`]  | propagation limits and the derivation graph                           | inside the tuple              |
//! | [`integrity`] | a mark on a capsule that its protocol asked for                       | capsules                      |
//! | [`link`](mod@link) | frames of a protected link: handshake, sealed packets             | Ethernet 0x88B5, UDP 3322     |
//! | [`system`]  | payloads of the system protocols (translation, download)              | capsules                      |
//! | [`advert`]  | what a node says of itself, and of whom it knows                      | capsules                      |
//! | [`describe`]  | what a module says about itself                                      | a custom section of the module |
//! | [`grant`]   | what an Auth Agent gives a flow                                       | inside a node, agent to agent |
//! | [`replace`](mod@replace) | how a flow takes over from an earlier version of itself           | inside the tuple              |
//! | [`revoke`]  | a signed revocation of a flow                                         | agent to agent, control       |
//! | [`control`] | requests and answers of the `bees` command                            | Noise over TCP 3322           |
//! | [`session`] | how a program talks to a protocol                                     | TCP 3323                      |
//! | [`datagram`] | the same, by datagrams                                              | UDP 3323                      |
//! | [`scheme`](mod@scheme) | how signatures are made                                    | tuples, revocations, control  |
//! | [`server`]  | how protocols are fetched                                             | TCP 3325                      |
//! | [`http`]    | requests for the node's metrics                                       | TCP 3324                      |
//! | [`statement`] | what guests have signed, and what opens a sealed envelope            | capsules                      |
//! | [`units`]   | rates, sizes and durations as people write them                       | configuration, policy         |
//! | [`utc`]     | points in time as people write them                                   | the same                      |
//!
//! Parsers never panic on what a peer sent and allocate no more than the bytes they were given justify.
//! `docs/wire.md` has the same formats for readers of other languages.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod advert;
pub mod anep;
pub mod budget;
pub mod capsule;
pub mod control;
pub mod datagram;
pub mod describe;
pub mod grant;
pub mod http;
pub mod id;
pub mod integrity;
pub mod limits;
pub mod link;
pub mod replace;
pub mod revoke;
pub mod scheme;
pub mod server;
pub mod session;
pub mod statement;
pub mod system;
pub mod tuple;
pub mod units;
pub mod utc;

/// EtherType of capsules between neighbors on one link (IEEE 802 local experimental 1).
pub const ETHERTYPE: u16 = 0x88b5;
/// UDP port of capsules through networks that are not active (IANA `active-net`).
pub const UDP_PORT: u16 = 3322;
/// The shortest packet, padding behind it included, that makes a node answer or ask over UDP where the link is not
/// protected: as long as the longest question, answer to a question, or refusal.
pub const MIN_DATAGRAM: usize = 128;
/// TCP port of the control protocol on a node's management address.
pub const CONTROL_PORT: u16 = 3322;
/// TCP and UDP port of protocol sessions on a node's management address.
pub const SESSION_PORT: u16 = 3323;
/// TCP port of metrics over HTTP on a node's management address, where its configuration turns them on.
pub const METRICS_PORT: u16 = 3324;
/// TCP port of a protocol server, unless said otherwise.
pub const SERVER_PORT: u16 = 3325;
