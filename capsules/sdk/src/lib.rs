//! Writing protocols for the active node in Rust.
//!
//! A protocol implements [`Protocol`], whose methods are the events that a node brings, and says what it
//! is with [`protocol!`]: its name, its capsule types with their limits, its parameters. That macro
//! makes the WebAssembly module's exports and its description. `template/` is the smallest example.
//!
//! | module        | what                                                                              |
//! |---------------|-----------------------------------------------------------------------------------|
//! | [`capsule`]   | [`Capsule`]: read, change, send, return, multicast, derive                         |
//! | [`neighbor`]  | [`Neighbor`] and [`Neighborhood`]: capabilities for the nodes next door             |
//! | [`cache`]     | soft state: what the node keeps for a while                                         |
//! | [`route`]     | next hops that a protocol learns                                                    |
//! | [`timer`]     | [`Timer`]                                                                           |
//! | [`rounds`]    | [`Rounds`](rounds::Rounds): a request that is asked in rounds                        |
//! | [`seen`]      | [`Seen`](seen::Seen): numbers that were here already                                   |
//! | [`session`]   | [`Session`]: the program that talks to the protocol                                 |
//! | [`node`]      | names, parameters, clocks, randomness, hashes, budgets                              |
//! | [`text`]      | lines of text without `core::fmt`: [`text!`](macro@text), [`log!`]                   |
//! | [`bytes`]     | small structures to bytes and back                                                  |
//! | [`blob`]      | what the node keeps for this flow, over its own restart, too                        |
//! | [`companion`] | [`Companion`]: the other protocols of the same flow                                   |
//! | [`cross`]     | other flows of the node, and the node's own services                                |
//! | [`flow`]      | flows below this one                                                                |
//! | [`handover`](mod@handover) | from one version of a protocol to the next, while it runs                       |
//! | [`privilege`] | [`Sensors`], [`NodeKey`], [`Queues`]: what an Auth Agent may grant                            |
//! | [`pathfinder`](mod@pathfinder) | the interface of the companion that knows the way to a server                     |
//! | [`envelope`]  | capabilities for other flows                                                        |
//! | [`crypto`]    | MACs, signatures, encryption                                                        |
//! | [`describe`]  | the module's description                                                            |
//! | [`sys`]       | the interface as it is (`docs/abi`); the only `unsafe` code                         |
//! | `testing`     | not on WebAssembly: many nodes in memory, with virtual time and loss, for unit tests |
//!
//! There is no heap unless the protocol brings one; a module has one page of memory, 8 KiB of it stack.
#![cfg_attr(target_arch = "wasm32", no_std)]

pub mod blob;
pub mod bytes;
pub mod cache;
pub mod capsule;
pub mod companion;
pub mod cross;
pub mod crypto;
pub mod describe;
pub mod envelope;
mod error;
mod export;
pub mod flow;
pub mod handover;
pub mod neighbor;
pub mod node;
pub mod pathfinder;
pub mod privilege;
pub mod rounds;
pub mod route;
pub mod seen;
pub mod session;
pub mod sys;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod text;
pub mod timer;

pub use blob::Blobs;
pub use capsule::{Capsule, Operation};
pub use companion::{Call, Companion};
pub use cross::{Answer, Place, Request};
pub use error::Error;
pub use flow::{Flow, Flows};
pub use handover::{Handover, Takeover};
pub use neighbor::{Neighbor, Neighborhood};
pub use privilege::{NodeKey, Queues, Sensors};
pub use session::{Session, SessionEvent};
pub use text::Text;
pub use timer::Timer;

/// The first bytes of what an event is about: at most 64.
pub const INBOX: usize = 64;

/// What a protocol does about each event. A method that returns has used up its capsule, whatever it did
/// with it.
pub trait Protocol {
    /// The flow was started on this node.
    fn boot(&mut self, capsule: Option<Capsule>) {
        let _ = capsule;
    }

    /// A capsule arrived. `head` is the beginning of its payload, at most [`INBOX`] bytes.
    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        let _ = (capsule, head);
    }

    /// A timer fired; `token` is what it was set with.
    fn timer(&mut self, capsule: Option<Capsule>, timer: Timer, token: u64) {
        let _ = (capsule, timer, token);
    }

    /// A program has read so much that [`Session::reply`] takes packets again, after it refused one with
    /// [`Error::NoRoom`].
    fn room(&mut self, session: Session) {
        let _ = session;
    }

    /// A program opened a session, sent a packet or went away.
    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        let _ = (capsule, session, event);
    }

    /// The entry of `key` is about to expire; a result above 0 keeps it for so many milliseconds more.
    fn expiry(&mut self, key: &[u8]) -> u32 {
        let _ = key;
        0
    }

    /// A budget is nearly used up, or (processor, bandwidth) less was to be had than was wanted.
    fn warning(&mut self, resource: node::Resource) {
        let _ = resource;
    }

    /// A flow that this one started runs now, or has ended.
    fn flow(&mut self, flow: Flow, state: flow::State) {
        let _ = (flow, state);
    }

    /// Another protocol of the same flow calls; the caller gets the result. `capsule` is the one of the type that
    /// the description names for `session`: one in each event, with what earlier calls left of it.
    fn companion(&mut self, capsule: Option<Capsule>, call: Call<'_>) -> Result<u32, Error> {
        let _ = (capsule, call);
        Err(Error::NotFound)
    }

    /// A neighbor that is [watched](Neighbor::watch) died or returned, or one was discovered or forgotten.
    fn neighbor(&mut self, neighbor: Neighbor, news: neighbor::News) {
        let _ = (neighbor, news);
    }

    /// Another flow asks for something. The answer may be given later; until then it has its place.
    fn asked(&mut self, capsule: Option<Capsule>, request: Request<'_>) {
        let _ = (capsule, request.place.answer(Err(Error::NotFound), &[]));
    }

    /// What this flow asked of another one, or of the node, is answered.
    fn answered(&mut self, answer: Answer<'_>) {
        let _ = answer;
    }

    /// The flow ends; a small budget is left for this call.
    fn stop(&mut self) {}

    /// The next version of this protocol is about to take over: writes what it must know. It goes on as it is if this
    /// fails, or the next version does not take over, so it only looks; companions cannot be called.
    fn handover(&self, to: &mut Handover) -> Result<(), Error> {
        let _ = to;
        Err(Error::NotFound)
    }

    /// Instead of [`boot`](Self::boot), where the version before handed its state over. Sessions are open as they were;
    /// timers and soft state are not there. With an error the version before goes on, and this one ends.
    fn takeover(&mut self, capsule: Option<Capsule>, from: &mut Takeover) -> Result<(), Error> {
        let _ = (capsule, from);
        Err(Error::NotFound)
    }
}
