//! Neighbors that are discovered, on links where the operator wants that.
//!
//! The machine is [`crate::system::discovery`]. Here adverts are sent and read, and whoever says that it is there
//! becomes a neighbor as configured ones are, with less trust: a configured neighbor is never changed by an advert; one
//! whose key the operator knows has the name that he gave it and proves the key before anything passes; any other has a
//! `~` in front of its name, so that nothing that is granted by a name is granted to it. Who is gone leaves a place that
//! is another's only after everybody who knew it has been told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use authagent::agent::AgentEvent;
use authagent::keys::Ed25519Key;
use nodeos::account::Charge;
use nodeos::bucket::TokenBucket;
use nodeos::channel::{Address, OutChannel};
use nodeos::config::LivenessConfig;
use nodeos::link::{LinkId, Mac};
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use nodeos::team::TeamId;
use wire::advert::{Advert, advert_id, is_name};
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{KnownNode, NeighborNews};
use wire::id::CapsuleId;

use super::{NEIGHBOR_ACCOUNT, Node};
use crate::config::{ConfigError, NodeConfig};
use crate::counters::Count;
use crate::flow::Stage;
use crate::neighbor::{Found, Guard, Neighbor, NeighborId};
use crate::sandbox::{Event, NeighborRef};
use crate::system::discovery::{Discovery, Known};

/// Neighbors that are discovered at a time.
pub(super) const MAX_FOUND: usize = 32;
/// Newcomers in a second, and at once; and as many of those whose keys the operator knows.
const NEWCOMERS: (u64, u64) = (4, 16);
/// News for which there was no room in a flow's queue, of all flows together.
const MAX_UNTOLD: usize = 1024;
/// When they are told again.
const TELL_AGAIN: Duration = Duration::from_millis(20);
/// What precedes the name of a neighbor that nobody vouches for.
const UNKNOWN: char = '~';

/// What a node knows about being discovered, and who was.
pub(super) struct Discover {
    pub machine: Discovery,
    id: CapsuleId,
    protect: bool,
    keys: Vec<(Arc<str>, Ed25519Key)>,
    /// How neighbors are watched, by link.
    liveness: Vec<Option<LivenessConfig>>,
    /// Of whom nobody knows the key, and of the others.
    newcomers: [TokenBucket; 2],
    untold: VecDeque<(Handle, u8, NeighborId, NeighborNews)>,
    tell_at: Option<Instant>,
    /// For the places of those that may be discovered.
    _charge: Charge,
}

impl Discover {
    pub fn new(
        now: Now,
        config: &NodeConfig,
        memory: &nodeos::account::Account,
        secret: u64,
    ) -> Result<Self, ConfigError> {
        let short = |_| ConfigError("node.memory is too little for discovery".into());
        let discover = config.links.iter().map(|link| link.discover);
        let links = discover.clone().filter(|discover| *discover).count();
        let machine = Discovery::new(now.mono, &config.discovery, discover, memory, secret);
        let places = if links > 0 { MAX_FOUND * (2 * size_of::<Neighbor>() + 64) } else { 0 };
        Ok(Self {
            machine: machine.map_err(short)?,
            id: advert_id(),
            protect: config.discovery.protect,
            keys: config.known_keys()?,
            liveness: config.links.iter().map(|link| link.liveness).collect(),
            newcomers: [(); 2].map(|()| TokenBucket::new(NEWCOMERS.0, NEWCOMERS.1)),
            untold: VecDeque::new(),
            tell_at: None,
            _charge: memory.charge((places + links * Discovery::LINK_BYTES) as u64).map_err(short)?,
        })
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.machine.deadline().into_iter().chain(self.tell_at).min()
    }

    /// What a node is called here, and which key it has to prove, if any.
    fn called(&self, advert: &Advert<'_>) -> Result<(Arc<str>, Option<Ed25519Key>), &'static str> {
        let said = advert.identity.as_ref();
        match self.keys.iter().find(|(_, key)| Some(&key.to_bytes()) == said) {
            Some((name, key)) => Ok((name.clone(), Some(*key))),
            None if self.protect => Err("its key is not known here"),
            None if self.keys.iter().any(|(name, _)| &**name == advert.name) => Err(TAKEN),
            None => Ok((format!("{UNKNOWN}{}", advert.name).into(), None)),
        }
    }
}

/// Why an advert is refused whose name is somebody else's.
const TAKEN: &str = "its name is another's";
const OTHERWISE: &str = "it said otherwise before";

impl Node {
    /// Sends adverts that are due, forgets who was silent for too long, and tells flows what they had no room for.
    pub(super) fn discover_due(&mut self, now: Now) {
        while let Some(Known { neighbor, .. }) = self.discover.machine.expired(now.mono) {
            neighbor.into_iter().for_each(|id| self.neighbor_left(now, id));
        }
        while let Some(link) = self.discover.machine.due(now.mono) {
            self.advertise(now, link);
        }
        if self.discover.tell_at.is_some_and(|at| at <= now.mono) {
            self.discover.tell_at = None;
            for (flow, protocol, id, news) in std::mem::take(&mut self.discover.untold) {
                self.tell_protocol(now, flow, protocol, id, news);
            }
        }
    }

    /// Says to whoever is on a link who this is and whom it knows; to neighbors who have proven who they are, sealed.
    fn advertise(&mut self, now: Now, link: LinkId) {
        let silent = |n: &Neighbor| Some((n.name.clone(), now.mono.since(n.last_heard?)));
        let others = self
            .neighbors
            .iter()
            .filter(|(_, n)| n.found.is_none() && n.out.link != link && is_name(&n.name));
        let others: Vec<_> = others.filter_map(|(_, n)| silent(n)).collect();
        let proven = self.neighbors.iter().filter(|(_, n)| n.out.link == link && n.is_proven());
        let sealed: Vec<NeighborId> = proven.map(|(id, _)| id).collect();
        let (name, identity) =
            (self.name.clone(), self.shared.key.as_ref().map(|key| key.public().to_bytes()));
        let (machine, own) = (&mut self.discover.machine, (&*name, identity));
        let clear = machine.advert(now.mono, link, own, &others, !self.discover.protect);
        let told = (!sealed.is_empty()).then(|| machine.advert(now.mono, link, own, &others, true));
        let sent = self.broadcast(now, link, &clear);
        self.counters.add(if sent { Count::SystemSent } else { Count::SendDropped });
        let id = self.discover.id;
        for to in sealed {
            told.iter().for_each(|told| self.send_system(now, to, &id, told));
        }
    }

    fn broadcast(&mut self, now: Now, link: LinkId, payload: &[u8]) -> bool {
        let Some(mut packet) = self.platform.buffers.copy_of(payload) else { return false };
        let Ok(header) = packet.push_front(HEADER_LEN) else { return false };
        Capsule::emit_header(header, &self.discover.id, payload.len());
        let all = OutChannel { link, to: Address::Ethernet(Mac::BROADCAST) };
        self.net.send(now.mono, TeamId::ROOT, &all, packet).is_ok()
    }

    /// Whether a packet on a link where nodes are discovered is an advert; then it is dealt with.
    pub(super) fn advertised(&mut self, now: Now, link: LinkId, from: Address, packet: &[u8]) -> bool {
        let Some((capsule, payload)) = Capsule::parse(packet).ok().and_then(|capsule| {
            let payload = packet.get(capsule.payload_at..)?.get(..capsule.payload_len)?;
            Some((capsule, payload))
        }) else {
            return false;
        };
        if capsule.id != self.discover.id {
            return false;
        }
        let known = self.neighbors.find(link, from);
        let may = match known.map(|id| &mut self.neighbors[id]) {
            // It says the same sealed: once it has proven who it is, what anybody may say does not keep it here.
            Some(neighbor) if neighbor.is_proven() => return true,
            Some(neighbor) => neighbor.adverts.take(now.mono, 1),
            None => self.discover.machine.admits(now.mono, link, from),
        };
        let Some(advert) = self.read_advert(may, payload) else { return true };
        let met = match known {
            Some(id) => self.met_again(now, link, id, &advert),
            None => self.newcomer(now, link, from, &advert),
        };
        match met {
            // Who proves what it says says the rest where it is proven.
            Ok(id) if matches!(self.neighbors[id].guard, Guard::None) => self.hear(now, link, &advert),
            Ok(_) => {}
            Err(why) => {
                self.counters.add(Count::AdvertsRefused);
                self.log_limited(now, || format!("peer at {from} says it is {}: {why}", advert.name));
            }
        }
        true
    }

    /// An advert of a neighbor that has proven who it is.
    pub(super) fn sealed_advert(&mut self, now: Now, from: NeighborId, payload: &[u8]) {
        let neighbor = &mut self.neighbors[from];
        let (link, sealed) = (neighbor.out.link, matches!(neighbor.guard, Guard::Sealed(_)));
        if !sealed || !self.discover.machine.is_on(link) {
            return self.counters.add(Count::Unasked);
        }
        let may = neighbor.adverts.take(now.mono, 1);
        let Some(advert) = self.read_advert(may, payload) else { return };
        let found = self.neighbors[from].found.is_some();
        if found && !self.discover.machine.first_hand(now.mono, link, from, &advert) {
            let name = self.neighbors[from].name.clone();
            self.counters.add(Count::AdvertsRefused);
            return self.log_limited(now, || format!("peer {name} says it is {}: {OTHERWISE}", advert.name));
        }
        self.hear(now, link, &advert);
    }

    /// Reads an advert if whoever says it `may` say one more.
    fn read_advert<'a>(&mut self, may: bool, payload: &'a [u8]) -> Option<Advert<'a>> {
        if !may {
            self.counters.add(Count::AdvertsLimited);
            return None;
        }
        let advert = Advert::decode(payload);
        if advert.is_none() {
            self.counters.add(Count::BadAdverts);
        }
        advert
    }

    fn hear(&mut self, now: Now, link: LinkId, advert: &Advert<'_>) {
        for hearsay in advert.known.iter().filter(|k| *k.name != *self.name) {
            self.discover.machine.second_hand(now.mono, link, advert.interval(), hearsay);
        }
    }

    /// Somebody says again that it is there.
    fn met_again(
        &mut self,
        now: Now,
        link: LinkId,
        id: NeighborId,
        advert: &Advert<'_>,
    ) -> Result<NeighborId, &'static str> {
        let neighbor = &self.neighbors[id];
        if neighbor.found.is_none() {
            return Ok(id);
        }
        let known = self.discover.machine.of_neighbor(id).ok_or("it is about to be forgotten")?;
        if *known.name != *advert.name || known.identity != advert.identity {
            return Err(OTHERWISE);
        }
        self.discover.machine.first_hand(now.mono, link, id, advert);
        Ok(id)
    }

    /// Somebody is there who was not.
    fn newcomer(
        &mut self,
        now: Now,
        link: LinkId,
        from: Address,
        advert: &Advert<'_>,
    ) -> Result<NeighborId, &'static str> {
        let (name, key) = self.discover.called(advert)?;
        let own = self.shared.key.as_ref().map(|key| key.public().to_bytes());
        if *advert.name == *self.name || advert.identity.is_some() && advert.identity == own {
            return Err("that is this node");
        }
        if !matches!(from, Address::Ethernet(_)) {
            return Err("adverts are for the stations of one link");
        }
        if key.is_none() && self.neighbors.by_name(advert.name).is_some() {
            return Err(TAKEN);
        }
        let other = self.neighbors.by_name(&name).or_else(|| self.discover.machine.named(advert.name));
        if let Some(other) = other {
            // Whoever says first that it has a key, or a name, does not keep out who may prove it.
            let other = &self.neighbors[other];
            if key.is_none() || other.found.is_none() || other.is_proven() {
                return Err(TAKEN);
            }
        }
        let kept = self.discover.keys.len().min(MAX_FOUND / 2);
        let place = self.neighbors.place(now.mono, (link, from, &name), key.is_some(), (MAX_FOUND, kept));
        let id = place.ok_or("there are too many neighbors")?;
        // Those whom nobody knows are not so many that the others find no room.
        if !self.discover.newcomers[usize::from(key.is_some())].take(now.mono, 1) {
            return Err("there are too many newcomers");
        }
        other.into_iter().for_each(|other| self.neighbor_left(now, other));
        if !self.discover.machine.first_hand(now.mono, link, id, advert) {
            return Err("there is no room for it");
        }
        self.settle_in(now, id, &name, (link, from), key);
        Ok(id)
    }

    /// Makes it a neighbor, and tells everybody.
    fn settle_in(
        &mut self,
        now: Now,
        id: NeighborId,
        name: &Arc<str>,
        (link, to): (LinkId, Address),
        key: Option<Ed25519Key>,
    ) {
        let mtu = self.net.link(link).map_or(nodeos::config::MIN_MTU, |link| link.mtu());
        let account = self.memory.child(Some(NEIGHBOR_ACCOUNT));
        let mut neighbor = Neighbor::new(name, OutChannel { link, to }, mtu, account);
        neighbor.found = Some(Found { here: true, since: now.mono, keyed: key.is_some() });
        neighbor.liveness = self.discover.liveness.get(link.index()).copied().flatten();
        self.neighbors.put(id, neighbor);
        key.into_iter().for_each(|key| self.seal(now, id, key, false));
        self.watch_found(now, id);
        self.counters.add(Count::NeighborsFound);
        self.log_limited(now, || format!("{name} was discovered at {to}"));
        self.tell_programs(now, name, NeighborNews::Found);
        self.tell_agent(now, AgentEvent::NeighborUp { name, identity: None });
        let reference = self.reference(id);
        for flow in self.flows_that_know(name) {
            let found = |node: &mut Self| {
                let sandbox = node.flows.get_mut(flow)?.started()?;
                Some((sandbox.neighbor_found(&reference), sandbox.listeners()))
            };
            match found(self) {
                Some((true, listeners)) => self.tell_flow(now, flow, listeners, id, NeighborNews::Found),
                Some((false, _)) => self.counters.add(Count::NeighborsUntold),
                None => {}
            }
        }
    }

    /// A discovered neighbor is none any more.
    fn neighbor_left(&mut self, now: Now, id: NeighborId) {
        let name = self.neighbors[id].name.clone();
        self.neighbors.leave(now.mono, id);
        self.discover.machine.forget(id);
        self.liveness.forget_neighbor(id);
        self.log_limited(now, || format!("{name} is gone: it has not been heard for too long"));
        self.tell_programs(now, &name, NeighborNews::Gone);
        self.tell_agent(now, AgentEvent::NeighborDown { name: &name });
        let all: Vec<Handle> = self.flows.iter().map(|(flow, _)| flow).collect();
        for flow in all {
            let left = |node: &mut Self| {
                let flow = node.flows.get_mut(flow)?;
                flow.unserved.set(id, false);
                let sandbox = flow.started()?;
                Some((sandbox.neighbor_left(id), sandbox.listeners()))
            };
            if let Some((true, listeners)) = left(self) {
                self.tell_flow(now, flow, listeners, id, NeighborNews::Gone);
            }
        }
    }

    fn flows_that_know(&self, name: &str) -> Vec<Handle> {
        self.flows.iter().filter(|(_, flow)| flow.knows(name)).map(|(handle, _)| handle).collect()
    }

    /// Tells those of a flow's protocols that want to hear of it; `listeners` has a bit for each.
    fn tell_flow(&mut self, now: Now, flow: Handle, listeners: u16, id: NeighborId, news: NeighborNews) {
        for protocol in (0..16).filter(|at| listeners >> at & 1 == 1) {
            self.tell_protocol(now, flow, protocol, id, news);
        }
    }

    fn tell_protocol(&mut self, now: Now, flow: Handle, protocol: u8, id: NeighborId, news: NeighborNews) {
        let event = Event::Neighbor { protocol, id, news };
        // One that stands by sees its neighbors when it starts.
        let runs = self.flows.get(flow).is_some_and(|flow| matches!(flow.stage, Stage::Running { .. }));
        if !runs || self.has_room(flow) && self.push_event(flow, event) {
            return;
        }
        if self.discover.untold.len() < MAX_UNTOLD {
            self.discover.untold.push_back((flow, protocol, id, news));
            self.discover.tell_at = Some(now.mono + TELL_AGAIN);
        } else {
            self.counters.add(Count::NeighborsUntold);
        }
    }

    /// A neighbor as a team sees it.
    pub(super) fn reference(&self, id: NeighborId) -> NeighborRef {
        let n = &self.neighbors[id];
        NeighborRef {
            id,
            name: n.name.clone(),
            link: n.out.link,
            max_payload: n.max_payload,
            overhead: n.overhead,
            shortest: n.shortest_frame(),
        }
    }

    /// The nodes that are known by adverts, as clients see them.
    pub(super) fn known_nodes(&self, now: Now) -> Vec<KnownNode> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let list = self.discover.machine.nodes().with(|list| list.clone());
        let node = |known: Known| KnownNode {
            name: known.name.to_string(),
            hops: known.hops,
            heard_us: micros(now.mono.since(known.heard)),
            left_us: micros(known.until.since(now.mono)),
            link: self.net.link(known.link).map_or("", |link| link.name()).to_string(),
            neighbor: known.neighbor.map(|id| self.neighbors[id].name.to_string()),
        };
        list.into_iter().map(node).collect()
    }
}
