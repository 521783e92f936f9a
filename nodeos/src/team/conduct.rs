//! How a team keeps to its budget, and what follows: the policy table of [`team`](super).

use core::fmt;
use core::time::Duration;

use super::Resource;
use crate::platform::Instant;

/// The strike that ends a team.
pub const MAX_STRIKES: u32 = 8;
/// A strike is forgiven after so long without another.
const FORGIVE: Duration = Duration::from_secs(60);
/// Refusals are counted within this time.
const WINDOW: Duration = Duration::from_secs(1);

/// From this strike on a team is throttled.
pub const FIRST_THROTTLING: u32 = 2;
/// For how long the first time; each further strike doubles it.
pub const SHORTEST_THROTTLE: Duration = Duration::from_secs(1);
/// At most so long, counted from the last strike.
pub const LONGEST_THROTTLE: Duration = Duration::from_secs(32);
/// The part of its shares of processor time that is left to a throttled team.
pub const THROTTLED_PART: u32 = 8;
/// The time between the beginnings of two events of a throttled team.
pub const THROTTLED_PACE: Duration = Duration::from_millis(10);
/// Whoever was told that his rate or his processor time is short is told so again after so long without.
const QUIET: Duration = Duration::from_secs(1);

impl Resource {
    /// How many refusals within a second make a strike; `None` where none do.
    pub const fn refusals_per_strike(self) -> Option<u16> {
        match self {
            Self::Memory => Some(16),
            Self::Timers | Self::TimersTotal | Self::Sessions | Self::Teams | Self::TeamsTotal => Some(64),
            Self::CacheEntries | Self::EventsTotal | Self::Download | Self::Compile | Self::Code => None,
            Self::Queue | Self::Rate | Self::Processor => None,
        }
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

/// What the policy says about a team after something went wrong; the later, the graver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "the caller carries the verdict out"]
pub enum Verdict {
    /// Go on.
    Go,
    /// Go on; that was a strike, and now there are this many.
    Strike(u32),
    /// That was a strike: go on with less for this time.
    Throttle(Duration),
    /// That was the last strike: end the team after its own clean-up.
    Stop,
    /// End the team at once.
    Kill,
}

/// A team goes on with less for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// Until then.
    pub until: Instant,
    /// Before that its next event does not begin.
    pub next: Instant,
    /// Since when an event has been held back, if one is.
    pub held: Option<Instant>,
}

/// How a team has kept to its budget: what the policy table works on.
#[derive(Debug, Clone, Default)]
pub struct Conduct {
    /// Asking for too much is no strike.
    trusted: bool,
    strikes: u32,
    last_strike: Instant,
    /// Bits of the resources that it was warned of, and that have not been relieved since.
    warned: u16,
    /// When it was last short of its rate, and of processor time.
    short: [Option<Instant>; 2],
    window: Instant,
    in_window: [u16; Resource::COUNT],
}

impl Conduct {
    /// How a team goes on that has the place of one that has ended, if anything of that counts: its strikes, and what it
    /// was refused a moment ago.
    pub fn resumed(self, now: Instant) -> Option<Self> {
        let lately = now.since(self.window) < WINDOW && self.in_window.iter().any(|n| *n > 0);
        let counts = lately || self.standing(now) > 0;
        counts.then_some(Self { warned: 0, short: [None; 2], ..self })
    }

    /// Until when its strikes throttle it, if they do.
    pub fn throttled_until(&self, now: Instant) -> Option<Instant> {
        let until = self.last_strike + throttle(self.strikes.checked_sub(FIRST_THROTTLING)?);
        Some(until).filter(|until| now < *until)
    }

    /// The conduct of a team that may ask for too much as often as it wants: it is refused, and no more. A fault
    /// counts all the same.
    pub fn trusted() -> Self {
        Self { trusted: true, ..Self::default() }
    }

    /// The bits of what it was warned of and what has not been relieved since.
    #[inline]
    pub(super) fn warned(&self) -> u32 {
        self.warned.into()
    }

    /// Notes that the account of `resource` was found near its limit (`near`) or well below (`relieved`). True if
    /// the team is to be warned: the first time since it was well below.
    pub(super) fn level(&mut self, resource: Resource, near: bool, relieved: bool) -> bool {
        let bit = 1 << resource as u16;
        if relieved {
            self.warned &= !bit;
            return false;
        }
        let first = near && self.warned & bit == 0;
        self.warned |= if near { bit } else { 0 };
        first
    }

    /// It could not be told: it is to be warned again.
    pub(super) fn untold(&mut self, resource: Resource) {
        self.warned &= !(1 << resource as u16);
        if let Some(at) = place(resource) {
            self.short[at] = None;
        }
    }

    /// Notes that the team had to do with less than it wanted of what comes with time: its rate, or the
    /// processor's. True if it is to be warned: the first time after a second without.
    pub fn short_of(&mut self, now: Instant, resource: Resource) -> bool {
        let Some(at) = place(resource) else { return false };
        self.short[at].replace(now).is_none_or(|before| now.since(before) >= QUIET)
    }

    /// Notes that the team was refused more of `resource`.
    pub fn refused(&mut self, now: Instant, resource: Resource) -> Verdict {
        let Some(most) = resource.refusals_per_strike() else { return Verdict::Go };
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
            FaultPolicy::End => Verdict::Kill,
        }
    }

    /// Strikes that stand.
    pub fn strikes(&self) -> u32 {
        self.strikes
    }

    /// Strikes that are not forgiven yet.
    fn standing(&self, now: Instant) -> u32 {
        let forgiven = now.since(self.last_strike).as_secs() / FORGIVE.as_secs();
        self.strikes.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }

    fn strike(&mut self, now: Instant) -> Verdict {
        self.strikes = self.standing(now) + 1;
        self.last_strike = now;
        match self.strikes.checked_sub(FIRST_THROTTLING) {
            _ if self.strikes >= MAX_STRIKES => Verdict::Stop,
            None => Verdict::Strike(self.strikes),
            Some(doublings) => Verdict::Throttle(throttle(doublings)),
        }
    }
}

/// For how long a team is throttled that has so many strikes more than those that throttle it first.
fn throttle(doublings: u32) -> Duration {
    (SHORTEST_THROTTLE * 2u32.pow(doublings.min(16))).min(LONGEST_THROTTLE)
}

/// Where what comes with time has its place.
const fn place(resource: Resource) -> Option<usize> {
    match resource {
        Resource::Rate => Some(0),
        Resource::Processor => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_again_goes_on_as_before() {
        let mut conduct = Conduct::default();
        assert!(conduct.clone().resumed(Instant::ZERO).is_none(), "nothing counts against it");
        // One refusal short of a strike, and again, each time under the same name.
        let mut now = Instant(5_000_000);
        let mut verdict = Verdict::Go;
        for refusal in 1..=32 {
            verdict = conduct.refused(now, Resource::Memory);
            now = now + Duration::from_millis(10);
            conduct = conduct.resumed(now).expect("it was refused a moment ago");
            assert_eq!(conduct.strikes(), refusal / 16);
        }
        assert_eq!(verdict, Verdict::Throttle(SHORTEST_THROTTLE));
        let until = conduct.throttled_until(now).expect("it is throttled");
        assert!(until < now + SHORTEST_THROTTLE && conduct.throttled_until(until).is_none());
        let later = now + FORGIVE + Duration::from_secs(1);
        assert_eq!(conduct.clone().resumed(later).map(|conduct| conduct.strikes()), Some(2));
        assert!(conduct.resumed(later + FORGIVE).is_none(), "all is forgiven");
    }

    #[test]
    fn whoever_keeps_trying_goes_on_with_less_and_is_ended() {
        let mut conduct = Conduct::default();
        let (mut tries, mut verdicts) = (0, alloc::vec::Vec::new());
        while verdicts.last() != Some(&Verdict::Stop) {
            let verdict = conduct.refused(Instant(tries), Resource::Memory);
            verdicts.extend((verdict != Verdict::Go).then_some(verdict));
            tries += 1;
            assert!(tries < 1000);
        }
        assert_eq!(tries, 16 * u64::from(MAX_STRIKES));
        let throttles = [1, 2, 4, 8, 16, 32].map(|s| Verdict::Throttle(Duration::from_secs(s)));
        assert_eq!(verdicts[0], Verdict::Strike(1));
        assert_eq!(verdicts[1..7], throttles);
        assert_eq!(LONGEST_THROTTLE, Duration::from_secs(32));
    }

    #[test]
    fn refusals_far_apart_are_no_strike_and_strikes_are_forgiven() {
        let mut conduct = Conduct::default();
        for n in 0..1000 {
            assert_eq!(conduct.refused(Instant(n * 100_000), Resource::Memory), Verdict::Go);
        }
        for n in 0..1000 {
            let verdict = conduct.fault(Instant(n * 61_000_000), Fault::Pointer);
            assert!(matches!(verdict, Verdict::Strike(_) | Verdict::Throttle(SHORTEST_THROTTLE)));
        }
        assert!(conduct.strikes() <= 2);
        assert_eq!(conduct.fault(Instant(0), Fault::Trap), Verdict::Kill);
        assert_eq!(conduct.fault(Instant(0), Fault::Deadline), Verdict::Kill);
    }

    #[test]
    fn what_is_forgiven_lowers_the_degree() {
        let mut conduct = Conduct::default();
        for expected in [0, 1, 2, 4] {
            let verdict = conduct.fault(Instant(0), Fault::Pointer);
            let throttle = Verdict::Throttle(Duration::from_secs(expected));
            assert!(verdict == throttle || expected == 0);
        }
        // Four stand; three minutes later it is the second again.
        assert_eq!(conduct.fault(Instant(180_000_000), Fault::Pointer), Verdict::Throttle(SHORTEST_THROTTLE));
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
        assert_eq!(conduct.fault(Instant(0), Fault::Deadline), Verdict::Kill);
    }

    #[test]
    fn the_graver_verdict_counts() {
        let time = Duration::from_secs(1);
        let rising = [Verdict::Go, Verdict::Strike(1), Verdict::Throttle(time), Verdict::Stop, Verdict::Kill];
        assert!(rising.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_warning_comes_once() {
        let mut conduct = Conduct::default();
        assert!(!conduct.level(Resource::Timers, false, false));
        assert!(conduct.level(Resource::Timers, true, false));
        assert!(
            !conduct.level(Resource::Timers, true, false) && conduct.level(Resource::Memory, true, false)
        );
        assert!(!conduct.level(Resource::Timers, false, false), "not low enough");
        assert!(!conduct.level(Resource::Timers, true, false));
        assert!(!conduct.level(Resource::Timers, false, true) && conduct.warned() != 0);
        assert!(conduct.level(Resource::Timers, true, false));
        conduct.untold(Resource::Timers);
        assert!(conduct.level(Resource::Timers, true, false));
    }

    #[test]
    fn who_is_short_all_the_time_is_told_once() {
        let mut conduct = Conduct::default();
        let told = (0..100).filter(|n| conduct.short_of(Instant(n * 100_000), Resource::Rate)).count();
        assert_eq!(told, 1);
        assert!(conduct.short_of(Instant(0), Resource::Processor));
        assert!(conduct.short_of(Instant(20_000_000), Resource::Rate));
        assert!(!conduct.short_of(Instant(20_000_000), Resource::Rate));
        conduct.untold(Resource::Rate);
        assert!(conduct.short_of(Instant(20_000_000), Resource::Rate));
        assert!(!conduct.short_of(Instant(0), Resource::Memory));
    }
}
