//! The capabilities of a team: unforgeable names for what it may reach (D6).
//!
//! A capability points at its target through one indirection: for a neighbor the team's [`Neighbors`],
//! where a neighbor that is gone is marked so, and every capability for it, duplicates included, is void
//! at once. Asking for the same thing twice gives the same capability, so that asking uses nothing up;
//! [`Caps::duplicate`] makes further ones with fewer rights.

use nodeos::bucket::TokenBucket;
use nodeos::link::LinkId;
use nodeos::platform::Instant;
use nodeos::slab::{Handle, Slab};

use crate::abi::{self, Error, rights};
use crate::sandbox::{NeighborId, NeighborRef};

/// Capabilities that a team may hold beside one for each neighbor.
pub const MAX_CAPS: usize = 64;
/// The name of the capability for all neighbors.
pub const NEIGHBORHOOD: &str = "neighborhood";
/// What precedes a neighbor's name in the name of its capability.
pub const NEIGHBOR: &str = "neighbor/";

/// What a capability reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A neighbor, by position.
    Neighbor(u16),
    /// All neighbors that the team may know of.
    Neighborhood,
    /// A privilege, by position in the grant.
    Privilege(u16),
}

/// One capability.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cap {
    pub target: Target,
    rights: u32,
}

/// The team's table.
pub(crate) struct Caps {
    slab: Slab<Cap>,
    /// The capability that asking gives: of the neighborhood first, then of each privilege.
    named: Box<[Option<Handle>]>,
    privileges: Box<[Box<str>]>,
}

impl Caps {
    /// The most bytes that the table takes for so many neighbors and privileges.
    pub const fn bytes(neighbors: usize, privileges: usize) -> usize {
        Slab::<Cap>::bytes(MAX_CAPS + neighbors + privileges) + privileges * 64
    }

    pub fn new(neighbors: usize, privileges: &[String]) -> Self {
        Self {
            slab: Slab::new(MAX_CAPS + neighbors + privileges.len()),
            named: vec![None; 1 + privileges.len()].into(),
            privileges: privileges.iter().map(|p| p.as_str().into()).collect(),
        }
    }

    /// The capability `raw`, if it has `needed`.
    pub fn get(&self, raw: u32, needed: u32) -> Result<Cap, Error> {
        let cap = *abi::named(raw).and_then(|h| self.slab.get(h)).ok_or(Error::BadHandle)?;
        if cap.rights & needed == needed { Ok(cap) } else { Err(Error::NotPermitted) }
    }

    /// The neighbor that `raw` names.
    pub fn neighbor(&self, raw: u32, needed: u32) -> Result<u16, Error> {
        match self.get(raw, needed)?.target {
            Target::Neighbor(at) => Ok(at),
            _ => Err(Error::BadHandle),
        }
    }

    /// Whether `raw` names the neighborhood.
    pub fn neighborhood(&self, raw: u32, needed: u32) -> Result<(), Error> {
        match self.get(raw, needed)?.target {
            Target::Neighborhood => Ok(()),
            _ => Err(Error::BadHandle),
        }
    }

    /// The capability of this name.
    pub fn lookup(&mut self, name: &[u8], neighbors: &mut Neighbors) -> Result<Handle, Error> {
        if let Some(name) = name.strip_prefix(NEIGHBOR.as_bytes()) {
            return self.of_neighbor(neighbors.named(name).ok_or(Error::NotFound)?, neighbors);
        }
        let (slot, target) = if name == NEIGHBORHOOD.as_bytes() {
            (0, Target::Neighborhood)
        } else {
            let at = self.privileges.iter().position(|p| p.as_bytes() == name).ok_or(Error::NotFound)?;
            (1 + at, Target::Privilege(at as u16))
        };
        let known = self.named[slot];
        let handle = self.known_or_new(known, target)?;
        self.named[slot] = Some(handle);
        Ok(handle)
    }

    /// The capability for the neighbor at `at`.
    pub fn of_neighbor(&mut self, at: u16, neighbors: &mut Neighbors) -> Result<Handle, Error> {
        let neighbor = neighbors.get_mut(at)?;
        let handle = self.known_or_new(neighbor.cap, Target::Neighbor(at))?;
        neighbor.cap = Some(handle);
        Ok(handle)
    }

    /// The name of what `raw` reaches, in two pieces.
    pub fn name<'a>(&'a self, raw: u32, neighbors: &'a Neighbors) -> Result<(&'static str, &'a str), Error> {
        match self.get(raw, rights::READ)?.target {
            Target::Neighbor(at) => Ok((NEIGHBOR, &neighbors.get(at)?.is.name)),
            Target::Neighborhood => Ok((NEIGHBORHOOD, "")),
            Target::Privilege(at) => Ok(("", self.privileges.get(usize::from(at)).ok_or(Error::BadHandle)?)),
        }
    }

    /// A further capability for what `raw` reaches, with those of its rights that are in `keep`.
    pub fn duplicate(&mut self, raw: u32, keep: u32) -> Result<Handle, Error> {
        if keep & !rights::ALL != 0 {
            return Err(Error::BadArgument);
        }
        let cap = self.get(raw, rights::DUPLICATE)?;
        let twin = Cap { target: cap.target, rights: cap.rights & keep };
        self.slab.insert(twin).map_err(|_| Error::NoRoom)
    }

    /// Gives a capability back.
    pub fn remove(&mut self, raw: u32) -> Result<(), Error> {
        abi::named(raw).and_then(|h| self.slab.remove(h)).map(drop).ok_or(Error::BadHandle)
    }

    fn known_or_new(&mut self, known: Option<Handle>, target: Target) -> Result<Handle, Error> {
        match known {
            Some(handle) if self.slab.contains(handle) => Ok(handle),
            _ => self.slab.insert(Cap { target, rights: rights::ALL }).map_err(|_| Error::NoRoom),
        }
    }
}

/// One neighbor as the team sees it.
pub(crate) struct Neighbor {
    pub is: NeighborRef,
    gone: bool,
    cap: Option<Handle>,
}

/// The neighbors that a team may know of, and its bandwidth on each link.
pub(crate) struct Neighbors {
    list: Box<[Neighbor]>,
    /// Position by the node's number, for finding where a capsule came from.
    by_id: Box<[u16]>,
    links: Box<[TokenBucket]>,
}

/// No such neighbor, in [`Neighbors::by_id`].
const NOWHERE: u16 = u16::MAX;

impl Neighbors {
    /// The bytes that the table takes.
    pub fn bytes(refs: &[NeighborRef], links: usize) -> usize {
        size_of_val(refs) / size_of::<NeighborRef>() * size_of::<Neighbor>()
            + Self::ids(refs) * 2
            + links * size_of::<TokenBucket>()
    }

    pub fn new(refs: Vec<NeighborRef>, links: usize, rate: u64, burst: u32) -> Self {
        let mut by_id = vec![NOWHERE; Self::ids(&refs)];
        for (at, r) in refs.iter().enumerate() {
            by_id[usize::from(r.id.0)] = at as u16;
        }
        let list = refs.into_iter().map(|is| Neighbor { is, gone: false, cap: None }).collect();
        let links = vec![TokenBucket::new(rate, burst.into()); links].into();
        Self { list, by_id: by_id.into(), links }
    }

    fn ids(refs: &[NeighborRef]) -> usize {
        refs.iter().map(|r| usize::from(r.id.0) + 1).max().unwrap_or(0)
    }

    /// The position of the neighbor with this number, if the team may know of it.
    pub fn position(&self, id: NeighborId) -> Option<u16> {
        let at = *self.by_id.get(usize::from(id.0))?;
        (at != NOWHERE && !self.list[usize::from(at)].gone).then_some(at)
    }

    pub fn get(&self, at: u16) -> Result<&Neighbor, Error> {
        self.list.get(usize::from(at)).filter(|n| !n.gone).ok_or(Error::BadHandle)
    }

    fn get_mut(&mut self, at: u16) -> Result<&mut Neighbor, Error> {
        self.list.get_mut(usize::from(at)).filter(|n| !n.gone).ok_or(Error::BadHandle)
    }

    fn named(&self, name: &[u8]) -> Option<u16> {
        self.list.iter().position(|n| !n.gone && n.is.name.as_bytes() == name).map(|at| at as u16)
    }

    /// Positions, from the first to before the last; those that are gone included.
    pub fn len(&self) -> u16 {
        self.list.len() as u16
    }

    /// Revokes every capability for a neighbor.
    pub fn gone(&mut self, id: NeighborId) {
        if let Some(at) = self.position(id) {
            self.list[usize::from(at)].gone = true;
        }
    }

    /// Takes bytes of each frame to `at` away from the payload.
    pub fn reserve(&mut self, at: u16, bytes: u16) -> Result<(), Error> {
        let is = &mut self.get_mut(at)?.is;
        is.max_payload = is.max_payload.saturating_sub(bytes);
        is.overhead += bytes;
        Ok(())
    }

    /// Gives them back.
    pub fn release(&mut self, at: u16, bytes: u16) -> Result<(), Error> {
        let is = &mut self.get_mut(at)?.is;
        is.max_payload += bytes;
        is.overhead = is.overhead.saturating_sub(bytes);
        Ok(())
    }

    /// Whether `payload` bytes may go to `at`; takes nothing.
    pub fn fits(&self, at: u16, payload: usize) -> Result<(), Error> {
        let max = usize::from(self.get(at)?.is.max_payload);
        if payload <= max { Ok(()) } else { Err(Error::TooLarge) }
    }

    /// Takes the bandwidth for `payload` bytes to `at`.
    pub fn take(&mut self, now: Instant, at: u16, payload: usize) -> Result<(), Error> {
        let is = &self.get(at)?.is;
        let bytes = payload + usize::from(is.overhead);
        let LinkId(link) = is.link;
        let passed = self.links.get_mut(usize::from(link)).is_some_and(|b| b.take(now, bytes));
        if passed { Ok(()) } else { Err(Error::NoBandwidth) }
    }

    /// Bytes that are left on the link that has the least.
    pub fn bandwidth(&self, now: Instant) -> u64 {
        self.links.iter().map(|b| b.available(now)).min().unwrap_or(0)
    }
}
