//! Nodes in memory, for a protocol's unit tests: many of them, virtual time, lossy links, and the same
//! limits on capsule objects as a real node's. It is no simulator of the node (that is `sim/`): there are no
//! budgets and no hostile guests here, only the guest interface and a network.
//!
//! ```ignore
//! let mut net = Network::new(&DESCRIPTION, 7);
//! let a = net.node("a", Hello::new());
//! let b = net.node("b", Hello::new());
//! net.link(a, b, Link { delay_us: 1000, loss: 0.1 });
//! let session = net.open(a);
//! net.send(session, b"find");
//! net.run_until(1_000_000);
//! assert_eq!(net.received(session), ["node a ..."]);
//! ```

mod calls;
mod companions;
mod cross;
mod handover;
mod privileged;

use std::any::Any;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::marker::PhantomData;

pub use self::companions::Member;
use self::companions::Team;
pub(crate) use self::companions::companion_call;
use crate::describe::Description;
use crate::flow::{Flow, State};
use crate::neighbor::{Neighbor, News};
use crate::node::mix;
use crate::{Capsule, Error, INBOX, Protocol, Session, SessionEvent, Timer};

/// A link's properties, the same in both directions.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Time from one end to the other, in microseconds.
    pub delay_us: u64,
    /// The part of frames that is lost, 0 to 1.
    pub loss: f64,
}

/// What can be counted after a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Capsules put on links.
    pub sent: u64,
    /// Of those, lost.
    pub lost: u64,
    /// Operations that limits forbade.
    pub depleted: u64,
    /// Capsules refused for want of the right mark.
    pub unsound: u64,
}

/// Nodes that run one protocol, and their links.
pub struct Network<P> {
    description: &'static Description,
    protocols: PhantomData<P>,
    nodes: Vec<Option<Box<Node>>>,
    links: Vec<(Link, bool)>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: BTreeMap<u64, Happening>,
    sequence: u64,
    now: u64,
    random: u64,
    counters: Counters,
}

/// A session that a test has opened: node and number.
pub type TestSession = (usize, u32);

enum Happening {
    Arrival { protocol: usize, kind: u8, payload: Vec<u8>, port: usize, key: Option<Vec<u8>> },
    Timer { owner: usize, timer: u32 },
    Answer(cross::Told),
}

/// One node as its guest sees it. Neighbor n has the capability n + 1; the neighborhood is 1000.
pub struct Node {
    description: &'static Description,
    name: String,
    now: u64,
    random: u64,
    capsules: Vec<Option<Object>>,
    /// Per port: neighbor's name, link, the node there and its port.
    ports: Vec<(String, usize, usize, usize)>,
    /// Ports of neighbors that do not get the flow's code, and whether the flow has ended here.
    unserved: Vec<usize>,
    ended: bool,
    /// Per port: the key under which capsules are marked.
    keys: BTreeMap<usize, Vec<u8>>,
    cache: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    timers: BTreeMap<u32, (u64, u64)>,
    /// Whose timers are to fire when.
    set: Vec<(usize, u32, u64)>,
    next_timer: u32,
    packet: Vec<u8>,
    sessions: BTreeMap<u32, Vec<Vec<u8>>>,
    params: BTreeMap<String, Vec<u8>>,
    /// Protocols that watch ports: whether there is anybody alive.
    watched: BTreeMap<(usize, usize), bool>,
    /// Nodes that are known by adverts.
    known: Vec<[u8; 48]>,
    /// Ports behind which nobody is any more.
    gone: BTreeSet<usize>,
    /// Ports that the running protocol may not know of.
    denied: BTreeSet<usize>,
    /// Ports, protocols, types and payloads.
    out: Vec<(usize, usize, u8, Vec<u8>)>,
    log: Vec<String>,
    depleted: u64,
    max_payload: usize,
    team: Team,
    passing: handover::Passing,
    more: privileged::Privileged,
    cross: cross::Cross,
}

struct Object {
    kind: u8,
    payload: Vec<u8>,
    port: Option<usize>,
    left: [u16; 4],
}

const NEIGHBORHOOD: u32 = 1000;
const MAX_TIMERS: usize = 64;
const MAX_CACHE: usize = 1024;

thread_local! {
    static CURRENT: RefCell<Option<Box<Node>>> = const { RefCell::new(None) };
}

/// Runs `f` on the node whose guest is running.
pub(crate) fn with_node<R>(f: impl FnOnce(&mut Node) -> R) -> R {
    CURRENT.with_borrow_mut(|n| f(n.as_mut().expect("only inside a protocol's event")))
}

impl<P: Protocol + 'static> Network<P> {
    /// A network without nodes. Equal seeds make equal runs.
    pub fn new(description: &'static Description, seed: u64) -> Self {
        Self {
            description,
            protocols: PhantomData,
            nodes: vec![],
            links: vec![],
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            now: 0,
            random: mix(seed),
            counters: Counters::default(),
        }
    }

    /// Adds a node.
    pub fn node(&mut self, name: &str, protocol: P) -> usize {
        self.team(name, protocol, vec![])
    }

    /// Adds a node whose protocol has these companions: one for each interface of its description.
    pub fn team(&mut self, name: &str, protocol: P, companions: Vec<Member>) -> usize {
        let mut node = Box::new(Node {
            description: self.description,
            name: name.into(),
            now: 0,
            random: mix(self.random ^ self.nodes.len() as u64),
            capsules: vec![],
            ports: vec![],
            unserved: vec![],
            ended: false,
            keys: BTreeMap::new(),
            cache: BTreeMap::new(),
            timers: BTreeMap::new(),
            set: vec![],
            next_timer: 1,
            packet: vec![],
            sessions: BTreeMap::new(),
            params: BTreeMap::new(),
            watched: BTreeMap::new(),
            known: vec![],
            gone: BTreeSet::new(),
            denied: BTreeSet::new(),
            out: vec![],
            log: vec![],
            depleted: 0,
            max_payload: 1400,
            team: Team::default(),
            passing: Default::default(),
            more: Default::default(),
            cross: Default::default(),
        });
        node.seat(Team::new(self.description, Box::new(protocol), companions));
        self.nodes.push(Some(node));
        let at = self.nodes.len() - 1;
        // Whoever calls a companion finds it ready.
        for member in (0..self.at(at).team.seats.len()).rev() {
            self.call(at, member, |p| {
                let capsule = with_node(|n| n.event_capsule(n.description.events.boot));
                p.boot(Capsule::of_event(capsule));
            });
        }
        at
    }

    /// Links two nodes; the result names the link.
    pub fn link(&mut self, a: usize, b: usize, link: Link) -> usize {
        let at = self.links.len();
        self.links.push((link, true));
        let (name_a, name_b) = (self.at(a).name.clone(), self.at(b).name.clone());
        let (port_a, port_b) = (self.at(a).ports.len(), self.at(b).ports.len());
        self.at(a).ports.push((name_b, at, b, port_b));
        self.at(b).ports.push((name_a, at, a, port_a));
        at
    }

    /// Grants a node's flow a privilege, from now on.
    pub fn grant(&mut self, at: usize, privilege: &str) {
        self.at(at).more.granted.push(privilege.into());
    }

    /// What a node's sensor shows.
    pub fn set_sensor(&mut self, at: usize, name: &str, value: i64) {
        self.at(at).more.sensors.insert(name.into(), value);
    }

    /// How many frames wait for each of a node's links.
    pub fn set_waiting(&mut self, at: usize, frames: u16) {
        self.at(at).more.waiting = frames;
    }

    /// What the flow's tuple says that a parameter of the main protocol is.
    pub fn set_param(&mut self, at: usize, name: &str, value: &str) {
        self.at(at).params.insert(name.into(), value.as_bytes().to_vec());
    }

    /// Takes a link down or up.
    pub fn set_up(&mut self, link: usize, up: bool) {
        self.links[link].1 = up;
    }

    /// Opens a session on a node.
    pub fn open(&mut self, at: usize) -> TestSession {
        let node = self.at(at);
        let number = node.sessions.len() as u32 + 1;
        node.sessions.insert(number, vec![]);
        self.session(at, number, SessionInput::Opened);
        (at, number)
    }

    /// Sends a packet through a session.
    pub fn send(&mut self, (at, number): TestSession, packet: &[u8]) {
        self.session(at, number, SessionInput::Packet(packet));
    }

    /// Closes a session from the program's side.
    pub fn close(&mut self, (at, number): TestSession) {
        self.at(at).sessions.remove(&number);
        self.session(at, number, SessionInput::Closed);
    }

    /// The packets that a session has received so far, as text.
    pub fn received(&mut self, session: TestSession) -> Vec<String> {
        self.packets(session).iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect()
    }

    /// The packets that a session has received so far.
    pub fn packets(&mut self, (at, number): TestSession) -> &[Vec<u8>] {
        self.at(at).sessions.get(&number).map_or(&[], |packets| packets)
    }

    /// Hands a node a capsule as if it came from the neighbor at `port`.
    pub fn inject(&mut self, at: usize, port: usize, kind: u8, payload: &[u8]) {
        self.arrival(at, 0, port, kind, payload.to_vec());
    }

    /// The same for a companion; `path` leads to it by interfaces: `OUTER/INNER`.
    pub fn inject_for(&mut self, at: usize, path: &str, port: usize, kind: u8, payload: &[u8]) {
        let team = self.seen(at);
        let seat = team.at(path).unwrap_or_else(|| panic!("nobody serves {path}"));
        let member = team.seats.iter().position(|s| std::ptr::eq(s, seat)).expect("it is one of them");
        self.arrival(at, member, port, kind, payload.to_vec());
    }

    /// Runs until nothing is left to do before `end` (microseconds).
    pub fn run_until(&mut self, end: u64) {
        while let Some(&Reverse((time, key, at))) = self.queue.peek() {
            if time > end {
                break;
            }
            self.queue.pop();
            self.now = time;
            match self.events.remove(&key) {
                Some(Happening::Arrival { protocol, kind, payload, port, key })
                    if self.is_sound(at, port, &key) =>
                {
                    self.arrival(at, protocol, port, kind, payload);
                }
                Some(Happening::Arrival { .. }) => self.counters.unsound += 1,
                Some(Happening::Timer { owner, timer }) => self.timer(at, owner, timer),
                Some(Happening::Answer(told)) => self.told(at, told),
                None => {}
            }
        }
        self.now = end;
    }

    /// Whether what comes in by this port is marked under the key that the guest set for it, if it did.
    fn is_sound(&self, at: usize, port: usize, key: &Option<Vec<u8>>) -> bool {
        let wanted = self.nodes[at].as_ref().and_then(|n| n.keys.get(&port));
        wanted.is_none() || wanted == key.as_ref()
    }

    /// What the nodes logged.
    pub fn log(&self) -> Vec<String> {
        self.nodes.iter().flatten().flat_map(|n| n.log.iter().map(|l| format!("{}: {l}", n.name))).collect()
    }

    /// The counters, over all nodes and links.
    pub fn counters(&self) -> Counters {
        let depleted = self.nodes.iter().flatten().map(|n| n.depleted).sum();
        Counters { depleted, ..self.counters }
    }

    /// Microseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The protocol's object on a node.
    pub fn protocol(&self, at: usize) -> &P {
        self.seen(at).seats[0].protocol.as_deref().and_then(|p| (p as &dyn Any).downcast_ref()).expect("a P")
    }

    /// The object of a node's companion; `path` leads there by interfaces: `OUTER/INNER`.
    pub fn companion<C: Protocol + 'static>(&self, at: usize, path: &str) -> &C {
        let seat = self.seen(at).at(path).unwrap_or_else(|| panic!("nobody serves {path}"));
        let protocol = seat.protocol.as_deref().and_then(|p| (p as &dyn Any).downcast_ref());
        protocol.unwrap_or_else(|| panic!("{path} is served by another type"))
    }

    /// A flow that a node's protocol started with this tuple does something else now.
    pub fn flow_is(&mut self, at: usize, tuple: &[u8], state: State) {
        for flow in self.at(at).flow_is(tuple, state) {
            self.call(at, 0, |p| p.flow(Flow::from_bits(flow), state));
        }
    }

    /// Something happened to a neighbor of a node, by that one's name: deaths and returns are told to protocols that
    /// watch it. Links carry on as they are.
    pub fn neighbor_is(&mut self, at: usize, neighbor: &str, news: News) {
        let named = |(name, ..): &(String, usize, usize, usize)| name == neighbor;
        let port =
            self.at(at).ports.iter().rposition(named).unwrap_or_else(|| panic!("no neighbor {neighbor}"));
        if news == News::Found {
            self.at(at).gone.remove(&port);
        }
        for member in 0..self.at(at).team.seats.len() {
            self.call(at, member, |p| {
                let number =
                    Neighbor::from_bits(port as u32 + 1).filter(|_| with_node(|n| n.hears(port, news)));
                number.into_iter().for_each(|neighbor| p.neighbor(neighbor, news));
            });
        }
        if news == News::Gone {
            self.at(at).gone.insert(port);
        }
    }

    /// A node has heard of another one, so many hops away.
    pub fn knows(&mut self, at: usize, name: &str, hops: u8, age_ms: u32, left_ms: u32) {
        let mut record = [0; 48];
        let name = &name.as_bytes()[..name.len().min(32)];
        record[..name.len()].copy_from_slice(name);
        (record[32], record[33]) = (name.len() as u8, hops);
        record[36..40].copy_from_slice(&age_ms.to_le_bytes());
        record[40..44].copy_from_slice(&left_ms.to_le_bytes());
        self.at(at).known.push(record);
    }

    /// Whether the flow has ended itself on a node.
    pub fn has_ended(&self, at: usize) -> bool {
        self.nodes[at].as_ref().is_some_and(|n| n.ended)
    }

    /// Whether a node gives the flow's code to a neighbor, by that one's name.
    pub fn serves(&self, at: usize, neighbor: &str) -> bool {
        let unserved = |n: &Node| n.unserved.iter().any(|p| n.ports[*p].0 == neighbor);
        !self.nodes[at].as_deref().is_some_and(unserved)
    }

    /// Loses what a node's protocol had in memory, as a restart does.
    pub fn restart(&mut self, at: usize, protocol: P) {
        self.restart_team(at, protocol, vec![]);
    }

    /// The same for a protocol with companions.
    pub fn restart_team(&mut self, at: usize, protocol: P, companions: Vec<Member>) {
        let team = Team::new(self.description, Box::new(protocol), companions);
        let node = self.at(at);
        (node.unserved, node.ended) = (vec![], false);
        node.seat(team);
    }

    fn seen(&self, at: usize) -> &Team {
        &self.nodes[at].as_ref().expect("a node is away only during its own event").team
    }

    fn at(&mut self, at: usize) -> &mut Node {
        self.nodes[at].as_mut().expect("a node is away only during its own event")
    }

    fn arrival(&mut self, at: usize, protocol: usize, port: usize, kind: u8, payload: Vec<u8>) {
        let len = payload.len();
        let mut head = [0; INBOX];
        let head_len = len.min(INBOX);
        head[..head_len].copy_from_slice(&payload[..head_len]);
        self.call(at, protocol, |p| {
            let known = with_node(|n| !n.denied.contains(&port));
            if known {
                let handle = with_node(|n| n.object(kind, payload, Some(port)));
                p.capsule(Capsule::received(handle, kind, len as u32, port as u32 + 1), &head[..head_len]);
            }
        });
    }

    fn timer(&mut self, at: usize, owner: usize, timer: u32) {
        let now = self.now;
        let node = self.at(at);
        node.now = now;
        let Some(token) = node.fires(owner, timer) else { return };
        self.call(at, owner, |p| {
            let handle = with_node(|n| n.event_capsule(n.description.events.timer));
            p.timer(Capsule::of_event(handle), Timer::from_bits(timer), token);
        });
    }

    fn session(&mut self, at: usize, number: u32, input: SessionInput<'_>) {
        self.call(at, 0, |p| {
            let handle = with_node(|n| n.event_capsule(n.description.events.session));
            let event = match input {
                SessionInput::Opened => SessionEvent::Opened,
                SessionInput::Closed => SessionEvent::Closed,
                SessionInput::Packet(bytes) => {
                    with_node(|n| n.packet = bytes.to_vec());
                    SessionEvent::Packet(&bytes[..bytes.len().min(INBOX)], bytes.len())
                }
            };
            p.session(Capsule::of_event(handle), Session::from_bits(number), event);
        });
    }

    /// Makes a node current, runs an event of one of its protocols, and carries out what it wants done.
    fn call(&mut self, at: usize, member: usize, f: impl FnOnce(&mut dyn Protocol)) {
        let mut node = self.nodes[at].take().expect("one event at a time");
        if node.ended {
            self.nodes[at] = Some(node);
            return;
        }
        node.now = self.now;
        let mut protocol = node.enter(member);
        CURRENT.set(Some(node));
        f(&mut *protocol);
        let mut node = CURRENT.take().expect("nobody takes it");
        node.leave(member, protocol);
        node.packet.clear();
        for (owner, timer, due) in node.set.drain(..) {
            self.sequence += 1;
            self.queue.push(Reverse((due, self.sequence, at)));
            self.events.insert(self.sequence, Happening::Timer { owner, timer });
        }
        for told in std::mem::take(&mut node.cross.answers) {
            self.sequence += 1;
            self.queue.push(Reverse((self.now, self.sequence, at)));
            self.events.insert(self.sequence, Happening::Answer(told));
        }
        for (port, protocol, kind, payload) in node.out.drain(..) {
            let (_, link, to, to_port) = node.ports[port];
            let key = node.keys.get(&port).cloned();
            let (link, up) = self.links[link];
            self.counters.sent += 1;
            self.random = mix(self.random);
            let drawn = (self.random >> 11) as f64 / (1u64 << 53) as f64;
            if !up || drawn < link.loss {
                self.counters.lost += 1;
                continue;
            }
            self.sequence += 1;
            self.queue.push(Reverse((self.now + link.delay_us, self.sequence, to)));
            let happening = Happening::Arrival { protocol, kind, payload, port: to_port, key };
            self.events.insert(self.sequence, happening);
        }
        self.nodes[at] = Some(node);
    }
}

enum SessionInput<'a> {
    Opened,
    Packet(&'a [u8]),
    Closed,
}

fn result(r: Result<usize, Error>) -> i32 {
    match r {
        Ok(n) => n as i32,
        Err(e) => -(e as i32),
    }
}

/// Copies as much as fits; the result is the whole length.
fn fill(from: &[u8], to: &mut [u8]) -> usize {
    for (t, f) in to.iter_mut().zip(from) {
        *t = *f;
    }
    from.len()
}

/// Copies as much as there is; the result is what was copied.
fn copy(from: &[u8], offset: u32, to: &mut [u8]) -> Result<usize, Error> {
    let from = from.get(offset as usize..).ok_or(Error::BadArgument)?;
    Ok(fill(from, to).min(to.len()))
}
