//! Channels: what received frames mean, and how outgoing ones are made.
//!
//! A capsule travels in an ANEP packet, and that in one of two carriers: an Ethernet frame of type 0x88B5
//! between neighbors on one link, or UDP port 3322 through networks that are not active.
//!
//! * [`InChannel`] is what a link accepts: it tells capsules from IP and from what is not for this node.
//! * [`OutChannel`] is a way to a neighbor: a link and an [`Address`] there. It puts headers in front of a
//!   packet, in the packet's own buffer.
//! * [`CutThrough`] forwards capsules of one identifier from a link to an out-channel without the
//!   execution environment, at the expense of a team.
//!
//! Frames are hostile: every length and checksum is verified before anything is believed, and fragments
//! are refused (their first piece alone would decide where the rest goes).

use crate::buf::{Buf, NoRoom};
use crate::config::is_host;
use crate::link::{LinkId, Mac};
use crate::team::{Bandwidth, TeamId};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetProtocol, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol, Ipv4Packet,
    Ipv4Repr, Ipv6Packet, Ipv6Repr, UDP_HEADER_LEN, UdpPacket, UdpRepr,
};
use wire::id::CapsuleId;

/// The most bytes that an out-channel puts in front of a packet.
pub const MAX_HEADERS: usize = ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + UDP_HEADER_LEN;
/// TTL and hop limit of what is sent.
const HOP_LIMIT: u8 = 64;
/// UDP ports of DHCP (RFC 2131, section 4.1).
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// Where a neighbor is on its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// On the same link, by Ethernet.
    Ethernet(Mac),
    /// Through IP networks, by UDP.
    Udp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ethernet(mac) => mac.fmt(f),
            Self::Udp(udp) => udp.fmt(f),
        }
    }
}

/// What a link accepts: its own addresses.
#[derive(Debug, Clone)]
pub struct InChannel {
    /// The link's MAC address.
    pub mac: Mac,
    /// The longest frame payload, in bytes.
    pub mtu: u16,
    /// The link's IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The link's IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Whether it gets its IPv4 address by DHCP.
    pub dhcp: bool,
    /// Whether programs' session datagrams are taken.
    pub sessions: bool,
}

/// What a received frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// An ANEP packet (not looked into) of `len` bytes, link padding included, `at` bytes into the frame.
    Capsule {
        /// Who sent it, by its own account.
        from: Address,
        /// Where it starts.
        at: usize,
        /// How long it is.
        len: usize,
    },
    /// A session's datagram: a payload of `len` bytes, `at` bytes into the frame.
    Session {
        /// Who sent it, by its own account.
        from: SocketAddr,
        /// The station that it came from on the link: the program's machine, or a router.
        station: Mac,
        /// Where it starts.
        at: usize,
        /// How long it is.
        len: usize,
    },
    /// For the IP interface.
    Ip,
    /// For nobody here.
    Ignored(Ignored),
}

/// Why a frame is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// Sent to another station.
    NotOurs,
    /// Neither capsule nor IP.
    UnknownType,
    /// UDP to a port where nothing listens. No ICMP error says so: that would be longer than what it answers.
    ClosedPort,
    /// A length, checksum or source address is wrong.
    Malformed,
    /// Part of an IP packet.
    Fragment,
}

impl InChannel {
    /// What `frame` is. Does not look behind the headers of the carrier.
    #[inline]
    pub fn classify(&self, frame: &[u8]) -> Class {
        self.try_classify(frame).unwrap_or_else(Class::Ignored)
    }

    #[inline]
    fn try_classify(&self, bytes: &[u8]) -> Result<Class, Ignored> {
        let Some((header, payload)) = bytes.split_first_chunk::<ETHERNET_HEADER_LEN>() else {
            return Err(Ignored::Malformed);
        };
        let [t0, t1, t2, t3, t4, t5, f0, f1, f2, f3, f4, f5, type0, type1] = *header;
        let (to, from) = (Mac([t0, t1, t2, t3, t4, t5]), Mac([f0, f1, f2, f3, f4, f5]));
        let ours = to == self.mac;
        if !ours && to.0[0] & 1 == 0 {
            return Err(Ignored::NotOurs);
        }
        if !from.is_unicast() || from == self.mac || payload.len() > usize::from(self.mtu) {
            return Err(Ignored::Malformed);
        }
        match EthernetProtocol::from(u16::from_be_bytes([type0, type1])) {
            EthernetProtocol::Unknown(wire::ETHERTYPE) if ours || to == Mac::BROADCAST => {
                Ok(Class::Capsule {
                    from: Address::Ethernet(from),
                    at: ETHERNET_HEADER_LEN,
                    len: payload.len(),
                })
            }
            EthernetProtocol::Unknown(wire::ETHERTYPE) => Err(Ignored::NotOurs),
            EthernetProtocol::Ipv4 => self.classify_ipv4(payload, from, ours),
            EthernetProtocol::Ipv6 => self.classify_ipv6(payload, from, ours),
            EthernetProtocol::Arp => Ok(Class::Ip),
            EthernetProtocol::Unknown(_) => Err(Ignored::UnknownType),
        }
    }

    fn classify_ipv4(&self, payload: &[u8], station: Mac, ours: bool) -> Result<Class, Ignored> {
        let ip = Ipv4Packet::new_checked(payload).map_err(|_| Ignored::Malformed)?;
        let header = usize::from(ip.header_len());
        if ip.version() != 4 || header < IPV4_HEADER_LEN || !ip.verify_checksum() {
            return Err(Ignored::Malformed);
        }
        if ip.more_frags() || ip.frag_offset() != 0 {
            return Err(Ignored::Fragment);
        }
        if ip.next_header() != IpProtocol::Udp {
            return Ok(Class::Ip);
        }
        let ours = ours && Some(ip.dst_addr()) == self.v4;
        let ends = (ip.src_addr().into(), ip.dst_addr().into());
        self.classify_udp(ip.payload(), ends, station, header, ours)
    }

    fn classify_ipv6(&self, payload: &[u8], station: Mac, ours: bool) -> Result<Class, Ignored> {
        let ip = Ipv6Packet::new_checked(payload).map_err(|_| Ignored::Malformed)?;
        if ip.version() != 6 {
            return Err(Ignored::Malformed);
        }
        if ip.next_header() == IpProtocol::Ipv6Frag {
            return Err(Ignored::Fragment);
        }
        if ip.next_header() != IpProtocol::Udp {
            return Ok(Class::Ip);
        }
        let ours = ours && Some(ip.dst_addr()) == self.v6;
        let ends = (ip.src_addr().into(), ip.dst_addr().into());
        self.classify_udp(ip.payload(), ends, station, IPV6_HEADER_LEN, ours)
    }

    fn classify_udp(
        &self,
        segment: &[u8],
        (from, to): (IpAddr, IpAddr),
        station: Mac,
        header: usize,
        ours: bool,
    ) -> Result<Class, Ignored> {
        let udp = UdpPacket::new_checked(segment).map_err(|_| Ignored::Malformed)?;
        match udp.dst_port() {
            wire::UDP_PORT if ours => {}
            wire::SESSION_PORT if ours && self.sessions => {}
            wire::UDP_PORT => return Err(Ignored::NotOurs),
            DHCP_CLIENT if self.dhcp && udp.src_port() == DHCP_SERVER => return Ok(Class::Ip),
            _ => return Err(Ignored::ClosedPort),
        }
        let checked = UdpRepr::parse(&udp, &from.into(), &to.into(), &ChecksumCapabilities::default());
        if checked.is_err() || udp.src_port() == 0 || !is_host(from) || from == to {
            return Err(Ignored::Malformed);
        }
        let from = SocketAddr::new(from, udp.src_port());
        let (at, len) = (ETHERNET_HEADER_LEN + header + UDP_HEADER_LEN, udp.payload().len());
        Ok(match udp.dst_port() {
            wire::SESSION_PORT => Class::Session { from, station, at, len },
            _ => Class::Capsule { from: Address::Udp(from), at, len },
        })
    }
}

/// A way to a neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutChannel {
    /// The link to send on.
    pub link: LinkId,
    /// The address there.
    pub to: Address,
}

impl OutChannel {
    /// Bytes of the link's MTU that this carrier takes.
    pub const fn overhead(&self) -> u16 {
        match self.to {
            Address::Ethernet(_) => 0,
            Address::Udp(SocketAddr::V4(_)) => (IPV4_HEADER_LEN + UDP_HEADER_LEN) as u16,
            Address::Udp(SocketAddr::V6(_)) => (IPV6_HEADER_LEN + UDP_HEADER_LEN) as u16,
        }
    }

    /// Bytes of a frame in front of a packet.
    pub const fn header(&self) -> usize {
        ETHERNET_HEADER_LEN + self.overhead() as usize
    }
}

/// Puts an Ethernet header for a capsule in front of `packet`.
#[inline]
pub fn emit_ethernet(packet: &mut Buf, from: Mac, to: Mac) -> Result<(), NoRoom> {
    emit_frame(packet, from, to, EthernetProtocol::Unknown(wire::ETHERTYPE))
}

/// Puts Ethernet, IP and UDP headers in front of `packet`, from the capsule port of `own` to `to`, by way
/// of the station `hop`. `packet` fits the MTU.
pub fn emit_udp(packet: &mut Buf, from: Mac, own: IpAddr, to: SocketAddr, hop: Mac) -> Result<(), NoRoom> {
    emit_datagram(packet, from, SocketAddr::new(own, wire::UDP_PORT), to, hop)
}

/// The same from any port of `own`.
pub fn emit_datagram(
    packet: &mut Buf,
    from: Mac,
    own: SocketAddr,
    to: SocketAddr,
    hop: Mac,
) -> Result<(), NoRoom> {
    let (src_port, own) = (own.port(), own.ip());
    let payload_len = packet.len();
    let checksums = ChecksumCapabilities::default();
    let segment = UDP_HEADER_LEN + payload_len;
    if packet.headroom() < MAX_HEADERS {
        return Err(NoRoom);
    }
    packet.push_front(UDP_HEADER_LEN)?;
    let udp = UdpRepr { src_port, dst_port: to.port() };
    let mut out = UdpPacket::new_unchecked(&mut packet[..]);
    udp.emit(&mut out, &own.into(), &to.ip().into(), payload_len, |_| (), &checksums);
    let ethertype = match (own, to.ip()) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let next_header = IpProtocol::Udp;
            let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len: segment, hop_limit: HOP_LIMIT };
            packet.push_front(IPV4_HEADER_LEN)?;
            ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &checksums);
            EthernetProtocol::Ipv4
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let next_header = IpProtocol::Udp;
            let ip = Ipv6Repr { src_addr, dst_addr, next_header, payload_len: segment, hop_limit: HOP_LIMIT };
            packet.push_front(IPV6_HEADER_LEN)?;
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
            EthernetProtocol::Ipv6
        }
        _ => return Err(NoRoom),
    };
    emit_frame(packet, from, hop, ethertype)
}

#[inline]
pub(crate) fn emit_frame(
    packet: &mut Buf,
    from: Mac,
    to: Mac,
    ethertype: EthernetProtocol,
) -> Result<(), NoRoom> {
    let mut fields = [0; ETHERNET_HEADER_LEN];
    fields[..6].copy_from_slice(&to.0);
    fields[6..12].copy_from_slice(&from.0);
    fields[12..].copy_from_slice(&u16::from(ethertype).to_be_bytes());
    packet.push_front(ETHERNET_HEADER_LEN)?.copy_from_slice(&fields);
    Ok(())
}

/// Which capsules a [`CutThrough`] forwards: those with this identifier from this neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CutKey {
    /// The link of arrival.
    pub link: LinkId,
    /// The sender there.
    pub from: Address,
    /// The capsule identifier.
    pub id: CapsuleId,
}

/// Capsules that pass from a link to an out-channel without the execution environment.
#[derive(Debug, Clone)]
pub struct CutThrough {
    /// Where they go.
    pub out: OutChannel,
    /// Who pays.
    pub team: TeamId,
    /// The team's bandwidth: beyond it capsules are dropped.
    pub bandwidth: Bandwidth,
    /// The shortest packet: zeros are put behind what is shorter.
    pub least: u16,
    /// Capsules that passed.
    pub forwarded: u64,
    /// Their bytes, without the carrier's headers.
    pub bytes: u64,
    /// Capsules that were dropped.
    pub dropped: u64,
}

impl CutThrough {
    /// A cut-through channel to `out` at the expense of `team`, within its bandwidth.
    pub fn new(out: OutChannel, team: TeamId, bandwidth: Bandwidth) -> Self {
        Self { out, team, bandwidth, least: 0, forwarded: 0, bytes: 0, dropped: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{BufPool, HEADROOM};
    use proptest::prelude::*;
    use std::vec::Vec;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn channel() -> InChannel {
        let v4 = Some(Ipv4Addr::new(10, 0, 0, 1));
        InChannel {
            mac: OWN,
            mtu: 1500,
            v4,
            v6: Some("fd00::1".parse().unwrap()),
            dhcp: false,
            sessions: false,
        }
    }

    /// A UDP frame from the peer to us.
    fn udp_frame(payload: &[u8], from: &str, to: &str) -> Vec<u8> {
        let mut buf = BufPool::new(1).copy_of(payload).unwrap();
        emit_udp(&mut buf, PEER, from.parse().unwrap(), to.parse().unwrap(), OWN).unwrap();
        buf.to_vec()
    }

    fn set_checksum(frame: &mut [u8]) {
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    }

    #[test]
    fn ethernet_carrier() {
        let mut buf = BufPool::new(1).copy_of(b"anep").unwrap();
        emit_ethernet(&mut buf, PEER, OWN).unwrap();
        let class = channel().classify(&buf);
        assert_eq!(class, Class::Capsule { from: Address::Ethernet(PEER), at: 14, len: 4 });
        buf[..6].copy_from_slice(&Mac::BROADCAST.0);
        assert_eq!(channel().classify(&buf), class);
        for (wrong, why) in
            [([2, 0, 0, 0, 0, 9], Ignored::NotOurs), ([0x33, 0x33, 0, 0, 0, 1], Ignored::NotOurs)]
        {
            buf[..6].copy_from_slice(&wrong);
            assert_eq!(channel().classify(&buf), Class::Ignored(why));
        }
        buf[..6].copy_from_slice(&OWN.0);
        for wrong in [OWN.0, [0; 6], Mac::BROADCAST.0] {
            buf[6..12].copy_from_slice(&wrong);
            assert_eq!(channel().classify(&buf), Class::Ignored(Ignored::Malformed));
        }
    }

    #[test]
    fn udp_carrier() {
        for (from, to, at) in [("10.0.0.2", "10.0.0.1:3322", 42), ("fd00::2", "[fd00::1]:3322", 62)] {
            let mut frame = udp_frame(b"anep", from, to);
            let sender = Address::Udp(SocketAddr::new(from.parse().unwrap(), 3322));
            let class = Class::Capsule { from: sender, at, len: 4 };
            assert_eq!(channel().classify(&frame), class);
            frame.extend([0; 10]);
            assert_eq!(channel().classify(&frame), class, "link padding is no part of the packet");
            frame[at] ^= 1;
            assert_eq!(channel().classify(&frame), Class::Ignored(Ignored::Malformed), "checksum");
        }
        for (to, why) in [
            ("10.0.0.1:53", Ignored::ClosedPort),
            ("10.0.0.1:68", Ignored::ClosedPort),
            ("10.0.0.3:3322", Ignored::NotOurs),
        ] {
            assert_eq!(channel().classify(&udp_frame(b"x", "10.0.0.2", to)), Class::Ignored(why), "{to}");
        }
        let spoofed = udp_frame(b"x", "10.0.0.1", "10.0.0.1:3322");
        assert_eq!(channel().classify(&spoofed), Class::Ignored(Ignored::Malformed));
        let group = udp_frame(b"x", "224.0.0.1", "10.0.0.1:3322");
        assert_eq!(channel().classify(&group), Class::Ignored(Ignored::Malformed));
    }

    #[test]
    fn datagrams_of_sessions_only_where_they_are_taken() {
        for (from, to, at) in [("10.0.0.2", "10.0.0.1:3323", 42), ("fd00::2", "[fd00::1]:3323", 62)] {
            let mut frame = udp_frame(b"open", from, to);
            assert_eq!(channel().classify(&frame), Class::Ignored(Ignored::ClosedPort));
            let management = InChannel { sessions: true, ..channel() };
            let from = SocketAddr::new(from.parse().unwrap(), 3322);
            let class = Class::Session { from, station: PEER, at, len: 4 };
            assert_eq!(management.classify(&frame), class);
            frame[..6].copy_from_slice(&Mac::BROADCAST.0);
            assert_eq!(
                management.classify(&frame),
                Class::Ignored(Ignored::ClosedPort),
                "for nobody by name"
            );
            frame[..6].copy_from_slice(&OWN.0);
            frame[at] ^= 1;
            assert_eq!(management.classify(&frame), Class::Ignored(Ignored::Malformed), "checksum");
        }
    }

    #[test]
    fn dhcp_only_where_it_is_awaited() {
        let mut frame = udp_frame(b"offer", "10.0.0.2", "10.0.0.1:68");
        let mut udp = UdpPacket::new_unchecked(&mut frame[34..]);
        udp.set_src_port(67);
        udp.fill_checksum(&Ipv4Addr::new(10, 0, 0, 2).into(), &Ipv4Addr::new(10, 0, 0, 1).into());
        assert_eq!(channel().classify(&frame), Class::Ignored(Ignored::ClosedPort));
        assert_eq!(InChannel { dhcp: true, ..channel() }.classify(&frame), Class::Ip);
    }

    #[test]
    fn fragments_and_bad_headers_are_refused() {
        let good = udp_frame(&[7; 64], "10.0.0.2", "10.0.0.1:3322");
        for flags in [0x20, 0x00] {
            let mut frame = good.clone();
            frame[20] = flags;
            frame[21] = 1 - flags / 0x20;
            set_checksum(&mut frame);
            assert_eq!(channel().classify(&frame), Class::Ignored(Ignored::Fragment));
        }
        let mut short_header = good.clone();
        short_header[14] = 0x44;
        set_checksum(&mut short_header);
        assert_eq!(channel().classify(&short_header), Class::Ignored(Ignored::Malformed));
        for len in 0..good.len() {
            let class = channel().classify(&good[..len]);
            assert_eq!(class, Class::Ignored(Ignored::Malformed), "cut to {len}");
        }
        let mut long = good.clone();
        long.resize(14 + 1501, 0);
        assert_eq!(channel().classify(&long), Class::Ignored(Ignored::Malformed));
    }

    #[test]
    fn headers_need_headroom() {
        let mut buf = BufPool::new(1).copy_of(b"anep").unwrap();
        buf.push_front(HEADROOM - 10).unwrap();
        assert_eq!(emit_ethernet(&mut buf, PEER, OWN), Err(NoRoom));
        let own = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(emit_udp(&mut buf, PEER, own, "10.0.0.1:1".parse().unwrap(), OWN), Err(NoRoom));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received(payload in proptest::collection::vec(any::<u8>(), 0..1400), port in 1u16.., v6: bool) {
            let (from, to) = if v6 { ("fd00::2", "fd00::1") } else { ("10.0.0.2", "10.0.0.1") };
            let mut buf = BufPool::new(1).copy_of(&payload).unwrap();
            let to = SocketAddr::new(to.parse().unwrap(), port);
            emit_udp(&mut buf, PEER, from.parse().unwrap(), to, OWN).unwrap();
            match channel().classify(&buf) {
                Class::Capsule { at, len, .. } => {
                    prop_assert_eq!(port, wire::UDP_PORT);
                    prop_assert_eq!(&buf[at..at + len], &payload[..]);
                }
                class => prop_assert_eq!((class, port != wire::UDP_PORT), (Class::Ignored(Ignored::ClosedPort), true)),
            }
        }
    }
}
