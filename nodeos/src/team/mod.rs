//! Teams: the unit of isolation, accounting and termination. A flow is a team; teams form a tree.
//!
//! [`Teams`] holds the tree. A [`Team`] has a [`Budget`], an [`Account`] for everything that is counted, its
//! [`Bandwidth`], [`Counters`], and a [`Conduct`]: how it has kept to its budget. Ending a team ends its
//! children; the records and everything charged to them come back.
//!
//! # The tree (seed 001, section 2)
//! The root owns everything. Of each resource a child either *shares* its parent's, within a bound of its
//! own, and what it uses counts for both; or its parent *donates* a part, which the parent then lacks until the
//! child has ended. So what is in a team and below it adds up to what the team was given. Unlimited is
//! shared with the root. Processor time is divided by shares ([`crate::sched`]): a team's own events have
//! [`OWN_SHARES`], of which it may donate; a child that shares competes beside them.
//!
//! # Policy
//! A team is warned when it comes near a limit, refused at the limit, and given a strike when it keeps trying:
//!
//! | what                      | warned                | refusals in 1 s that make a strike | why                                |
//! |---------------------------|-----------------------|------------------------------------|------------------------------------|
//! | memory                    | at 75 %               | 16                                 | the guest was told                 |
//! | timers, sessions, teams, each also in all | at 75 % | 64                               |                                    |
//! | soft-state entries        | at 75 %               | never                              | an older one gives way             |
//! | code                      | at 75 %               | never                              | had at the start                   |
//! | events, downloads, compile time in all | at 75 %  | never: the flow ends               | without them it cannot go on       |
//! | rates                     | when a frame is refused | never                            | others' capsules may cause it      |
//! | processor                 | when an event took 75 % of its time, or one was held back | never | others' capsules may cause it |
//! | event queue               | never                 | never                              | others fill it                     |
//! | a lie about a pointer     | -                     | each one is a strike               | a mistake, but ours to survive     |
//! | deadline passed, trap     | -                     | none: the end at once              | its state is no longer known       |
//!
//! Only what the team itself has used up, or asked for beyond its own bound, counts: what others have used up above it
//! is refused as well, and is no strike. Of what teams share, whoever has half of it or more has used it up himself.
//!
//! What follows from strikes has degrees:
//!
//! | strike  | what follows |
//! |---------|--------------|
//! | 1st     | nothing yet |
//! | 2nd-7th | *throttled* for 1 s, 2 s, ... 32 s from that strike on: an eighth of its shares, and 10 ms between its events' beginnings |
//! | 8th     | *stopped*: ended after its own clean-up; and its flow is *banned*, longer each time |
//! | trap, deadline | *killed*: no instruction more; and banned likewise |
//!
//! A strike is forgiven after a minute without another. What is counted is warned of once until the use has been below
//! half of the threshold (of what is shared: an eighth below it); what comes with time (rates, the processor) once until a second has passed without. An account that a team shares is near its
//! limit for whoever takes from it then, and for whose account it is: both are warned.

mod accounts;
mod bandwidth;
mod budget;
mod conduct;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem::size_of;
use core::time::Duration;

use wire::tuple::Budgets;

pub use self::accounts::Accounts;
pub use self::bandwidth::Bandwidth;
pub use self::budget::{Budget, DEFAULT_SHARES, Donated, Resource};
pub use self::conduct::{
    Conduct, FIRST_THROTTLING, Fault, FaultPolicy, LONGEST_THROTTLE, MAX_STRIKES, SHORTEST_THROTTLE,
    THROTTLED_PACE, THROTTLED_PART, Throttle, Verdict,
};
use crate::account::{Account, Charge, Refused};
use crate::platform::Instant;
use crate::sched::Shares;
use crate::slab::{Handle, Slab};

/// The deepest team; the root is at 0. Bounds the cost of a charge.
pub const MAX_DEPTH: u8 = 8;
/// Shares of a team's own events beside its children, before it donates any.
pub const OWN_SHARES: u32 = 1000;

/// Names a team. A stale name finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TeamId(pub Handle);

impl TeamId {
    /// The team above all others, in every table of teams.
    pub const ROOT: Self = Self(Handle::FIRST);
}

impl fmt::Display for TeamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
    /// Of these: for compiling and starting its code.
    pub start_units: u64,
    /// Of these: for answering other nodes about it.
    pub serve_units: u64,
    /// Bytes sent on links.
    pub sent: u64,
    /// Operations refused for want of budget.
    pub refused: u64,
    /// Microseconds in which an event of it was held back.
    pub held_us: u64,
}

impl Counters {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            dropped: self.dropped + other.dropped,
            units: self.units + other.units,
            start_units: self.start_units + other.start_units,
            serve_units: self.serve_units + other.serve_units,
            sent: self.sent + other.sent,
            refused: self.refused + other.refused,
            held_us: self.held_us + other.held_us,
        }
    }
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
    /// It goes on with less for a while.
    pub throttle: Option<Throttle>,
    parent: Option<TeamId>,
    depth: u8,
    accounts: Accounts,
    bandwidth: Bandwidth,
    shares: Shares,
    donated: Donated,
    /// Its events in all are bounded, or those of a team above it.
    counts_events: bool,
    /// For what waits in its queue.
    waiting: Charge,
    /// Its place among its parent's teams.
    _place: Option<Charge>,
    /// What this record takes, at the team's own expense.
    _own: Charge,
}

impl Team {
    /// Its parent; `None` for the root.
    pub fn parent(&self) -> Option<TeamId> {
        self.parent
    }

    /// Its memory account.
    #[inline]
    pub fn account(&self) -> &Account {
        self.accounts.memory()
    }

    /// Its accounts of everything that is counted.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Its bandwidth.
    pub fn bandwidth(&self) -> &Bandwidth {
        &self.bandwidth
    }

    /// Its weight for the scheduler: less while it is throttled.
    pub fn shares(&self) -> Shares {
        let part = if self.throttle.is_some() { THROTTLED_PART } else { 1 };
        Shares { among: (self.shares.among / part).max(1), ..self.shares }
    }

    /// Whether [`warnings`](Self::warnings) has something to do.
    #[inline]
    pub fn may_warn(&self) -> bool {
        self.accounts.bell().is_rung() || self.conduct.warned() != 0
    }

    /// The resources that it is to be warned of now.
    pub fn warnings(&mut self) -> impl Iterator<Item = Resource> + use<> {
        let is = |list: u32, resource: Resource| list & 1 << resource as u32 != 0;
        let rung = self.accounts.bell().take();
        let look = rung | self.conduct.warned();
        let mut warn = 0;
        for resource in Resource::accounts().filter(|resource| is(look, *resource)) {
            let relieved = self.accounts.of(resource).is_none_or(Account::is_relieved);
            if self.conduct.level(resource, is(rung, resource), relieved) {
                warn |= 1 << resource as u32;
            }
        }
        Resource::accounts().filter(move |resource| is(warn, *resource))
    }

    /// It could not be warned now, so it is to be warned later.
    pub fn warn_later(&mut self, resource: Resource) {
        self.conduct.untold(resource);
        if self.accounts.of(resource).is_some() {
            self.accounts.bell().ring(resource as u8);
        }
    }

    /// The time in which it was held back by its own budgets: an event of it by [`Throttle`], or a frame that was
    /// refused by its bandwidth, from the refusal to when it would have passed. Both count.
    pub fn throttled(&self, now: Instant) -> Duration {
        let held =
            self.throttle.and_then(|throttle| throttle.held).map_or(Duration::ZERO, |at| now.since(at));
        Duration::from_micros(self.counters.held_us) + held + self.bandwidth.short(now)
    }

    /// Notes that it was refused more of `resource`, so many times since the last call. What did not fit above it,
    /// because others have used it up, is refused as well, but does not count against it; it does if half of what is
    /// there above is its own.
    pub fn refused(&mut self, now: Instant, resource: Resource, times: u16) -> Verdict {
        self.counters.refused += u64::from(times);
        let in_all = match resource {
            Resource::Timers => Resource::TimersTotal,
            Resource::Teams => Resource::TeamsTotal,
            other => other,
        };
        let accounts = [resource, in_all].map(|resource| self.accounts.of(resource));
        let lacked: u64 = accounts.into_iter().flatten().map(Account::take_lacked).sum();
        let own = u64::from(times).saturating_sub(lacked);
        (0..own).fold(Verdict::Go, |verdict, _| verdict.max(self.conduct.refused(now, resource)))
    }

    /// What its parent donated to it.
    pub fn donated(&self) -> Donated {
        self.donated
    }

    /// Counts an event. An error if there are no more for it.
    #[inline]
    pub fn count_event(&mut self) -> Result<(), Refused> {
        if self.counts_events {
            self.accounts.events_total().spend(1)?;
        }
        self.counters.events += 1;
        Ok(())
    }

    /// Charges so many bytes of memory for something that comes to its queue, until [`let_go`](Self::let_go): one charge
    /// for all that waits there.
    #[inline]
    pub fn hold(&mut self, bytes: u64) -> Result<(), Refused> {
        self.waiting.grow(bytes)
    }

    /// What was held waits no more.
    #[inline]
    pub fn let_go(&mut self, bytes: u64) {
        self.waiting.shrink(bytes);
    }

    fn lower(&mut self, now: Instant, requested: &Budgets) {
        let donated = self.donated.has(Resource::Processor).then_some(self.budget.shares);
        self.budget = self.budget.clamp(requested);
        match donated {
            Some(shares) => self.budget.shares = shares,
            None => self.shares.among = self.budget.shares.max(1),
        }
        self.accounts.lower(&self.budget);
        self.bandwidth.lower(now, &self.budget);
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
    /// The parent has too little of this left to donate or to share.
    Poor(Resource, Refused),
}

impl CreateError {
    /// Whether it is not for `parent`, below which a team was to be made, but for what others have used up above it.
    pub fn is_others(&self, parent: &Team) -> bool {
        let Self::Poor(resource, Refused { wanted, .. }) = self else { return false };
        parent.accounts.of(*resource).is_some_and(|a| a.own_left() >= *wanted && a.left() < *wanted)
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoParent => f.write_str("the parent team has ended"),
            Self::TooMany => f.write_str("the node runs as many teams as it may"),
            Self::TooDeep => write!(f, "teams nest at most {MAX_DEPTH} deep"),
            Self::Poor(resource, Refused { wanted, left }) => {
                write!(f, "the parent team's budget of {resource}: {wanted} asked for, {left} left")
            }
        }
    }
}

impl core::error::Error for CreateError {}

/// All teams of a node.
#[derive(Debug)]
pub struct Teams {
    /// The root was the first.
    table: Slab<Team>,
    links: usize,
}

impl Teams {
    /// The root team alone, with `budget` for all teams together. At most `limit` teams besides it, on a
    /// node of so many links.
    pub fn new(budget: Budget, limit: usize, links: usize) -> Result<Self, CreateError> {
        let mut table = Slab::new(limit.saturating_add(1));
        let accounts = Accounts::new(Account::root(budget.memory), &budget);
        let own = accounts.record(size_of::<Team>(), links)?;
        let waiting =
            accounts.memory().charge(0).map_err(|refused| CreateError::Poor(Resource::Memory, refused))?;
        let team = Team {
            name: "root".into(),
            budget,
            counters: Counters::default(),
            conduct: Conduct::default(),
            throttle: None,
            parent: None,
            depth: 0,
            accounts,
            bandwidth: Bandwidth::root(links, &budget),
            shares: Shares { among: 1, own: OWN_SHARES },
            donated: Donated::NOTHING,
            counts_events: budget.events_total != u64::MAX,
            waiting,
            _place: None,
            _own: own,
        };
        table.insert(team).map_err(|_| CreateError::TooMany)?;
        Ok(Self { table, links })
    }

    /// The team above all others.
    pub fn root(&self) -> TeamId {
        TeamId::ROOT
    }

    /// A new team under `parent`, which donates to it what `donated` names and shares the rest. The event's
    /// deadline is no longer than the parent's.
    pub fn create(
        &mut self,
        now: Instant,
        parent: TeamId,
        name: &str,
        budget: Budget,
        donated: Donated,
    ) -> Result<TeamId, CreateError> {
        self.make(now, parent, name, budget, donated, None)
    }

    /// A team in the place of one that has ended, below the same parent, which it shares everything with: what that
    /// one spent is spent ([`Team::accounts`], kept beyond its end), and nothing is left of its bursts.
    pub fn create_again(
        &mut self,
        now: Instant,
        parent: TeamId,
        name: &str,
        budget: Budget,
        before: &Accounts,
    ) -> Result<TeamId, CreateError> {
        let team = self.make(now, parent, name, budget, Donated::NOTHING, Some(before))?;
        if let Some(made) = self.get(team) {
            made.bandwidth.empty(now);
        }
        Ok(team)
    }

    fn make(
        &mut self,
        now: Instant,
        parent: TeamId,
        name: &str,
        budget: Budget,
        donated: Donated,
        before: Option<&Accounts>,
    ) -> Result<TeamId, CreateError> {
        let links = self.links;
        let full = self.table.is_full();
        let above = self.get_mut(parent).ok_or(CreateError::NoParent)?;
        if above.depth == MAX_DEPTH {
            return Err(CreateError::TooDeep);
        }
        if full {
            return Err(CreateError::TooMany);
        }
        let budget = Budget { event: budget.event.min(above.budget.event), ..budget };
        let poor = |resource| move |refused| CreateError::Poor(resource, refused);
        let place = above.accounts.teams().charge(1).map_err(poor(Resource::Teams))?;
        // It could not even boot.
        if above.counts_events && above.accounts.events_total().left() == 0 {
            return Err(poor(Resource::EventsTotal)(Refused { wanted: 1, left: 0 }));
        }
        let accounts = match before {
            Some(before) => before.again(&budget),
            None => above.accounts.below(&budget, donated)?,
        };
        let own = accounts.record(size_of::<Team>() + name.len(), links)?;
        let waiting = accounts.memory().charge(0).map_err(poor(Resource::Memory))?;
        let processor = donated.has(Resource::Processor);
        let left = above.shares.own - 1;
        if processor && budget.shares > left {
            let refused = Refused { wanted: budget.shares.into(), left: left.into() };
            return Err(CreateError::Poor(Resource::Processor, refused));
        }
        let rate = Refused { wanted: budget.rate, left: 0 };
        let bandwidth = above.bandwidth.below(now, donated.has(Resource::Rate), &budget);
        let bandwidth = bandwidth.ok_or(CreateError::Poor(Resource::Rate, rate))?;
        if let Err(refused) = above.accounts.teams_total().spend(1) {
            bandwidth.give_back(now, &above.bandwidth);
            return Err(CreateError::Poor(Resource::TeamsTotal, refused));
        }
        above.shares.own -= if processor { budget.shares } else { 0 };
        let team = Team {
            name: name.into(),
            budget,
            counters: Counters::default(),
            conduct: Conduct::default(),
            throttle: None,
            parent: Some(parent),
            depth: above.depth + 1,
            accounts,
            bandwidth,
            shares: Shares { among: budget.shares.max(1), own: OWN_SHARES },
            donated,
            counts_events: above.counts_events || budget.events_total != u64::MAX,
            waiting,
            _place: Some(place),
            _own: own,
        };
        self.table.insert(team).map(TeamId).map_err(|_| CreateError::TooMany)
    }

    /// A team goes on with a lower budget; nothing is raised. A limit below what is in use takes nothing away, but
    /// refuses more until enough has come back. What was donated stays with the team until it ends.
    pub fn lower(&mut self, now: Instant, id: TeamId, requested: &Budgets) {
        let Some(team) = self.get_mut(id) else { return };
        team.lower(now, requested);
        if team.counts_events || team.budget.events_total == u64::MAX {
            return;
        }
        // Events were not counted until now: they are all caught up with.
        for id in self.below(id) {
            let Some(member) = self.get_mut(id).filter(|member| !member.counts_events) else { continue };
            member.counts_events = true;
            let account = member.accounts.events_total();
            if account.spend(member.counters.events).is_err() {
                let _ = account.spend(account.left());
            }
        }
    }

    /// Ends a team and all below it. Returns who has ended, children before parents; nobody if there was
    /// no such team or it is the root. What their owners still hold of them is refunded when dropped.
    pub fn end(&mut self, now: Instant, id: TeamId) -> Vec<TeamId> {
        let ended = self.below(id);
        for team in &ended {
            let Some(gone) = self.table.remove(team.0) else { continue };
            let Some(above) = gone.parent.and_then(|parent| self.get_mut(parent)) else { continue };
            gone.bandwidth.give_back(now, &above.bandwidth);
            if gone.donated.has(Resource::Processor) {
                above.shares.own += gone.budget.shares;
            }
        }
        ended
    }

    /// A team and all below it, children before parents; nobody if there is no such team or it is the root.
    pub fn below(&self, id: TeamId) -> Vec<TeamId> {
        let mut found = Vec::new();
        if id == self.root() || !self.table.contains(id.0) {
            return found;
        }
        found.push(id);
        let mut next = 0;
        while let Some(&above) = found.get(next) {
            found.extend(self.table.iter().filter(|(_, t)| t.parent == Some(above)).map(|(h, _)| TeamId(h)));
            next += 1;
        }
        found.reverse();
        found
    }

    /// The team of this name.
    #[inline]
    pub fn get(&self, id: TeamId) -> Option<&Team> {
        self.table.get(id.0)
    }

    /// The team of this name, to change it.
    #[inline]
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

#[cfg(test)]
mod tests;
