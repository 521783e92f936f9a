//! Links, channels and IP together: a node's network.
//!
//! ```text
//!   frame ──> InChannel ──> capsule ──> cut-through ──> send
//!                │             └──────> Received, for the execution environment
//!                ├────────> sessions' datagrams ──> Datagram
//!                └────────> ARP, ND, ICMP, DHCP, TCP ──> stream events
//!   send ───> headers ──> next hop ──> Link's queue ──> transmit
//! ```
//!
//! A platform's frames go into [`Net::frame`], and what [`Net::transmit`] gives goes to its devices. The
//! execution environment takes capsules from `frame`, sends with [`Net::send`], and serves streams.
//! [`Net::poll`] is called after a batch of frames and whenever [`Net::deadline`] has come.
//!
//! A capsule that is received, rewritten and sent stays in one buffer, and neither `frame` nor `send`
//! allocates.

use crate::buf::{Buf, BufPool};
use crate::channel::{
    Address, Class, CutKey, CutThrough, Ignored, InChannel, MAX_HEADERS, OutChannel, emit_datagram,
    emit_ethernet, emit_udp,
};
use crate::config::{ConfigError, LinkAddress, LinkConfig, check};
use crate::ip::{Stack, StreamEvent, StreamLimits};
use crate::link::{Link, LinkId, Mac};
use crate::nexthop::{self, NextHops, emit_question, parse_answer};
use crate::platform::Instant;
use crate::sched::Shares;
use crate::slab::{Full, Handle};
use crate::team::TeamId;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use wire::capsule::Capsule;
use wire::control::LinkInfo;

/// The most next hops that are remembered.
pub const MAX_HOPS: usize = 64;
/// The most cut-through channels.
pub const MAX_CUTS: usize = 64;

/// A capsule packet that arrived.
#[derive(Debug)]
pub struct Received {
    /// On this link.
    pub link: LinkId,
    /// From there, by the sender's own account.
    pub from: Address,
    /// The packet: starts at the ANEP header, may end in link padding.
    pub packet: Buf,
}

/// Datagrams of sessions that wait for the execution environment.
pub const MAX_DATAGRAMS: usize = 64;

/// Where a program is that speaks by datagrams: what is sent there leaves the way the program's own came, so that
/// nobody is asked for a station and nothing is remembered of who only claims an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correspondent {
    /// On this link.
    pub link: LinkId,
    /// By way of this station.
    pub station: Mac,
    /// Its address, by its own account.
    pub address: SocketAddr,
}

/// A session's datagram that arrived.
#[derive(Debug)]
pub struct Datagram {
    /// From there.
    pub from: Correspondent,
    /// Its payload.
    pub payload: Buf,
}

/// Names a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    link: LinkId,
    handle: Handle,
}

impl StreamId {
    /// The link that it came over.
    pub fn link(&self) -> LinkId {
        self.link
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.link.0, self.handle)
    }
}

/// Why a packet was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// There is no such link.
    NoLink,
    /// The link has no address of the IP version of the neighbor (or none yet), or no way to it.
    NoAddress,
    /// The packet is longer than this, which is what fits the channel.
    TooLong(u16),
    /// The buffer lacks headroom for the carrier's headers.
    NoHeadroom,
    /// The link's queue is full.
    QueueFull,
    /// Nobody answers for the neighbor's address, for now.
    Unreachable,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLink => f.write_str("there is no such link"),
            Self::NoAddress => f.write_str("the link has no address or route for this neighbor"),
            Self::TooLong(most) => write!(f, "the packet is longer than {most} bytes"),
            Self::NoHeadroom => f.write_str("the packet's buffer has no room for headers"),
            Self::QueueFull => f.write_str("the link's queue is full"),
            Self::Unreachable => f.write_str("nobody answers for the neighbor's address"),
        }
    }
}

impl core::error::Error for SendError {}

/// What the network counts, besides each link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Capsule packets received for the execution environment.
    pub capsules: u64,
    /// Capsule packets that took a cut-through channel.
    pub cut_through: u64,
    /// Frames for the IP interfaces.
    pub ip: u64,
    /// Frames for other stations.
    pub not_ours: u64,
    /// Frames of unknown type.
    pub unknown_type: u64,
    /// UDP packets to ports where nothing listens.
    pub closed_ports: u64,
    /// Frames with a wrong length, checksum or source.
    pub malformed: u64,
    /// Fragments of IP packets, refused.
    pub fragments: u64,
    /// Datagrams of sessions.
    pub datagrams: u64,
    /// Those of them that were dropped, because too many waited.
    pub datagrams_dropped: u64,
    /// Frames on links that do not exist, or for IP on links without an address.
    pub no_link: u64,
    /// What the table of next hops counts.
    pub hops: nexthop::Counters,
}

/// The network of a node.
pub struct Net {
    ports: Vec<Port>,
    pool: BufPool,
    hops: NextHops,
    cuts: BTreeMap<CutKey, CutThrough>,
    datagrams: VecDeque<Datagram>,
    counters: Counters,
}

/// One link with what listens on it.
struct Port {
    link: Link,
    accepts: InChannel,
    stack: Option<Stack>,
    gateway: Option<IpAddr>,
}

impl Net {
    /// The links of `configs`, each with its MAC address filled in. `seed` makes TCP sequence numbers: it
    /// must not be known to others. `streams` bounds connections on management links.
    pub fn new(
        configs: &[LinkConfig],
        pool: BufPool,
        seed: u64,
        streams: StreamLimits,
    ) -> Result<Self, ConfigError> {
        check(configs, &[])?;
        if configs.len() > usize::from(u16::MAX) {
            return Err(ConfigError("too many links".to_string()));
        }
        let ports = (0u64..).zip(configs).map(|(n, config)| {
            // Distinct links get distinct sequences.
            let seed = seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Port::new(config, &pool, seed, streams)
        });
        let ports = ports.collect::<Result<_, _>>()?;
        let (hops, cuts, counters) = (NextHops::new(MAX_HOPS), BTreeMap::new(), Counters::default());
        Ok(Self { ports, pool, hops, cuts, datagrams: VecDeque::new(), counters })
    }

    /// Takes a frame that arrived on `link`. A capsule packet comes back; all else is dealt with here.
    #[inline]
    pub fn frame(&mut self, now: Instant, link: LinkId, mut frame: Buf) -> Option<Received> {
        let Some(port) = self.ports.get_mut(link.index()) else {
            self.counters.no_link += 1;
            return None;
        };
        port.link.count_received(frame.len());
        match port.accepts.classify(&frame) {
            Class::Capsule { from, at, len } => {
                frame.pull_front(at);
                // Never longer than it was.
                let _ = frame.set_len(len.min(frame.len()));
                let received = Received { link, from, packet: frame };
                if !self.cuts.is_empty() {
                    return self.cut_through(now, received);
                }
                self.counters.capsules += 1;
                Some(received)
            }
            Class::Ip => {
                self.frame_for_ip(now, link, frame);
                None
            }
            Class::Session { from, station, at, len } => {
                frame.pull_front(at);
                // Never longer than it was.
                let _ = frame.set_len(len.min(frame.len()));
                let from = Correspondent { link, station, address: from };
                self.keep_datagram(Datagram { from, payload: frame });
                None
            }
            Class::Ignored(why) => {
                *match why {
                    Ignored::NotOurs => &mut self.counters.not_ours,
                    Ignored::UnknownType => &mut self.counters.unknown_type,
                    Ignored::ClosedPort => &mut self.counters.closed_ports,
                    Ignored::Malformed => &mut self.counters.malformed,
                    Ignored::Fragment => &mut self.counters.fragments,
                } += 1;
                None
            }
        }
    }

    /// Sends a packet that starts at the ANEP header. Its buffer needs [`MAX_HEADERS`] bytes of headroom.
    /// It is sent for `team`; the node's own are [`TeamId::ROOT`]'s. A packet that has to wait for a next hop counts
    /// as sent.
    #[inline]
    pub fn send(
        &mut self,
        now: Instant,
        team: TeamId,
        channel: &OutChannel,
        mut packet: Buf,
    ) -> Result<(), SendError> {
        let port = self.ports.get_mut(channel.link.index()).ok_or(SendError::NoLink)?;
        let most = port.accepts.mtu - channel.overhead();
        if packet.len() > usize::from(most) {
            return Err(SendError::TooLong(most));
        }
        match channel.to {
            Address::Ethernet(mac) => {
                emit_ethernet(&mut packet, port.accepts.mac, mac).map_err(|_| SendError::NoHeadroom)?;
                port.link.send(team, packet).map_err(|_| SendError::QueueFull)
            }
            Address::Udp(to) => self.send_udp(now, team, channel.link, to, packet),
        }
    }

    /// The next datagram of a session.
    pub fn datagram(&mut self) -> Option<Datagram> {
        self.datagrams.pop_front()
    }

    /// Sends a session's datagram. Its buffer needs [`MAX_HEADERS`] bytes of headroom.
    pub fn send_datagram(
        &mut self,
        team: TeamId,
        to: &Correspondent,
        mut payload: Buf,
    ) -> Result<(), SendError> {
        let port = self.ports.get_mut(to.link.index()).ok_or(SendError::NoLink)?;
        let (own, channel) = (&port.accepts, OutChannel { link: to.link, to: Address::Udp(to.address) });
        let ip = match to.address.ip() {
            IpAddr::V4(_) => own.v4.map(IpAddr::V4),
            IpAddr::V6(_) => own.v6.map(IpAddr::V6),
        };
        let own_address = SocketAddr::new(ip.ok_or(SendError::NoAddress)?, wire::SESSION_PORT);
        let most = own.mtu.saturating_sub(channel.overhead());
        if payload.len() > usize::from(most) {
            return Err(SendError::TooLong(most));
        }
        emit_datagram(&mut payload, own.mac, own_address, to.address, to.station)
            .map_err(|_| SendError::NoHeadroom)?;
        port.link.send(team, payload).map_err(|_| SendError::QueueFull)
    }

    /// Opens a stream to `to` from a management link; what becomes of it is told by events. `None`: no such link leads
    /// there, or the stream that it can have is in use.
    pub fn connect(&mut self, now: Instant, to: SocketAddr) -> Option<StreamId> {
        let ways = self.ports.iter_mut().zip(0..).filter(|(port, _)| port.accepts.sessions);
        ways.filter(|(port, _)| port.route(to.ip()).is_some()).find_map(|(port, index)| {
            let handle = port.stack.as_mut()?.connect(now, to)?;
            Some(StreamId { link: LinkId(index), handle })
        })
    }

    /// Does what is due.
    pub fn poll(&mut self, now: Instant) {
        for index in 0..self.ports.len() {
            if self.ports[index].stack.as_ref().and_then(Stack::deadline).is_some_and(|at| at <= now) {
                self.poll_stack(now, LinkId(index as u16));
            }
        }
        while let Some((link, ip, known)) = self.hops.question(now) {
            let Some(port) = self.ports.get_mut(link.index()) else { continue };
            if let Some(question) = emit_question(&self.pool, &port.accepts, ip, known) {
                // A full queue has counted the drop; the question is asked again.
                let _ = port.link.send(TeamId::ROOT, question);
            }
        }
    }

    /// The next frame to send on `link` now.
    #[inline]
    pub fn transmit(&mut self, now: Instant, link: LinkId) -> Option<Buf> {
        self.ports.get_mut(link.index())?.link.transmit(now)
    }

    /// When [`poll`](Self::poll) or [`transmit`](Self::transmit) has something to do that it could not do
    /// at `now`.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let ports = self.ports.iter().filter_map(|port| {
            let stack = port.stack.as_ref().and_then(Stack::deadline);
            [stack, port.link.deadline(now)].into_iter().flatten().min()
        });
        ports.chain(self.hops.deadline()).min()
    }

    /// The longest packet (ANEP header included) that fits `channel`; `None` if its link does not exist.
    pub fn max_packet(&self, channel: &OutChannel) -> Option<u16> {
        Some(self.link(channel.link)?.mtu() - channel.overhead())
    }

    /// How many links there are.
    pub fn links(&self) -> usize {
        self.ports.len()
    }

    /// A link.
    pub fn link(&self, link: LinkId) -> Option<&Link> {
        Some(&self.ports.get(link.index())?.link)
    }

    /// What a link accepts.
    pub fn in_channel(&self, link: LinkId) -> Option<&InChannel> {
        Some(&self.ports.get(link.index())?.accepts)
    }

    /// The link of this name.
    pub fn link_named(&self, name: &str) -> Option<LinkId> {
        let index = self.ports.iter().position(|port| port.link.name() == name)?;
        u16::try_from(index).ok().map(LinkId)
    }

    /// All links, as the control protocol shows them.
    pub fn link_infos(&self) -> Vec<LinkInfo> {
        self.ports.iter().map(Port::info).collect()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        Counters { hops: self.hops.counters, ..self.counters }
    }

    /// Opens a cut-through channel, or replaces the one of this key.
    pub fn cut(&mut self, key: CutKey, cut: CutThrough) -> Result<(), Full> {
        if self.cuts.len() >= MAX_CUTS && !self.cuts.contains_key(&key) {
            return Err(Full);
        }
        self.cuts.insert(key, cut);
        Ok(())
    }

    /// Closes a cut-through channel; returns it as it was at the end.
    pub fn uncut(&mut self, key: &CutKey) -> Option<CutThrough> {
        self.cuts.remove(key)
    }

    /// All cut-through channels.
    pub fn cuts(&self) -> impl Iterator<Item = (&CutKey, &CutThrough)> {
        self.cuts.iter()
    }

    /// Admits a team to all links, below `parent` or, without one, below the root.
    pub fn add_team(&mut self, team: TeamId, parent: Option<TeamId>, shares: Shares) {
        self.ports.iter_mut().for_each(|port| port.link.add_team(team, parent, shares));
    }

    /// Gives a team other shares of all links.
    pub fn set_shares(&mut self, team: TeamId, shares: Shares) {
        self.ports.iter_mut().for_each(|port| port.link.set_shares(team, shares));
    }

    /// A team has ended, after those below it: its cut-through channels are closed, and what waits of it is
    /// `heir`'s, or without one dropped.
    pub fn remove_team(&mut self, team: TeamId, heir: Option<TeamId>) {
        self.cuts.retain(|_, cut| cut.team != team);
        self.hops.remove_team(team, heir);
        self.ports.iter_mut().for_each(|port| port.link.remove_team(team, heir));
    }

    /// The next thing that happened to a stream.
    pub fn stream_event(&mut self) -> Option<(StreamId, StreamEvent)> {
        self.ports.iter_mut().zip(0..).find_map(|(port, index)| {
            let (handle, event) = port.stack.as_mut()?.event()?;
            Some((StreamId { link: LinkId(index), handle }, event))
        })
    }

    /// Moves received bytes into `out`; returns how many. 0 also when there is no such stream.
    pub fn read(&mut self, now: Instant, id: StreamId, out: &mut [u8]) -> usize {
        self.stack(id).map_or(0, |stack| stack.read(now, id.handle, out))
    }

    /// Queues bytes to be sent; returns how many were taken (fewer when the buffer is full). 0 also when
    /// there is no such stream. Call [`poll`](Self::poll) afterwards.
    pub fn write(&mut self, now: Instant, id: StreamId, bytes: &[u8]) -> usize {
        self.stack(id).map_or(0, |stack| stack.write(now, id.handle, bytes))
    }

    /// How many bytes [`write`](Self::write) would take now.
    pub fn room(&mut self, id: StreamId) -> usize {
        self.stack(id).map_or(0, |stack| stack.room(id.handle))
    }

    /// Ends a stream after what was written has been sent. Its name is gone at once, without an event.
    pub fn close(&mut self, now: Instant, id: StreamId) {
        if let Some(stack) = self.stack(id) {
            stack.close(now, id.handle);
        }
    }

    /// Ends a stream at once. Its name is gone, without an event.
    pub fn abort(&mut self, now: Instant, id: StreamId) {
        if let Some(stack) = self.stack(id) {
            stack.abort(now, id.handle);
        }
    }

    fn stack(&mut self, id: StreamId) -> Option<&mut Stack> {
        self.ports.get_mut(id.link.index())?.stack.as_mut()
    }

    fn send_udp(
        &mut self,
        now: Instant,
        team: TeamId,
        link: LinkId,
        to: SocketAddr,
        mut packet: Buf,
    ) -> Result<(), SendError> {
        let port = self.ports.get_mut(link.index()).ok_or(SendError::NoLink)?;
        let (own, hop) = port.route(to.ip()).ok_or(SendError::NoAddress)?;
        let known = self.hops.resolve(now, link, hop);
        // The destination of a frame that waits is put in later.
        let to_mac = known.unwrap_or(Mac([0; 6]));
        emit_udp(&mut packet, port.accepts.mac, own, to, to_mac).map_err(|_| SendError::NoHeadroom)?;
        if known.is_some() {
            return port.link.send(team, packet).map_err(|_| SendError::QueueFull);
        }
        if self.hops.wait(link, hop, team, packet) { Ok(()) } else { Err(SendError::Unreachable) }
    }

    fn keep_datagram(&mut self, datagram: Datagram) {
        self.counters.datagrams += 1;
        if self.datagrams.len() < MAX_DATAGRAMS {
            self.datagrams.push_back(datagram);
        } else {
            self.counters.datagrams_dropped += 1;
        }
    }

    fn frame_for_ip(&mut self, now: Instant, link: LinkId, frame: Buf) {
        let port = &mut self.ports[link.index()];
        if port.stack.is_none() {
            self.counters.no_link += 1;
            return;
        }
        self.counters.ip += 1;
        if let Some((ip, mac)) = parse_answer(&port.accepts, &frame)
            && let Some((team, waited)) = self.hops.answer(now, link, ip, mac)
        {
            // A full queue has counted the drop.
            let _ = port.link.send(team, waited);
        }
        port.link.put_received(frame);
        self.poll_stack(now, link);
    }

    fn poll_stack(&mut self, now: Instant, link: LinkId) {
        let port = &mut self.ports[link.index()];
        let Some(stack) = &mut port.stack else { return };
        if stack.poll(now, &mut port.link) {
            port.gateway = stack.own_addresses(&mut port.accepts);
            self.hops.forget(link);
        }
    }

    fn cut_through(&mut self, now: Instant, received: Received) -> Option<Received> {
        let Received { link, from, mut packet } = received;
        let capsule = Capsule::parse(&packet).ok();
        let cut = capsule.and_then(|capsule| self.cuts.get_mut(&CutKey { link, from, id: capsule.id }));
        let Some(cut) = cut else {
            self.counters.capsules += 1;
            return Some(Received { link, from, packet });
        };
        let capsule = capsule?;
        // Without the link's own padding.
        let _ = packet.set_len((capsule.payload_at + capsule.payload_len).min(packet.len()));
        let (out, team, bytes) = (cut.out, cut.team, packet.len());
        let key = CutKey { link, from, id: capsule.id };
        let padded = pad(&mut packet, cut.least.into());
        let sent = padded
            && cut.bandwidth.take(now, out.link, packet.len() + out.header())
            && self.send(now, team, &out, packet).is_ok();
        let cut = self.cuts.get_mut(&key)?;
        if sent {
            self.counters.cut_through += 1;
            cut.forwarded += 1;
            cut.bytes += bytes as u64;
        } else {
            cut.dropped += 1;
        }
        None
    }
}

impl Port {
    fn new(
        config: &LinkConfig,
        pool: &BufPool,
        seed: u64,
        streams: StreamLimits,
    ) -> Result<Self, ConfigError> {
        let mac = config
            .mac
            .ok_or_else(|| ConfigError(format!("link {:?}: there is no NIC for it", config.name)))?;
        let rate = config.rate.map(|rate| rate.0);
        let mut link = Link::new(&config.name, mac, config.mtu, rate, config.queue, pool.clone());
        let dhcp = config.address == Some(LinkAddress::Dhcp);
        let sessions = config.management;
        let mut accepts = InChannel { mac, mtu: config.mtu, v4: None, v6: None, dhcp, sessions };
        let stack = config.address.map(|address| {
            let listen = config.management.then_some(streams);
            Stack::new(&mut link, address, config.gateway, listen, seed)
        });
        let gateway = stack.as_ref().and_then(|stack| stack.own_addresses(&mut accepts));
        Ok(Self { link, accepts, stack, gateway })
    }

    /// The own address to send from, and the next hop on the way to `to`.
    fn route(&self, to: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let own = match to {
            IpAddr::V4(_) => self.accepts.v4.map(IpAddr::V4)?,
            IpAddr::V6(_) => self.accepts.v6.map(IpAddr::V6)?,
        };
        let on_link = self.stack.as_ref()?.is_on_link(to);
        let hop = if on_link { to } else { self.gateway.filter(|via| via.is_ipv4() == to.is_ipv4())? };
        Some((own, hop))
    }

    fn info(&self) -> LinkInfo {
        let c = &self.link.counters;
        LinkInfo {
            name: self.link.name().to_string(),
            mac: self.link.mac().0,
            address: self.stack.as_ref().and_then(Stack::address).map(|cidr| cidr.to_string()),
            mtu: self.link.mtu(),
            rate: self.link.rate(),
            received: (c.rx_frames, c.rx_bytes),
            sent: (c.tx_frames, c.tx_bytes),
            dropped: c.tx_dropped,
            waiting: self.link.waiting() as u32,
        }
    }
}

/// Puts zeros behind a packet that is shorter than `least`; its own length cuts them off again. `false`: it has no
/// room for them.
#[inline]
pub fn pad(packet: &mut Buf, least: usize) -> bool {
    let end = packet.len();
    if end < least {
        if packet.set_len(least).is_err() {
            return false;
        }
        packet[end..].fill(0);
    }
    true
}

/// Room for headers must exist in a fresh buffer.
const _: () = assert!(MAX_HEADERS <= crate::buf::HEADROOM);
