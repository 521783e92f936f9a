//! Teams: the unit of isolation, accounting and termination. A flow is a team; teams form a tree, and
//! what a team uses counts as its ancestors' use as well.
//!
//! [`Teams`] holds the tree. A [`Team`] has a [`Budget`], a memory [`Account`] under its parent's,
//! [`Counters`], and a [`Conduct`]: how it has kept to its budget. Ending a team ends its children; the
//! records and everything charged to them come back. The token buckets that enforce its rate on each link
//! are where it sends: in its cut-through channels, and beside its neighbor capabilities.
//!
//! # Policy
//! A team is warned once when it passes a soft threshold, refused at the hard limit, given a strike when
//! it keeps trying, and ended with its last strike. [`Resource::policy`] and [`Fault::policy`] are the table:
//!
//! | what                  | warned at | refusals in 1 s that make a strike | why                                 |
//! |-----------------------|-----------|------------------------------------|-------------------------------------|
//! | memory                | 75 %      | 16                                 |                                     |
//! | timers, sessions      | 75 %      | 64                                 |                                     |
//! | soft-state entries    | 75 %      | 256                                | a guest may learn its bound by trying |
//! | event queue           | 75 %      | never                              | others fill it                      |
//! | link rate             | never     | never                              | others' capsules may cause it       |
//! | a lie about a pointer | -         | each one is a strike               | a mistake, but ours to survive      |
//! | deadline passed       | -         | ends the team                      | its state is no longer known        |
//! | trap                  | -         | ends the team                      | its state is no longer known        |
//!
//! Eight strikes end a team; a strike is forgiven after a minute without another.

use crate::account::{Account, Charge, Refused};
use crate::platform::Instant;
use crate::slab::{Handle, Slab};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem::size_of;
use core::time::Duration;
use wire::tuple::Budgets;

/// Strikes that end a team.
pub const MAX_STRIKES: u32 = 8;
/// The deepest team; the root is at 0. Bounds the cost of a charge.
pub const MAX_DEPTH: u8 = 8;
/// Shares of processor time of a team for which nothing else is said.
pub const DEFAULT_SHARES: u32 = 100;

/// A strike is forgiven after so long without another.
const FORGIVE: Duration = Duration::from_secs(60);
/// Refusals are counted within this time.
const WINDOW: Duration = Duration::from_secs(1);

/// Names a team. A stale name finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TeamId(pub Handle);

impl fmt::Display for TeamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a team may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory, of all kinds together.
    pub memory: u64,
    /// The deadline of one event.
    pub event: Duration,
    /// What one event may take in all where the team may run in the background, in slices as long as an event.
    pub background: Duration,
    /// Bytes per second on each link.
    pub rate: u64,
    /// Bytes at once on each link.
    pub burst: u32,
    /// Events that wait.
    pub queue: u16,
    /// Timers that run at once.
    pub timers: u16,
    /// Soft-state entries.
    pub cache_entries: u16,
    /// Sessions open at once.
    pub sessions: u16,
    /// Shares of processor time, relative to other teams'.
    pub shares: u32,
}

impl Budget {
    /// What a flow gets that asks for `requested` where this is the default and the upper bound.
    pub fn clamp(&self, requested: &Budgets) -> Self {
        let event_us = u64::from(requested.event_us.unwrap_or(u32::MAX));
        Self {
            memory: self.memory.min(requested.memory.unwrap_or(u64::MAX)),
            event: self
                .event
                .min(requested.event_us.map_or(Duration::MAX, |_| Duration::from_micros(event_us))),
            background: self.background,
            rate: self.rate.min(requested.rate.unwrap_or(u64::MAX)),
            burst: self.burst.min(requested.burst.unwrap_or(u32::MAX)),
            queue: self.queue,
            timers: self.timers.min(requested.timers.unwrap_or(u16::MAX)),
            cache_entries: self.cache_entries.min(requested.cache_entries.unwrap_or(u16::MAX)),
            sessions: self.sessions.min(requested.sessions.unwrap_or(u16::MAX)),
            shares: self.shares,
        }
    }
}

/// What a budget bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Memory.
    Memory,
    /// Timers.
    Timers,
    /// Sessions.
    Sessions,
    /// Soft-state entries.
    CacheEntries,
    /// Waiting events.
    Queue,
    /// Bandwidth on a link.
    Rate,
}

/// One line of the policy table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Warn when this many percent of the limit are used.
    pub warn_percent: Option<u8>,
    /// This many refusals within a second make a strike.
    pub refusals_per_strike: Option<u16>,
}

impl Resource {
    const COUNT: usize = 6;

    /// All of them.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Memory, Self::Timers, Self::Sessions, Self::CacheEntries, Self::Queue, Self::Rate];

    /// The policy for this resource.
    pub const fn policy(self) -> Policy {
        let (warn_percent, refusals_per_strike) = match self {
            Self::Memory => (Some(75), Some(16)),
            Self::Timers | Self::Sessions => (Some(75), Some(64)),
            Self::CacheEntries => (Some(75), Some(256)),
            Self::Queue => (Some(75), None),
            Self::Rate => (None, None),
        };
        Policy { warn_percent, refusals_per_strike }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Timers => "timers",
            Self::Sessions => "sessions",
            Self::CacheEntries => "soft-state entries",
            Self::Queue => "event queue",
            Self::Rate => "link rate",
        })
    }
}

/// What a guest does wrong beyond asking for too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It passed a pointer or a length outside its memory.
    Pointer,
    /// It ran past the deadline of its event.
    Deadline,
    /// It trapped.
    Trap,
}

impl Fault {
    /// Whether the fault ends the team at once; else it is a strike.
    pub const fn policy(self) -> FaultPolicy {
        match self {
            Self::Pointer => FaultPolicy::Strike,
            Self::Deadline | Self::Trap => FaultPolicy::End,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pointer => "pointer outside its memory",
            Self::Deadline => "deadline passed",
            Self::Trap => "trap",
        })
    }
}

/// What follows from a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPolicy {
    /// One strike.
    Strike,
    /// The end.
    End,
}

/// What the policy says about a team after something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the caller carries the verdict out"]
pub enum Verdict {
    /// Go on.
    Go,
    /// Go on; that was a strike, and now there are this many.
    Strike(u32),
    /// End the team.
    End,
}

impl Verdict {
    /// The graver of two.
    pub fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::End, _) | (_, Self::End) => Self::End,
            (Self::Strike(a), Self::Strike(b)) => Self::Strike(a.max(b)),
            (Self::Strike(n), Self::Go) | (Self::Go, Self::Strike(n)) => Self::Strike(n),
            (Self::Go, Self::Go) => Self::Go,
        }
    }
}

/// How a team has kept to its budget: what the policy table works on.
#[derive(Debug, Clone, Default)]
pub struct Conduct {
    strikes: u32,
    last_strike: Instant,
    warned: [bool; Resource::COUNT],
    window: Instant,
    in_window: [u16; Resource::COUNT],
}

impl Conduct {
    /// Notes that `used` of `limit` are in use now. True if the team is to be warned: the first time that
    /// it reaches the soft threshold after having been below half of it.
    pub fn used(&mut self, resource: Resource, used: u64, limit: u64) -> bool {
        let Some(percent) = resource.policy().warn_percent else { return false };
        let threshold = u128::from(limit) * u128::from(percent);
        let use_ = u128::from(used) * 100;
        let warned = &mut self.warned[resource as usize];
        if !*warned && use_ >= threshold && used > 0 {
            *warned = true;
            return true;
        }
        if use_ * 2 < threshold {
            *warned = false;
        }
        false
    }

    /// Notes that the team was refused more of `resource`.
    pub fn refused(&mut self, now: Instant, resource: Resource) -> Verdict {
        let Some(most) = resource.policy().refusals_per_strike else { return Verdict::Go };
        if now.since(self.window) >= WINDOW {
            self.window = now;
            self.in_window = [0; Resource::COUNT];
        }
        let count = &mut self.in_window[resource as usize];
        *count += 1;
        if *count < most {
            return Verdict::Go;
        }
        *count = 0;
        self.strike(now)
    }

    /// Notes a fault.
    pub fn fault(&mut self, now: Instant, fault: Fault) -> Verdict {
        match fault.policy() {
            FaultPolicy::Strike => self.strike(now),
            FaultPolicy::End => Verdict::End,
        }
    }

    /// Strikes that stand.
    pub fn strikes(&self) -> u32 {
        self.strikes
    }

    fn strike(&mut self, now: Instant) -> Verdict {
        let forgiven = now.since(self.last_strike).as_secs() / FORGIVE.as_secs();
        self.strikes = self.strikes.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)) + 1;
        self.last_strike = now;
        if self.strikes >= MAX_STRIKES { Verdict::End } else { Verdict::Strike(self.strikes) }
    }
}

/// What a team did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events handled.
    pub events: u64,
    /// Events dropped because its queue was full.
    pub dropped: u64,
    /// Units of work used, as the platform's meter counts them.
    pub units: u64,
    /// Bytes sent on links.
    pub sent: u64,
    /// Operations refused for want of budget.
    pub refused: u64,
}

/// One team.
#[derive(Debug)]
pub struct Team {
    /// Its name.
    pub name: Arc<str>,
    /// What it may use.
    pub budget: Budget,
    /// What it did.
    pub counters: Counters,
    /// How it keeps to its budget.
    pub conduct: Conduct,
    parent: Option<TeamId>,
    depth: u8,
    account: Account,
    /// What this record takes, at the team's own expense.
    _own: Charge,
}

impl Team {
    /// Its parent; `None` for the root.
    pub fn parent(&self) -> Option<TeamId> {
        self.parent
    }

    /// Its memory account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Goes on with a lower budget; nothing is raised. A limit below what is in use takes nothing away, but
    /// refuses more until enough has come back.
    pub fn lower(&mut self, requested: &Budgets) {
        self.budget = self.budget.clamp(requested);
        self.account.set_limit(self.budget.memory);
    }
}

/// Why a team was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateError {
    /// There is no such parent.
    NoParent,
    /// The node runs as many teams as it may.
    TooMany,
    /// The parent is at [`MAX_DEPTH`].
    TooDeep,
    /// There is not enough memory for the team's record.
    Memory(Refused),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoParent => f.write_str("the parent team has ended"),
            Self::TooMany => f.write_str("the node runs as many teams as it may"),
            Self::TooDeep => write!(f, "teams nest at most {MAX_DEPTH} deep"),
            Self::Memory(refused) => refused.fmt(f),
        }
    }
}

impl core::error::Error for CreateError {}

/// All teams of a node.
#[derive(Debug)]
pub struct Teams {
    table: Slab<Team>,
    root: TeamId,
}

impl Teams {
    /// The root team alone, with `budget` for all teams together. At most `limit` teams besides it.
    pub fn new(budget: Budget, limit: usize) -> Result<Self, CreateError> {
        let mut table = Slab::new(limit.saturating_add(1));
        let team = make("root".into(), None, 0, Account::root(budget.memory), budget)?;
        let root = TeamId(table.insert(team).map_err(|_| CreateError::TooMany)?);
        Ok(Self { table, root })
    }

    /// The team above all others.
    pub fn root(&self) -> TeamId {
        self.root
    }

    /// A new team under `parent`. Its memory counts against the parent's.
    pub fn create(&mut self, parent: TeamId, name: &str, budget: Budget) -> Result<TeamId, CreateError> {
        let above = self.get(parent).ok_or(CreateError::NoParent)?;
        if above.depth == MAX_DEPTH {
            return Err(CreateError::TooDeep);
        }
        if self.table.is_full() {
            return Err(CreateError::TooMany);
        }
        let account = above.account.child(Some(budget.memory));
        let team = make(name.into(), Some(parent), above.depth + 1, account, budget)?;
        self.table.insert(team).map(TeamId).map_err(|_| CreateError::TooMany)
    }

    /// Ends a team and all below it. Returns who has ended, children before parents; nobody if there was
    /// no such team or it is the root. What their owners still hold of them is refunded when dropped.
    pub fn end(&mut self, id: TeamId) -> Vec<TeamId> {
        let mut ended = Vec::new();
        if id == self.root || !self.table.contains(id.0) {
            return ended;
        }
        ended.push(id);
        let mut next = 0;
        while let Some(&above) = ended.get(next) {
            ended.extend(self.table.iter().filter(|(_, t)| t.parent == Some(above)).map(|(h, _)| TeamId(h)));
            next += 1;
        }
        ended.reverse();
        for team in &ended {
            self.table.remove(team.0);
        }
        ended
    }

    /// The team of this name.
    pub fn get(&self, id: TeamId) -> Option<&Team> {
        self.table.get(id.0)
    }

    /// The team of this name, to change it.
    pub fn get_mut(&mut self, id: TeamId) -> Option<&mut Team> {
        self.table.get_mut(id.0)
    }

    /// All teams, the root among them.
    pub fn iter(&self) -> impl Iterator<Item = (TeamId, &Team)> {
        self.table.iter().map(|(handle, team)| (TeamId(handle), team))
    }

    /// How many there are besides the root.
    pub fn len(&self) -> usize {
        self.table.len() - 1
    }

    /// Whether there is only the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there may be besides the root.
    pub fn limit(&self) -> usize {
        self.table.limit() - 1
    }
}

fn make(
    name: Arc<str>,
    parent: Option<TeamId>,
    depth: u8,
    account: Account,
    budget: Budget,
) -> Result<Team, CreateError> {
    let bytes = size_of::<Team>() + name.len();
    let own = account.charge(bytes as u64).map_err(CreateError::Memory)?;
    let (counters, conduct) = Default::default();
    Ok(Team { name, budget, counters, conduct, parent, depth, account, _own: own })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(memory: u64) -> Budget {
        Budget {
            memory,
            event: Duration::from_millis(2),
            background: Duration::from_secs(1),
            rate: 1_000_000,
            burst: 3000,
            queue: 8,
            timers: 4,
            cache_entries: 16,
            sessions: 2,
            shares: DEFAULT_SHARES,
        }
    }

    #[test]
    fn nothing_exceeds_the_nodes_bounds() {
        let bounds = budget(1000);
        assert_eq!(bounds.clamp(&Budgets::default()), bounds);
        let greedy = Budgets {
            memory: Some(u64::MAX),
            event_us: Some(u32::MAX),
            rate: Some(u64::MAX),
            burst: Some(u32::MAX),
            timers: Some(u16::MAX),
            cache_entries: Some(u16::MAX),
            sessions: Some(u16::MAX),
        };
        assert_eq!(bounds.clamp(&greedy), bounds);
        let modest = Budgets { memory: Some(1), event_us: Some(5), timers: Some(0), ..Budgets::default() };
        let clamped = bounds.clamp(&modest);
        assert_eq!((clamped.memory, clamped.event, clamped.timers), (1, Duration::from_micros(5), 0));
    }

    #[test]
    fn ending_a_team_ends_its_children_and_gives_everything_back() {
        let mut teams = Teams::new(budget(1 << 20), 8).unwrap();
        let root = teams.root();
        let idle = teams.get(root).unwrap().account().used();
        let a = teams.create(root, "a", budget(1 << 16)).unwrap();
        let b = teams.create(a, "b", budget(1 << 16)).unwrap();
        let c = teams.create(b, "c", budget(1 << 15)).unwrap();
        let other = teams.create(root, "other", budget(1 << 16)).unwrap();
        let held = teams.get(c).unwrap().account().charge(30_000).unwrap();
        assert!(teams.get(a).unwrap().account().used() > 30_000);
        assert_eq!(teams.end(a), [c, b, a]);
        assert!(teams.get(c).is_none() && teams.get(other).is_some());
        assert_eq!(teams.create(b, "late", budget(1)), Err(CreateError::NoParent));
        assert!(teams.end(a).is_empty() && teams.end(root).is_empty());
        drop(held);
        teams.end(other);
        assert_eq!(teams.get(root).unwrap().account().used(), idle);
        assert!(teams.is_empty());
    }

    #[test]
    fn count_depth_and_memory_are_bounded() {
        let mut teams = Teams::new(budget(1 << 20), 20).unwrap();
        let mut parent = teams.root();
        for _ in 0..MAX_DEPTH {
            parent = teams.create(parent, "nested", budget(1 << 16)).unwrap();
        }
        assert_eq!(teams.create(parent, "too deep", budget(1 << 16)), Err(CreateError::TooDeep));
        assert!(matches!(teams.create(teams.root(), "poor", budget(10)), Err(CreateError::Memory(_))));
        while teams.len() < teams.limit() {
            teams.create(teams.root(), "x", budget(1 << 16)).unwrap();
        }
        assert_eq!(teams.create(teams.root(), "y", budget(1 << 16)), Err(CreateError::TooMany));
    }

    #[test]
    fn children_share_their_parents_memory() {
        let mut teams = Teams::new(budget(1 << 20), 8).unwrap();
        let parent = teams.create(teams.root(), "parent", budget(20_000)).unwrap();
        let a = teams.create(parent, "a", budget(20_000)).unwrap();
        let b = teams.create(parent, "b", budget(20_000)).unwrap();
        let _held = teams.get(a).unwrap().account().charge(15_000).unwrap();
        assert!(teams.get(b).unwrap().account().charge(10_000).is_err());
    }

    #[test]
    fn whoever_keeps_trying_is_ended() {
        let mut conduct = Conduct::default();
        let mut tries = 0;
        while conduct.refused(Instant(tries), Resource::Memory) != Verdict::End {
            tries += 1;
            assert!(tries < 1000);
        }
        assert_eq!(tries + 1, 16 * u64::from(MAX_STRIKES));
    }

    #[test]
    fn refusals_far_apart_are_no_strike_and_strikes_are_forgiven() {
        let mut conduct = Conduct::default();
        for n in 0..1000 {
            assert_eq!(conduct.refused(Instant(n * 100_000), Resource::Memory), Verdict::Go);
        }
        for n in 0..1000 {
            let verdict = conduct.fault(Instant(n * 61_000_000), Fault::Pointer);
            assert!(matches!(verdict, Verdict::Strike(_)));
        }
        assert!(conduct.strikes() <= 2);
        assert_eq!(conduct.fault(Instant(0), Fault::Trap), Verdict::End);
        assert_eq!(conduct.fault(Instant(0), Fault::Deadline), Verdict::End);
    }

    #[test]
    fn what_others_cause_is_never_a_strike() {
        let mut conduct = Conduct::default();
        for _ in 0..100_000 {
            assert_eq!(conduct.refused(Instant(0), Resource::Queue), Verdict::Go);
            assert_eq!(conduct.refused(Instant(0), Resource::Rate), Verdict::Go);
        }
    }

    #[test]
    fn a_warning_comes_once() {
        let mut conduct = Conduct::default();
        assert!(!conduct.used(Resource::Timers, 74, 100));
        assert!(conduct.used(Resource::Timers, 75, 100));
        assert!(!conduct.used(Resource::Timers, 100, 100));
        assert!(!conduct.used(Resource::Timers, 40, 100));
        assert!(!conduct.used(Resource::Timers, 80, 100), "it has not been low enough since");
        assert!(!conduct.used(Resource::Timers, 10, 100));
        assert!(conduct.used(Resource::Timers, 80, 100));
        assert!(!conduct.used(Resource::Rate, 100, 100));
        assert!(conduct.used(Resource::Memory, u64::MAX, u64::MAX));
    }

    proptest! {
        /// Whatever is created and ended, the root is charged for exactly the teams that live.
        #[test]
        fn the_tree_balances(ops in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200)) {
            let mut teams = Teams::new(budget(1 << 20), 30).unwrap();
            let mut alive = std::vec![teams.root()];
            for (create, at) in ops {
                let id = alive[at.index(alive.len())];
                if create {
                    if let Ok(new) = teams.create(id, "t", budget(1 << 14)) {
                        alive.push(new);
                    }
                } else {
                    let ended = teams.end(id);
                    alive.retain(|id| !ended.contains(id));
                }
                prop_assert_eq!(teams.len() + 1, alive.len());
                let own: u64 = teams.iter().map(|(_, t)| t._own.bytes()).sum();
                prop_assert_eq!(teams.get(teams.root()).unwrap().account().used(), own);
            }
        }
    }
}
