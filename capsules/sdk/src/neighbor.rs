//! Neighbors: nodes next door, known only through capabilities.

use crate::error::{Error, check, done};
use crate::sys;

/// The most members that [`Neighborhood::members`] lists.
pub const MAX_MEMBERS: usize = 64;

/// What neighbors' names begin with among those of capabilities.
const PREFIX: &[u8] = b"neighbor/";

/// A capability for one neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor(u32);

/// A capability for a set of neighbors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighborhood(u32);

/// The members of a neighborhood at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Members {
    list: [u32; MAX_MEMBERS],
    len: usize,
}

impl Neighbor {
    /// The neighbor of this name in the node's configuration.
    pub fn find(name: &str) -> Result<Self, Error> {
        let mut full = crate::Text::<80>::new();
        full.push(PREFIX);
        full.push(name);
        check(sys::cap_lookup(full.as_bytes())).map(Self)
    }

    /// A number to keep in soft state. It gives no power: a number that names nothing is refused.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The neighbor of a number out of soft state.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    /// Its name in this node's configuration, as much as fits `buffer`.
    pub fn name<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let mut full = [0; 80];
        let n = check(sys::cap_name(self.0, &mut full))? as usize;
        let full = &full[..n.min(full.len())];
        let name = full.strip_prefix(PREFIX).unwrap_or(full);
        let n = name.len().min(buffer.len());
        buffer[..n].copy_from_slice(&name[..n]);
        Ok(&buffer[..n])
    }

    /// The longest payload that can be sent to it, in bytes.
    pub fn max_payload(&self) -> Result<usize, Error> {
        check(sys::neighbor_max_payload(self.0)).map(|n| n as usize)
    }

    /// Whether the node gives the flow's description and code to the neighbor when it asks: without them the flow
    /// does not come (back) there.
    pub fn serve(&self, serve: bool) -> Result<(), Error> {
        done(sys::neighbor_serve(self.0, serve))
    }

    /// From now on this flow's capsules to the neighbor are marked under `key` (16 to 64 bytes), and those from it
    /// that are not are refused. The flow's instance there must set the same key.
    pub fn protect(&self, key: &[u8]) -> Result<(), Error> {
        check(sys::integrity_set(self.0, key)).map(drop)
    }

    /// Capsules to and from the neighbor are neither marked nor checked any more.
    pub fn unprotect(&self) -> Result<(), Error> {
        check(sys::integrity_clear(self.0)).map(drop)
    }
}

impl Neighborhood {
    /// All neighbors of this node that the flow may reach.
    pub fn all() -> Result<Self, Error> {
        check(sys::cap_lookup(b"neighborhood")).map(Self)
    }

    /// A group of at most [`MAX_MEMBERS`] neighbors. A multicast to it counts once.
    pub fn of(members: &[Neighbor]) -> Result<Self, Error> {
        let mut list = [0; MAX_MEMBERS];
        let list = list.get_mut(..members.len()).ok_or(Error::NoRoom)?;
        list.iter_mut().zip(members).for_each(|(to, member)| *to = member.0);
        check(sys::neighborhood_make(list)).map(Self)
    }

    /// The capability's number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// Its members; at most [`MAX_MEMBERS`] are listed.
    pub fn members(&self) -> Result<Members, Error> {
        let mut list = [0; MAX_MEMBERS];
        let len = (check(sys::neighborhood_list(self.0, &mut list))? as usize).min(MAX_MEMBERS);
        Ok(Members { list, len })
    }
}

impl Members {
    /// The members, in the order of the node's configuration.
    pub fn iter(&self) -> impl Iterator<Item = Neighbor> + '_ {
        self.list[..self.len].iter().copied().filter_map(Neighbor::from_bits)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
