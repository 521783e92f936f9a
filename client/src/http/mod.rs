//! HTTP at both ends of the protocol `http` (`capsules/http`): a proxy that programs like curl talk to, and the gateway's
//! program, which fetches objects from their servers.
//!
//! | module      | what                                          |
//! |-------------|-----------------------------------------------|
//! | [`message`] | what protocol and programs say to each other  |
//! | [`head`]    | requests of clients: what is carried, what not |
//! | [`fresh`]   | how long a response may be kept               |
//! | [`origin`]  | asking a server                               |
//! | [`shelf`]   | the gateway's objects, until nobody asks for them |
//! | [`gateway`] | the gateway's program                         |
//! | [`proxy`]   | the proxy                                     |

mod fresh;
mod gateway;
mod head;
mod message;
mod origin;
mod proxy;
mod shelf;

pub use gateway::{Hosts, serve};
pub use proxy::{Proxy, Terms};

/// The most bytes of a head.
const MAX_HEAD: usize = 16 * 1024;
/// The most headers of a head.
const MAX_HEADERS: usize = 64;
/// The most bytes of an object, its head included.
const MAX_OBJECT: usize = 8 << 20;
