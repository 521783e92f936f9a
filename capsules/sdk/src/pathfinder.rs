//! The interface `pathfinder`: what a main protocol asks of the companion that knows the way to a server, and what
//! it is told. `capsules/pathfinder` serves it; another protocol may, in its place.
//!
//! ```ignore
//! companions: { "pathfinder": Parts },
//! // On the node whose program wants to hear everybody:
//! Pathfinder::find()?.root()?;
//! // Anywhere:
//! Pathfinder::find()?.sink(b"bytes")?;
//! // In Protocol::companion:
//! match News::of(&call) { Some(News::Sink { hops, len }) => ..., }
//! ```

use crate::bytes::{Pack, Reader, Writer};
use crate::companion::{Call, Companion};
use crate::error::Error;

/// The interface's name.
pub const INTERFACE: &str = "pathfinder";
/// The most bytes of a sink or a multicast.
pub const MAX_BYTES: usize = 1200;
/// [`Pathfinder::sink`]: the bytes are where they should go already.
pub const HERE: u32 = 1;

/// What the main protocol asks for: the numbers of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// [`Pathfinder::configure`].
    Configure = 1,
    /// [`Pathfinder::root`].
    Root = 2,
    /// [`Pathfinder::sink`].
    Sink = 3,
    /// [`Pathfinder::multicast`].
    Multicast = 4,
    /// [`Pathfinder::place`].
    Place = 5,
}

/// The numbers of the calls to the main protocol.
mod news {
    pub const SINK: u32 = 16;
    pub const MULTICAST: u32 = 17;
    pub const LOST: u32 = 18;
}

/// The companion.
#[derive(Debug, Clone, Copy)]
pub struct Pathfinder(Companion);

/// What a node is in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// It knows no root.
    Outside = 0,
    /// It has a parent.
    Member = 1,
    /// It is the root.
    Root = 2,
}

/// How often the root speaks, and when it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Between two of its words, in milliseconds.
    pub interval_ms: u32,
    /// After so many intervals without one it is lost.
    pub expiry: u8,
    /// How often a node says each again.
    pub repeats: u8,
}

/// A node's place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it is.
    pub role: Role,
    /// Hops to the root.
    pub hops: u8,
    /// Which root, and which of its lives.
    pub epoch: u64,
    /// How often that one has spoken.
    pub sequence: u32,
    /// Milliseconds since it spoke.
    pub age_ms: u32,
    /// Milliseconds between its words.
    pub interval_ms: u32,
}

/// What the companion tells the main protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// At the root: bytes from a node so many hops away. They begin at [`News::BYTES`] of the message.
    Sink {
        /// Hops that they came.
        hops: u8,
        /// How many there are.
        len: usize,
    },
    /// Everywhere else: the root's bytes. They begin at [`News::BYTES`] of the message.
    Multicast {
        /// How many there are.
        len: usize,
    },
    /// The root is lost. The flow ends on this node unless the result is above 0.
    Lost,
}

impl Pathfinder {
    /// The companion; an error where the flow was built without one.
    pub fn find() -> Result<Self, Error> {
        Companion::find(INTERFACE).map(Self)
    }

    /// Says how often the root speaks and when it is lost, in the place of the companion's parameters. To be
    /// called at boot, the same on all nodes.
    pub fn configure(&self, terms: &Terms) -> Result<(), Error> {
        let mut bytes = [0; 6];
        let mut w = Writer::new(&mut bytes);
        terms.pack(&mut w);
        self.0.call(Operation::Configure as u32, &bytes).map(drop)
    }

    /// Makes this node the root.
    pub fn root(&self) -> Result<(), Error> {
        self.0.call(Operation::Root as u32, &[]).map(drop)
    }

    /// Sends bytes to the root's main protocol; [`HERE`]: this node is the root. [`Error::NotFound`]: none is
    /// known.
    pub fn sink(&self, bytes: &[u8]) -> Result<u32, Error> {
        self.0.call(Operation::Sink as u32, bytes)
    }

    /// Sends the root's bytes to all other main protocols.
    pub fn multicast(&self, bytes: &[u8]) -> Result<(), Error> {
        self.0.call(Operation::Multicast as u32, bytes).map(drop)
    }

    /// This node's place.
    pub fn place(&self) -> Result<Place, Error> {
        let mut buffer = [0; Place::LEN];
        let bytes = self.0.ask(Operation::Place as u32, &[], &mut buffer)?;
        Place::unpack(&mut Reader::new(bytes)).ok_or(Error::Unavailable)
    }
}

impl Operation {
    /// The operation of a call's number.
    pub fn of(number: u32) -> Option<Self> {
        [Self::Configure, Self::Root, Self::Sink, Self::Multicast, Self::Place]
            .into_iter()
            .find(|op| *op as u32 == number)
    }
}

impl News {
    /// Where the bytes of a message begin: behind the hops.
    pub const BYTES: usize = 1;

    /// What a call says, if it is one of these.
    pub fn of(call: &Call<'_>) -> Option<Self> {
        let len = call.len.saturating_sub(Self::BYTES);
        Some(match call.operation {
            news::SINK => Self::Sink { hops: *call.head.first()?, len },
            news::MULTICAST => Self::Multicast { len },
            news::LOST => Self::Lost,
            _ => return None,
        })
    }

    /// Tells it to the protocol `to`; `message` is the hops and the bytes. For who serves the interface.
    pub fn tell(&self, to: &Companion, message: &[u8]) -> Result<u32, Error> {
        let operation = match self {
            Self::Sink { .. } => news::SINK,
            Self::Multicast { .. } => news::MULTICAST,
            Self::Lost => news::LOST,
        };
        to.call(operation, message)
    }
}

impl Pack for Terms {
    fn pack(&self, to: &mut Writer<'_>) {
        to.u32(self.interval_ms);
        to.put(&[self.expiry, self.repeats]);
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self { interval_ms: from.u32()?, expiry: from.u8()?, repeats: from.u8()? })
    }
}

impl Place {
    /// Bytes of its form.
    pub const LEN: usize = 22;
}

impl Pack for Place {
    fn pack(&self, to: &mut Writer<'_>) {
        to.put(&[self.role as u8, self.hops]);
        to.u64(self.epoch);
        to.u32(self.sequence);
        to.u32(self.age_ms);
        to.u32(self.interval_ms);
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        let role = match from.u8()? {
            0 => Role::Outside,
            1 => Role::Member,
            2 => Role::Root,
            _ => return None,
        };
        Some(Self {
            role,
            hops: from.u8()?,
            epoch: from.u64()?,
            sequence: from.u32()?,
            age_ms: from.u32()?,
            interval_ms: from.u32()?,
        })
    }
}
