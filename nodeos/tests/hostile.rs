//! Hostile frames: mutated, truncated, random. Nothing panics, no buffer is lost, the books balance, and
//! afterwards the node still answers.

mod common;

use common::{Host, LINK, MAC_A, MAC_B, carry, link, ms, net, station};
use nodeos::buf::{BLOCK, BufPool, HEADROOM};
use nodeos::channel::{Address, InChannel, OutChannel, emit_ethernet, emit_udp};
use nodeos::config::{LinkAddress, LinkConfig};
use nodeos::link::LinkId;
use nodeos::net::{Net, Received};
use nodeos::nexthop::emit_question;
use nodeos::platform::Instant;
use nodeos::team::TeamId;
use smoltcp::socket::tcp;

/// Frames of one run; `HOSTILE_FRAMES` in the environment asks for more.
fn rounds() -> u64 {
    std::env::var("HOSTILE_FRAMES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000)
}

/// A small fast generator; the seed is printed when a test fails.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Good frames of every kind that a node understands.
fn corpus(pool: &BufPool) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let peer = InChannel { v6: "fd00::2".parse().ok(), ..station(MAC_B) };
    for ip in ["10.0.0.1", "fd00::1"] {
        frames.push(emit_question(pool, &peer, ip.parse().unwrap(), None).unwrap().to_vec());
        frames.push(emit_question(pool, &peer, ip.parse().unwrap(), Some(MAC_A)).unwrap().to_vec());
    }
    for (own, to) in
        [("10.0.0.2", "10.0.0.1:3322"), ("10.0.0.2", "10.0.0.1:68"), ("fd00::2", "[fd00::1]:3322")]
    {
        let mut packet = pool.copy_of(&[1; 64]).unwrap();
        emit_udp(&mut packet, MAC_B, own.parse().unwrap(), to.parse().unwrap(), MAC_A).unwrap();
        frames.push(packet.to_vec());
    }
    let mut packet = pool.copy_of(&[1; 64]).unwrap();
    emit_ethernet(&mut packet, MAC_B, MAC_A).unwrap();
    frames.push(packet.to_vec());
    // What an ordinary host sends while it connects, talks and closes.
    let mut net = node(pool);
    let mut host = Host::new(MAC_B, "10.0.0.2/24");
    let client = host.connect("10.0.0.1:3323", 5000);
    for step in 0..6 {
        net.poll(ms(step));
        while let Some(frame) = net.transmit(ms(step), LINK) {
            host.device.rx.push_back(frame.to_vec());
        }
        host.iface.poll(ms(step).into(), &mut host.device, &mut host.sockets);
        if step == 3 {
            host.tcp(client).send_slice(b"data").unwrap();
        } else if step == 4 {
            host.tcp(client).close();
        }
        for frame in host.device.tx.drain(..) {
            net.frame(ms(step), LINK, pool.copy_of(&frame).unwrap());
            frames.push(frame);
        }
    }
    assert!(frames.len() > 12);
    frames
}

fn node(pool: &BufPool) -> Net {
    let v4 = LinkConfig { management: true, ..link("four", MAC_A, Some("10.0.0.1/24")) };
    let v6 = LinkConfig {
        management: true,
        mac: Some(nodeos::link::Mac([2, 0, 0, 0, 0, 0xc])),
        ..link("six", MAC_A, Some("fd00::1/64"))
    };
    let dhcp = LinkConfig {
        address: Some(LinkAddress::Dhcp),
        ..link("dhcp", nodeos::link::Mac([2, 0, 0, 0, 0, 0xd]), None)
    };
    net(&[v4, v6, dhcp], pool)
}

/// Fixes the checksums that a mutation broke, so that what lies behind them is reached.
fn repair(frame: &mut [u8]) {
    use smoltcp::wire::*;
    let Ok(mut eth) = EthernetFrame::new_checked(frame) else { return };
    if eth.ethertype() != EthernetProtocol::Ipv4 {
        return;
    }
    let Ok(mut ip) = Ipv4Packet::new_checked(eth.payload_mut()) else { return };
    if ip.header_len() < 20 {
        return;
    }
    ip.fill_checksum();
    let (src, dst, protocol) = (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header());
    let payload = ip.payload_mut();
    match protocol {
        IpProtocol::Udp => {
            if let Ok(mut udp) = UdpPacket::new_checked(payload) {
                udp.fill_checksum(&src, &dst);
            }
        }
        IpProtocol::Tcp => {
            if let Ok(mut tcp) = TcpPacket::new_checked(payload) {
                tcp.fill_checksum(&src, &dst);
            }
        }
        IpProtocol::Icmp => {
            if let Ok(mut icmp) = Icmpv4Packet::new_checked(payload) {
                icmp.fill_checksum();
            }
        }
        _ => (),
    }
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..1 + random.below(4) {
        if frame.is_empty() {
            return;
        }
        let at = random.below(frame.len().min(90));
        match random.below(8) {
            0 => frame.truncate(at),
            1 => frame.resize(random.below(BLOCK - HEADROOM), random.next() as u8),
            2 | 3 => frame[at] ^= 1 << random.below(8),
            4 => frame[at] = 0xff,
            5 => frame[at] = 0,
            _ => frame[at] = random.next() as u8,
        }
    }
    if !random.next().is_multiple_of(4) {
        repair(frame);
    }
}

#[test]
fn a_million_mutated_frames() {
    let seed = 0x2545_f491_4f6c_dd1d;
    let pool = BufPool::new(600);
    let corpus = corpus(&pool);
    let mut random = Random(seed);
    let mut node = node(&pool);
    let channel = |to: &str| OutChannel { link: LINK, to: Address::Udp(to.parse().unwrap()) };
    let channels = [channel("10.0.0.2:3322"), channel("10.0.0.9:3322")];
    let (mut now, mut out) = (Instant(0), [0; 100]);
    for n in 0..rounds() {
        let mut frame = corpus[random.below(corpus.len())].clone();
        mutate(&mut random, &mut frame);
        now = Instant(now.0 + random.next() % 2000);
        let at = LinkId((random.next() % 4) as u16);
        if frame.len() >= 6 && at != LINK {
            // The other links have other addresses.
            frame[5] = 0xb + at.0 as u8;
        }
        if let Some(Received { packet, link, from }) = node.frame(now, at, pool.copy_of(&frame).unwrap()) {
            assert!(packet.len() <= 1500 && link == at && packet.headroom() >= HEADROOM);
            if let Address::Udp(udp) = from {
                assert!(udp.port() != 0);
            }
        }
        if n % 16 == 0 {
            let _ =
                node.send(now, TeamId::ROOT, &channels[random.below(2)], pool.copy_of(b"packet").unwrap());
            while let Some((id, _)) = node.stream_event() {
                node.read(now, id, &mut out);
                match random.below(8) {
                    0 => node.close(now, id),
                    1 => node.abort(now, id),
                    _ => drop(node.write(now, id, b"answer")),
                }
            }
        }
        node.poll(now);
        while node.datagram().is_some() {}
        for link in 0..3 {
            while node.transmit(now, LinkId(link)).is_some() {}
        }
        // One packet that waits for its next hop.
        assert!(pool.lent() <= 2, "seed {seed:#x}, frame {n}: {pool:?}");
    }
    let counters = node.counters();
    assert!(counters.malformed > 1000 && counters.capsules > 1000 && counters.ip > 1000, "{counters:?}");
    let received: u64 = node.link_infos().iter().map(|info| info.received.0).sum();
    let counted = counters.capsules
        + counters.ip
        + counters.datagrams
        + counters.malformed
        + counters.fragments
        + counters.not_ours
        + counters.unknown_type
        + counters.closed_ports;
    assert_eq!(received, counted, "every frame is counted once");

    // The node is as it was: a capsule passes and a client connects.
    let peer_config = [link("four", MAC_B, Some("10.0.0.2/24"))];
    let mut peer = net(&peer_config, &pool);
    let to_node = OutChannel { link: LINK, to: Address::Ethernet(MAC_A) };
    peer.send(now, TeamId::ROOT, &to_node, pool.copy_of(b"capsule").unwrap()).unwrap();
    assert_eq!(carry(now, &mut peer, &mut node).len(), 1);
    let later = Instant(now.0 + 200_000_000);
    while node.deadline(now).is_some_and(|at| at < later) {
        now = node.deadline(now).unwrap().max(Instant(now.0 + 1));
        node.poll(now);
        while node.stream_event().is_some() {}
        for link in 0..3 {
            while node.transmit(now, LinkId(link)).is_some() {}
        }
    }
    let mut host = Host::new(MAC_B, "10.0.0.2/24");
    let client = host.connect("10.0.0.1:3322", 60_000);
    host.run(later, &mut node, &pool);
    assert_eq!(host.tcp(client).state(), tcp::State::Established);
}

#[test]
fn random_bytes() {
    let pool = BufPool::new(64);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut node = node(&pool);
    for n in 0..rounds() / 10 {
        let mut frame: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
        if frame.len() > 14 && random.next().is_multiple_of(2) {
            frame[..6].copy_from_slice(&MAC_A.0);
            let types = [[8, 0], [8, 6], [0x86, 0xdd], [0x88, 0xb5]];
            frame[12..14].copy_from_slice(&types[random.below(4)]);
        }
        node.frame(ms(n), LINK, pool.copy_of(&frame).unwrap());
        node.poll(ms(n));
        for link in 0..3 {
            while node.transmit(ms(n), LinkId(link)).is_some() {}
        }
    }
    assert_eq!(pool.lent(), 0);
}

/// A storm of ARP and advertisements does not change what was learned, nor grow anything.
#[test]
fn nobody_can_plant_a_next_hop() {
    let pool = BufPool::new(64);
    let mut a = net(&[link("ab", MAC_A, Some("10.0.0.1/24"))], &pool);
    let mut b = net(&[link("ab", MAC_B, Some("10.0.0.2/24"))], &pool);
    let channel = OutChannel { link: LINK, to: Address::Udp("10.0.0.2:3322".parse().unwrap()) };
    a.send(ms(0), TeamId::ROOT, &channel, pool.copy_of(b"first").unwrap()).unwrap();
    a.poll(ms(0));
    carry(ms(0), &mut a, &mut b);
    carry(ms(0), &mut b, &mut a);
    let evil = nodeos::link::Mac([2, 0, 0, 0, 0, 0x66]);
    let liar = station(evil);
    for n in 0..1000 {
        let lie = emit_question(&pool, &liar, [10, 0, 0, 1].into(), None).unwrap();
        a.frame(ms(n), LINK, lie);
        while a.transmit(ms(n), LINK).is_some() {}
        a.send(ms(n), TeamId::ROOT, &channel, pool.copy_of(b"next").unwrap()).unwrap();
        assert_eq!(a.transmit(ms(n), LINK).unwrap()[..6], MAC_B.0);
    }
    assert_eq!(a.counters().hops.unasked, 1000);
}

/// When every buffer is lent the node drops and goes on.
#[test]
fn buffers_run_out() {
    let pool = BufPool::new(4);
    let mut node = net(&[LinkConfig { management: true, ..link("x", MAC_A, Some("10.0.0.1/24")) }], &pool);
    let peer = station(MAC_B);
    let question = emit_question(&pool, &peer, [10, 0, 0, 1].into(), None).unwrap().to_vec();
    let held: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
    for n in 0..100 {
        node.frame(ms(n), LINK, pool.copy_of(&question).unwrap());
        node.poll(ms(n));
        assert!(node.transmit(ms(n), LINK).is_none());
    }
    assert_eq!(node.link(LINK).unwrap().counters.no_buffer, 100);
    drop(held);
    node.frame(ms(200), LINK, pool.copy_of(&question).unwrap());
    assert!(node.transmit(ms(200), LINK).is_some());
}
