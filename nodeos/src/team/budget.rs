//! What a team may use: kinds of resources, bounds on them, and which of them a child has for itself.

use core::fmt;
use core::time::Duration;

use wire::budget::{Budgets, Kind};

/// Shares of processor time of a team for which nothing else is said.
pub const DEFAULT_SHARES: u32 = 100;

/// What a budget bounds. The names in parentheses are those of seed 001, section 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Bytes of memory, compiled code included (MEM_ACTIVE).
    Memory,
    /// Bytes of compiled code.
    Code,
    /// Timers that run (THREADS_ACTIVE).
    Timers,
    /// Timers ever set (THREADS_TOTAL).
    TimersTotal,
    /// Events ever handled (THREADS_TOTAL).
    EventsTotal,
    /// Open sessions.
    Sessions,
    /// Soft-state entries.
    CacheEntries,
    /// Teams below it (DOMAINS_ACTIVE).
    Teams,
    /// Teams ever made below it (DOMAINS_TOTAL).
    TeamsTotal,
    /// Bytes ever downloaded.
    Download,
    /// Microseconds ever spent on compiling.
    Compile,
    /// Waiting events.
    Queue,
    /// Bandwidth: bytes per second on a link and in sum, packets per second.
    Rate,
    /// Processor time (CPU_RELATIVE).
    Processor,
}

impl Resource {
    /// How many kinds there are.
    pub(super) const COUNT: usize = 14;
    /// How many of them are kept in accounts: the first ones.
    pub(super) const ACCOUNTS: usize = 11;

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Memory,
        Self::Code,
        Self::Timers,
        Self::TimersTotal,
        Self::EventsTotal,
        Self::Sessions,
        Self::CacheEntries,
        Self::Teams,
        Self::TeamsTotal,
        Self::Download,
        Self::Compile,
        Self::Queue,
        Self::Rate,
        Self::Processor,
    ];

    /// Those that are kept in accounts.
    pub fn accounts() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().take(Self::ACCOUNTS)
    }

    /// The kind of budget that bounds it.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Memory => Kind::Memory,
            Self::Code => Kind::Code,
            Self::Timers => Kind::Timers,
            Self::TimersTotal => Kind::TimersTotal,
            Self::EventsTotal => Kind::EventsTotal,
            Self::Sessions => Kind::Sessions,
            Self::CacheEntries => Kind::CacheEntries,
            Self::Teams => Kind::Flows,
            Self::TeamsTotal => Kind::FlowsTotal,
            Self::Download => Kind::Download,
            Self::Compile => Kind::Compile,
            Self::Queue => Kind::Queue,
            Self::Rate => Kind::Rate,
            Self::Processor => Kind::Shares,
        }
    }

    /// Its name in tables and metrics: that of its budget.
    pub const fn name(self) -> &'static str {
        self.kind().name()
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which resources a parent donates to a new team; the others it shares with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Donated(u16);

impl Donated {
    /// Nothing: all is shared.
    pub const NOTHING: Self = Self(0);
    /// All that is bounded.
    pub const ALL: Self = Self((1 << Resource::COUNT) - 1);

    /// These, and `resource`.
    #[must_use]
    pub const fn and(self, resource: Resource) -> Self {
        Self(self.0 | 1 << resource as u16)
    }

    /// Whether `resource` is among them.
    pub const fn has(self, resource: Resource) -> bool {
        self.0 & 1 << resource as u16 != 0
    }
}

/// What a team may use. The greatest number of a type is no bound of its own: what the parent has is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory, of all kinds together.
    pub memory: u64,
    /// Bytes of compiled code.
    pub code: u64,
    /// The deadline of one event.
    pub event: Duration,
    /// What one event may take in all where the team may run in the background, in slices as long as an event.
    pub background: Duration,
    /// Bytes per second on each link.
    pub rate: u64,
    /// Bytes at once on each link.
    pub burst: u32,
    /// Bytes per second on all links together.
    pub total_rate: u64,
    /// Packets per second on all links together.
    pub packets: u32,
    /// Events that wait.
    pub queue: u16,
    /// Events ever.
    pub events_total: u64,
    /// Timers that run at once.
    pub timers: u16,
    /// Timers ever.
    pub timers_total: u64,
    /// Soft-state entries.
    pub cache_entries: u16,
    /// Sessions open at once.
    pub sessions: u16,
    /// Teams below it at once.
    pub teams: u16,
    /// Teams below it ever.
    pub teams_total: u64,
    /// Bytes ever downloaded.
    pub download: u64,
    /// Time ever spent on compiling its code.
    pub compile: Duration,
    /// Shares of processor time: relative to its brothers' and to its parent's own. Donated: so many of the
    /// parent's own [`OWN_SHARES`](super::OWN_SHARES).
    pub shares: u32,
}

impl Budget {
    /// No bounds at all.
    pub const UNLIMITED: Self = Self {
        memory: u64::MAX,
        code: u64::MAX,
        event: Duration::MAX,
        background: Duration::MAX,
        rate: u64::MAX,
        burst: u32::MAX,
        total_rate: u64::MAX,
        packets: u32::MAX,
        queue: u16::MAX,
        events_total: u64::MAX,
        timers: u16::MAX,
        timers_total: u64::MAX,
        cache_entries: u16::MAX,
        sessions: u16::MAX,
        teams: u16::MAX,
        teams_total: u64::MAX,
        download: u64::MAX,
        compile: Duration::MAX,
        shares: DEFAULT_SHARES,
    };

    /// What a node gives a flow where its configuration says nothing else.
    pub const DEFAULT: Self = Self {
        memory: 1 << 20,
        event: Duration::from_millis(2),
        background: Duration::from_secs(1),
        rate: 12_500_000,
        burst: 32 << 10,
        timers: 64,
        cache_entries: 1024,
        sessions: 8,
        queue: 64,
        code: 1 << 20,
        teams: 8,
        download: 4 << 20,
        compile: Duration::from_secs(30),
        ..Self::UNLIMITED
    };

    /// The same with these bounds in the place of its own.
    #[must_use]
    pub fn with(&self, named: &Budgets) -> Self {
        let time = |us: Option<u64>, own| match us {
            Some(u64::MAX) => Duration::MAX,
            us => us.map_or(own, Duration::from_micros),
        };
        Self {
            memory: named.memory.unwrap_or(self.memory),
            code: named.code.unwrap_or(self.code),
            event: time(named.event_us.map(u64::from), self.event),
            background: time(named.background_us, self.background),
            rate: named.rate.unwrap_or(self.rate),
            burst: named.burst.unwrap_or(self.burst),
            total_rate: named.total_rate.unwrap_or(self.total_rate),
            packets: named.packets.unwrap_or(self.packets),
            queue: named.queue.unwrap_or(self.queue),
            events_total: named.events_total.unwrap_or(self.events_total),
            timers: named.timers.unwrap_or(self.timers),
            timers_total: named.timers_total.unwrap_or(self.timers_total),
            cache_entries: named.cache_entries.unwrap_or(self.cache_entries),
            sessions: named.sessions.unwrap_or(self.sessions),
            teams: named.flows.unwrap_or(self.teams),
            teams_total: named.flows_total.unwrap_or(self.teams_total),
            download: named.download.unwrap_or(self.download),
            compile: time(named.compile_us, self.compile),
            shares: named.shares.unwrap_or(self.shares),
        }
    }

    /// What a flow gets that asks for `requested` where this is the default and the upper bound.
    #[must_use]
    pub fn clamp(&self, requested: &Budgets) -> Self {
        let shares = requested.shares.unwrap_or(u32::MAX);
        Self { shares: self.shares.min(shares), ..self.within(&Self::UNLIMITED.with(requested)) }
    }

    /// The lower of two in everything but shares.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        Self {
            memory: self.memory.min(other.memory),
            code: self.code.min(other.code),
            event: self.event.min(other.event),
            background: self.background.min(other.background),
            rate: self.rate.min(other.rate),
            burst: self.burst.min(other.burst),
            total_rate: self.total_rate.min(other.total_rate),
            packets: self.packets.min(other.packets),
            queue: self.queue.min(other.queue),
            events_total: self.events_total.min(other.events_total),
            timers: self.timers.min(other.timers),
            timers_total: self.timers_total.min(other.timers_total),
            cache_entries: self.cache_entries.min(other.cache_entries),
            sessions: self.sessions.min(other.sessions),
            teams: self.teams.min(other.teams),
            teams_total: self.teams_total.min(other.teams_total),
            download: self.download.min(other.download),
            compile: self.compile.min(other.compile),
            shares: self.shares,
        }
    }

    /// The bound on a resource; `u64::MAX` for none.
    pub fn limit(&self, resource: Resource) -> u64 {
        self.of(resource.kind())
    }

    /// The bound of a kind; `u64::MAX` for none.
    pub fn of(&self, kind: Kind) -> u64 {
        let time = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bound = match kind {
            Kind::Memory => self.memory,
            Kind::Event => time(self.event),
            Kind::Rate => self.rate,
            Kind::Burst => self.burst.into(),
            Kind::Timers => self.timers.into(),
            Kind::CacheEntries => self.cache_entries.into(),
            Kind::Sessions => self.sessions.into(),
            Kind::Code => self.code,
            Kind::Background => time(self.background),
            Kind::TotalRate => self.total_rate,
            Kind::Packets => self.packets.into(),
            Kind::Queue => self.queue.into(),
            Kind::EventsTotal => self.events_total,
            Kind::TimersTotal => self.timers_total,
            Kind::Flows => self.teams.into(),
            Kind::FlowsTotal => self.teams_total,
            Kind::Download => self.download,
            Kind::Compile => time(self.compile),
            Kind::Shares => self.shares.into(),
        };
        if bound == kind.most() { u64::MAX } else { bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_come_first_and_names_differ() {
        for (at, resource) in Resource::ALL.into_iter().enumerate() {
            assert_eq!(resource as usize, at);
            assert!(Resource::ALL.iter().skip(at + 1).all(|other| other.name() != resource.name()));
        }
        assert_eq!(Resource::accounts().last(), Some(Resource::Compile));
        let some = Donated::NOTHING.and(Resource::Memory).and(Resource::Processor);
        assert!(some.has(Resource::Memory) && some.has(Resource::Processor) && !some.has(Resource::Rate));
        assert!(Resource::ALL.into_iter().all(|resource| Donated::ALL.has(resource)));
    }

    #[test]
    fn nothing_exceeds_the_nodes_bounds() {
        let bounds = Budget {
            memory: 1000,
            event: Duration::from_millis(2),
            rate: 1_000_000,
            burst: 3000,
            timers: 4,
            cache_entries: 16,
            sessions: 2,
            ..Budget::UNLIMITED
        };
        assert_eq!(bounds.clamp(&Budgets::default()), bounds);
        let mut greedy = Budgets::default();
        Kind::ALL.into_iter().for_each(|kind| greedy.set(kind, Some(u64::MAX)));
        assert_eq!(bounds.clamp(&greedy), bounds);
        let modest = Budgets { memory: Some(1), event_us: Some(5), timers: Some(0), ..Budgets::default() };
        let clamped = bounds.clamp(&modest);
        assert_eq!((clamped.memory, clamped.event, clamped.timers), (1, Duration::from_micros(5), 0));
    }

    #[test]
    fn every_kind_can_be_asked_for_and_is_bounded() {
        for kind in Kind::ALL {
            let bound = |budget: &Budget| budget.of(kind);
            let ask = |n: u64| {
                let mut asked = Budgets::default();
                asked.set(kind, Some(n));
                asked
            };
            let node = Budget::UNLIMITED.with(&ask(7));
            assert_eq!(bound(&node), 7, "{kind}");
            assert_eq!([6, 7, 8, u64::MAX].map(|n| bound(&node.clamp(&ask(n)))), [6, 7, 7, 7], "{kind}");
            // Nothing else has changed.
            let others = Kind::ALL.into_iter().filter(|other| *other != kind);
            for other in others {
                let before = [Budget::UNLIMITED, node].map(|budget| budget.of(other));
                assert!(before.iter().all(|n| *n == node.clamp(&ask(3)).of(other)), "{kind} {other}");
            }
        }
        for resource in Resource::accounts() {
            assert_eq!(Budget::UNLIMITED.limit(resource), u64::MAX);
        }
    }
}
