//! Liveness: whether neighbors are still there (seed 004, section II.C).
//!
//! Whoever wants to know registers a watch: how often the neighbor is poked, and after which silence it counts as dead.
//! The neighbor returns each poke at once. Pokes carry numbers that nobody else can know, so that only their receiver
//! keeps itself alive; and nothing that is received makes a neighbor dead: only silence does, after two pokes at
//! least that nobody answered. A neighbor that is dead is poked on, and alive again with the next one that comes back.
//!
//! One poke is good for all that watch the same neighbor; it is paid for by the one whose turn it is.

use std::collections::VecDeque;
use std::time::Duration;

use nodeos::account::Charge;
use nodeos::config::LivenessConfig;
use nodeos::platform::Instant;
use nodeos::slab::Handle;
use nodeos::units::Time;
use serde::{Deserialize, Serialize};

use crate::neighbor::NeighborId;

/// Pokes whose return is awaited, of each neighbor: an answer may take longer than the time between two of them.
const AWAITED: usize = 4;
/// Pokes that nobody answered before anybody is dead.
const UNANSWERED: u32 = 2;
/// When news for which there was no room are told again.
const TELL_AGAIN: Duration = Duration::from_millis(20);

/// How a neighbor is watched if whoever registers does not say.
pub const USUAL: LivenessConfig =
    LivenessConfig { poke: Time(Duration::from_secs(1)), expire: Time(Duration::from_secs(5)) };

/// How flows and programs may have neighbors watched: `[liveness]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LivenessSection {
    /// The shortest time between two pokes that they may have.
    pub least: Time,
}

impl Default for LivenessSection {
    fn default() -> Self {
        Self { least: Time(Duration::from_millis(100)) }
    }
}

impl LivenessSection {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// What marks a poke.
pub type Nonce = [u8; 8];

/// Who watches a neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watcher {
    /// The operator, by the configuration, and with him the Auth Agent and the programs.
    Node,
    /// A program with times of its own, by its place among them.
    Program(u8),
    /// A protocol of a flow.
    Flow {
        /// The flow.
        flow: Handle,
        /// The protocol's position in the tuple.
        protocol: u8,
    },
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// This neighbor is to be poked, at somebody's expense: say with [`Liveness::poked`] whether it was.
    Poke(NeighborId, Watcher),
    /// Somebody is to be told that a neighbor is dead (`false`), or alive again; say with
    /// [`Liveness::tell_again`] if there was no room for it.
    Tell(NeighborId, Watcher, bool),
}

/// What is known of a neighbor that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// It counts as alive.
    pub up: bool,
    /// Since when it does, or does not.
    pub since: Instant,
    /// How long a poke takes there and back.
    pub rtt: Option<Duration>,
}

/// The neighbors that are watched.
#[derive(Debug, Default)]
pub struct Liveness {
    list: Vec<Watched>,
    wake: Option<Instant>,
}

/// A neighbor that somebody watches.
#[derive(Debug)]
struct Watched {
    neighbor: NeighborId,
    /// When it was heard last.
    heard: Option<Instant>,
    /// Pokes since then.
    unanswered: u32,
    awaited: VecDeque<(Nonce, Instant)>,
    rtt: Option<Duration>,
    watches: Vec<Watch>,
}

#[derive(Debug)]
struct Watch {
    by: Watcher,
    poke: Duration,
    expire: Duration,
    up: bool,
    /// Since when.
    since: Instant,
    /// When it began.
    begun: Instant,
    /// When it pokes next.
    next: Instant,
    /// When whoever watches is to be told how it is.
    tell: Option<Instant>,
    _charge: Option<Charge>,
}

impl Liveness {
    /// Watches a neighbor from now on, in the place of what the same watcher said before. It counts as alive until it
    /// has been silent for as long as the expiry.
    pub fn watch(
        &mut self,
        now: Instant,
        neighbor: NeighborId,
        by: Watcher,
        how: &LivenessConfig,
        charge: Option<Charge>,
    ) {
        let at = self.list.iter().position(|w| w.neighbor == neighbor).unwrap_or_else(|| {
            let (awaited, watches) = (VecDeque::with_capacity(AWAITED), Vec::with_capacity(1));
            self.list.push(Watched { neighbor, heard: None, unanswered: 0, awaited, rtt: None, watches });
            self.list.len() - 1
        });
        let (poke, expire) = (how.poke.0, how.expire.0);
        let watches = &mut self.list[at].watches;
        match watches.iter_mut().find(|w| w.by == by) {
            Some(old) => (old.poke, old.expire, old.next) = (poke, expire, old.next.min(now + poke)),
            None => watches.push(Watch {
                by,
                poke,
                expire,
                up: true,
                since: now,
                begun: now,
                next: now,
                tell: None,
                _charge: charge,
            }),
        }
        self.plan();
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, neighbor: NeighborId, by: Watcher) {
        self.keep(|of, watch| of != neighbor || watch.by != by);
    }

    /// Ends all watches of a flow.
    pub fn forget_flow(&mut self, gone: Handle) {
        self.keep(|_, watch| !matches!(watch.by, Watcher::Flow { flow, .. } if flow == gone));
    }

    /// Ends a flow's watches of a neighbor.
    pub fn forget_of(&mut self, gone: Handle, neighbor: NeighborId) {
        self.keep(|of, watch| {
            of != neighbor || !matches!(watch.by, Watcher::Flow { flow, .. } if flow == gone)
        });
    }

    /// Ends all watches of a program.
    pub fn forget_program(&mut self, gone: u8) {
        self.keep(|_, watch| watch.by != Watcher::Program(gone));
    }

    /// A flow's watches go on with pokes no more often than that.
    pub fn slow(&mut self, of: Handle, least: Duration) {
        for watch in self.list.iter_mut().flat_map(|watched| &mut watched.watches) {
            if matches!(watch.by, Watcher::Flow { flow, .. } if flow == of) {
                let how = LivenessConfig { poke: Time(watch.poke), expire: Time(watch.expire) };
                let slower = how.no_more_often(least);
                (watch.poke, watch.expire) = (slower.poke.0, slower.expire.0);
            }
        }
        self.plan();
    }

    /// Ends all watches of a neighbor.
    pub fn forget_neighbor(&mut self, gone: NeighborId) {
        self.keep(|neighbor, _| neighbor != gone);
    }

    fn keep(&mut self, keep: impl Fn(NeighborId, &Watch) -> bool) {
        if self.list.is_empty() {
            return;
        }
        for watched in &mut self.list {
            let neighbor = watched.neighbor;
            watched.watches.retain(|watch| keep(neighbor, watch));
        }
        self.list.retain(|watched| !watched.watches.is_empty());
        self.plan();
    }

    /// What is due; call until `None`. `proven` says when a neighbor was heard last whose every packet proves that it
    /// is there.
    pub fn due(&mut self, now: Instant, proven: impl Fn(NeighborId) -> Option<Instant>) -> Option<Due> {
        if self.wake.is_none_or(|at| now < at) {
            return None;
        }
        let due = self.list.iter_mut().find_map(|watched| watched.due(now, proven(watched.neighbor)));
        self.plan();
        due
    }

    /// When [`due`](Self::due) must be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.wake
    }

    /// A poke was sent.
    pub fn poked(&mut self, now: Instant, neighbor: NeighborId, nonce: Nonce) {
        let Some(watched) = self.list.iter_mut().find(|w| w.neighbor == neighbor) else { return };
        if watched.awaited.len() == AWAITED {
            watched.awaited.pop_front();
        }
        watched.awaited.push_back((nonce, now));
        watched.unanswered = watched.unanswered.saturating_add(1);
        // Who would poke soon need not.
        watched.watches.iter_mut().for_each(|watch| watch.next = watch.next.max(now + watch.poke));
        self.plan();
    }

    /// A poke came back. `false`: nobody sent it there, or its time was over.
    pub fn returned(&mut self, now: Instant, from: NeighborId, nonce: Nonce) -> bool {
        let Some(watched) = self.list.iter_mut().find(|w| w.neighbor == from) else { return false };
        let Some(at) = watched.awaited.iter().position(|(sent, _)| *sent == nonce) else { return false };
        let Some((_, sent)) = watched.awaited.remove(at) else { return false };
        let took = now.since(sent);
        watched.rtt = Some(watched.rtt.map_or(took, |usual| (usual * 7 + took) / 8));
        watched.alive(now);
        self.plan();
        true
    }

    /// There was no room to tell somebody about a neighbor.
    pub fn tell_again(&mut self, now: Instant, neighbor: NeighborId, by: Watcher) {
        let watched = self.list.iter_mut().filter(|w| w.neighbor == neighbor);
        if let Some(watch) = watched.flat_map(|w| &mut w.watches).find(|watch| watch.by == by) {
            watch.tell = Some(now + TELL_AGAIN);
        }
        self.plan();
    }

    /// What is known of a neighbor, if it is watched: as the node sees it, else as any flow does.
    pub fn state(&self, neighbor: NeighborId) -> Option<State> {
        let watched = self.list.iter().find(|w| w.neighbor == neighbor)?;
        let own = watched.watches.iter().find(|watch| watch.by == Watcher::Node);
        own.or(watched.watches.first()).map(|watch| watched.state(watch))
    }

    /// What this watcher knows of a neighbor: by its own watch, else by the node's.
    pub fn state_for(&self, neighbor: NeighborId, by: Watcher) -> Option<State> {
        let watched = self.list.iter().find(|w| w.neighbor == neighbor)?;
        let of = |by: Watcher| watched.watches.iter().find(|watch| watch.by == by);
        of(by).or(of(Watcher::Node)).map(|watch| watched.state(watch))
    }

    fn plan(&mut self) {
        self.wake = self.list.iter().filter_map(Watched::deadline).min();
    }
}

impl Watched {
    fn due(&mut self, now: Instant, proven: Option<Instant>) -> Option<Due> {
        if proven > self.heard
            && let Some(heard) = proven
        {
            self.alive(heard);
        }
        let (neighbor, heard, silent) = (self.neighbor, self.heard, self.unanswered >= UNANSWERED);
        for watch in &mut self.watches {
            if watch.up && silent && watch.expires(heard) <= now {
                (watch.up, watch.since, watch.tell) = (false, now, Some(now));
            }
            if watch.tell.is_some_and(|at| at <= now) {
                watch.tell = None;
                return Some(Due::Tell(neighbor, watch.by, watch.up));
            }
        }
        let watch = self.watches.iter_mut().find(|watch| watch.next <= now)?;
        // What was heard a moment ago need not be asked.
        watch.next = match proven.map(|at| at + watch.poke).filter(|next| *next > now) {
            Some(next) => next,
            None => now + watch.poke,
        };
        let fresh = proven.is_some_and(|at| at + watch.poke > now);
        if fresh { self.due(now, proven) } else { Some(Due::Poke(neighbor, watch.by)) }
    }

    /// It was heard.
    fn alive(&mut self, now: Instant) {
        (self.heard, self.unanswered) = (Some(now), 0);
        for watch in self.watches.iter_mut().filter(|watch| !watch.up) {
            (watch.up, watch.since, watch.tell) = (true, now, Some(now));
        }
    }

    fn state(&self, watch: &Watch) -> State {
        State { up: watch.up, since: watch.since, rtt: self.rtt.filter(|_| watch.up) }
    }

    fn deadline(&self) -> Option<Instant> {
        let silent = self.unanswered >= UNANSWERED;
        let deadline = |watch: &Watch| {
            let death = Some(watch.expires(self.heard)).filter(|_| watch.up && silent);
            [Some(watch.next), watch.tell, death].into_iter().flatten().min()
        };
        self.watches.iter().filter_map(deadline).min()
    }
}

impl Watch {
    fn expires(&self, heard: Option<Instant>) -> Instant {
        heard.map_or(self.begun, |at| at.max(self.begun)) + self.expire
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: NeighborId = NeighborId(0);
    const SECOND: Duration = Duration::from_secs(1);
    const NODE: Watcher = Watcher::Node;

    fn how(poke: Duration, expire: Duration) -> LivenessConfig {
        LivenessConfig { poke: Time(poke), expire: Time(expire) }
    }

    fn flow(n: u32) -> Watcher {
        Watcher::Flow { flow: Handle::from_raw(0x1_0000 + n).unwrap(), protocol: 0 }
    }

    fn watching() -> Liveness {
        let mut liveness = Liveness::default();
        liveness.watch(Instant::ZERO, A, NODE, &USUAL, None);
        liveness
    }

    fn due(l: &mut Liveness, now: Instant) -> Option<Due> {
        l.due(now, |_| None)
    }

    fn nonce(n: usize) -> Nonce {
        (n as u64).to_le_bytes()
    }

    #[test]
    fn silence_is_death_and_an_answer_is_life() {
        let mut l = watching();
        let mut now = Instant::ZERO;
        let mut pokes = 0;
        while due(&mut l, now) == Some(Due::Poke(A, NODE)) {
            l.poked(now, A, nonce(pokes));
            pokes += 1;
            assert_eq!(due(&mut l, now), None);
            now = l.deadline().unwrap();
        }
        assert_eq!((pokes, now), (5, Instant::ZERO + 5 * SECOND));
        assert_eq!(l.state(A), Some(State { up: false, since: now, rtt: None }));
        // It is poked on, and the last poke brings it back: once.
        assert_eq!(due(&mut l, now), Some(Due::Poke(A, NODE)));
        l.poked(now, A, nonce(7));
        now = now + SECOND / 100;
        assert!(!l.returned(now, NeighborId(1), nonce(7)) && !l.returned(now, A, nonce(8)));
        assert!(l.returned(now, A, nonce(7)) && !l.returned(now, A, nonce(7)));
        assert_eq!(due(&mut l, now), Some(Due::Tell(A, NODE, true)));
        assert_eq!(due(&mut l, now), None);
        assert_eq!(l.state(A), Some(State { up: true, since: now, rtt: Some(SECOND / 100) }));
    }

    /// What could not be paid for is no silence of the neighbor's.
    #[test]
    fn who_was_not_poked_does_not_die() {
        let mut l = watching();
        let mut now = Instant::ZERO;
        for _ in 0..100 {
            assert_eq!(due(&mut l, now), Some(Due::Poke(A, NODE)));
            assert_eq!(due(&mut l, now), None);
            now = l.deadline().unwrap();
        }
        assert!(l.state(A).unwrap().up);
    }

    #[test]
    fn one_poke_is_good_for_all_and_each_has_its_own_patience() {
        let mut l = watching();
        l.watch(Instant::ZERO, A, flow(1), &how(SECOND / 10, SECOND), None);
        let (mut paid, mut told) = (vec![], vec![]);
        let mut now = Instant::ZERO;
        while now < Instant::ZERO + 6 * SECOND {
            match due(&mut l, now) {
                Some(Due::Poke(_, by)) => {
                    l.poked(now, A, nonce(paid.len()));
                    paid.push(by);
                }
                Some(Due::Tell(_, by, up)) => told.push((now, by, up)),
                None => now = l.deadline().unwrap(),
            }
        }
        let dead = |after: Duration, by| (Instant::ZERO + after, by, false);
        assert_eq!(told, [dead(SECOND, flow(1)), dead(5 * SECOND, NODE)]);
        // Whoever pokes often pays; the other one's first poke is all that was needed of it.
        assert!((60..=61).contains(&paid.len()), "{}", paid.len());
        assert_eq!(paid.iter().filter(|by| **by == NODE).count(), 1);
        // Who found no room is told later; who is gone is not told, and nobody is poked for it.
        l.tell_again(now, A, flow(1));
        l.forget_flow(Handle::from_raw(0x1_0001).unwrap());
        assert_eq!(l.deadline().map(|at| at > now), Some(true));
        l.forget_neighbor(A);
        assert_eq!((l.deadline(), l.state(A)), (None, None));
    }

    #[test]
    fn a_watch_becomes_slower_and_a_program_goes_with_its_watches() {
        let mut l = watching();
        l.watch(Instant::ZERO, A, flow(1), &how(SECOND / 10, SECOND), None);
        l.watch(Instant::ZERO, A, Watcher::Program(3), &how(SECOND / 5, SECOND), None);
        l.slow(Handle::from_raw(0x1_0001).unwrap(), 3 * SECOND);
        let times =
            |l: &Liveness| -> Vec<_> { l.list[0].watches.iter().map(|w| (w.by, w.poke, w.expire)).collect() };
        let slow = (flow(1), 3 * SECOND, 6 * SECOND);
        let (own, program) = ((NODE, SECOND, 5 * SECOND), (Watcher::Program(3), SECOND / 5, SECOND));
        assert_eq!(times(&l), [own, slow, program]);
        assert_eq!(l.state_for(A, Watcher::Program(4)), l.state(A));
        l.forget_program(3);
        assert_eq!(times(&l), [own, slow]);
        l.unwatch(A, NODE);
        assert_eq!((l.state_for(A, NODE), l.state_for(A, flow(1))), (None, l.state(A)));
    }

    #[test]
    fn what_proves_its_sender_needs_no_poke() {
        let mut l = watching();
        let mut pokes = 0;
        for tenth in 0..99 {
            let now = Instant::ZERO + SECOND / 10 * tenth;
            let heard = if tenth < 50 { now } else { Instant::ZERO + SECOND / 10 * 49 };
            while let Some(due) = l.due(now, |_| Some(heard)) {
                assert_eq!(due, Due::Poke(A, NODE), "{now:?}");
                l.poked(now, A, nonce(pokes));
                pokes += 1;
            }
        }
        assert!(pokes == 4 || pokes == 5, "{pokes}");
        let end = Instant::ZERO + 10 * SECOND;
        assert_eq!(l.due(end, |_| Some(Instant::ZERO + SECOND / 10 * 49)), Some(Due::Tell(A, NODE, false)));
        assert_eq!(l.due(end + SECOND, |_| Some(end)), Some(Due::Tell(A, NODE, true)));
    }

    proptest! {
        /// However pokes are lost and delayed: it is dead exactly when nothing came back for as long as the expiry.
        #[test]
        fn life_is_what_was_heard(fates in proptest::collection::vec((any::<bool>(), 0u64..4_000_000), 1..100)) {
            let mut l = watching();
            let mut air: Vec<(Instant, usize)> = Vec::new();
            let mut heard = Instant::ZERO;
            for (n, (lost, delay)) in fates.iter().enumerate() {
                let mut now = l.deadline().unwrap();
                air.sort();
                while air.first().is_some_and(|(at, _)| *at < now) {
                    let (at, number) = air.remove(0);
                    prop_assert!(l.returned(at, A, nonce(number)));
                    heard = at;
                    now = l.deadline().unwrap();
                }
                match due(&mut l, now) {
                    Some(Due::Poke(..)) => {
                        l.poked(now, A, nonce(n));
                        if !lost {
                            air.push((now + Duration::from_micros(*delay), n));
                        }
                    }
                    Some(Due::Tell(..)) => {}
                    None => prop_assert!(false, "a deadline has something due"),
                }
                let state = l.state(A).unwrap();
                prop_assert!(state.up == (now.since(heard) < 5 * SECOND), "{state:?} at {now:?}, heard {heard:?}");
                prop_assert!(l.list[0].awaited.len() <= AWAITED);
            }
        }
    }
}
