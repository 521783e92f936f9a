//! IP address to MAC address, for UDP channels: the node's own ARP (RFC 826) and neighbor discovery
//! (RFC 4861) beside those of the IP interfaces.
//!
//! The table only believes answers: an address is learned when this node has asked for it and not else,
//! so nobody can plant or replace an entry by sending unasked. It is bounded; the entry that was used
//! longest ago gives way. One packet per address waits for an answer, a newer one replaces it.
//!
//! An address is asked for up to three times, one second apart. What was learned serves for a minute; in
//! its second half the first use asks that station again, so that an address in use never lapses.

use crate::buf::{Buf, BufPool};
use crate::channel::{InChannel, emit_frame};
use crate::config::is_host;
use crate::link::{LinkId, Mac};
use crate::platform::Instant;
use crate::team::TeamId;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IPV6_HEADER_LEN,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr, RawHardwareAddress,
};

/// Pause between questions.
const RETRY: Duration = Duration::from_secs(1);
/// Questions without an answer before giving up.
const TRIES: u8 = 3;
/// After so long the first use asks again.
const FRESH: Duration = Duration::from_secs(30);
/// After so long an address is forgotten.
const LIFETIME: Duration = Duration::from_secs(60);

/// What the table counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions sent.
    pub asked: u64,
    /// Answers believed.
    pub learned: u64,
    /// Answers to nothing that was asked, not believed.
    pub unasked: u64,
    /// Packets dropped while waiting: replaced by a newer one, nobody answered, or their team was killed.
    pub dropped: u64,
}

/// Next hops of all links.
#[derive(Debug)]
pub struct NextHops {
    /// What was counted.
    pub counters: Counters,
    /// Sorted by key.
    entries: Vec<Entry>,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    key: (LinkId, IpAddr),
    mac: Option<(Mac, Instant)>,
    question: Option<Question>,
    /// No new question before this time.
    quiet_until: Instant,
    used: Instant,
    /// A whole frame that lacks its destination, and whose it is.
    waiting: Option<(TeamId, Buf)>,
}

#[derive(Debug, Clone, Copy)]
struct Question {
    asked: u8,
    next: Instant,
}

impl NextHops {
    /// Room for `limit` addresses.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self { counters: Counters::default(), entries: Vec::with_capacity(limit), limit }
    }

    /// The station that has the address `ip` on `link`. If it is not known it will be asked for: see
    /// [`question`](Self::question).
    pub fn resolve(&mut self, now: Instant, link: LinkId, ip: IpAddr) -> Option<Mac> {
        let entry = self.entry(now, (link, ip));
        entry.used = now;
        let age = entry.mac.map(|(_, learned)| now.since(learned));
        if age.is_some_and(|age| age >= LIFETIME) {
            entry.mac = None;
        }
        if age.is_none_or(|age| age >= FRESH) && entry.question.is_none() && now >= entry.quiet_until {
            entry.question = Some(Question { asked: 0, next: now });
        }
        entry.mac.map(|(mac, _)| mac)
    }

    /// Keeps `team`'s `frame`, whole but for its destination, until the address is known. Returns whether an
    /// answer is awaited; if not, or when a newer one comes, the frame is dropped.
    pub fn wait(&mut self, link: LinkId, ip: IpAddr, team: TeamId, frame: Buf) -> bool {
        let entry = self.find((link, ip)).ok().map(|at| &mut self.entries[at]);
        let awaited = entry.filter(|entry| entry.question.is_some());
        let dropped = match awaited {
            Some(entry) => entry.waiting.replace((team, frame)).is_some(),
            None => {
                self.counters.dropped += 1;
                return false;
            }
        };
        self.counters.dropped += u64::from(dropped);
        true
    }

    /// The next question to send: for this address on this link, to this station if it was known before.
    pub fn question(&mut self, now: Instant) -> Option<(LinkId, IpAddr, Option<Mac>)> {
        for entry in &mut self.entries {
            let Some(question) = &mut entry.question else { continue };
            if question.next > now {
                continue;
            }
            if question.asked == TRIES {
                entry.question = None;
                entry.quiet_until = now + RETRY;
                self.counters.dropped += u64::from(entry.waiting.take().is_some());
                continue;
            }
            question.asked += 1;
            question.next = now + RETRY;
            self.counters.asked += 1;
            // The station that had the address is asked first, then all.
            let known = entry.mac.filter(|_| question.asked == 1).map(|(mac, _)| mac);
            return Some((entry.key.0, entry.key.1, known));
        }
        None
    }

    /// Takes an answer: `mac` says that it has `ip`. If that was asked, returns the frame that waited for
    /// it, ready to send.
    pub fn answer(&mut self, now: Instant, link: LinkId, ip: IpAddr, mac: Mac) -> Option<(TeamId, Buf)> {
        let asked =
            self.find((link, ip)).ok().filter(|&at| self.entries[at].question.is_some_and(|q| q.asked > 0));
        let Some(at) = asked.filter(|_| mac.is_unicast()) else {
            self.counters.unasked += 1;
            return None;
        };
        self.counters.learned += 1;
        let entry = &mut self.entries[at];
        entry.mac = Some((mac, now));
        entry.question = None;
        let (team, mut frame) = entry.waiting.take()?;
        frame.get_mut(..6)?.copy_from_slice(&mac.0);
        Some((team, frame))
    }

    /// When the next question is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| Some(entry.question?.next)).min()
    }

    /// A team has ended: its frames that wait are `heir`'s, or without one dropped.
    pub fn remove_team(&mut self, team: TeamId, heir: Option<TeamId>) {
        for entry in &mut self.entries {
            match (&mut entry.waiting, heir) {
                (Some((whose, _)), Some(heir)) if *whose == team => *whose = heir,
                (Some((whose, _)), None) if *whose == team => {
                    entry.waiting = None;
                    self.counters.dropped += 1;
                }
                _ => {}
            }
        }
    }

    /// Forgets what a link's addresses led to, for instance because the link has a new address.
    pub fn forget(&mut self, link: LinkId) {
        self.entries.retain(|entry| entry.key.0 != link);
    }

    fn find(&self, key: (LinkId, IpAddr)) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.key.cmp(&key))
    }

    fn entry(&mut self, now: Instant, key: (LinkId, IpAddr)) -> &mut Entry {
        let at = match self.find(key) {
            Ok(at) => at,
            Err(mut at) => {
                if self.entries.len() >= self.limit {
                    let oldest = (0..self.entries.len()).min_by_key(|&n| self.entries[n].used).unwrap_or(0);
                    let gone = self.entries.remove(oldest);
                    self.counters.dropped += u64::from(gone.waiting.is_some());
                    at -= usize::from(oldest < at);
                }
                let (mac, question, waiting) = (None, None, None);
                let entry = Entry { key, mac, question, quiet_until: Instant::ZERO, used: now, waiting };
                self.entries.insert(at, entry);
                at
            }
        };
        &mut self.entries[at]
    }
}

/// Writes the question for `ip`, to `known` or to all. `None` when no buffer is left, or the link has no
/// address of that IP version.
pub fn emit_question(pool: &BufPool, own: &InChannel, ip: IpAddr, known: Option<Mac>) -> Option<Buf> {
    match ip {
        IpAddr::V4(ip) => emit_arp(pool, own, own.v4?, ip, known),
        IpAddr::V6(ip) => emit_solicit(pool, own, own.v6?, ip, known),
    }
}

fn emit_arp(
    pool: &BufPool,
    own: &InChannel,
    own_ip: Ipv4Addr,
    ip: Ipv4Addr,
    known: Option<Mac>,
) -> Option<Buf> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(own.mac.0),
        source_protocol_addr: own_ip,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ip,
    };
    let mut buf = pool.take()?;
    buf.set_len(repr.buffer_len()).ok()?;
    repr.emit(&mut ArpPacket::new_unchecked(&mut buf[..]));
    emit_frame(&mut buf, own.mac, known.unwrap_or(Mac::BROADCAST), EthernetProtocol::Arp).ok()?;
    Some(buf)
}

fn emit_solicit(
    pool: &BufPool,
    own: &InChannel,
    own_ip: Ipv6Addr,
    ip: Ipv6Addr,
    known: Option<Mac>,
) -> Option<Buf> {
    let lladdr = Some(RawHardwareAddress::from_bytes(&own.mac.0));
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: ip, lladdr });
    let tail = ip.octets();
    let (to_ip, to_mac) = match known {
        Some(mac) => (ip, mac),
        // The solicited-node address and its Ethernet address (RFC 4291 section 2.7.1, RFC 2464 section 7).
        None => (
            Ipv6Addr::new(
                0xff02,
                0,
                0,
                0,
                0,
                1,
                0xff00 | u16::from(tail[13]),
                u16::from_be_bytes([tail[14], tail[15]]),
            ),
            Mac([0x33, 0x33, 0xff, tail[13], tail[14], tail[15]]),
        ),
    };
    let mut buf = pool.take()?;
    buf.set_len(repr.buffer_len()).ok()?;
    buf.fill(0);
    let mut packet = Icmpv6Packet::new_unchecked(&mut buf[..]);
    repr.emit(&own_ip, &to_ip, &mut packet, &ChecksumCapabilities::default());
    let (next_header, payload_len) = (IpProtocol::Icmpv6, repr.buffer_len());
    let ip = Ipv6Repr { src_addr: own_ip, dst_addr: to_ip, next_header, payload_len, hop_limit: 255 };
    buf.push_front(IPV6_HEADER_LEN).ok()?;
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut buf[..]));
    emit_frame(&mut buf, own.mac, to_mac, EthernetProtocol::Ipv6).ok()?;
    Some(buf)
}

/// What a frame for the IP interface says about who has which address, if it is ARP or a neighbor
/// advertisement and makes sense.
pub fn parse_answer(own: &InChannel, frame: &[u8]) -> Option<(IpAddr, Mac)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let sender = Mac(frame.src_addr().0);
    let (ip, mac) = match frame.ethertype() {
        EthernetProtocol::Arp => parse_arp(own, frame.payload())?,
        EthernetProtocol::Ipv6 => parse_advert(frame.payload(), sender)?,
        _ => return None,
    };
    let own_ip = own.v4.map(IpAddr::V4) == Some(ip) || own.v6.map(IpAddr::V6) == Some(ip);
    (mac == sender && is_host(ip) && !own_ip).then_some((ip, mac))
}

/// Both replies and requests to us say where their sender is.
fn parse_arp(own: &InChannel, payload: &[u8]) -> Option<(IpAddr, Mac)> {
    let packet = ArpPacket::new_checked(payload).ok()?;
    let ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    (Some(target_protocol_addr) == own.v4)
        .then_some((source_protocol_addr.into(), Mac(source_hardware_addr.0)))
}

fn parse_advert(payload: &[u8], sender: Mac) -> Option<(IpAddr, Mac)> {
    let ip = Ipv6Packet::new_checked(payload).ok()?;
    // A hop limit of 255 proves that the packet comes from this link (RFC 4861 section 7.1.2).
    if ip.version() != 6 || ip.next_header() != IpProtocol::Icmpv6 || ip.hop_limit() != 255 {
        return None;
    }
    let packet = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    let repr =
        Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &packet, &ChecksumCapabilities::default()).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { target_addr, lladdr, .. }) = repr else { return None };
    let mac = match lladdr {
        Some(raw) => Mac(raw.as_bytes().try_into().ok()?),
        // An answer to a question that was sent to one station may leave it out.
        None => sender,
    };
    Some((target_addr.into(), mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINK: LinkId = LinkId(3);
    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const EVIL: Mac = Mac([2, 0, 0, 0, 0, 0x66]);

    fn ip(n: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
    }

    fn seconds(n: u64) -> Instant {
        Instant(n * 1_000_000)
    }

    fn own(mac: Mac, n: u8) -> InChannel {
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into());
        InChannel {
            mac,
            mtu: 1500,
            v4: Some(Ipv4Addr::new(10, 0, 0, n)),
            v6: Some(v6),
            dhcp: false,
            sessions: false,
        }
    }

    #[test]
    fn a_packet_waits_for_the_answer() {
        let pool = BufPool::new(4);
        let mut hops = NextHops::new(4);
        assert_eq!(hops.resolve(seconds(0), LINK, ip(2)), None);
        assert!(hops.wait(LINK, ip(2), TeamId::ROOT, pool.copy_of(&[0; 60]).unwrap()));
        assert_eq!(hops.deadline(), Some(seconds(0)));
        assert_eq!(hops.question(seconds(0)), Some((LINK, ip(2), None)));
        assert_eq!(hops.question(seconds(0)), None);
        let (team, frame) = hops.answer(seconds(0), LINK, ip(2), PEER).unwrap();
        assert_eq!((team, &frame[..6]), (TeamId::ROOT, &PEER.0[..]));
        assert_eq!(hops.resolve(seconds(1), LINK, ip(2)), Some(PEER));
        assert_eq!(hops.deadline(), None);
    }

    #[test]
    fn nothing_unasked_is_believed() {
        let mut hops = NextHops::new(4);
        assert!(hops.answer(seconds(0), LINK, ip(2), EVIL).is_none());
        hops.resolve(seconds(0), LINK, ip(2));
        assert!(hops.answer(seconds(0), LINK, ip(2), EVIL).is_none(), "not asked yet");
        hops.question(seconds(0));
        hops.answer(seconds(0), LinkId(0), ip(2), EVIL);
        hops.answer(seconds(0), LINK, ip(3), EVIL);
        hops.answer(seconds(0), LINK, ip(2), Mac::BROADCAST);
        hops.answer(seconds(0), LINK, ip(2), PEER);
        hops.answer(seconds(0), LINK, ip(2), EVIL);
        assert_eq!(hops.resolve(seconds(1), LINK, ip(2)), Some(PEER));
        assert_eq!(hops.counters.unasked, 6);
    }

    #[test]
    fn an_address_in_use_does_not_lapse_and_an_unused_one_does() {
        let mut hops = NextHops::new(4);
        hops.resolve(seconds(0), LINK, ip(2));
        hops.question(seconds(0));
        hops.answer(seconds(0), LINK, ip(2), PEER);
        assert_eq!(hops.resolve(seconds(31), LINK, ip(2)), Some(PEER));
        assert_eq!(hops.question(seconds(31)), Some((LINK, ip(2), Some(PEER))), "asks that station");
        hops.answer(seconds(31), LINK, ip(2), PEER);
        assert_eq!(hops.resolve(seconds(60), LINK, ip(2)), Some(PEER));
        assert_eq!(hops.question(seconds(60)), None);
        assert_eq!(hops.resolve(seconds(92), LINK, ip(2)), None);
        assert_eq!(hops.question(seconds(92)), Some((LINK, ip(2), None)), "asks all");
    }

    #[test]
    fn silence_ends_after_three_questions() {
        let pool = BufPool::new(4);
        let mut hops = NextHops::new(4);
        let mut asked = 0;
        for ms in (0..10_000).step_by(100) {
            let now = Instant(ms * 1000);
            hops.resolve(now, LINK, ip(2));
            hops.wait(LINK, ip(2), TeamId::ROOT, pool.copy_of(b"packet").unwrap());
            assert!(pool.lent() <= 1);
            while hops.question(now).is_some() {
                asked += 1;
            }
        }
        assert_eq!(asked, 8, "three questions every four seconds");
        hops.resolve(seconds(11), LINK, ip(2));
        hops.wait(LINK, ip(2), TeamId::ROOT, pool.copy_of(b"packet").unwrap());
        assert_eq!(pool.lent(), 1);
        hops.remove_team(TeamId::ROOT, Some(TeamId::ROOT));
        assert_eq!(pool.lent(), 1);
        hops.remove_team(TeamId::ROOT, None);
        assert_eq!(pool.lent(), 0, "whose it was has ended");
        while hops.deadline().is_some() {
            hops.question(seconds(100));
            hops.question(seconds(200));
        }
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut hops = NextHops::new(8);
        for n in 0..200 {
            hops.resolve(Instant(n), LINK, ip((n % 100) as u8));
            assert!(hops.entries.len() <= 8);
            assert!(hops.entries.is_sorted_by_key(|entry| entry.key));
        }
        hops.forget(LINK);
        assert!(hops.entries.is_empty());
    }

    #[test]
    fn questions_are_answers_to_whoever_is_asked() {
        let pool = BufPool::new(4);
        let (a, b) = (own(OWN, 1), own(PEER, 2));
        let question = emit_question(&pool, &a, ip(2), None).unwrap();
        assert_eq!(parse_answer(&b, &question), Some((ip(1), OWN)));
        assert_eq!(parse_answer(&own(PEER, 7), &question), None, "another was asked");
        let mut forged = question.to_vec();
        forged[6..12].copy_from_slice(&EVIL.0);
        assert_eq!(parse_answer(&b, &forged), None);
    }

    #[test]
    fn neighbor_advertisements() {
        let pool = BufPool::new(4);
        let (a, b) = (own(OWN, 1), own(PEER, 2));
        let (a6, b6) = (a.v6.unwrap(), b.v6.unwrap());
        let question = emit_question(&pool, &a, b6.into(), None).unwrap();
        assert_eq!(question[..6], [0x33, 0x33, 0xff, 0, 0, 2]);
        let packet = Ipv6Packet::new_checked(&question[14..]).unwrap();
        let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let parsed = Icmpv6Repr::parse(
            &packet.src_addr(),
            &packet.dst_addr(),
            &icmp,
            &ChecksumCapabilities::default(),
        );
        assert!(
            matches!(parsed, Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. })) if target_addr == b6)
        );

        let advert = |hop_limit| {
            let lladdr = Some(RawHardwareAddress::from_bytes(&PEER.0));
            let flags = smoltcp::wire::NdiscNeighborFlags::SOLICITED;
            let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: b6, lladdr });
            let mut buf = pool.take().unwrap();
            buf.set_len(repr.buffer_len()).unwrap();
            buf.fill(0);
            let caps = ChecksumCapabilities::default();
            repr.emit(&b6, &a6, &mut Icmpv6Packet::new_unchecked(&mut buf[..]), &caps);
            let (next_header, payload_len) = (IpProtocol::Icmpv6, repr.buffer_len());
            let ip = Ipv6Repr { src_addr: b6, dst_addr: a6, next_header, payload_len, hop_limit };
            buf.push_front(IPV6_HEADER_LEN).unwrap();
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut buf[..]));
            emit_frame(&mut buf, PEER, OWN, EthernetProtocol::Ipv6).unwrap();
            buf
        };
        assert_eq!(parse_answer(&a, &advert(255)), Some((b6.into(), PEER)));
        assert_eq!(parse_answer(&a, &advert(254)), None, "from another network");
    }

    proptest! {
        #[test]
        fn no_frame_panics(mut frame in proptest::collection::vec(any::<u8>(), 0..120), arp: bool) {
            if frame.len() > 14 {
                frame[12..14].copy_from_slice(if arp { &[8, 6] } else { &[0x86, 0xdd] });
            }
            parse_answer(&own(OWN, 1), &frame);
        }
    }
}
