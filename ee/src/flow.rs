//! A flow's life on a node.
//!
//! ```text
//! unknown capsule --translation--> Tuple --> Judging --> Download --> Compile --> Running --> ended
//!                    injected tuple ----------^
//! ```
//!
//! A flow in any state but the first has a decoded tuple; from the judgement on it has a team, which
//! pays for what follows. What ended is remembered in a short list for `bees flow show`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nodeos::account::Charge;
use nodeos::platform::Instant;
use nodeos::slab::{Handle, Slab};
use nodeos::team::TeamId;
use wire::control::{Arrival, FlowInfo, FlowState};
use wire::grant::{Grant, Neighbors};
use wire::id::{CapsuleId, PartHash, Path, TupleHash};
use wire::replace::Replacement;
use wire::tuple::{Part, Tuple};

use crate::cap::QUEUES;
use crate::engine::Code;
use crate::job::JobId;
use crate::neighbor::NeighborId;
use crate::sandbox::Sandbox;
use crate::system::download::Download;
use crate::system::sources::Sources;
use crate::system::translate::Waiting;

/// Ended flows remembered.
const HISTORY: usize = 64;

/// Where a flow's tuple came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A client injected it here.
    Injected {
        /// Who was logged in.
        principal: String,
    },
    /// It was fetched from a neighbor.
    Neighbor {
        /// Its place, which another one may have later.
        id: NeighborId,
        /// Its name.
        name: Arc<str>,
    },
    /// It was fetched from the protocol server that the configuration names.
    Server,
    /// Another flow started it below itself.
    Flow {
        /// The other flow.
        parent: Handle,
        /// What that one knows it by.
        child: Handle,
        /// Which resources it is given for itself: bits of [`crate::abi::Resource`].
        give: u32,
    },
}

/// What a session's `open` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected {
    /// This flow.
    Flow(Handle),
    /// No flow that runs.
    None,
    /// More than one.
    Several,
}

/// What a hop claimed of an identifier; checked against the tuple before it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The identifier that was unknown.
    pub id: CapsuleId,
    /// The protocol's place.
    pub path: Path,
    /// The capsule type.
    pub kind: u16,
    /// The coupled hashes.
    pub coupled: Vec<[u8; 32]>,
}

/// One flow.
pub struct Flow {
    /// Its name on the wire.
    pub hash: TupleHash,
    /// Where it came from.
    pub source: Source,
    /// What it is doing.
    pub stage: Stage,
    /// Whom its tuple and parts are asked for, while they come.
    pub sources: Sources,
    /// Capsules that wait until it runs.
    pub waiting: Vec<Waiting>,
    /// What the way here cost.
    pub arrival: Arrival,
    /// When the present stage began.
    pub since: Instant,
    /// Identifiers entered in the registry for it.
    pub ids: Vec<CapsuleId>,
    /// The tuple, once it is here.
    pub tuple: Option<TupleData>,
    /// The team and its grant, once judged.
    pub team: Option<(TeamId, Grant)>,
    /// Parts that are here, at their positions in [`Tuple::parts`].
    pub parts: Vec<Option<Arc<PartData>>>,
    /// Neighbors whose questions about it are not answered, because it wants that.
    pub unserved: Unserved,
    /// Each protocol's capsule identifiers by type.
    pub kind_ids: Vec<Vec<CapsuleId>>,
    /// Machine code of the protocols, in their order, as far as it is here; kept alive for whoever starts the
    /// same modules next.
    pub code: Vec<Arc<Code>>,
    /// Capsules processed, sent and refused.
    pub capsules: (u64, u64, u64),
    /// What its longest event of late took, in units; the greatest number before the first.
    pub usual: u64,
    /// It has the privilege to see what waits for links.
    pub sees_queues: bool,
    /// The flows that wanted it here before any capsule of it came, until it runs; the first of them pays for its tuple.
    pub fetched_for: Vec<Handle>,
    /// Another flow's call, while it is in the event that is this call.
    pub serving: Option<Handle>,
    /// Units of work that were done for it before it had a team.
    pub owed: u64,
    /// The earlier versions that it took over from here, the last one first.
    pub took: Vec<Predecessor>,
    /// Capsules with identifiers of these: those that it got, and those without a successor.
    pub drained: (u64, u64),
}

/// An earlier version of a flow.
#[derive(Debug)]
pub struct Predecessor {
    /// Its name.
    pub hash: TupleHash,
    /// Until when its identifiers are the later one's.
    pub until: Instant,
    /// These identifiers; none when that time is over.
    pub ids: Vec<CapsuleId>,
    /// What is paid for them.
    pub charge: Charge,
    /// The version that this one would have taken over from, and what that one's capsule types are in the later one.
    pub before: Option<(TupleHash, Replacement)>,
}

/// A tuple with the bytes it came in, which are forwarded unchanged (D7).
#[derive(Debug)]
pub struct TupleData {
    /// As received.
    pub bytes: Arc<[u8]>,
    /// As read.
    pub tuple: Arc<Tuple>,
    /// Every part that the flow needs, each once.
    pub parts: Vec<Part>,
    /// What is paid for keeping it.
    pub charge: Charge,
}

/// The bytes of a part, with the charge of the flow that brought them.
#[derive(Debug)]
pub struct PartData {
    /// The bytes.
    pub bytes: Arc<[u8]>,
    /// What is paid for keeping them.
    pub charge: Charge,
}

/// What a flow is doing, and what it needs for it.
pub enum Stage {
    /// Downloading the tuple.
    Tuple {
        /// The download.
        download: Box<Download>,
        /// Paid by the neighbor's account, or by the flow that wants it here.
        charge: Charge,
        /// What the tuple must bear out; nothing if it was asked for by its hash.
        claim: Option<Claim>,
    },
    /// Waiting for the Auth Agent.
    Judging,
    /// Downloading parts, one after the other.
    Download {
        /// Position of the part.
        part: usize,
        /// The download.
        download: Box<Download>,
        /// Paid by the team.
        charge: Charge,
    },
    /// Fetching parts from the protocol server, one after the other.
    Fetch {
        /// Position of the part.
        part: usize,
        /// What has come of it.
        bytes: Vec<u8>,
        /// Paid by the team.
        charge: Charge,
    },
    /// Waiting for the compiler.
    Compile {
        /// The job.
        job: JobId,
    },
    /// It could run, and waits for the flow that it takes over from.
    Standby {
        /// The team's code and state.
        sandbox: Box<Sandbox>,
    },
    /// Running.
    Running {
        /// The team's code and state.
        sandbox: Box<Sandbox>,
        /// When the node planned to look at its timers.
        wake: Option<Instant>,
    },
}

/// Neighbors that a flow does not want to be downloaded by: the last [`MAX_UNSERVED`] that it named.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unserved([Option<NeighborId>; MAX_UNSERVED]);

/// The flows of a node.
pub struct Flows {
    slab: Slab<Flow>,
    by_hash: HashMap<TupleHash, Handle>,
    /// By index of the team's handle.
    by_team: Vec<Option<(TeamId, Handle)>>,
    ended: VecDeque<FlowInfo>,
}

impl Flows {
    /// A table of at most `limit` flows.
    pub fn new(limit: usize) -> Self {
        Self { slab: Slab::new(limit), by_hash: HashMap::new(), by_team: Vec::new(), ended: VecDeque::new() }
    }

    /// Adds a flow; `None` when there are as many as may be.
    pub fn add(&mut self, flow: Flow) -> Option<Handle> {
        let hash = flow.hash;
        let handle = self.slab.insert(flow).ok()?;
        self.by_hash.insert(hash, handle);
        Some(handle)
    }

    /// Enters a flow's team.
    pub fn set_team(&mut self, handle: Handle, team: TeamId, grant: Grant) {
        if let Some(flow) = self.slab.get_mut(handle) {
            flow.sees_queues = grant.privileges.iter().any(|held| held == QUEUES);
            flow.team = Some((team, grant));
            let at = team.0.index();
            if self.by_team.len() <= at {
                self.by_team.resize(at + 1, None);
            }
            self.by_team[at] = Some((team, handle));
        }
    }

    /// Takes a flow out.
    pub fn remove(&mut self, handle: Handle) -> Option<Flow> {
        let flow = self.slab.remove(handle)?;
        self.by_hash.remove(&flow.hash);
        if let Some((team, _)) = &flow.team
            && self.by_team(*team) == Some(handle)
        {
            self.by_team[team.0.index()] = None;
        }
        Some(flow)
    }

    /// Remembers a flow that ended. Those that failed are remembered longer than those that just ended.
    pub fn remember(&mut self, info: FlowInfo) {
        if self.ended.len() == HISTORY {
            let oldest = self.ended.iter().position(|ended| ended.crashes.is_empty());
            self.ended.remove(oldest.unwrap_or(0));
        }
        self.ended.push_back(info);
    }

    /// A flow that has just ended has this one in its place.
    pub fn note_successor(&mut self, old: &TupleHash, new: TupleHash) {
        if let Some(info) = self.ended.iter_mut().rfind(|info| info.hash == *old) {
            info.replaced_by = Some(new);
        }
    }

    /// Forgets that flows of this hash ended: it is started again.
    pub fn forget(&mut self, hash: &TupleHash) {
        self.ended.retain(|info| info.hash != *hash);
    }

    /// The flow of this handle.
    #[inline]
    pub fn get(&self, handle: Handle) -> Option<&Flow> {
        self.slab.get(handle)
    }

    /// The flow of this handle.
    #[inline]
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut Flow> {
        self.slab.get_mut(handle)
    }

    /// The flow of this tuple.
    pub fn by_hash(&self, hash: &TupleHash) -> Option<Handle> {
        self.by_hash.get(hash).copied()
    }

    /// The flow that this team runs.
    #[inline]
    pub fn by_team(&self, team: TeamId) -> Option<Handle> {
        let (whose, handle) = (*self.by_team.get(team.0.index())?)?;
        (whose == team).then_some(handle)
    }

    /// The running flow that a session's `open` means: a hash or its first eight or more digits, or a main protocol's
    /// name: the newest such flow, those that the operator put here before all others.
    pub fn by_selector(&self, selector: &str) -> Selected {
        let running = || self.iter().filter(|(_, f)| matches!(f.stage, Stage::Running { .. }));
        if selector.len() >= MIN_DIGITS {
            let digits = selector.to_ascii_lowercase();
            let mut found = running().filter(|(_, f)| f.hash.to_string().starts_with(&digits));
            // Digits that mean two flows mean none: hashes that begin alike can be made.
            if let Some((handle, _)) = found.next() {
                return if found.next().is_none() { Selected::Flow(handle) } else { Selected::Several };
            }
        }
        // A flow that the operator put here is meant before one that came by itself under the same name.
        let rank = |f: &Flow| (matches!(f.source, Source::Injected { .. } | Source::Server), f.since);
        let by_name = running().filter(|(_, f)| f.name() == selector).max_by_key(|(_, f)| rank(f));
        by_name.map_or(Selected::None, |(handle, _)| Selected::Flow(handle))
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &Flow)> {
        self.slab.iter()
    }

    /// The flows that ended lately, oldest first.
    pub fn ended(&self) -> impl Iterator<Item = &FlowInfo> {
        self.ended.iter()
    }

    /// How many flows there are, and how many may be.
    pub fn count(&self) -> (u32, u32) {
        (self.slab.len() as u32, self.slab.limit() as u32)
    }

    /// A part that some flow here has.
    pub fn part(&self, hash: &PartHash) -> Option<Arc<PartData>> {
        self.iter().find_map(|(_, f)| f.part(hash).cloned())
    }
}

/// Neighbors that a flow can keep itself from at a time.
pub const MAX_UNSERVED: usize = 16;
/// The fewest digits of a hash that name a flow.
const MIN_DIGITS: usize = 8;
/// Bytes of a flow's record, and of what is read from a small tuple, at most.
const FLOW_BYTES: u64 = 8 * 1024;
/// Bytes of an entry of a hash table for each of its own, at most: directly after it has grown.
const HASHED: usize = 3;
/// Bytes of an identifier and of whose it is.
const NAMED: usize = size_of::<CapsuleId>() + size_of::<Handle>() * 4;
/// Entries of the table of teams for each flow, at most: one team above each flow's own, and as much again directly after
/// the table has grown.
const TEAMS: usize = 4;
/// Bytes beside what a shared pointer points to.
const SHARED: usize = 2 * size_of::<usize>();

/// What a tuple of `len` bytes is charged that nobody has judged yet: its bytes, what is read from them, and the
/// flow's record.
pub fn tuple_bytes(len: usize) -> u64 {
    2 * len as u64 + FLOW_BYTES
}

/// What so many identifiers take that a flow gets capsules by: in its record, and in the node's table.
pub fn ids_bytes(ids: usize) -> u64 {
    (size_of::<Predecessor>() * 2 + ids * (HASHED * NAMED + 2 * size_of::<CapsuleId>())) as u64
}

/// What a flow is charged from its grant on: the tuple's bytes, what was read from them, the flow's record, its
/// grant and its identifiers.
pub fn flow_bytes(data: &TupleData, grant: &Grant, source: &Source) -> u64 {
    let protocols = &data.tuple.body.protocols;
    let kinds: usize = protocols.iter().map(|p| p.capsules.len()).sum();
    // The tuple and each part have one by which others ask for them, and one by which they came, if they did.
    let (ways, name) = match source {
        Source::Neighbor { name, .. } => (2, name.len() + SHARED),
        _ => (1, 0),
    };
    let ids = kinds + ways * (1 + data.parts.len());
    let record = size_of::<Flow>()
        + name
        + size_of::<Sandbox>()
        + HASHED * (size_of::<TupleHash>() + size_of::<Handle>())
        + TEAMS * size_of::<Option<(TeamId, Handle)>>()
        + 2 * size_of::<(Instant, Handle)>()
        + ids * (HASHED * NAMED + 2 * size_of::<CapsuleId>())
        + kinds * size_of::<CapsuleId>()
        + data.parts.len() * (size_of::<Part>() + size_of::<PartData>() + SHARED + size_of::<usize>());
    (record + data.bytes.len() + SHARED + read_from(&data.tuple, data.bytes.len()) + held_by(grant)) as u64
}

/// What a tuple takes that was read from `len` bytes: every name and every value is among those bytes.
fn read_from(tuple: &Tuple, len: usize) -> usize {
    let body = &tuple.body;
    let lists = |p: &wire::tuple::Protocol| {
        size_of_val(p)
            + size_of_val(&*p.data)
            + size_of_val(&*p.capsules)
            + size_of_val(&*p.params)
            + size_of_val(&*p.companions)
    };
    SHARED
        + size_of::<Tuple>()
        + len
        + body.protocols.iter().map(lists).sum::<usize>()
        + size_of_val(&*body.request.privileges)
        + size_of_val(&*body.extensions)
}

fn held_by(grant: &Grant) -> usize {
    let names = |names: &Vec<String>| names.iter().map(|n| size_of_val(n) + n.len()).sum::<usize>();
    let neighbors = match &grant.neighbors {
        Neighbors::All => 0,
        Neighbors::Only(list) | Neighbors::Except(list) => names(list),
    };
    // A flow that runs in the background knows its privileges twice.
    neighbors + 2 * names(&grant.privileges) + size_of_val(&*grant.clamps)
}

impl Unserved {
    /// Whether it is among them.
    pub fn has(&self, neighbor: NeighborId) -> bool {
        self.0.contains(&Some(neighbor))
    }

    /// Makes it one of them, in the place of the one that is there the longest if need be; or none of them.
    pub fn set(&mut self, neighbor: NeighborId, unserved: bool) {
        match self.0.iter().position(|n| *n == Some(neighbor)) {
            Some(at) if !unserved => {
                self.0[at..].rotate_left(1);
                self.0[MAX_UNSERVED - 1] = None;
            }
            None if unserved => {
                let free = self.0.iter().position(Option::is_none).unwrap_or_else(|| {
                    self.0.rotate_left(1);
                    MAX_UNSERVED - 1
                });
                self.0[free] = Some(neighbor);
            }
            _ => {}
        }
    }
}

impl Flow {
    /// A new flow.
    pub fn new(hash: TupleHash, source: Source, stage: Stage, now: Instant) -> Self {
        Self {
            hash,
            source,
            stage,
            sources: Sources::default(),
            waiting: Vec::new(),
            arrival: Arrival::default(),
            since: now,
            ids: Vec::new(),
            tuple: None,
            team: None,
            parts: Vec::new(),
            kind_ids: Vec::new(),
            unserved: Unserved::default(),
            code: Vec::new(),
            capsules: (0, 0, 0),
            usual: u64::MAX,
            sees_queues: false,
            fetched_for: Vec::new(),
            serving: None,
            owed: 0,
            took: Vec::new(),
            drained: (0, 0),
        }
    }

    /// A part that it has.
    pub fn part(&self, hash: &PartHash) -> Option<&Arc<PartData>> {
        let at = self.tuple.as_ref()?.parts.iter().position(|p| p.sha256 == *hash)?;
        self.parts.get(at)?.as_ref()
    }

    /// The main protocol's name, or nothing while it is not known.
    pub fn name(&self) -> &str {
        self.tuple.as_ref().map_or("", |t| &t.tuple.main().name)
    }

    /// Goes on to `stage`; returns how long the one before took, in microseconds.
    pub fn enter(&mut self, stage: Stage, now: Instant) -> u64 {
        let took = now.since(self.since).as_micros() as u64;
        self.stage = stage;
        self.since = now;
        took
    }

    /// What it is doing, as clients are told.
    pub fn state(&self) -> FlowState {
        match self.stage {
            Stage::Tuple { .. } => FlowState::Tuple,
            Stage::Judging => FlowState::Judging,
            Stage::Download { .. } | Stage::Fetch { .. } => FlowState::Download,
            Stage::Compile { .. } => FlowState::Compile,
            Stage::Standby { .. } => FlowState::Standby,
            Stage::Running { .. } => FlowState::Running,
        }
    }

    /// Whether it may know of the neighbor of this name.
    #[inline]
    pub fn knows(&self, neighbor: &str) -> bool {
        self.team.as_ref().is_some_and(|(_, grant)| grant.neighbors.includes(neighbor))
    }

    /// Its code, as soon as it could run.
    pub fn started(&mut self) -> Option<&mut Sandbox> {
        match &mut self.stage {
            Stage::Running { sandbox, .. } | Stage::Standby { sandbox } => Some(sandbox),
            _ => None,
        }
    }

    /// The running code.
    #[inline]
    pub fn sandbox(&mut self) -> Option<&mut Sandbox> {
        match &mut self.stage {
            Stage::Running { sandbox, .. } => Some(sandbox),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use nodeos::account::Account;
    use wire::tuple::{Body, Credentials, Protocol};

    use super::*;
    use crate::registry::Target;

    #[test]
    fn the_last_neighbors_that_were_named_are_not_served() {
        let mut unserved = Unserved::default();
        for n in 0..=16 {
            unserved.set(NeighborId(n), true);
            unserved.set(NeighborId(n), true);
        }
        assert!(!unserved.has(NeighborId(0)) && (1..=16).all(|n| unserved.has(NeighborId(n))));
        unserved.set(NeighborId(5), false);
        unserved.set(NeighborId(5), false);
        unserved.set(NeighborId(20), true);
        assert!(!unserved.has(NeighborId(5)) && unserved.has(NeighborId(1)) && unserved.has(NeighborId(20)));
    }

    #[test]
    fn what_came_from_a_neighbor_pays_for_the_identifiers_by_which_it_came() {
        let code = Part::of(b"-").unwrap();
        let body = Body::new([0; 16], vec![Protocol::new("p", code)]);
        let tuple = Tuple { body, credentials: Credentials::None };
        let data = TupleData {
            bytes: tuple.encode().into(),
            tuple: Arc::new(tuple),
            parts: vec![code; 20],
            charge: Account::root(0).charge(0).unwrap(),
        };
        let bytes = |source| flow_bytes(&data, &Grant::everything(Default::default(), vec![]), &source);
        let injected = bytes(Source::Injected { principal: "joe".into() });
        let entry = size_of::<(CapsuleId, Target)>() + size_of::<CapsuleId>();
        let neighbor = Source::Neighbor { id: NeighborId(0), name: "b".into() };
        assert!(bytes(neighbor) >= injected + 21 * entry as u64);
    }
}
