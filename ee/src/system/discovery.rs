//! Discovery: who is on a link, and who is farther away (seed 004, section II.C).
//!
//! On links where the operator wants it a node says who it is, and whom it knows, every so often
//! ([`wire::advert`]). From adverts it learns of its neighbors at first hand, and of others by hearsay, with how many
//! hops they are away. What was heard is good for as long as it said, counted from when it was said first, and a little
//! longer for each hop: it goes from node to node with its age, and no farther than so many hops, so that nothing keeps
//! itself alive by going round. What came from a link is not told there again. Nothing of it is proven: what the node
//! does about a neighbor is `node::discover`'s.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nodeos::account::{Account, Charge, Refused};
use nodeos::bucket::TokenBucket;
use nodeos::channel::Address;
use nodeos::link::LinkId;
use nodeos::platform::Instant;
use nodeos::units::Time;
use serde::{Deserialize, Serialize};
use wire::advert::{Advert, Hearsay, MAX_HOPS};

use crate::hash::Keyed;
use crate::neighbor::NeighborId;

/// Nodes of one link, neighbors and hearsay together, that are known at a time.
const MAX_OF_LINK: usize = 64;
/// Parts into which the strangers of a link fall, by their addresses.
const PARTS: usize = 32;
/// Adverts of one part that are read in a second, and at once.
const ADVERTS: (u64, u64) = (1, 4);
/// Bytes of a node that is known: itself, its name, and its place in a table that may be moved.
const KNOWN_BYTES: u64 = 2 * size_of::<Known>() as u64 + 64;

/// How a node makes itself known: `[discovery]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoverySection {
    /// Time between two adverts.
    pub interval: Time,
    /// How long an advert is good for.
    pub expire: Time,
    /// Only nodes whose keys are given, and who prove them, become neighbors.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
    /// Nodes whose keys are known: what they are called here, and their Ed25519 identities, 64 hexadecimal digits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
}

impl Default for DiscoverySection {
    fn default() -> Self {
        let [interval, expire] = [1, 5].map(|seconds| Time(Duration::from_secs(seconds)));
        Self { interval, expire, protect: false, keys: Default::default() }
    }
}

impl DiscoverySection {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// A node that is known.
#[derive(Debug, Clone)]
pub struct Known {
    /// What it calls itself.
    pub name: Arc<str>,
    /// The identity that it says it has; of neighbors only.
    pub identity: Option<[u8; 32]>,
    /// How far it is; 1 is a neighbor.
    pub hops: u8,
    /// When it said something itself.
    pub heard: Instant,
    /// Until when it is believed to be there.
    pub until: Instant,
    /// The link from which that was heard.
    pub link: LinkId,
    /// Which neighbor it is, if it is one.
    pub neighbor: Option<NeighborId>,
}

/// The nodes that are known, as the node and its teams share them.
#[derive(Debug, Clone, Default)]
pub struct Nodes(Arc<Mutex<Vec<Known>>>);

impl Nodes {
    /// Does something with all of them, in the order in which they became known.
    pub fn with<R>(&self, work: impl FnOnce(&mut Vec<Known>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a node says, and what it heard.
pub struct Discovery {
    interval: Duration,
    expire: Duration,
    links: Vec<Option<OnLink>>,
    nodes: Nodes,
    charge: Option<Charge>,
    /// Which part a stranger falls into nobody outside knows.
    parts: Keyed,
    /// When an advert is due, or something is good no more.
    wake: Option<Instant>,
}

/// A link on which the node makes itself known.
struct OnLink {
    next: Instant,
    /// What is read of strangers. One that says more than its part may has no more than that part of them, whatever
    /// it says; only who has many addresses takes from many.
    read: Box<[TokenBucket; PARTS]>,
    /// Whom to tell of first: not all have room in each advert.
    turn: usize,
}

impl Discovery {
    /// Bytes that a link takes on which nodes are discovered.
    pub const LINK_BYTES: usize = size_of::<OnLink>() + size_of::<[TokenBucket; PARTS]>();

    /// `discover`: for each link whether the operator wants it there. What becomes known is `memory`'s to pay; `secret`
    /// keeps strangers from choosing whose part they have.
    pub fn new(
        now: Instant,
        section: &DiscoverySection,
        discover: impl Iterator<Item = bool>,
        memory: &Account,
        secret: u64,
    ) -> Result<Self, Refused> {
        let on = |wanted: bool| {
            let read = || Box::new([const { TokenBucket::new(ADVERTS.0, ADVERTS.1) }; PARTS]);
            wanted.then(|| OnLink { next: now, read: read(), turn: 0 })
        };
        let links: Vec<_> = discover.map(on).collect();
        let any = links.iter().any(Option::is_some);
        Ok(Self {
            interval: section.interval.0,
            expire: section.expire.0,
            links: if any { links } else { Vec::new() },
            nodes: Nodes::default(),
            charge: if any { Some(memory.charge(0)?) } else { None },
            parts: Keyed(secret),
            wake: any.then_some(now),
        })
    }

    /// What teams may look at.
    pub fn nodes(&self) -> Nodes {
        self.nodes.clone()
    }

    /// Whether the node makes itself known on a link, and listens there to others.
    #[inline]
    pub fn is_on(&self, link: LinkId) -> bool {
        matches!(self.links.get(link.index()), Some(Some(_)))
    }

    /// Whether one more advert is read of this address on this link, which is no neighbor's: neighbors have their own
    /// measure.
    pub fn admits(&mut self, now: Instant, link: LinkId, from: Address) -> bool {
        let part = self.parts.hash_one(from) as usize % PARTS;
        self.links.get_mut(link.index()).and_then(Option::as_mut).is_some_and(|on| on.read[part].take(now, 1))
    }

    /// What is known of a node that is a neighbor.
    pub fn of_neighbor(&self, id: NeighborId) -> Option<Known> {
        self.nodes.with(|list| list.iter().find(|k| k.neighbor == Some(id)).cloned())
    }

    /// The neighbor of this name, among those that were discovered.
    pub fn named(&self, name: &str) -> Option<NeighborId> {
        self.nodes.with(|list| list.iter().find(|k| &*k.name == name).and_then(|k| k.neighbor))
    }

    /// A neighbor says that it is there. `false`: there is no room to know it, or it had another name before. It has one,
    /// so that nothing is known of it any more when it is forgotten and its place is another's.
    pub fn first_hand(&mut self, now: Instant, link: LinkId, id: NeighborId, advert: &Advert<'_>) -> bool {
        let is_other = |k: &Known| k.neighbor == Some(id) && *k.name != *advert.name;
        if self.nodes.with(|list| list.iter().any(is_other)) {
            return false;
        }
        let known = Known {
            name: advert.name.into(),
            identity: advert.identity,
            hops: 1,
            heard: now,
            until: now + advert.expire(),
            link,
            neighbor: Some(id),
        };
        self.enter(known, Duration::ZERO)
    }

    /// A neighbor on `link`, which says something every `interval`, says that somebody else is there. On its way that took
    /// some time, and adverts may be lost: for each hop it is believed for two intervals more.
    pub fn second_hand(&mut self, now: Instant, link: LinkId, interval: Duration, hearsay: &Hearsay<'_>) {
        let millis = |ms: u32| Duration::from_millis(ms.into());
        let age = millis(hearsay.age_ms);
        let known = Known {
            name: hearsay.name.into(),
            identity: None,
            hops: hearsay.hops + 1,
            // A node that has just started has no time as long ago as that.
            heard: Instant(now.micros().saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX))),
            until: now + millis(hearsay.left_ms) + interval.saturating_mul(2),
            link,
            neighbor: None,
        };
        if known.hops <= MAX_HOPS && hearsay.left_ms > 0 {
            self.enter(known, interval / 2);
        }
    }

    /// Better news take the place of older ones, and what went a longer way only if the node said it later, by `slack` at least:
    /// what went round took some time, and looks newer than it is by that. Of one link there are no more than so many, and those go first that
    /// would be forgotten first.
    fn enter(&mut self, new: Known, slack: Duration) -> bool {
        let Some(charge) = &mut self.charge else { return false };
        let entered = self.nodes.with(|list| {
            if let Some(old) = list.iter_mut().find(|k| k.name == new.name) {
                // Nobody but itself says anything new of a neighbor.
                let better = match old.neighbor {
                    Some(id) => new.neighbor == Some(id),
                    None if new.hops < old.hops => true,
                    None => new.heard >= old.heard + slack && (new.hops == old.hops || new.link == old.link),
                };
                if better {
                    *old = new;
                }
                return better;
            }
            let of_link = || list.iter().enumerate().filter(|(_, k)| k.link == new.link);
            if of_link().count() >= MAX_OF_LINK {
                let hearsay = of_link().filter(|(_, k)| k.neighbor.is_none());
                match hearsay.min_by_key(|(_, k)| k.until).map(|(at, k)| (at, k.until)) {
                    Some((at, until)) if new.neighbor.is_some() || until < new.until => list[at] = new,
                    _ => return false,
                }
                return true;
            }
            if charge.grow(KNOWN_BYTES).is_err() {
                return false;
            }
            list.reserve_exact(1);
            list.push(new);
            true
        });
        self.plan();
        entered
    }

    /// Takes out a node that is not believed to be there any more; call until `None`.
    pub fn expired(&mut self, now: Instant) -> Option<Known> {
        if self.wake.is_none_or(|at| now < at) {
            return None;
        }
        let gone = self.nodes.with(|list| {
            let at = list.iter().position(|k| k.until <= now)?;
            Some(list.remove(at))
        });
        self.paid_back(gone)
    }

    /// A neighbor is none any more.
    pub fn forget(&mut self, id: NeighborId) {
        let gone = self.nodes.with(|list| {
            let at = list.iter().position(|k| k.neighbor == Some(id))?;
            Some(list.remove(at))
        });
        self.paid_back(gone);
    }

    fn paid_back(&mut self, gone: Option<Known>) -> Option<Known> {
        let gone = gone?;
        self.charge.iter_mut().for_each(|charge| charge.shrink(KNOWN_BYTES));
        self.plan();
        Some(gone)
    }

    /// A link on which an advert is due; call until `None`.
    pub fn due(&mut self, now: Instant) -> Option<LinkId> {
        if self.wake.is_none_or(|at| now < at) {
            return None;
        }
        let mut links = (0..).zip(&mut self.links).filter_map(|(at, on)| Some((LinkId(at), on.as_mut()?)));
        let due = links.find(|(_, on)| on.next <= now).map(|(link, on)| {
            on.next = now + self.interval;
            link
        });
        self.plan();
        due
    }

    /// The node's advert for a link, with what it knows from other links and these neighbors besides.
    pub fn advert(
        &mut self,
        now: Instant,
        link: LinkId,
        (name, identity): (&str, Option<[u8; 32]>),
        besides: &[(Arc<str>, Duration)],
        hearsay: bool,
    ) -> Vec<u8> {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let own = Advert {
            name,
            identity,
            interval_ms: millis(self.interval),
            expire_ms: millis(self.expire),
            known: Vec::new(),
        };
        let Some(Some(on)) = self.links.get_mut(link.index()).filter(|_| hearsay) else {
            return own.encode(std::iter::empty()).0;
        };
        let (most, expire) = (millis(wire::advert::MOST), self.expire);
        self.nodes.with(|list| {
            let known = list.iter().filter(|k| k.link != link && k.until > now && k.hops < MAX_HOPS);
            let known = known.map(|k| {
                let (age, left) = (millis(now.since(k.heard)), millis(k.until.since(now)));
                Hearsay { name: &k.name, hops: k.hops, age_ms: age.min(most), left_ms: left.min(most) }
            });
            let besides = besides.iter().filter(|(_, silent)| *silent < expire).map(|(name, silent)| {
                Hearsay { name, hops: 1, age_ms: millis(*silent), left_ms: millis(expire - *silent) }
            });
            let all: Vec<Hearsay<'_>> = besides.chain(known).collect();
            let turn = if all.is_empty() { 0 } else { on.turn % all.len() };
            let (bytes, told) = own.encode(all.iter().cycle().skip(turn).take(all.len()).copied());
            on.turn = turn + told;
            bytes
        })
    }

    /// When [`due`](Self::due) or [`expired`](Self::expired) has something.
    pub fn deadline(&self) -> Option<Instant> {
        self.wake
    }

    fn plan(&mut self) {
        let adverts = self.links.iter().flatten().map(|on| on.next).min();
        let ends = self.nodes.with(|list| list.iter().map(|k| k.until).min());
        self.wake = adverts.into_iter().chain(ends).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeos::link::Mac;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const L0: LinkId = LinkId(0);
    const L1: LinkId = LinkId(1);

    fn discovery(memory: &Account) -> Discovery {
        let links = [true, true, false].into_iter();
        Discovery::new(Instant::ZERO, &DiscoverySection::default(), links, memory, 7).unwrap()
    }

    fn says(name: &str) -> Advert<'_> {
        Advert { name, identity: None, interval_ms: 1000, expire_ms: 5000, known: vec![] }
    }

    fn hearsay(name: &str, hops: u8, left: u32) -> Hearsay<'_> {
        Hearsay { name, hops, age_ms: 0, left_ms: left }
    }

    fn known(d: &Discovery) -> Vec<(String, u8)> {
        d.nodes.with(|list| list.iter().map(|k| (k.name.to_string(), k.hops)).collect())
    }

    fn told(d: &mut Discovery, now: Instant, link: LinkId) -> Vec<(String, u8)> {
        let bytes = d.advert(now, link, ("me", None), &[], true);
        let advert = Advert::decode(&bytes).unwrap();
        advert.known.iter().map(|k| (k.name.to_string(), k.hops)).collect()
    }

    #[test]
    fn what_is_known_is_told_on_other_links_and_forgotten_in_time() {
        let memory = Account::root(1 << 20);
        let mut d = discovery(&memory);
        assert!(d.is_on(L0) && !d.is_on(LinkId(2)) && !d.is_on(LinkId(3)));
        assert_eq!(
            (d.due(Instant::ZERO), d.due(Instant::ZERO), d.due(Instant::ZERO)),
            (Some(L0), Some(L1), None)
        );
        assert!(d.first_hand(Instant::ZERO, L0, NeighborId(1), &says("a")));
        d.second_hand(Instant::ZERO, L0, SECOND, &hearsay("b", 1, 1000));
        d.second_hand(Instant::ZERO, L0, SECOND, &hearsay("far", MAX_HOPS, 3000));
        d.second_hand(Instant::ZERO, L1, SECOND, &hearsay("a", 4, 9000));
        assert_eq!(known(&d), [("a".into(), 1), ("b".into(), 2)]);
        assert_eq!(told(&mut d, Instant::ZERO, L0), []);
        assert_eq!(told(&mut d, Instant::ZERO, L1), [("a".into(), 1), ("b".into(), 2)]);
        assert_eq!(d.deadline(), Some(Instant::ZERO + SECOND));
        let later = Instant::ZERO + 3 * SECOND;
        assert_eq!(d.expired(later).map(|k| k.name.to_string()), Some("b".into()));
        assert!(d.expired(later).is_none());
        // A further advert keeps it.
        assert!(d.first_hand(later, L0, NeighborId(1), &says("a")));
        assert!(d.expired(Instant::ZERO + 6 * SECOND).is_none());
        assert_eq!(d.named("a"), Some(NeighborId(1)));
        d.forget(NeighborId(1));
        assert_eq!((known(&d), memory.used()), (vec![], 0));
    }

    /// Or something of it would be left when it is forgotten, and stand for the next one that has its place.
    #[test]
    fn a_neighbor_has_one_name() {
        let memory = Account::root(1 << 20);
        let mut d = discovery(&memory);
        assert!(d.first_hand(Instant::ZERO, L0, NeighborId(1), &says("a")));
        d.second_hand(Instant::ZERO, L0, SECOND, &hearsay("c", 1, 1000));
        for name in ["b", "c"] {
            assert!(!d.first_hand(Instant::ZERO, L0, NeighborId(1), &says(name)));
        }
        assert_eq!(known(&d), [("a".into(), 1), ("c".into(), 2)]);
        d.forget(NeighborId(1));
        assert_eq!(known(&d), [("c".into(), 2)]);
        assert!(d.first_hand(Instant::ZERO, L0, NeighborId(1), &says("b")));
    }

    fn station(n: u32) -> Address {
        let [a, b, c, d] = n.to_be_bytes();
        Address::Ethernet(Mac([2, 0, a, b, c, d]))
    }

    /// One station that never stops takes its part and no more; many together take no more than all parts.
    #[test]
    fn who_floods_takes_its_part() {
        let memory = Account::root(1 << 20);
        let mut d = discovery(&memory);
        let read = |d: &mut Discovery, now: Instant, from: u32| d.admits(now, L0, station(from));
        let (mut flood, mut calm, mut all) = (0, 0, 0);
        for tick in 0..10_000u64 {
            let now = Instant(tick * 1000);
            flood += u32::from(read(&mut d, now, 1));
            if tick % 1000 == 0 {
                // Newcomers, each of whom says it once.
                calm += (100..108).filter(|n| read(&mut d, now, n + tick as u32)).count();
            }
        }
        assert!((13..=14).contains(&flood), "{flood} in ten seconds");
        assert!(calm >= 70, "{calm} of 80");
        for tick in 10_000..20_000u64 {
            all += u32::from(read(&mut d, Instant(tick * 1000), 1 << 20 | tick as u32));
        }
        let most = PARTS as u32 * (10 * ADVERTS.0 + ADVERTS.1) as u32;
        assert!((most / 2..=most).contains(&all), "{all}");
        assert!(!d.admits(Instant::ZERO, LinkId(2), station(1)), "nobody is listened to there");
    }

    /// Two nodes that tell each other of a third one over two links do not keep it there: it is farther away each time.
    #[test]
    fn nothing_keeps_itself_alive_by_going_round() {
        let memory = Account::root(1 << 20);
        let (mut a, mut b) = (discovery(&memory), discovery(&memory));
        a.second_hand(Instant::ZERO, L1, SECOND, &hearsay("gone", 1, 5000));
        let mut now = Instant::ZERO;
        for _ in 0..370 {
            now = now + SECOND / 10;
            for (from, to) in [(true, L0), (false, L1)] {
                let (from, into) = if from { (&mut a, &mut b) } else { (&mut b, &mut a) };
                let bytes = from.advert(now, to, ("x", None), &[], true);
                Advert::decode(&bytes)
                    .unwrap()
                    .known
                    .iter()
                    .for_each(|k| into.second_hand(now, to, SECOND, k));
            }
            while a.expired(now).is_some() || b.expired(now).is_some() {}
        }
        assert_eq!((known(&a), known(&b), memory.used()), (vec![], vec![], 0));
    }

    #[test]
    fn a_flood_has_its_bound_and_harms_no_other_link() {
        let memory = Account::root(1 << 20);
        let mut d = discovery(&memory);
        assert!(d.first_hand(Instant::ZERO, L0, NeighborId(1), &says("a")));
        d.second_hand(Instant::ZERO, L1, SECOND, &hearsay("b", 1, 1000));
        for n in 0..1000 {
            d.second_hand(Instant::ZERO, L0, SECOND, &hearsay(&format!("n{n}"), 1, 3_600_000));
        }
        assert_eq!(known(&d).len(), MAX_OF_LINK + 1);
        assert!(known(&d).contains(&("a".into(), 1)) && known(&d).contains(&("b".into(), 2)));
        assert_eq!(memory.used(), (MAX_OF_LINK as u64 + 1) * KNOWN_BYTES);
        // Who is there in person has room.
        assert!(d.first_hand(Instant::ZERO, L0, NeighborId(2), &says("c")));
        assert_eq!(known(&d).len(), MAX_OF_LINK + 1);
        // Each is told of in its turn.
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            seen.extend(told(&mut d, Instant::ZERO, L1));
        }
        assert_eq!(seen.len(), MAX_OF_LINK);
        // Without memory nothing is known, and nothing breaks.
        let mut poor = discovery(&Account::root(KNOWN_BYTES));
        assert!(poor.first_hand(Instant::ZERO, L0, NeighborId(1), &says("a")));
        assert!(!poor.first_hand(Instant::ZERO, L0, NeighborId(2), &says("b")));
    }

    proptest! {
        /// Whatever is said by whom: nothing is believed longer than it was said first, and the table pays its way.
        #[test]
        fn nothing_outlives_its_time(said in proptest::collection::vec(
            ("[a-e]", 1u8..=16, 0u32..20_000, 0u16..2, any::<bool>(), 0u64..3000), 0..200,
        )) {
            let memory = Account::root(1 << 20);
            let mut d = discovery(&memory);
            let mut now = Instant::ZERO;
            let mut last = BTreeMap::new();
            for (name, hops, left, link, first, pause) in &said {
                now = now + Duration::from_millis(*pause);
                let until = if *first {
                    let id = NeighborId(u16::from(name.as_bytes()[0]));
                    d.first_hand(now, LinkId(*link), id, &says(name));
                    now + 5 * SECOND
                } else {
                    d.second_hand(now, LinkId(*link), SECOND, &hearsay(name, *hops, *left));
                    now + Duration::from_millis((*left).into()) + 2 * SECOND
                };
                let most = last.entry(name.clone()).or_insert(until);
                *most = (*most).max(until);
                while let Some(gone) = d.expired(now) {
                    prop_assert!(gone.until <= now);
                }
                d.nodes.with(|list| {
                    for k in list.iter() {
                        prop_assert!(k.until > now && k.until <= last[&*k.name] && (1..=MAX_HOPS).contains(&k.hops));
                    }
                    prop_assert_eq!(memory.used(), list.len() as u64 * KNOWN_BYTES);
                    Ok(())
                })?;
            }
        }
    }
}
