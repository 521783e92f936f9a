//! Protected links (D10): packets to and from neighbors whose identity is configured are sealed, and nothing
//! else passes. [`authagent::link`] is the machine; here it gets its frames, its time and its jobs.
//!
//! A neighbor that has not proven who it is is none: what is for it waits a moment, what comes from its
//! address is refused. There is no way back to unprotected frames but the operator's.

use std::sync::Arc;
use std::time::Duration;

use authagent::agent::AgentEvent;
use authagent::keys::{Ed25519Key, NodeIdentity};
use authagent::link::{Finished, Link, LinkEvent, Received, Refused, Timing};
use nodeos::buf::{BLOCK, Buf};
use nodeos::channel::Address;
use nodeos::config::{NeighborConfig, Protect};
use nodeos::platform::{Entropy, EntropyError, Instant, Now};
use nodeos::team::TeamId;
use wire::link::{MAX_HANDSHAKE, OVERHEAD, SEALED_HEADER};

use super::Node;
use super::manage::entropy_of;
use crate::config::{ConfigError, NodeConfig};
use crate::counters::Count;
use crate::job::{Job, JobId, Work};
use crate::neighbor::{Guard, NeighborId, Waiting};

/// Packets that wait for one neighbor to prove who it is.
const MAX_WAITING: usize = 16;
/// How long they wait: longer than a handshake takes whose hello was lost a few times.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the protected links of a node have in common.
pub(super) struct Links {
    /// Who the node is to its neighbors.
    identity: Option<Arc<NodeIdentity>>,
    entropy: Box<dyn authagent::Entropy + Send>,
    /// Where packets are sealed and opened.
    scratch: Box<[u8; BLOCK]>,
    /// When one of them wants to be looked at.
    wake: Option<Instant>,
}

impl Links {
    pub(super) fn new(entropy: &Arc<dyn Entropy>) -> Self {
        Self {
            identity: None,
            entropy: Box::new(entropy_of(entropy)),
            scratch: Box::new([0; BLOCK]),
            wake: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.wake
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
    }

    /// For a link; the latest moment that there is means never.
    fn wake_for(&mut self, link: &Link) {
        if link.wake() != u64::MAX {
            self.wake_at(Instant(link.wake()));
        }
    }
}

/// The identity that a neighbor must prove; `None` where its link is not protected.
pub(crate) fn wanted(
    config: &NodeConfig,
    neighbor: &NeighborConfig,
) -> Result<Option<Ed25519Key>, ConfigError> {
    let fail = |what: &str| Err(ConfigError(format!("neighbor {:?}: {what}", neighbor.name)));
    let key = match neighbor.key.as_ref().map(|hex| hex.parse::<Ed25519Key>()) {
        None => None,
        Some(Ok(key)) => Some(key),
        Some(Err(error)) => return fail(&format!("key: {error}")),
    };
    let own = config.identity()?.map(|own| own.public());
    if key.is_some() && key == own {
        return fail("key is the node's own identity");
    }
    match (neighbor.protect, key, own) {
        (Protect::Never, ..) => Ok(None),
        (Protect::Require, None, _) => fail("protect = \"require\" needs the neighbor's key"),
        (Protect::Require, _, None) => fail("protect = \"require\" needs node.identity"),
        (_, Some(key), Some(_)) => Ok(Some(key)),
        (Protect::WithKeys, ..) => Ok(None),
    }
}

impl Node {
    /// Protects the links to neighbors whose keys are known.
    pub(super) fn protect(
        &mut self,
        now: Now,
        config: &NodeConfig,
        healthy: bool,
    ) -> Result<(), ConfigError> {
        let entropy = entropy_of(&self.platform.entropy);
        let identity = config.identity()?.filter(|_| healthy);
        // A handshake key of their own: no use on links says anything about control channels.
        self.links.identity = identity.and_then(|key| NodeIdentity::new(key, &entropy).ok()).map(Arc::new);
        let mut closed = false;
        for (neighbor, id) in config.neighbors.iter().zip(self.neighbors.ids()) {
            let Some(peer) = wanted(config, neighbor)? else {
                if neighbor.key.is_some() && neighbor.protect != Protect::Never {
                    let name = &neighbor.name;
                    self.log.line(now.mono, format!("{name}: not protected: the node has no identity"));
                }
                self.tell_agent(now, AgentEvent::NeighborUp { name: &neighbor.name, identity: None });
                continue;
            };
            // Over UDP anybody may claim to write from the neighbor's address.
            self.seal(now, id, peer, matches!(neighbor.address, Address::Udp(_)));
            closed |= matches!(self.neighbors[id].guard, Guard::Closed);
        }
        if closed {
            self.log.line(now.mono, format!("protected links are closed: {EntropyError}"));
        }
        Ok(())
    }

    /// From now on nothing passes to or from a neighbor but what it seals with this key.
    pub(super) fn seal(&mut self, now: Now, id: NeighborId, peer: Ed25519Key, cookies: bool) {
        let (own, entropy) = (self.links.identity.clone(), entropy_of(&self.platform.entropy));
        let link = own.map(|own| Link::new(own, peer, cookies, Timing::default(), &entropy));
        let guard = match link {
            Some(Ok(link)) => Guard::Sealed(Box::new(link)),
            _ => Guard::Closed,
        };
        self.neighbors[id].guard(guard, OVERHEAD as u16);
        self.links.wake_at(now.mono);
    }

    /// What is in a frame from a neighbor's address, if that neighbor sent it as it should.
    #[inline]
    pub(super) fn unseal(&mut self, now: Now, from: NeighborId, packet: Buf) -> Option<Buf> {
        match self.neighbors[from].guard {
            Guard::None => Some(packet),
            _ => self.unseal_protected(now, from, packet),
        }
    }

    fn unseal_protected(&mut self, now: Now, from: NeighborId, mut packet: Buf) -> Option<Buf> {
        let neighbor = &mut self.neighbors[from];
        let Guard::Sealed(link) = &mut neighbor.guard else {
            neighbor.refused += 1;
            self.counters.add(Count::Unproven);
            return None;
        };
        let scratch = &mut self.links.scratch[..];
        let received = link.received(now.mono.micros(), &packet, &*self.links.entropy, scratch);
        let quiet = link.is_quiet();
        let opened = match received {
            Ok(Received::Packet(len)) => {
                packet.pull_front(SEALED_HEADER);
                // A packet is shorter than what it was sealed in.
                packet.set_len(len).ok()?;
                packet.copy_from_slice(&scratch[..len]);
                Some(packet)
            }
            Ok(Received::Handled) => None,
            Err(why) => {
                self.refused_on_link(now, from, why);
                None
            }
        };
        if !quiet {
            self.serve_link(now, from);
        }
        opened
    }

    /// Sends a team's packet to a neighbor, sealed where that is asked for. A packet that waits counts as sent.
    #[inline]
    pub(super) fn pass(&mut self, now: Now, team: TeamId, to: NeighborId, packet: Buf) -> bool {
        let neighbor = &self.neighbors[to];
        match neighbor.guard {
            Guard::None => self.net.send(now.mono, team, &neighbor.out, packet).is_ok(),
            _ => self.pass_sealed(now, team, to, packet),
        }
    }

    fn pass_sealed(&mut self, now: Now, team: TeamId, to: NeighborId, mut packet: Buf) -> bool {
        let neighbor = &mut self.neighbors[to];
        let Guard::Sealed(link) = &mut neighbor.guard else {
            self.counters.add(Count::Unproven);
            return false;
        };
        if !link.is_up() {
            return self.wait_for_proof(now, team, to, packet);
        }
        let Some(len) = link.seal(now.mono.micros(), &packet, &mut self.links.scratch[..]) else {
            return false;
        };
        self.links.wake_for(link);
        if packet.push_front(SEALED_HEADER).is_err() || packet.set_len(len).is_err() {
            return false;
        }
        packet.copy_from_slice(&self.links.scratch[..len]);
        self.net.send(now.mono, team, &neighbor.out, packet).is_ok()
    }

    /// Keeps a packet for a neighbor that is about to prove who it is, at that neighbor's expense.
    fn wait_for_proof(&mut self, now: Now, team: TeamId, to: NeighborId, packet: Buf) -> bool {
        let neighbor = &mut self.neighbors[to];
        let room = neighbor.waiting.len() < MAX_WAITING;
        let Some(charge) = neighbor.account.charge(BLOCK as u64).ok().filter(|_| room) else {
            self.counters.add(Count::Unproven);
            return false;
        };
        let until = now.mono + PATIENCE;
        neighbor.waiting.push_back(Waiting { team, packet, until, charge });
        self.links.wake_at(until);
        true
    }

    /// A team has ended: what of it waits for neighbors is `heir`'s, or without one dropped.
    pub(super) fn leave_waiting(&mut self, team: TeamId, heir: Option<TeamId>) {
        for id in self.neighbors.ids() {
            let waiting = &mut self.neighbors[id].waiting;
            match heir {
                Some(heir) => {
                    waiting.iter_mut().filter(|waiting| waiting.team == team).for_each(|w| w.team = heir)
                }
                None => waiting.retain(|waiting| waiting.team != team),
            }
        }
    }

    /// Looks at protected links, when one of them wants it.
    pub(super) fn links_due(&mut self, now: Now) {
        if self.links.wake.is_none_or(|at| now.mono < at) {
            return;
        }
        self.links.wake = None;
        for id in self.neighbors.ids() {
            let neighbor = &mut self.neighbors[id];
            let late = neighbor.waiting.iter().take_while(|w| w.until <= now.mono).count();
            neighbor.waiting.drain(..late);
            (0..late).for_each(|_| self.counters.add(Count::Unproven));
            if let Some(waiting) = neighbor.waiting.front() {
                self.links.wake_at(waiting.until);
            }
            let Guard::Sealed(link) = &mut neighbor.guard else { continue };
            if link.wake() <= now.mono.micros() {
                link.poll(now.mono.micros(), &*self.links.entropy);
            }
            self.serve_link(now, id);
        }
    }

    /// A step of a handshake ended.
    pub(super) fn handshake_done(&mut self, now: Now, neighbor: NeighborId, finished: Finished) {
        let Guard::Sealed(link) = &mut self.neighbors[neighbor].guard else { return };
        if let Err(why) = link.finished(now.mono.micros(), finished) {
            self.refused_on_link(now, neighbor, why);
        }
        self.serve_link(now, neighbor);
    }

    /// Takes out what a link wants sent, done and told.
    fn serve_link(&mut self, now: Now, id: NeighborId) {
        let Guard::Sealed(link) = &mut self.neighbors[id].guard else { return };
        if let Some(task) = link.task() {
            // Packets wait for this, and it is short: it goes before all compilations.
            let job = self.next_job;
            self.next_job = JobId(job.0 + 1);
            self.jobs.push_front(Job::new(job, Work::Handshake { neighbor: id, task }));
        }
        self.links.wake_for(link);
        while let Guard::Sealed(link) = &mut self.neighbors[id].guard
            && let Some(frame) = link.output()
        {
            debug_assert!(frame.len() <= MAX_HANDSHAKE);
            let sent = self.platform.buffers.copy_of(&frame).is_some_and(|buf| {
                let out = self.neighbors[id].out;
                self.net.send(now.mono, TeamId::ROOT, &out, buf).is_ok()
            });
            if !sent {
                self.counters.add(Count::SendDropped);
            }
        }
        while let Guard::Sealed(link) = &mut self.neighbors[id].guard
            && let Some(event) = link.event()
        {
            self.link_event(now, id, event);
        }
    }

    fn link_event(&mut self, now: Now, id: NeighborId, event: LinkEvent) {
        let name = self.neighbors[id].name.clone();
        match event {
            LinkEvent::Up(identity) => {
                self.counters.add(Count::LinkKeys);
                self.log_limited(now, || format!("{name} proved its identity: the link is protected"));
                self.tell_agent(now, AgentEvent::NeighborUp { name: &name, identity: Some(identity) });
                let waiting = std::mem::take(&mut self.neighbors[id].waiting);
                for Waiting { team, packet, .. } in waiting {
                    if !self.pass(now, team, id, packet) {
                        self.counters.add(Count::SendDropped);
                    }
                }
            }
            LinkEvent::Renewed => self.counters.add(Count::LinkKeys),
            LinkEvent::Down => {
                self.counters.add(Count::LinksDown);
                self.log_limited(now, || format!("peer {name} is gone, or started anew"));
                self.tell_agent(now, AgentEvent::NeighborDown { name: &name });
            }
            LinkEvent::NoEntropy => {
                self.log_limited(now, || format!("{name}: no handshake: {EntropyError}"));
            }
        }
    }

    fn refused_on_link(&mut self, now: Now, from: NeighborId, why: Refused) {
        let neighbor = &mut self.neighbors[from];
        neighbor.refused += 1;
        self.counters.add(match why {
            Refused::Unprotected => Count::Unprotected,
            Refused::Malformed | Refused::Forged => Count::Forged,
            Refused::Replayed => Count::Replayed,
            Refused::Stale => Count::StaleKeys,
            Refused::Handshake => Count::HandshakesRefused,
            Refused::Limited => Count::HandshakesLimited,
            Refused::Entropy => Count::Unproven,
        });
        // After a restart frames under old keys are no news.
        if why != Refused::Stale {
            let name = neighbor.name.clone();
            self.log_limited(now, || format!("{} at the address of {name}: {why}", why.erred()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    /// RFC 8032, section 7.1, test 1.
    const PEER: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn wants(identity: bool, neighbor: &str) -> Result<bool, String> {
        let identity = if identity { format!("identity = \"{OWN}\"") } else { String::new() };
        let text = format!(
            "[node]\nname = \"a\"\n{identity}\n[[link]]\nname = \"ab\"\n\
             [[neighbor]]\nname = \"b\"\nlink = \"ab\"\nmac = \"02:00:00:00:02:01\"\n{neighbor}"
        );
        let config = NodeConfig::parse(&text).map_err(|e| e.0)?;
        wanted(&config, &config.neighbors[0]).map(|key| key.is_some()).map_err(|e| e.0)
    }

    #[test]
    fn protected_where_both_have_keys_unless_the_operator_says_otherwise() {
        let key = format!("key = \"{PEER}\"\n");
        assert_eq!(wants(true, &key), Ok(true));
        assert_eq!(wants(true, &format!("{key}protect = \"require\"")), Ok(true));
        for (identity, neighbor) in
            [(true, ""), (false, &key[..]), (false, ""), (true, &format!("{key}protect = false"))]
        {
            assert_eq!(wants(identity, neighbor), Ok(false), "{identity} {neighbor}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_says_why() {
        let own = authagent::keys::SigningKey::from_hex(OWN).unwrap().public();
        for (identity, neighbor, why) in [
            (true, "protect = \"require\"".to_string(), "needs the neighbor's key"),
            (false, format!("key = \"{PEER}\"\nprotect = \"require\""), "needs node.identity"),
            (true, format!("key = \"{own}\""), "own identity"),
            (true, "key = \"d75a\"".to_string(), "64 hex digits"),
            (true, format!("key = \"{}\"", "0".repeat(64)), "prove nothing"),
        ] {
            let error = wants(identity, &neighbor).unwrap_err();
            assert!(error.contains(why) && error.contains("\"b\""), "{error}");
        }
    }
}
