//! Neighbors: nodes next door, known only through capabilities.

use crate::error::{Error, check, done};
use crate::sys;

/// The most members that [`Neighborhood::members`] lists.
pub const MAX_MEMBERS: usize = 64;

/// What neighbors' names begin with among those of capabilities.
const PREFIX: &[u8] = b"neighbor/";

/// A capability for one neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor(u32);

/// A capability for a set of neighbors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighborhood(u32);

/// What happened to a neighbor: [`Protocol::neighbor`](crate::Protocol::neighbor).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// One that is watched does not answer any more.
    Dead,
    /// It answers again.
    Alive,
    /// The node discovered one, and the flow may reach it.
    Found,
    /// Nothing has been heard of one that was discovered for too long. Its capabilities are void.
    Gone,
}

impl News {
    /// The news of this number.
    pub fn of(number: u32) -> Option<Self> {
        [Self::Dead, Self::Alive, Self::Found, Self::Gone].get(number as usize).copied()
    }
}

/// The members of a neighborhood at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Members {
    list: [u32; MAX_MEMBERS],
    len: usize,
}

impl Neighbor {
    /// The neighbor of this name in the node's configuration.
    pub fn find(name: &str) -> Result<Self, Error> {
        let mut full = crate::Text::<80>::new();
        full.push(PREFIX);
        full.push(name);
        check(sys::cap_lookup(full.as_bytes())).map(Self)
    }

    /// A number to keep in soft state. It gives no power: a number that names nothing is refused.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The neighbor of a number out of soft state.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    /// Its name in this node's configuration, as much as fits `buffer`.
    pub fn name<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let mut full = [0; 80];
        let n = check(sys::cap_name(self.0, &mut full))? as usize;
        let full = &full[..n.min(full.len())];
        let name = full.strip_prefix(PREFIX).unwrap_or(full);
        let n = name.len().min(buffer.len());
        buffer[..n].copy_from_slice(&name[..n]);
        Ok(&buffer[..n])
    }

    /// The longest payload that can be sent to it, in bytes.
    pub fn max_payload(&self) -> Result<usize, Error> {
        check(sys::neighbor_max_payload(self.0)).map(|n| n as usize)
    }

    /// Whether the node gives the flow's description and code to the neighbor when it asks: without them the flow
    /// does not come (back) there.
    pub fn serve(&self, serve: bool) -> Result<(), Error> {
        done(sys::neighbor_serve(self.0, serve))
    }

    /// Has the node ask the neighbor every `poke_us` microseconds whether it is there, and count it as dead when it has
    /// not answered for `expire_us`: [`Protocol::neighbor`](crate::Protocol::neighbor) tells of that, and of its
    /// return. This flow pays for the questions.
    pub fn watch(&self, poke_us: u64, expire_us: u64) -> Result<(), Error> {
        done(sys::neighbor_watch(
            self.0,
            poke_us.min(i64::MAX as u64) as i64,
            expire_us.min(i64::MAX as u64) as i64,
        ))
    }

    /// The same as often as the node's operator thinks right.
    pub fn watch_as_usual(&self) -> Result<(), Error> {
        self.watch(0, 0)
    }

    /// Whether it is there does not matter any more.
    pub fn unwatch(&self) -> Result<(), Error> {
        done(sys::neighbor_unwatch(self.0))
    }

    /// Whether it is alive, as far as this protocol was told. Of one that is not watched: [`Error::NotFound`].
    pub fn is_alive(&self) -> Result<bool, Error> {
        check(sys::neighbor_alive(self.0)).map(|alive| alive == 1)
    }

    /// From now on this flow's capsules to the neighbor are marked under `key` (16 to 64 bytes), and those from it
    /// that are not are refused. The flow's instance there must set the same key.
    pub fn protect(&self, key: &[u8]) -> Result<(), Error> {
        check(sys::integrity_set(self.0, key)).map(drop)
    }

    /// Capsules to and from the neighbor are neither marked nor checked any more.
    pub fn unprotect(&self) -> Result<(), Error> {
        check(sys::integrity_clear(self.0)).map(drop)
    }
}

/// A node that is known to be somewhere, as it and others say; nobody proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Node {
    name: [u8; 32],
    len: u8,
    /// How far it is; 1 is a neighbor.
    pub hops: u8,
    /// Milliseconds since it said anything itself.
    pub age_ms: u32,
    /// Milliseconds for which it is still believed to be there.
    pub left_ms: u32,
}

impl Node {
    /// Bytes of one as the node gives it.
    pub(crate) const LEN: usize = 48;

    /// What it calls itself.
    pub fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.len).min(self.name.len())]
    }

    fn of(record: &[u8; Self::LEN]) -> Self {
        let number =
            |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        let mut name = [0; 32];
        name.copy_from_slice(&record[..32]);
        Self { name, len: record[32], hops: record[33], age_ms: number(36), left_ms: number(40) }
    }
}

impl Neighborhood {
    /// The nodes that are known by adverts, from this position on, as many as there are places; and how many there are in
    /// all. Only for flows that may reach every neighbor, with the capability for [all](Self::all).
    pub fn known(&self, from: usize, places: &mut [Node]) -> Result<usize, Error> {
        let mut all = 0;
        for (at, place) in (from..).zip(places) {
            let mut record = [0; Node::LEN];
            all = check(sys::nodes_known(self.0, at as u32, &mut record))? as usize;
            if at >= all {
                break;
            }
            *place = Node::of(&record);
        }
        Ok(all)
    }

    /// All neighbors of this node that the flow may reach.
    pub fn all() -> Result<Self, Error> {
        check(sys::cap_lookup(b"neighborhood")).map(Self)
    }

    /// A group of at most [`MAX_MEMBERS`] neighbors. A multicast to it counts once.
    pub fn of(members: &[Neighbor]) -> Result<Self, Error> {
        let mut list = [0; MAX_MEMBERS];
        let list = list.get_mut(..members.len()).ok_or(Error::NoRoom)?;
        list.iter_mut().zip(members).for_each(|(to, member)| *to = member.0);
        check(sys::neighborhood_make(list)).map(Self)
    }

    /// The capability's number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// Its members; at most [`MAX_MEMBERS`] are listed.
    pub fn members(&self) -> Result<Members, Error> {
        let mut list = [0; MAX_MEMBERS];
        let len = (check(sys::neighborhood_list(self.0, &mut list))? as usize).min(MAX_MEMBERS);
        Ok(Members { list, len })
    }
}

impl Members {
    /// The members, in the order of the node's configuration.
    pub fn iter(&self) -> impl Iterator<Item = Neighbor> + '_ {
        self.list[..self.len].iter().copied().filter_map(Neighbor::from_bits)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::describe::{Description, Events};
    use crate::testing::{Link, Network};
    use crate::{Capsule, Protocol, Session, SessionEvent};

    const DESCRIPTION: Description = Description {
        name: "watcher",
        capsules: &[],
        events: Events { boot: None, timer: None, session: None },
        session: true,
        params: &[],
        companions: &[],
    };

    /// Watches its neighbors when it is asked to.
    #[derive(Default)]
    struct Watcher {
        seen: Vec<(Neighbor, News, Result<bool, Error>)>,
    }

    impl Protocol for Watcher {
        fn session(&mut self, _: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
            let SessionEvent::Packet(op, _) = event else { return };
            let members = Neighborhood::all().and_then(|all| all.members()).unwrap();
            if op == b"known" {
                let mut nodes = [Node::default(); 2];
                let all = Neighborhood::all().and_then(|near| near.known(0, &mut nodes)).unwrap();
                let Node { hops, age_ms, left_ms, .. } = nodes[0];
                let name = core::str::from_utf8(nodes[0].name()).unwrap();
                session.reply(format!("{name} {hops} {age_ms} {left_ms} of {all}").as_bytes()).unwrap();
                return;
            }
            for neighbor in members.iter() {
                if op == b"watch" {
                    assert_eq!(neighbor.is_alive(), Err(Error::NotFound));
                    assert_eq!(neighbor.watch(1000, 2000), Err(Error::BadArgument));
                    assert_eq!(neighbor.watch(1_000_000, 1_999_999), Err(Error::BadArgument));
                    assert_eq!(neighbor.watch_as_usual(), Ok(()));
                    assert_eq!(neighbor.watch(1_000_000, 2_000_000), Ok(()));
                    assert_eq!(neighbor.is_alive(), Ok(true));
                } else {
                    assert_eq!(neighbor.unwatch(), Ok(()));
                }
            }
        }

        fn neighbor(&mut self, neighbor: Neighbor, news: News) {
            self.seen.push((neighbor, news, neighbor.is_alive()));
        }
    }

    #[test]
    fn who_watches_hears_of_deaths_and_everybody_of_those_who_come_and_go() {
        let mut net = Network::new(&DESCRIPTION, 1);
        let (a, b, c) = (
            net.node("a", Watcher::default()),
            net.node("b", Watcher::default()),
            net.node("c", Watcher::default()),
        );
        net.link(a, b, Link { delay_us: 1000, loss: 0.0 });
        let session = net.open(a);
        net.neighbor_is(a, "b", News::Dead);
        net.send(session, b"watch");
        net.neighbor_is(a, "b", News::Dead);
        net.neighbor_is(a, "b", News::Alive);
        net.send(session, b"leave");
        net.neighbor_is(a, "b", News::Dead);
        net.link(a, c, Link { delay_us: 1000, loss: 0.0 });
        net.neighbor_is(a, "c", News::Found);
        net.neighbor_is(a, "c", News::Gone);
        let (b, c) = (Neighbor(1), Neighbor(2));
        assert_eq!(
            net.protocol(a).seen,
            [
                (b, News::Dead, Ok(false)),
                (b, News::Alive, Ok(true)),
                (c, News::Found, Err(Error::NotFound)),
                (c, News::Gone, Err(Error::NotFound)),
            ]
        );
        // Others are only known of.
        net.knows(a, "far", 3, 250, 4750);
        net.send(session, b"known");
        assert_eq!(net.received(session), ["far 3 250 4750 of 1"]);
        // What is gone is no member any more.
        net.send(session, b"watch");
        net.neighbor_is(a, "c", News::Dead);
        assert_eq!(net.protocol(a).seen.len(), 4);
    }
}
