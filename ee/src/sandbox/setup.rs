//! What a sandbox is made of, and why one does not start.

use std::fmt;
use std::sync::Arc;

use nodeos::account;
use nodeos::buf::BufPool;
use nodeos::platform::{Interrupter, Meter, Now};
use nodeos::slab::Slab;
use nodeos::team::{Accounts, Bandwidth, Budget};
use wire::describe;
use wire::grant::Grant;
use wire::id::TupleHash;
use wire::tuple::Tuple;

use super::cross::Cross;
use super::effects::Effects;
use super::fiber::{Background, is_granted};
use super::mailbox::Mailbox;
use super::protocols::{Calls, InstanceState, Own};
use super::state::{Limiter, OpenSession, Shared, TeamState};
use super::{NeighborRef, Refused};
use crate::abi;
use crate::cap::{Caps, Neighbors};
use crate::capsule::{Kinds, Objects};
use crate::engine::{Code, Engine, FUNCTION_BYTES, IMPORT_BYTES, INSTANCE_BYTES, STORE_BYTES};
use crate::envelope::Maker;
use crate::guest::random::Random;
use crate::integrity::Integrity;
use crate::soft::TimerTable;

/// What a sandbox is made of.
pub struct Setup {
    /// The flow.
    pub tuple: Arc<Tuple>,
    /// The tuple's name.
    pub hash: TupleHash,
    /// The terms.
    pub grant: Grant,
    /// The budgets: the grant's, within the node's own.
    pub budget: Budget,
    /// The team's accounts.
    pub accounts: Accounts,
    /// Its bandwidth.
    pub bandwidth: Bandwidth,
    /// This node's name, as guests see it.
    pub node_name: Arc<str>,
    /// Where packet buffers come from.
    pub buffers: BufPool,
    /// The neighbors that the team may know of.
    pub neighbors: Vec<NeighborRef>,
    /// Each protocol's data parts by name.
    pub data: Vec<Vec<(String, Arc<[u8]>)>>,
    /// Measures guest code where the engine does not count.
    pub meter: Arc<dyn Meter>,
    /// Stops guest code where the engine does not count.
    pub interrupter: Arc<dyn Interrupter>,
    /// The seed of the team's random numbers; `None` where the node has no entropy.
    pub seed: Option<[u8; 32]>,
    /// What all teams of the node have in common.
    pub shared: Shared,
}

/// Why a sandbox does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartError {
    /// The team's memory budget is too small.
    Memory(account::Refused),
    /// The module declares otherwise than the tuple.
    Description(describe::Error),
    /// Derivations in a circle, which the grant does not allow.
    Cycle {
        /// Position of a capsule type in the circle.
        kind: usize,
    },
    /// One event could set off more send operations than granted.
    Emissions {
        /// How many it could.
        worst: u64,
        /// How many it may.
        granted: u64,
    },
    /// The module could not be instantiated: a data or element segment lies outside, or its memory
    /// is larger than the budget.
    Instantiate(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(r) => write!(f, "the flow does not fit into its {r}"),
            Self::Description(e) => e.fmt(f),
            Self::Cycle { kind } => {
                write!(f, "capsule type {kind} derives itself by a circle, which was not granted")
            }
            Self::Emissions { worst, granted } => {
                write!(f, "one event could set off {worst} send operations, {granted} were granted")
            }
            Self::Instantiate(text) => write!(f, "the module could not be started: {text}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<account::Refused> for StartError {
    fn from(r: account::Refused) -> Self {
        Self::Memory(r)
    }
}

/// The bytes that a team takes from the start, beside its linear memories, its tables, and what is charged as it
/// grows.
pub(super) fn footprint(code: &[Arc<Code>], setup: &Setup) -> u64 {
    let protocols = &setup.tuple.body.protocols;
    let each = protocols.iter().map(|protocol| {
        Caps::bytes(setup.neighbors.len(), setup.grant.privileges.len(), protocol.companions.len())
            + Neighbors::bytes(&setup.neighbors)
    });
    let sessions = Slab::<OpenSession>::bytes(usize::from(setup.budget.sessions).min(abi::MAX_NAMED));
    let data: usize = setup.data.iter().flatten().map(|(_, bytes)| bytes.len()).sum();
    let tables = each.sum::<usize>() + sessions + data;
    let code = code.iter().map(|code| {
        let (functions, imports) = (code.admitted().functions, code.admitted().imports);
        code.size() + u64::from(functions) * FUNCTION_BYTES + u64::from(imports) * IMPORT_BYTES
    });
    let further = INSTANCE_BYTES * protocols.len().saturating_sub(1) as u64;
    // Each call from one protocol to another takes a stack of its own.
    let background = Background::bytes(&setup.grant.privileges) * protocols.len() as u64;
    STORE_BYTES + further + code.sum::<u64>() + tables as u64 + background
}

/// The state of a team before its first event, and what it takes to run it in the background.
pub(super) fn state(
    engine: &Engine,
    setup: Setup,
    kinds: Vec<Kinds>,
    now: Now,
) -> Result<(TeamState, Option<Background>), StartError> {
    let (protocols, memory) = (&setup.tuple.body.protocols, setup.accounts.memory());
    let (near, privileges) = (setup.neighbors.len(), &setup.grant.privileges);
    let caps = protocols.iter().map(|p| Caps::new(near, privileges, &p.companions, memory));
    let caps: Vec<Caps> = caps.collect::<Result<_, _>>()?;
    let mut mailbox = None;
    if is_granted(privileges) {
        let integrity = Integrity::new(memory.charge(0)?);
        let lines = caps.iter().map(Caps::lines).collect();
        mailbox = Some(Arc::new(Mailbox::new(&setup, lines, integrity, now)));
    }
    let background = Background::new(engine, &setup, mailbox.clone());
    let Setup {
        tuple,
        hash,
        grant,
        budget,
        accounts,
        bandwidth,
        node_name,
        buffers,
        neighbors,
        data,
        meter,
        shared,
        ..
    } = setup;
    let mut random = setup.seed.map(Random::new);
    // Without entropy the cache's seed is known, and only the team's own chosen keys can make it slow.
    let mut soft_seed = [0; 8];
    if let Some(random) = &mut random {
        random.fill(&mut soft_seed);
    }
    let account = accounts.memory();
    // The main protocol's things are the team state's between events.
    let mut own: Vec<Own> = Vec::new();
    let data = data.into_iter().chain(std::iter::repeat_with(Vec::new));
    for (caps, data) in caps.into_iter().zip(data) {
        let neighbors = Neighbors::new(neighbors.clone(), bandwidth.clone());
        own.push(Own { caps, neighbors, objects: Objects::new(account)?, data });
    }
    let mut own = own.into_iter();
    let Some(Own { caps, neighbors, objects, data }) = own.next() else {
        return Err(StartError::Instantiate("the flow has no protocol".into()));
    };
    let aside = std::iter::once(None).chain(own.map(|own| Some(Box::new(own))));
    let instances = kinds.into_iter().zip(aside).enumerate();
    let instances = instances.map(|(at, (kinds, own))| InstanceState::new(&tuple, at, kinds, own)).collect();
    let state = TeamState {
        tuple,
        hash,
        node_name,
        data,
        buffers,
        instances,
        current: 0,
        calls: Calls::default(),
        metering: engine.metering(),
        per_micro: meter.per_micro().max(1),
        meter,
        // Nothing is over before the first event: a look meant for another team must not end the start.
        allowance: u64::MAX,
        deadline: u64::MAX,
        seen: 0,
        seen_at: 0,
        charged: 0,
        now,
        since: now.mono,
        objects,
        caps,
        neighbors,
        found: account.charge(0)?,
        sees_all: grant.neighbors == wire::grant::Neighbors::All,
        soft: None,
        soft_limit: budget.cache_entries.into(),
        soft_seed: u64::from_le_bytes(soft_seed),
        timers: TimerTable::new(budget.timers.into(), &accounts, grant.min_timer_us, grant.max_timer_us)?,
        sessions: Slab::new(usize::from(budget.sessions).min(abi::MAX_NAMED)),
        maker: Maker::new(shared.envelopes.clone()),
        shared,
        cross: Cross::new(account)?,
        session_limit: budget.sessions.into(),
        sessions_held: accounts.sessions().charge(0)?,
        packet: Vec::new(),
        speaking: None,
        random,
        mailbox,
        slice: 0,
        later: 0,
        interval: 1,
        at_once: false,
        handover: None,
        integrity: Integrity::new(account.charge(0)?),
        effects: Effects::new(account)?,
        lent: account.charge(0)?,
        done: 0,
        refused: Refused::default(),
        limiter: Limiter { charge: account.charge(0)?, refused: 0 },
        accounts,
    };
    Ok((state, background))
}
