//! Channels as the operator sees them, and those that an operator makes: a cut-through channel takes capsules of
//! one identifier from one neighbor to another without the execution environment ([`nodeos::channel`]), at the
//! expense of a flow's team, or else of a team of the operator's own that has `[team]`'s bounds.
//!
//! Only neighbors in the clear have them: what is sealed shows no identifier below the execution environment, and
//! what passed there would be neither opened nor sealed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use nodeos::channel::{CutKey, CutThrough};
use nodeos::config::MAX_NAME;
use nodeos::link::LinkId;
use nodeos::net::MAX_CUTS;
use nodeos::platform::Now;
use nodeos::team::{Donated, Team, TeamId};
use wire::UDP_PORT;
use wire::control::{Answer, ChannelInfo, CutInfo, Erred};
use wire::id::{CapsuleId, TupleHash};
use wire::system::{REQUEST, RESPONSE, agent_id, translation_id};

use super::manage::{failed, page};
use super::{Node, protect};
use crate::config::{ChannelConfig, ConfigError, NodeConfig};
use crate::neighbor::{Guard, NeighborId};
use crate::registry::Target;

/// How the team that pays for the operator's own channels is called.
const TEAM: &str = "channels";

/// Where a channel leads, and which capsules it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Between {
    from: NeighborId,
    to: NeighborId,
    capsule: CapsuleId,
}

/// Checks all `[[channel]]`s of a configuration.
pub(crate) fn check(config: &NodeConfig) -> Result<(), ConfigError> {
    if config.channels.len() > MAX_CUTS {
        return Err(ConfigError(format!("at most {MAX_CUTS} channels")));
    }
    let mut keys = BTreeSet::new();
    for channel in &config.channels {
        let Between { from, capsule, .. } = between(config, channel)?;
        if !keys.insert((from, capsule)) {
            return Err(channel.fails("another channel takes the same capsules"));
        }
    }
    Ok(())
}

fn between(config: &NodeConfig, channel: &ChannelConfig) -> Result<Between, ConfigError> {
    let find = |key: &str, name: &str| {
        let at = config.neighbors.iter().position(|n| n.name == name);
        let at = at.ok_or_else(|| channel.fails(&format!("{key}: there is no neighbor {name:?}")))?;
        if protect::wanted(config, &config.neighbors[at])?.is_some() {
            return Err(channel.fails(&format!("{key}: {}", sealed(name))));
        }
        // Checked with the configuration: there are no more than 1024.
        Ok(NeighborId(at as u16))
    };
    let (from, to) = (find("from", &channel.from)?, find("to", &channel.to)?);
    if from == to {
        return Err(channel.fails(SAME));
    }
    let capsule = channel.capsule.parse();
    let capsule = capsule.map_err(|_| channel.fails("capsule must be 32 hexadecimal digits"))?;
    if [translation_id(REQUEST), translation_id(RESPONSE), agent_id()].contains(&capsule) {
        return Err(channel.fails(OWN));
    }
    Ok(Between { from, to, capsule })
}

const SAME: &str = "from and to are the same neighbor";
const OWN: &str = "capsules of this identifier are for the node itself";

fn sealed(name: &str) -> String {
    format!(
        "the link to {name} is protected: what passes without the execution environment can be neither opened nor sealed"
    )
}

impl Node {
    /// Opens the configuration's cut-through channels.
    pub(super) fn open_channels(&mut self, now: Now, config: &NodeConfig) -> Result<(), ConfigError> {
        for channel in &config.channels {
            let between = between(config, channel)?;
            self.open_channel(now, between, None).map_err(|(_, why)| channel.fails(&why))?;
        }
        Ok(())
    }

    /// What `bees channel show` prints.
    pub(super) fn channel_show(&self, now: Now, from: u32) -> Answer {
        let mut all = Vec::new();
        for link in (0..self.net.links() as u16).map(LinkId) {
            let Some(own) = self.net.in_channel(link) else { continue };
            let ips = [own.v4.map(IpAddr::V4), own.v6.map(IpAddr::V6)];
            let udp = ips.into_iter().flatten().map(|ip| SocketAddr::new(ip, UDP_PORT).to_string());
            let addresses = [own.mac.to_string()].into_iter().chain(udp);
            all.extend(addresses.map(|address| ChannelInfo::In { link: self.link_name(link), address }));
        }
        all.extend(self.neighbors.iter().map(|(_, n)| ChannelInfo::Out {
            link: self.link_name(n.out.link),
            neighbor: n.name.to_string(),
            address: n.out.to.to_string(),
            protection: n.guard.protection(now.mono),
        }));
        all.extend(self.net.cuts().map(|(key, cut)| ChannelInfo::CutThrough(self.cut_info(key, cut))));
        Answer::Channels(page(all.into_iter(), from, |info| info))
    }

    fn cut_info(&self, key: &CutKey, cut: &CutThrough) -> CutInfo {
        let place = |link, address| {
            let name = self.neighbors.find(link, address).map(|id| self.neighbors[id].name.to_string());
            (self.link_name(link), name.unwrap_or_default())
        };
        let name = self.teams.get(cut.team).map(|team| team.name.to_string());
        CutInfo {
            from: place(key.link, key.from),
            capsule: key.id,
            to: place(cut.out.link, cut.out.to),
            address: cut.out.to.to_string(),
            team: (cut.team.0.raw(), name.unwrap_or_default()),
            flow: self.flows.by_team(cut.team).and_then(|h| Some(self.flows.get(h)?.hash)),
            passed: (cut.forwarded, cut.bytes),
            dropped: cut.dropped,
        }
    }

    fn link_name(&self, link: LinkId) -> String {
        self.net.link(link).map_or("", |link| link.name()).to_string()
    }

    /// Opens a cut-through channel for an operator.
    pub(super) fn channel_add(
        &mut self,
        now: Now,
        principal: &str,
        (from, capsule, to): (&str, CapsuleId, &str),
        flow: Option<TupleHash>,
    ) -> Answer {
        let find = |name: &str| self.neighbors.by_name(name);
        let (Some(from_id), Some(to_id)) = (find(from), find(to)) else {
            // No longer than a name may be: the answer has to fit a message.
            let name = if find(from).is_none() { from } else { to };
            let name: String = name.chars().take(MAX_NAME).collect();
            return failed(Erred::Operator, format!("there is no neighbor {name:?}"));
        };
        let between = Between { from: from_id, to: to_id, capsule };
        match self.open_channel(now, between, flow) {
            Ok(()) => {
                let payer = flow.map_or(TEAM.into(), |flow| format!("flow {flow:.8}"));
                self.audit(now, || {
                    format!(
                        "channel for {capsule} from {from} to {to}, paid by {payer}, opened by {principal}"
                    )
                });
                Answer::Done
            }
            Err((erred, why)) => failed(erred, why),
        }
    }

    /// Closes one.
    pub(super) fn channel_remove(
        &mut self,
        now: Now,
        principal: &str,
        from: &str,
        capsule: CapsuleId,
    ) -> Answer {
        let key = self.neighbors.by_name(from).map(|id| self.key(id, capsule));
        let Some(cut) = key.and_then(|key| self.net.uncut(&key)) else {
            return failed(Erred::Operator, "there is no such channel: bees channel show");
        };
        // What its team sent, it sent.
        if let Some(member) = self.teams.get_mut(cut.team) {
            member.counters.sent += cut.bytes;
        }
        if self.channels == Some(cut.team) && self.net.cuts().all(|(_, other)| other.team != cut.team) {
            self.channels = None;
            self.net.remove_team(cut.team, None);
            self.teams.end(now.mono, cut.team);
        }
        self.audit(now, || format!("channel for {capsule} from {from} closed by {principal}"));
        Answer::Done
    }

    fn key(&self, from: NeighborId, id: CapsuleId) -> CutKey {
        let out = self.neighbors[from].out;
        CutKey { link: out.link, from: out.to, id }
    }

    fn open_channel(
        &mut self,
        now: Now,
        between: Between,
        flow: Option<TupleHash>,
    ) -> Result<(), (Erred, String)> {
        let operator = |why: String| Err((Erred::Operator, why));
        let Between { from, to, capsule } = between;
        if from == to {
            return operator(SAME.into());
        }
        for id in [from, to] {
            if self.neighbors[id].found.is_some() {
                return operator("channels are between neighbors of the configuration".into());
            }
            if !matches!(self.neighbors[id].guard, Guard::None) {
                return operator(sealed(&self.neighbors[id].name));
            }
        }
        if !matches!(self.registry.find(&capsule), None | Some(Target::Flow { .. })) {
            return operator(OWN.into());
        }
        let key = self.key(from, capsule);
        if self.net.cuts().any(|(other, _)| *other == key) {
            return operator("there is one already for these capsules: remove it first".into());
        }
        let full = || (Erred::Node, format!("there are {MAX_CUTS} cut-through channels, which is the most"));
        if self.net.cuts().count() >= MAX_CUTS {
            return Err(full());
        }
        let team = match flow {
            Some(hash) => match self.flows.by_hash(&hash).and_then(|handle| self.flow_and_team(handle)) {
                Some((_, team)) => team,
                None => return operator("there is no such flow here, or it has no team yet".into()),
            },
            None => self.channels_team(now)?,
        };
        let Some(member) = self.teams.get(team) else { return Err(full()) };
        let neighbor = &self.neighbors[to];
        let cut = CutThrough {
            least: neighbor.floor,
            ..CutThrough::new(neighbor.out, team, member.bandwidth().clone())
        };
        self.net.cut(key, cut).map_err(|_| full())
    }

    /// The team of the operator's own channels, which lives as long as one of them.
    fn channels_team(&mut self, now: Now) -> Result<TeamId, (Erred, String)> {
        if let Some(team) = self.channels {
            return Ok(team);
        }
        let made = self.teams.create(now.mono, self.teams.root(), TEAM, self.budget, Donated::NOTHING);
        let team = made.map_err(|why| (Erred::Node, why.to_string()))?;
        let shares = self.teams.get(team).map(Team::shares).unwrap_or_default();
        self.net.add_team(team, None, shares);
        self.channels = Some(team);
        Ok(team)
    }

    /// Bytes that a team sent, also through the channels that it pays for.
    pub(super) fn sent_by(&self, team: TeamId) -> u64 {
        let its = self.net.cuts().filter(|(_, cut)| self.counts_for(cut.team, team));
        self.did(team).map_or(0, |did| did.sent) + its.map(|(_, cut)| cut.bytes).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_SEED: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    /// RFC 8032, section 7.1, test 1.
    const PEER: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn parse(channels: &str) -> Result<NodeConfig, String> {
        let mut text = format!("[node]\nname = \"b\"\nidentity = \"{OWN_SEED}\"\n[[link]]\nname = \"x\"\n");
        for (name, more) in [("a", ""), ("c", ""), ("s", &format!("key = \"{PEER}\"\n")[..])] {
            let last = name.as_bytes()[0];
            text += &format!(
                "[[neighbor]]\nname = \"{name}\"\nlink = \"x\"\nmac = \"02:00:00:00:00:{last:02x}\"\n{more}"
            );
        }
        NodeConfig::parse(&(text + channels)).map_err(|e| e.0)
    }

    fn channel(from: &str, to: &str, capsule: &str) -> String {
        format!("[[channel]]\nfrom = \"{from}\"\nto = \"{to}\"\ncapsule = \"{capsule}\"\n")
    }

    #[test]
    fn channels_are_read_and_written() {
        let id = "00112233445566778899aabbccddeeff";
        let text = channel("a", "c", id) + &channel("c", "a", id);
        let config = parse(&text).unwrap();
        assert_eq!((config.channels.len(), &config.channels[1].from[..]), (2, "c"));
        let again = NodeConfig::parse(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again.channels[0].capsule, id);
    }

    #[test]
    fn mistakes_in_channels_are_pointed_at() {
        let id = "00112233445566778899aabbccddeeff";
        let agent = agent_id().to_string();
        let many: String = (0..=MAX_CUTS).map(|n| channel("a", "c", &format!("{n:032x}"))).collect();
        for (text, why) in [
            (channel("x", "c", id), "from: there is no neighbor \"x\""),
            (channel("a", "x", id), "to: there is no neighbor \"x\""),
            (channel("a", "a", id), "the same neighbor"),
            (channel("a", "s", id), "to: the link to s is protected"),
            (channel("s", "a", id), "from: the link to s is protected"),
            (channel("a", "c", "0011"), "32 hexadecimal digits"),
            (channel("a", "c", &agent), "for the node itself"),
            (channel("a", "c", id) + &channel("a", "c", id), "the same capsules"),
            (channel("a", "c", id) + "rate = \"1mbit\"", "rate"),
            (many, "at most 64 channels"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
