//! The capabilities of a team: unforgeable names for what it may reach (D6).
//!
//! A capability points at its target through one indirection: for a neighbor the team's [`Neighbors`],
//! where a neighbor that is gone is marked so, and every capability for it, duplicates included, is void
//! at once; for what came in an envelope a [`Line`] that its maker can cut. Asking for the same thing
//! twice gives the same capability, so that asking uses nothing up; [`Caps::duplicate`] makes further ones
//! with fewer rights. A capability and its duplicates are a *family*: they are revoked together, and with
//! them whatever other teams got by envelopes made of any of them.

mod neighbors;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nodeos::account::{Account, Charge, Refused};
use nodeos::slab::{Handle, Slab};

pub(crate) use self::neighbors::Neighbors;
use crate::abi::{self, Error, rights};
use crate::envelope::{Content, Line, Thing};
use wire::tuple::Companion;

/// Capabilities that a team may hold beside one for each neighbor.
pub const MAX_CAPS: usize = 64;
/// Neighborhoods that a team may make.
pub const MAX_GROUPS: usize = 16;
/// Capabilities out of envelopes that a team may hold, duplicates not counted.
pub const MAX_LENT: usize = 16;
/// Families of which something is, or lately was, in other teams' hands.
const MAX_SHARED: usize = 32;
/// What precedes an interface's name in the name of a companion's capability.
pub const COMPANION: &str = "companion/";
/// The name of the capability for the protocol that this one serves.
pub const PARENT: &str = "parent";
/// The name of the capability for all neighbors.
pub const NEIGHBORHOOD: &str = "neighborhood";
/// What precedes a neighbor's name in the name of its capability.
pub const NEIGHBOR: &str = "neighbor/";
/// The privilege to read the node's sensors.
pub const SENSORS: &str = "sensors";
/// The privilege to see how many frames wait for a link.
pub const QUEUES: &str = "queues";
/// The privilege to serve interfaces to other flows of the node. It goes with the grant, not with a capability.
pub const OFFER: &str = "offer";
/// What the names of the node's own services begin with, which no flow may offer.
pub const RESERVED: &str = "bees.";
/// The privilege to start flows below one's own.
pub const FLOWS: &str = "flows";
/// Flows below its own that a team may know of.
pub const MAX_CHILDREN: usize = 16;
/// The privilege to have the node sign.
pub const NODE_KEY: &str = "node-key";
/// The privilege to keep blobs on the node.
pub const BLOBS: &str = "blobs";
/// The privilege to take longer than an event's time, in slices (D4). It goes with the grant, not with a capability.
pub const BACKGROUND: &str = "background";

/// What a capability reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A neighbor, by position.
    Neighbor(u16),
    /// All neighbors that the team may know of.
    Neighborhood,
    /// A privilege, by position among those that the team knows.
    Privilege(u16),
    /// A neighborhood of the team's own making, by position.
    Group(u16),
    /// What seals envelopes, by the pair's number.
    Sealer(u64),
    /// What opens them.
    Unsealer(u64),
    /// What came in an envelope, by position.
    Lent(u16),
    /// A flow that this one started, by its handle among [`Caps::children`].
    Child(Handle),
    /// Another protocol of the same flow.
    Companion(CompanionId),
}

/// Another protocol of the same flow, as one sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CompanionId {
    /// The one that it serves.
    Parent,
    /// One that serves it, by position among its companions.
    Companion(u8),
}

/// What a flow that another one started is doing; the numbers of `flow_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum ChildState {
    /// It is judged, fetched or compiled.
    Starting = 0,
    /// It runs.
    Running = 1,
    /// It has ended, or was never let in.
    Ended = 2,
}

/// A flow that this one started.
struct Child {
    state: ChildState,
    /// The capability that starting it gave.
    cap: Option<Handle>,
    /// Capabilities for it.
    uses: u16,
}

/// One capability.
#[derive(Debug, Clone, Copy)]
struct Cap {
    target: Target,
    rights: u32,
    family: u64,
}

/// Whom a multicast reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Members {
    /// Every neighbor.
    All,
    /// Those in the neighborhood at this position.
    Group(u16),
}

struct Privilege {
    name: Arc<str>,
    /// Granted to this team, not lent by another.
    own: bool,
}

/// Neighbors by position, one bit each.
struct Group {
    bits: Box<[u64]>,
    /// Capabilities for it.
    uses: u16,
}

struct Lent {
    line: Arc<Line>,
    target: Target,
    uses: u16,
}

/// A family with a line to other teams.
struct Shared {
    family: u64,
    target: Target,
    line: Arc<Line>,
}

/// What other teams hold of a team's capabilities. Who has a clone cuts it without the table.
#[derive(Clone)]
pub(crate) struct Lines(Arc<Mutex<Table>>);

struct Table {
    shared: Vec<Shared>,
    /// For each of them.
    charge: Charge,
}

/// Bytes of a line, and of its place in a list that may be moved.
const SHARED_BYTES: usize = 2 * size_of::<Shared>() + 64;

impl Lines {
    /// What other teams have of the target is void from now on.
    pub fn cut_target(&self, target: Target) {
        self.cut(|s| s.target == target);
    }

    fn cut(&self, which: impl Fn(&Shared) -> bool) {
        self.open().retain(|s| {
            let goes = which(s);
            if goes {
                s.line.cut();
            }
            !goes
        });
    }

    fn open(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn retain(&mut self, keep: impl FnMut(&Shared) -> bool) {
        let before = self.shared.len();
        self.shared.retain(keep);
        self.shared.shrink_to_fit();
        self.charge.shrink(((before - self.shared.len()) * SHARED_BYTES) as u64);
    }

    fn push(&mut self, shared: Shared) -> Result<(), Error> {
        self.charge.grow(SHARED_BYTES as u64).map_err(|_| Error::NoMemory)?;
        self.shared.reserve_exact(1);
        self.shared.push(shared);
        Ok(())
    }
}

/// The team's table.
pub(crate) struct Caps {
    slab: Slab<Cap>,
    next_family: u64,
    /// The capability that asking gives: of the neighborhood first, then of each privilege.
    named: Vec<Option<Handle>>,
    privileges: Vec<Privilege>,
    /// How many of them may become known by envelopes.
    max_privileges: usize,
    /// Places for neighborhoods of its own making, once there is one; [`MAX_GROUPS`] then.
    groups: Vec<Option<Group>>,
    /// The same for what came in envelopes; [`MAX_LENT`].
    lent: Vec<Option<Lent>>,
    /// For these places.
    charge: Charge,
    /// Flows that this one started, until they have ended and nobody asks any more.
    children: Slab<Child>,
    /// The interfaces of those that serve it, and the capability that asking gives.
    companions: Box<[(Box<str>, Option<Handle>)]>,
    parent: Option<Handle>,
    shared: Lines,
}

impl Caps {
    /// The most bytes that the table takes for so many neighbors, privileges and companions, beside itself and what is
    /// charged as it comes: the capabilities, what it shares with other teams, and what few teams have.
    pub const fn bytes(neighbors: usize, privileges: usize, companions: usize) -> usize {
        companions * (wire::tuple::MAX_NAME + size_of::<(Box<str>, Option<Handle>)>())
            + privileges * 64
            + MAX_GROUPS * neighbors.div_ceil(64) * 8
    }

    /// `companions`: the interfaces of those that serve the protocol.
    pub fn new(
        neighbors: usize,
        privileges: &[String],
        companions: &[Companion],
        memory: &Account,
    ) -> Result<Self, Refused> {
        let own = |name: &String| Privilege { name: name.as_str().into(), own: true };
        let mut slab = Slab::charged(MAX_CAPS + neighbors + privileges.len() + companions.len(), memory)?;
        // What asking gives for the first time is always there: the neighborhood and the parent, and one for each other name.
        slab.make_room(2 + neighbors + privileges.len() + companions.len())?;
        let shared = Table { shared: Vec::new(), charge: memory.charge(0)? };
        Ok(Self {
            slab,
            next_family: 0,
            named: vec![None; 1 + privileges.len()],
            privileges: privileges.iter().map(own).collect(),
            max_privileges: privileges.len() + MAX_LENT,
            groups: Vec::new(),
            lent: Vec::new(),
            charge: memory.charge(0)?,
            children: Slab::charged(MAX_CHILDREN, memory)?,
            companions: companions.iter().map(|c| (c.interface.as_str().into(), None)).collect(),
            parent: None,
            shared: Lines(Arc::new(Mutex::new(shared))),
        })
    }

    #[inline]
    fn entry(&self, raw: u32, needed: u32) -> Result<&Cap, Error> {
        let cap = abi::named(raw).and_then(|h| self.slab.get(h)).ok_or(Error::BadHandle)?;
        if cap.rights & needed == needed { Ok(cap) } else { Err(Error::NotPermitted) }
    }

    /// What a target really is: what came in an envelope only as long as it was not taken back.
    fn real(&self, target: Target) -> Result<Target, Error> {
        let Target::Lent(at) = target else { return Ok(target) };
        let lent = self.lent[usize::from(at)].as_ref().filter(|l| !l.line.is_cut());
        lent.map(|l| l.target).ok_or(Error::BadHandle)
    }

    fn reach(&self, raw: u32, needed: u32) -> Result<Target, Error> {
        self.real(self.entry(raw, needed)?.target)
    }

    /// The neighbor that `raw` names.
    #[inline]
    pub fn neighbor(&self, raw: u32, needed: u32) -> Result<u16, Error> {
        // The way of every capsule: a neighbor of the team's own is found at once.
        match self.entry(raw, needed)?.target {
            Target::Neighbor(at) => Ok(at),
            other => match self.real(other)? {
                Target::Neighbor(at) => Ok(at),
                _ => Err(Error::BadHandle),
            },
        }
    }

    /// The neighborhood that `raw` names.
    pub fn neighborhood(&self, raw: u32, needed: u32) -> Result<Members, Error> {
        match self.reach(raw, needed)? {
            Target::Neighborhood => Ok(Members::All),
            Target::Group(at) => Ok(Members::Group(at)),
            _ => Err(Error::BadHandle),
        }
    }

    /// Whether the neighbor at `at` is a member.
    pub fn has(&self, members: Members, at: u16) -> bool {
        match members {
            Members::All => true,
            Members::Group(group) => self.groups[usize::from(group)].as_ref().is_some_and(|g| g.has(at)),
        }
    }

    /// How many members a neighborhood has, those that are gone included; 0 for what is none.
    pub fn size(&self, raw: u32, neighbors: &Neighbors) -> u64 {
        match self.reach(raw, 0) {
            Ok(Target::Neighborhood) => neighbors.len().into(),
            Ok(Target::Group(at)) => self.groups[usize::from(at)].as_ref().map_or(0, Group::len),
            _ => 0,
        }
    }

    /// Whether `raw` is a capability for the privilege `name`.
    pub fn privilege(&self, raw: u32, needed: u32, name: &str) -> Result<(), Error> {
        match self.reach(raw, needed)? {
            Target::Privilege(at) if &*self.privileges[usize::from(at)].name == name => Ok(()),
            _ => Err(Error::BadHandle),
        }
    }

    /// Whether the team itself was granted this privilege, and still has it.
    pub fn holds(&self, name: &str) -> bool {
        self.privileges.iter().any(|p| p.own && &*p.name == name)
    }

    /// The number of the pair whose sealer `raw` is.
    pub fn sealer(&self, raw: u32) -> Result<u64, Error> {
        match self.reach(raw, rights::USE)? {
            Target::Sealer(number) => Ok(number),
            _ => Err(Error::BadHandle),
        }
    }

    /// The number of the pair whose unsealer `raw` is.
    pub fn unsealer(&self, raw: u32) -> Result<u64, Error> {
        match self.reach(raw, rights::USE)? {
            Target::Unsealer(number) => Ok(number),
            _ => Err(Error::BadHandle),
        }
    }

    /// A place for a flow that this one starts, and the capability for it.
    pub fn add_child(&mut self) -> Result<(Handle, Handle), Error> {
        let starting = Child { state: ChildState::Starting, cap: None, uses: 0 };
        self.children.reserve()?;
        let child = self.children.insert(starting).map_err(|_| Error::NoRoom)?;
        let family = self.new_family();
        let cap = Cap { target: Target::Child(child), rights: rights::ALL, family };
        let cap = self.insert(cap).inspect_err(|_| {
            self.children.remove(child);
        })?;
        self.children.get_mut(child).into_iter().for_each(|c| c.cap = Some(cap));
        Ok((child, cap))
    }

    /// The flow that `raw` names, and what it is doing.
    pub fn child(&self, raw: u32, needed: u32) -> Result<(Handle, ChildState), Error> {
        let Target::Child(child) = self.entry(raw, needed)?.target else { return Err(Error::BadHandle) };
        let state = self.children.get(child).ok_or(Error::BadHandle)?.state;
        Ok((child, state))
    }

    /// A flow that this one started does something else now.
    pub fn child_is(&mut self, child: Handle, state: ChildState) {
        let Some(known) = self.children.get_mut(child) else { return };
        known.state = state;
        if state == ChildState::Ended && known.uses == 0 {
            self.children.remove(child);
        }
    }

    /// The capability that starting a flow gave, while it is there.
    pub fn of_child(&self, child: Handle) -> Option<Handle> {
        self.children.get(child)?.cap.filter(|cap| self.slab.contains(*cap))
    }

    /// The protocol that `raw` names.
    pub fn companion(&self, raw: u32) -> Result<CompanionId, Error> {
        match self.entry(raw, rights::USE)?.target {
            Target::Companion(id) => Ok(id),
            _ => Err(Error::BadHandle),
        }
    }

    /// The capability for the companion at this position.
    pub fn of_companion(&mut self, step: u8) -> Result<Handle, Error> {
        let known = self.companions.get(usize::from(step)).ok_or(Error::NotFound)?.1;
        let handle = self.known_or_new(known, Target::Companion(CompanionId::Companion(step)))?;
        self.companions[usize::from(step)].1 = Some(handle);
        Ok(handle)
    }

    /// The capability for the protocol that this one serves; it leads nowhere from the main protocol.
    pub fn of_parent(&mut self) -> Result<Handle, Error> {
        let handle = self.known_or_new(self.parent, Target::Companion(CompanionId::Parent))?;
        self.parent = Some(handle);
        Ok(handle)
    }

    /// The capability of this name.
    pub fn lookup(&mut self, name: &[u8], neighbors: &mut Neighbors) -> Result<Handle, Error> {
        if let Some(name) = name.strip_prefix(NEIGHBOR.as_bytes()) {
            return self.of_neighbor(neighbors.named(name).ok_or(Error::NotFound)?, neighbors);
        }
        if let Some(interface) = name.strip_prefix(COMPANION.as_bytes()) {
            let step = self.companions.iter().position(|(known, _)| known.as_bytes() == interface);
            return self.of_companion(step.ok_or(Error::NotFound)? as u8);
        }
        if name == PARENT.as_bytes() {
            return self.of_parent();
        }
        let (slot, target) = if name == NEIGHBORHOOD.as_bytes() {
            (0, Target::Neighborhood)
        } else {
            let mine = |p: &Privilege| p.own && p.name.as_bytes() == name;
            let at = self.privileges.iter().position(mine).ok_or(Error::NotFound)?;
            (1 + at, Target::Privilege(at as u16))
        };
        let handle = self.known_or_new(self.named[slot], target)?;
        self.named[slot] = Some(handle);
        Ok(handle)
    }

    /// The capability for the neighbor at `at`.
    #[inline]
    pub fn of_neighbor(&mut self, at: u16, neighbors: &mut Neighbors) -> Result<Handle, Error> {
        let neighbor = neighbors.get_mut(at)?;
        let handle = self.known_or_new(neighbor.cap, Target::Neighbor(at))?;
        neighbor.cap = Some(handle);
        Ok(handle)
    }

    /// The name of what `raw` reaches, in two pieces.
    pub fn name<'a>(&'a self, raw: u32, neighbors: &'a Neighbors) -> Result<(&'static str, &'a str), Error> {
        match self.reach(raw, rights::READ)? {
            Target::Neighbor(at) => Ok((NEIGHBOR, &neighbors.get(at)?.is.name)),
            Target::Neighborhood => Ok((NEIGHBORHOOD, "")),
            Target::Privilege(at) => Ok(("", &self.privileges[usize::from(at)].name)),
            Target::Group(_) => Ok(("group", "")),
            Target::Sealer(_) => Ok(("sealer", "")),
            Target::Unsealer(_) => Ok(("unsealer", "")),
            Target::Child(_) => Ok(("flow", "")),
            Target::Companion(CompanionId::Parent) => Ok((PARENT, "")),
            Target::Companion(CompanionId::Companion(step)) => {
                Ok((COMPANION, &self.companions[usize::from(step)].0))
            }
            Target::Lent(_) => Err(Error::BadHandle),
        }
    }

    /// A further capability for what `raw` reaches, with those of its rights that are in `keep`.
    pub fn duplicate(&mut self, raw: u32, keep: u32) -> Result<Handle, Error> {
        if keep & !rights::ALL != 0 {
            return Err(Error::BadArgument);
        }
        let cap = *self.entry(raw, rights::DUPLICATE)?;
        self.real(cap.target)?;
        self.insert(Cap { rights: cap.rights & keep, ..cap })
    }

    /// Gives a capability back.
    pub fn remove(&mut self, raw: u32) -> Result<(), Error> {
        let cap = abi::named(raw).and_then(|h| self.slab.remove(h)).ok_or(Error::BadHandle)?;
        self.release(cap.target);
        Ok(())
    }

    /// Takes back `raw`, its duplicates, and what other teams got of any of them.
    pub fn revoke(&mut self, raw: u32) -> Result<(), Error> {
        let family = self.entry(raw, rights::DUPLICATE)?.family;
        self.remove_all(|c| c.family == family);
        self.shared.cut(|s| s.family == family);
        Ok(())
    }

    /// The team may not know of the neighbor at `at` any more, nor has it anything to lend of it.
    pub fn neighbor_gone(&mut self, at: u16) {
        self.shared.cut_target(Target::Neighbor(at));
    }

    /// The neighbor at `at` is none any more: every capability for it is gone, and somebody else may have its place.
    pub fn neighbor_left(&mut self, at: u16) {
        let target = Target::Neighbor(at);
        let is_lent = |lent: &Option<Lent>| lent.as_ref().is_some_and(|lent| lent.target == target);
        let slots: Vec<bool> = self.lent.iter().map(is_lent).collect();
        self.remove_all(|cap| match cap.target {
            Target::Lent(slot) => slots[usize::from(slot)],
            other => other == target,
        });
        let groups = &mut self.groups;
        self.shared.cut(|s| match s.target {
            Target::Group(group) => groups[usize::from(group)].as_ref().is_some_and(|g| g.has(at)),
            other => other == target,
        });
        groups.iter_mut().flatten().for_each(|group| group.remove(at));
    }

    /// What other teams hold of this table.
    pub fn lines(&self) -> Lines {
        self.shared.clone()
    }

    /// Takes privileges away that are not among `kept`: every capability for them is void at once, and what
    /// other teams got of them. What other teams lent stays.
    pub fn withhold(&mut self, kept: &[String]) {
        for at in 0..self.privileges.len() {
            let privilege = &mut self.privileges[at];
            if privilege.own && !kept.iter().any(|k| **k == *privilege.name) {
                privilege.own = false;
                let target = Target::Privilege(at as u16);
                self.remove_all(|c| c.target == target);
                self.shared.cut_target(target);
            }
        }
    }

    /// A neighborhood of the neighbors that these capabilities name. It has the rights that all of them
    /// have, and each must be one that may be passed on.
    pub fn make_group(
        &mut self,
        list: impl Iterator<Item = u32>,
        neighbors: &Neighbors,
    ) -> Result<Handle, Error> {
        let mut group = Group::new(neighbors.len());
        let mut rights = rights::ALL;
        for raw in list {
            let at = self.neighbor(raw, rights::DUPLICATE)?;
            neighbors.get(at)?;
            group.add(at);
            rights &= self.entry(raw, 0)?.rights;
        }
        let at = self.add_group(group)?;
        let family = self.new_family();
        self.insert(Cap { target: Target::Group(at), rights, family }).inspect_err(|_| {
            self.groups[usize::from(at)] = None;
        })
    }

    /// A new sealer, and the unsealer that belongs to it.
    pub fn make_pair(&mut self, number: u64) -> Result<(Handle, Handle), Error> {
        let (family, other) = (self.new_family(), self.new_family());
        let sealer = self.insert(Cap { target: Target::Sealer(number), rights: rights::ALL, family })?;
        let unsealer = Cap { target: Target::Unsealer(number), rights: rights::ALL, family: other };
        match self.insert(unsealer) {
            Ok(unsealer) => Ok((sealer, unsealer)),
            Err(e) => {
                self.slab.remove(sealer);
                Err(e)
            }
        }
    }

    /// What an envelope made of `raw` carries.
    pub fn lend(&mut self, raw: u32, neighbors: &Neighbors) -> Result<Content, Error> {
        let cap = *self.entry(raw, rights::DUPLICATE)?;
        let thing = match self.real(cap.target)? {
            Target::Neighbor(at) => Thing::Neighbor(neighbors.get(at)?.is.id),
            Target::Group(group) => {
                let members = (0..neighbors.len()).filter(|at| self.has(Members::Group(group), *at));
                Thing::Group(members.filter_map(|at| Some(neighbors.get(at).ok()?.is.id)).collect())
            }
            // Whoever has it reaches the area of its own flow, not the lender's.
            Target::Privilege(at) if &*self.privileges[usize::from(at)].name == BLOBS => {
                return Err(Error::BadArgument);
            }
            Target::Privilege(at) => Thing::Privilege(self.privileges[usize::from(at)].name.clone()),
            Target::Sealer(number) => Thing::Sealer(number),
            Target::Unsealer(number) => Thing::Unsealer(number),
            // Every team has its own.
            Target::Neighborhood | Target::Lent(_) | Target::Child(_) | Target::Companion(_) => {
                return Err(Error::BadArgument);
            }
        };
        let line = self.line(cap.family, cap.target)?;
        Ok(Content { thing, rights: cap.rights, line })
    }

    /// Takes in what came in an envelope. Neighbors that the team may not know of stay unknown: an
    /// envelope does not go round the Auth Agent.
    pub fn accept(&mut self, content: &Content, neighbors: &Neighbors) -> Result<Handle, Error> {
        if self.lent.is_empty() {
            // With each a privilege may become known.
            self.charge
                .grow((MAX_LENT * (64 + size_of::<Option<Lent>>())) as u64)
                .map_err(|_| Error::NoMemory)?;
            self.lent = std::iter::repeat_with(|| None).take(MAX_LENT).collect();
        }
        let slot = self.lent.iter().position(Option::is_none).ok_or(Error::NoRoom)?;
        let target = match &content.thing {
            Thing::Neighbor(id) => Target::Neighbor(neighbors.position(*id).ok_or(Error::NotPermitted)?),
            Thing::Group(ids) => {
                let mut group = Group::new(neighbors.len());
                ids.iter().filter_map(|id| neighbors.position(*id)).for_each(|at| group.add(at));
                if group.len() == 0 && !ids.is_empty() {
                    return Err(Error::NotPermitted);
                }
                Target::Group(self.add_group(group)?)
            }
            Thing::Privilege(name) => Target::Privilege(self.know(name)?),
            Thing::Sealer(number) => Target::Sealer(*number),
            Thing::Unsealer(number) => Target::Unsealer(*number),
        };
        self.lent[slot] = Some(Lent { line: content.line.clone(), target, uses: 0 });
        let family = self.new_family();
        self.insert(Cap { target: Target::Lent(slot as u16), rights: content.rights, family }).inspect_err(
            |_| {
                self.lent[slot] = None;
                self.release(target);
            },
        )
    }

    #[inline]
    fn known_or_new(&mut self, known: Option<Handle>, target: Target) -> Result<Handle, Error> {
        match known {
            Some(handle) if self.slab.contains(handle) => Ok(handle),
            _ => {
                let family = self.new_family();
                self.insert(Cap { target, rights: rights::ALL, family })
            }
        }
    }

    fn new_family(&mut self) -> u64 {
        self.next_family += 1;
        self.next_family
    }

    fn insert(&mut self, cap: Cap) -> Result<Handle, Error> {
        self.slab.reserve()?;
        let handle = self.slab.insert(cap).map_err(|_| Error::NoRoom)?;
        match cap.target {
            Target::Group(at) => self.groups[usize::from(at)].iter_mut().for_each(|g| g.uses += 1),
            Target::Lent(at) => self.lent[usize::from(at)].iter_mut().for_each(|l| l.uses += 1),
            Target::Child(child) => self.children.get_mut(child).into_iter().for_each(|c| c.uses += 1),
            _ => {}
        }
        Ok(handle)
    }

    /// A capability for `target` is gone: with the last one goes what it stands for.
    fn release(&mut self, target: Target) {
        match target {
            Target::Group(at) => {
                let slot = &mut self.groups[usize::from(at)];
                slot.iter_mut().for_each(|g| g.uses = g.uses.saturating_sub(1));
                slot.take_if(|g| g.uses == 0);
            }
            Target::Lent(at) => {
                let slot = &mut self.lent[usize::from(at)];
                slot.iter_mut().for_each(|l| l.uses = l.uses.saturating_sub(1));
                if let Some(gone) = slot.take_if(|l| l.uses == 0) {
                    self.release(gone.target);
                }
            }
            // The flow goes on, but when it has ended there is nothing more to be asked.
            Target::Child(child) => {
                let Some(known) = self.children.get_mut(child) else { return };
                known.uses = known.uses.saturating_sub(1);
                if known.uses == 0 && known.state == ChildState::Ended {
                    self.children.remove(child);
                }
            }
            _ => {}
        }
    }

    fn remove_all(&mut self, which: impl Fn(&Cap) -> bool) {
        let mut gone = Vec::new();
        self.slab.retain(|_, c| {
            let goes = which(c);
            if goes {
                gone.push(c.target);
            }
            !goes
        });
        gone.into_iter().for_each(|target| self.release(target));
    }

    fn add_group(&mut self, group: Group) -> Result<u16, Error> {
        if self.groups.is_empty() {
            self.charge
                .grow((MAX_GROUPS * size_of::<Option<Group>>()) as u64)
                .map_err(|_| Error::NoMemory)?;
            self.groups = std::iter::repeat_with(|| None).take(MAX_GROUPS).collect();
        }
        let at = self.groups.iter().position(Option::is_none).ok_or(Error::NoRoom)?;
        self.groups[at] = Some(group);
        Ok(at as u16)
    }

    /// The position of a privilege that another team lends.
    fn know(&mut self, name: &Arc<str>) -> Result<u16, Error> {
        if let Some(at) = self.privileges.iter().position(|p| !p.own && p.name == *name) {
            return Ok(at as u16);
        }
        if self.privileges.len() >= self.max_privileges {
            return Err(Error::NoRoom);
        }
        self.privileges.push(Privilege { name: name.clone(), own: false });
        self.named.push(None);
        Ok((self.privileges.len() - 1) as u16)
    }

    /// The family's line to other teams.
    fn line(&mut self, family: u64, target: Target) -> Result<Arc<Line>, Error> {
        let mut table = self.shared.open();
        if let Some(known) = table.shared.iter().find(|s| s.family == family) {
            return Ok(known.line.clone());
        }
        // Nobody hangs on those that only this table knows.
        table.retain(|s| Arc::strong_count(&s.line) > 1);
        let before = match target {
            Target::Lent(at) => self.lent[usize::from(at)].as_ref().map(|l| l.line.clone()),
            _ => None,
        };
        let line = Line::after(before).filter(|_| table.shared.len() < MAX_SHARED).ok_or(Error::NoRoom)?;
        table.push(Shared { family, target, line: line.clone() })?;
        Ok(line)
    }
}

/// The team ends: what it lent is void.
impl Drop for Caps {
    fn drop(&mut self) {
        self.shared.cut(|_| true);
    }
}

impl Group {
    fn new(neighbors: u16) -> Self {
        Self { bits: vec![0; usize::from(neighbors).div_ceil(64)].into(), uses: 0 }
    }

    fn add(&mut self, at: u16) {
        if let Some(word) = self.bits.get_mut(usize::from(at) / 64) {
            *word |= 1 << (at % 64);
        }
    }

    fn remove(&mut self, at: u16) {
        if let Some(word) = self.bits.get_mut(usize::from(at) / 64) {
            *word &= !(1 << (at % 64));
        }
    }

    fn has(&self, at: u16) -> bool {
        self.bits.get(usize::from(at) / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn len(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use nodeos::team::{Bandwidth, Budget};
    use wire::tuple::{Coupling, Provider};

    use super::*;

    #[test]
    fn a_table_that_cannot_grow_is_short_of_memory_not_of_places() {
        let made = |memory: u64| {
            let mut caps = Caps::new(1, &[], &[], &Account::root(memory)).unwrap();
            (0..).find_map(|n| caps.make_pair(n).err().map(|error| (n, error))).unwrap()
        };
        assert!(matches!(made(600), (1..16, Error::NoMemory)), "{:?}", made(600));
        assert_eq!(made(1 << 20), (MAX_CAPS as u64 / 2, Error::NoRoom));
    }

    #[test]
    fn every_name_finds_its_slot_when_the_memory_is_used_up() {
        let account = Account::root(1 << 20);
        let companion = |interface: &str| Companion {
            interface: interface.into(),
            coupling: Coupling::Tuple,
            provider: Provider::Tuple(1),
        };
        let privileges = ["sensors".to_string(), "flows".to_string()];
        let companions = [companion("way"), companion("parent")];
        let mut caps = Caps::new(0, &privileges, &companions, &account).unwrap();
        account.set_limit(0);
        let mut neighbors = Neighbors::new(vec![], Bandwidth::root(0, &Budget::UNLIMITED));
        let names = ["neighborhood", "sensors", "flows", "companion/way", "companion/parent", "parent"];
        for _ in 0..2 {
            for name in names {
                let handle =
                    caps.lookup(name.as_bytes(), &mut neighbors).unwrap_or_else(|e| panic!("{name}: {e:?}"));
                let (kind, rest) = caps.name(abi::number_of(handle), &neighbors).unwrap();
                assert_eq!(format!("{kind}{rest}"), name);
            }
        }
    }

    #[test]
    fn what_is_not_shared_any_more_takes_nothing() {
        let account = Account::root(1 << 20);
        let mut table = Table { shared: Vec::new(), charge: account.charge(0).unwrap() };
        for family in 0..MAX_SHARED as u64 {
            let line = Line::after(None).unwrap();
            table.push(Shared { family, target: Target::Neighborhood, line }).unwrap();
        }
        table.retain(|s| s.family == 0);
        assert_eq!((account.used(), table.shared.capacity()), (SHARED_BYTES as u64, 1));
    }
}
