//! Neighbors: the nodes that are directly reachable, from configuration or discovered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use authagent::link::Link;
use nodeos::account::{Account, Charge};
use nodeos::bucket::TokenBucket;
use nodeos::buf::Buf;
use nodeos::channel::{Address, OutChannel};
use nodeos::config::LivenessConfig;
use nodeos::link::LinkId;
use nodeos::platform::Instant;
use nodeos::team::TeamId;
use wire::MIN_DATAGRAM;
use wire::capsule::HEADER_LEN;
use wire::control::{Alive, NeighborInfo, Protection};

/// Bytes of an Ethernet header (IEEE 802.3).
const ETHERNET_HEADER: u16 = 14;
/// Pokes of one neighbor that are answered in a second.
const POKES: u64 = 32;
/// Adverts of one neighbor that are read in a second: as often as adverts may be, and a little more.
const ADVERTS: u64 = 12;

use crate::hash::Keyed;
pub use crate::sandbox::NeighborId;

/// A directly reachable node.
#[derive(Debug)]
pub struct Neighbor {
    /// Its name in this node's configuration.
    pub name: Arc<str>,
    /// How capsules get there.
    pub out: OutChannel,
    /// The longest capsule payload that a frame to it carries, in bytes.
    pub max_payload: u16,
    /// Bytes of a frame to it besides the capsule's payload.
    pub overhead: u16,
    /// The shortest packet to and from it, padding included; 0 where it does not matter. See [`Self::is_unproven`].
    pub floor: u16,
    /// Pays for work that its capsules cause before a team exists (D9).
    pub account: Account,
    /// Capsules received from it.
    pub received: u64,
    /// Capsules sent to it.
    pub sent: u64,
    /// Capsules from it that were refused.
    pub refused: u64,
    /// When it was last heard.
    pub last_heard: Option<Instant>,
    /// How the operator watches it, if he does.
    pub liveness: Option<LivenessConfig>,
    /// How often it is answered when it asks whether this node is there.
    pub pokes: TokenBucket,
    /// How many of its adverts are read, whoever else says whatever.
    pub adverts: TokenBucket,
    /// What stands between its address and this node.
    pub guard: Guard,
    /// Packets that wait until it has proven who it is.
    pub waiting: VecDeque<Waiting>,
    /// Of one that was discovered.
    pub found: Option<Found>,
}

/// Of a neighbor that was discovered.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// It is a neighbor now; else its place waits for it, or for another one.
    pub here: bool,
    /// Since when.
    pub since: Instant,
    /// The operator knows the key that it has to prove.
    pub keyed: bool,
}

/// How long nobody else gets the place of a neighbor that is gone.
const QUARANTINE: Duration = Duration::from_secs(60);

/// What stands between a neighbor's address and this node.
#[derive(Debug)]
pub enum Guard {
    /// Nothing: whoever writes from that address is the neighbor.
    None,
    /// There is no entropy for keys: nothing passes.
    Closed,
    /// Only what is sealed passes.
    Sealed(Box<Link>),
}

/// A packet that waits for its neighbor.
#[derive(Debug)]
pub struct Waiting {
    /// Whose it is.
    pub team: TeamId,
    /// The packet.
    pub packet: Buf,
    /// When it is given up.
    pub until: Instant,
    /// What the neighbor's account pays for it.
    pub charge: Charge,
}

/// The node's neighbors.
#[derive(Debug, Default)]
pub struct Neighbors {
    list: Vec<Neighbor>,
    /// What is in it the configuration decides, but for a few.
    by_address: HashMap<(LinkId, Address), NeighborId, Keyed>,
}

impl Neighbors {
    /// Adds a neighbor. It is heard from the address that it is reached at.
    pub fn add(&mut self, neighbor: Neighbor) -> NeighborId {
        let id = NeighborId(u16::try_from(self.list.len()).expect("configuration bounds the neighbors"));
        self.by_address.insert((neighbor.out.link, neighbor.out.to), id);
        self.list.push(neighbor);
        id
    }

    /// Who sends from `address` on `link`.
    #[inline]
    pub fn find(&self, link: LinkId, address: Address) -> Option<NeighborId> {
        self.by_address.get(&(link, address)).copied()
    }

    /// The neighbor of this name.
    pub fn by_name(&self, name: &str) -> Option<NeighborId> {
        self.iter().find(|(_, n)| &*n.name == name).map(|(id, _)| id)
    }

    /// The places of all of them, those that are gone included.
    pub fn ids(&self) -> impl Iterator<Item = NeighborId> + use<> {
        (0..self.list.len() as u16).map(NeighborId)
    }

    /// All that are here: those of the configuration, in its order, and those that were discovered.
    pub fn iter(&self) -> impl Iterator<Item = (NeighborId, &Neighbor)> {
        (0..).map(NeighborId).zip(&self.list).filter(|(_, n)| n.is_here())
    }

    /// A place for a neighbor that was discovered at this address: the one that it had before under this name, a new one
    /// if `most` have none yet, or that of the one that is gone the longest. Those whose keys the operator does not know leave
    /// `kept` of the places to the others, however many they are and however long they say that they stay.
    pub fn place(
        &self,
        now: Instant,
        (link, to, name): (LinkId, Address, &str),
        keyed: bool,
        (most, kept): (usize, usize),
    ) -> Option<NeighborId> {
        let found = || (0..).map(NeighborId).zip(&self.list).filter_map(|(id, n)| Some((id, n, n.found?)));
        let gone = || found().filter(|(.., found)| !found.here);
        let taken = |found: &Found| !found.keyed && (found.here || now < found.since + QUARANTINE);
        // What it sent under another name still counts as sent from that one's place.
        let its = |n: &Neighbor| (n.out.link, n.out.to, &*n.name) == (link, to, name);
        if !keyed && found().filter(|(_, n, found)| taken(found) && !its(n)).count() + kept >= most {
            return None;
        }
        if let Some((id, ..)) = gone().find(|(_, n, _)| its(n)) {
            return Some(id);
        }
        if found().count() < most {
            return u16::try_from(self.list.len()).ok().map(NeighborId);
        }
        let free = gone().filter(|(.., found)| found.since + QUARANTINE <= now);
        free.min_by_key(|(.., found)| found.since).map(|(id, ..)| id)
    }

    /// Gives a [place](Self::place) to a neighbor.
    pub fn put(&mut self, id: NeighborId, neighbor: Neighbor) {
        if usize::from(id.0) == self.list.len() {
            self.add(neighbor);
            return;
        }
        self.by_address.insert((neighbor.out.link, neighbor.out.to), id);
        self[id] = neighbor;
    }

    /// A discovered neighbor is none any more: nothing is sent there or comes from there.
    pub fn leave(&mut self, now: Instant, id: NeighborId) {
        let neighbor = &mut self.list[usize::from(id.0)];
        if let Some(found) = &mut neighbor.found {
            (found.here, found.since) = (false, now);
        }
        neighbor.guard = Guard::Closed;
        neighbor.waiting.clear();
        self.by_address.remove(&(neighbor.out.link, neighbor.out.to));
    }

    /// What `bees neighbor show` prints of one.
    pub fn info(neighbor: &Neighbor, link: &str, now: Instant, alive: Option<Alive>) -> NeighborInfo {
        NeighborInfo {
            name: neighbor.name.to_string(),
            link: link.to_string(),
            address: neighbor.out.to.to_string(),
            max_payload: neighbor.max_payload,
            received: neighbor.received,
            sent: neighbor.sent,
            refused: neighbor.refused,
            last_heard_us: neighbor.last_heard.map(|t| now.since(t).as_micros() as u64),
            protection: neighbor.guard.protection(now),
            alive,
            discovered: neighbor.found.is_some(),
        }
    }
}

impl Neighbor {
    /// A neighbor that is reached through `out`, on a link whose frames carry up to `mtu` bytes.
    pub fn new(name: &str, out: OutChannel, mtu: u16, account: Account) -> Self {
        let ip_udp = match out.to {
            Address::Ethernet(_) => 0,
            Address::Udp(to) if to.is_ipv4() => 28,
            Address::Udp(_) => 48,
        };
        let inside = ip_udp + HEADER_LEN as u16;
        Self {
            name: name.into(),
            out,
            max_payload: mtu.saturating_sub(inside),
            overhead: ETHERNET_HEADER + inside,
            floor: if ip_udp == 0 { 0 } else { MIN_DATAGRAM as u16 },
            account,
            received: 0,
            sent: 0,
            refused: 0,
            last_heard: None,
            liveness: None,
            pokes: TokenBucket::new(POKES, POKES),
            adverts: TokenBucket::new(ADVERTS, ADVERTS),
            guard: Guard::None,
            waiting: VecDeque::new(),
            found: None,
        }
    }

    /// Whether it is a neighbor now: configured, or discovered and not gone.
    pub fn is_here(&self) -> bool {
        self.found.is_none_or(|found| found.here)
    }

    /// Whether every packet from it proves that it is there: only what is sealed passes, and it has proven who it is.
    pub fn is_proven(&self) -> bool {
        matches!(&self.guard, Guard::Sealed(link) if link.is_up())
    }

    /// Sets up what stands between, at the cost of so many bytes of each frame.
    pub fn guard(&mut self, guard: Guard, overhead: u16) {
        self.guard = guard;
        self.floor = 0;
        self.max_payload = self.max_payload.saturating_sub(overhead);
        self.overhead += overhead;
    }

    /// Whether anybody anywhere may write this neighbor's address on a packet: by UDP, and nothing is sealed. Such
    /// packets are answered with no more bytes than they have (D9).
    pub fn is_unproven(&self) -> bool {
        self.floor > 0
    }

    /// The shortest frame to it, in bytes; 0 where that does not matter.
    pub fn shortest_frame(&self) -> u16 {
        if self.is_unproven() { self.floor + self.overhead - HEADER_LEN as u16 } else { 0 }
    }

    /// How many questions may be asked because of a packet of `len` bytes from it: their frames together are no
    /// longer than the packet's.
    pub fn questions_for(&self, len: usize) -> u32 {
        if !self.is_unproven() {
            return u32::MAX;
        }
        let carrier = usize::from(self.overhead) - HEADER_LEN;
        ((carrier + len) / usize::from(self.shortest_frame())) as u32
    }
}

impl Guard {
    /// What `bees neighbor show` says of it.
    pub fn protection(&self, now: Instant) -> Protection {
        match self {
            Self::None => Protection::None,
            Self::Closed => Protection::Closed,
            Self::Sealed(link) => match link.since() {
                None => Protection::Handshake,
                Some(since) => Protection::Protected {
                    identity: link.peer().to_bytes(),
                    age_us: now.micros().saturating_sub(since),
                },
            },
        }
    }
}

impl std::ops::Index<NeighborId> for Neighbors {
    type Output = Neighbor;
    fn index(&self, id: NeighborId) -> &Neighbor {
        &self.list[usize::from(id.0)]
    }
}

impl std::ops::IndexMut<NeighborId> for Neighbors {
    fn index_mut(&mut self, id: NeighborId) -> &mut Neighbor {
        &mut self.list[usize::from(id.0)]
    }
}

#[cfg(test)]
mod tests {
    use nodeos::link::Mac;

    use super::*;

    /// A capsule that waits is not another one's because the station that sent it has another name by then.
    #[test]
    fn a_station_with_another_name_has_another_place() {
        let (mut all, link, to) = (Neighbors::default(), LinkId(0), Address::Ethernet(Mac([2; 6])));
        let enter = |all: &mut Neighbors, now: Instant, name: &str, keyed: bool| {
            let id = all.place(now, (link, to, name), keyed, (3, 1))?;
            let mut neighbor = Neighbor::new(name, OutChannel { link, to }, 1500, Account::root(1 << 20));
            neighbor.found = Some(Found { here: true, since: now, keyed });
            all.put(id, neighbor);
            assert_eq!(all.find(link, to), Some(id));
            all.leave(now, id);
            assert_eq!(all.find(link, to), None);
            Some(id.0)
        };
        let (start, later) = (Instant::ZERO, Instant::ZERO + QUARANTINE);
        assert_eq!(enter(&mut all, start, "~x", false), Some(0));
        assert_eq!(enter(&mut all, start, "~y", false), Some(1));
        assert_eq!(enter(&mut all, start, "~x", false), Some(0));
        assert_eq!(enter(&mut all, start, "~z", false), None, "a place is kept");
        assert_eq!(enter(&mut all, start, "b", true), Some(2));
        assert_eq!(enter(&mut all, start, "c", true), None);
        assert_eq!(enter(&mut all, later, "c", true), Some(0));
    }
}
