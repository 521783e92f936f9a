//! How a team keeps to its budget, and what follows: the policy table of [`team`](super).

use core::fmt;
use core::time::Duration;

use super::Resource;
use crate::platform::Instant;

/// Strikes that end a team.
pub const MAX_STRIKES: u32 = 8;
/// A strike is forgiven after so long without another.
const FORGIVE: Duration = Duration::from_secs(60);
/// Refusals are counted within this time.
const WINDOW: Duration = Duration::from_secs(1);

/// One line of the policy table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Warn when this many percent of the limit are used.
    pub warn_percent: Option<u8>,
    /// This many refusals within a second make a strike.
    pub refusals_per_strike: Option<u16>,
}

impl Resource {
    /// The policy for this resource.
    pub const fn policy(self) -> Policy {
        let (warn_percent, refusals_per_strike) = match self {
            Self::Memory => (Some(75), Some(16)),
            Self::Timers | Self::TimersTotal | Self::Sessions => (Some(75), Some(64)),
            Self::Teams | Self::TeamsTotal => (None, Some(64)),
            Self::CacheEntries => (Some(75), None),
            Self::EventsTotal | Self::Download | Self::Compile | Self::Code => (None, None),
            Self::Queue | Self::Rate | Self::Processor => (None, None),
        };
        Policy { warn_percent, refusals_per_strike }
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
    /// Asking for too much is no strike.
    trusted: bool,
    strikes: u32,
    last_strike: Instant,
    warned: [bool; Resource::COUNT],
    window: Instant,
    in_window: [u16; Resource::COUNT],
}

impl Conduct {
    /// The conduct of a team that may ask for too much as often as it wants: it is refused, and no more. A fault
    /// counts all the same.
    pub fn trusted() -> Self {
        Self { trusted: true, ..Self::default() }
    }

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
        if self.trusted {
            return Verdict::Go;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_trusted_are_refused_and_never_struck_but_faults_count() {
        let mut conduct = Conduct::trusted();
        assert!((0..100_000).all(|_| conduct.refused(Instant(0), Resource::Memory) == Verdict::Go));
        assert_eq!(conduct.fault(Instant(0), Fault::Pointer), Verdict::Strike(1));
        assert_eq!(conduct.fault(Instant(0), Fault::Deadline), Verdict::End);
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
}
