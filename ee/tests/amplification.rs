//! Amplification: what one frame of n bytes, from somebody who is not who he says, makes a node send.
//!
//! Each frame goes to a node of its own; what that sends in the half minute after is compared with what the
//! same node sends without it. Its questions for the next hop's address (ARP) do not count: they stay on its link. `cargo test -p ee --test amplification -- --nocapture` prints the table; what
//! `docs/security.md` says is of it.

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::guest::{self, Flow, ask, big};
use common::{at, identity, platform};
use ee::Node;
use ee::config::{ADMIN, NodeConfig};
use nodeos::buf::BufPool;
use nodeos::channel::{emit_ethernet, emit_udp};
use nodeos::link::{LinkId, Mac};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber,
};
use wire::MIN_DATAGRAM;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, MAX_PIECE, Request};
use wire::id::{CapsuleId, PartHash, Path};
use wire::link::Frame;
use wire::system::{
    DownloadRequest, REQUEST, TranslationRequest, agent_id, download_id, encode, liveness_id, translation_id,
};
use wire::tuple::{CapsuleType, Companion, Coupling, Provider, Tuple};

/// Links: two with a neighbor by Ethernet, two by UDP, the first of each protected; and management.
const SEALED: LinkId = LinkId(0);
const CLEAR: LinkId = LinkId(1);
const UDP_SEALED: LinkId = LinkId(2);
const UDP_CLEAR: LinkId = LinkId(3);
const MGMT: LinkId = LinkId(4);
/// Microseconds that a node is watched, before the frame and after it.
const BEFORE: u64 = 5_000_000;
const AFTER: u64 = 30_000_000;

fn own(link: LinkId) -> Mac {
    Mac([2, 0, 0, 0, link.0 as u8, 1])
}

fn peer(link: LinkId) -> Mac {
    Mac([2, 0, 0, 0, link.0 as u8, 2])
}

fn address(link: LinkId, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, link.0 as u8, 0, host)
}

fn config() -> NodeConfig {
    let mut text = format!(
        "[node]\nname = \"b\"\nidentity = \"{}\"\n[control]\nadmin = \"{}\"\n",
        &*identity(0).to_hex(),
        identity(9).public()
    );
    for link in [SEALED, CLEAR, UDP_SEALED, UDP_CLEAR, MGMT] {
        text += &format!("[[link]]\nname = \"l{}\"\nmac = \"{}\"\n", link.0, own(link));
        if link >= UDP_SEALED {
            text += &format!("address = \"{}/24\"\n", address(link, 1));
        }
        if link == MGMT {
            text += "management = true\n";
            continue;
        }
        text += &format!("[[neighbor]]\nname = \"n{0}\"\nlink = \"l{0}\"\n", link.0);
        text += &match link {
            UDP_SEALED | UDP_CLEAR => format!("udp = \"{}:3322\"\n", address(link, 2)),
            _ => format!("mac = \"{}\"\n", peer(link)),
        };
        if link == SEALED || link == UDP_SEALED {
            text += &format!("key = \"{}\"\n", identity(usize::from(link.0) + 1).public());
        }
    }
    NodeConfig::parse(&text).unwrap()
}

/// Bytes that a node sends after `BEFORE`, if it gets these frames then, and how many answers to a hello are among
/// them. Its ARP is answered, its jobs are run; it has a flow of `flow`.
fn watched(flow: &Flow, frames: &[(LinkId, Vec<u8>)]) -> (i64, usize) {
    let platform = platform(256, 5);
    let buffers = platform.buffers.clone();
    let mut node = Node::new(&config(), platform, at(0)).unwrap();
    let (part, total) = (flow.part(), flow.module.len() as u32);
    for (bytes, offset) in flow.module.chunks(MAX_PIECE).zip((0..).step_by(MAX_PIECE)) {
        let put = Request::PartPut { part, total, offset, bytes: bytes.to_vec() };
        assert_eq!(node.control(at(0), ADMIN, put), Answer::Done);
    }
    let answer = node.control(at(0), ADMIN, Request::FlowInject { tuple: flow.tuple.clone() });
    assert_eq!(answer, Answer::Injected(flow.hash()));
    let (mut now, mut sent, mut answers, mut shot) = (0, 0, 0, false);
    while now < BEFORE + AFTER {
        if now >= BEFORE && !shot {
            shot = true;
            for (link, frame) in frames {
                node.frame(at(now), *link, buffers.copy_of(frame).unwrap());
            }
        }
        let more = node.poll(at(now));
        while let Some(job) = node.job() {
            node.job_done(at(now), job.run());
        }
        node.poll(at(now));
        for link in (0..5).map(LinkId) {
            while let Some(frame) = node.transmit(at(now), link) {
                let arp = frame[12..14] == [8, 6];
                sent += if shot && !arp { frame.len() as i64 } else { 0 };
                let headers = if link >= UDP_SEALED { 42 } else { 14 };
                let parsed = frame.get(headers..).map(Frame::parse);
                answers += usize::from(matches!(parsed, Some(Ok(Frame::Answer { .. }))));
                if let Some(reply) = arp_reply(link, &frame) {
                    node.frame(at(now), link, buffers.copy_of(&reply).unwrap());
                }
            }
        }
        let due = node.deadline(at(now)).map_or(u64::MAX, |t| t.micros());
        let next = if more { now + 100 } else { due.max(now + 100).min(now + 100_000) };
        now = if now < BEFORE { next.min(BEFORE) } else { next };
    }
    (sent, answers)
}

fn sent(flow: &Flow, frames: &[(LinkId, Vec<u8>)]) -> i64 {
    watched(flow, frames).0
}

fn arp_reply(link: LinkId, frame: &[u8]) -> Option<Vec<u8>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let ArpRepr::EthernetIpv4 { operation: ArpOperation::Request, target_protocol_addr: asked, .. } =
        ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()?
    else {
        return None;
    };
    (asked != address(link, 1)).then(|| arp(link, ArpOperation::Reply, asked))
}

/// Somebody's ARP packet, who has the address `from`.
fn arp(link: LinkId, operation: ArpOperation, from: Ipv4Addr) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(peer(link).0),
        source_protocol_addr: from,
        target_hardware_addr: EthernetAddress(own(link).0),
        target_protocol_addr: address(link, 1),
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    ethernet(link, EthernetProtocol::Arp, &bytes)
}

fn ethernet(link: LinkId, ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let (src_addr, dst_addr) = (EthernetAddress(peer(link).0), EthernetAddress(own(link).0));
    let mut bytes = vec![0; 14 + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    EthernetRepr { src_addr, dst_addr, ethertype }.emit(&mut frame);
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

fn ipv4(next_header: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let (src_addr, dst_addr) = (address(MGMT, 2), address(MGMT, 1));
    let repr = Ipv4Repr { src_addr, dst_addr, next_header, payload_len: payload.len(), hop_limit: 64 };
    let mut bytes = vec![0; 20 + payload.len()];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    repr.emit(&mut packet, &ChecksumCapabilities::default());
    packet.payload_mut().copy_from_slice(payload);
    ethernet(MGMT, EthernetProtocol::Ipv4, &bytes)
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut buf = BufPool::new(1).copy_of(payload).unwrap();
    let to = SocketAddr::new(IpAddr::V4(address(MGMT, 1)), port);
    emit_udp(&mut buf, peer(MGMT), IpAddr::V4(address(MGMT, 2)), to, own(MGMT)).unwrap();
    buf.to_vec()
}

fn syn(port: u16) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: 4000,
        dst_port: port,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(7),
        ack_number: None,
        window_len: 4096,
        window_scale: None,
        max_seg_size: Some(1400),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (a, b) = (IpAddress::Ipv4(address(MGMT, 2)), IpAddress::Ipv4(address(MGMT, 1)));
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut TcpPacket::new_unchecked(&mut bytes), &a, &b, &ChecksumCapabilities::default());
    ipv4(IpProtocol::Tcp, &bytes)
}

/// An IP packet that nobody knows what to do with.
fn unknown() -> Vec<u8> {
    ipv4(IpProtocol::Unknown(200), &[])
}

fn ping() -> Vec<u8> {
    let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: &[3; 56] };
    let mut bytes = vec![0; echo.buffer_len()];
    echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
    ipv4(IpProtocol::Icmp, &bytes)
}

/// An ANEP packet from the neighbor's address on a link, or from a stranger's.
fn carried(link: LinkId, packet: &[u8], stranger: bool) -> Vec<u8> {
    let mut buf = BufPool::new(1).copy_of(packet).unwrap();
    let host = if stranger { 77 } else { 2 };
    let from = if stranger { Mac([2, 9, 9, 9, 9, 9]) } else { peer(link) };
    if link == SEALED || link == CLEAR {
        emit_ethernet(&mut buf, from, own(link)).unwrap();
    } else {
        let to = SocketAddr::new(IpAddr::V4(address(link, 1)), 3322);
        emit_udp(&mut buf, from, IpAddr::V4(address(link, host)), to, own(link)).unwrap();
    }
    buf.to_vec()
}

fn capsule(id: &CapsuleId, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    Capsule::emit_header(&mut bytes, id, payload.len());
    bytes.extend(payload);
    bytes
}

fn link_frame(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    frame.emit(&mut bytes);
    bytes
}

fn padded(mut packet: Vec<u8>, len: usize) -> Vec<u8> {
    packet.resize(len, 0);
    packet
}

/// What somebody may say in a neighbor's place, by name.
fn packets(flow: &Flow) -> Vec<(&'static str, Vec<u8>)> {
    let known = CapsuleId::compute(&flow.hash(), &Path::default(), 0, &[]);
    let translate = encode(&TranslationRequest { nonce: 1, unknown: known });
    let download = encode(&DownloadRequest { nonce: 1, offset: 0, len: u32::MAX });
    let translation = capsule(&translation_id(REQUEST), &translate);
    let part = capsule(&download_id(REQUEST, &flow.hash(), Some(&flow.part())), &download);
    let absent = capsule(&download_id(REQUEST, &flow.hash(), Some(&PartHash([7; 32]))), &download);
    let cookie = [0; wire::link::COOKIE_LEN];
    vec![
        ("capsule of an unknown flow", capsule(&CapsuleId([9; 16]), &[])),
        ("the same, padded", padded(capsule(&CapsuleId([9; 16]), &[]), MIN_DATAGRAM)),
        ("the same, long", capsule(&CapsuleId([9; 16]), &[0; 1400])),
        ("capsule of a known flow", capsule(&known, &[0; 8])),
        ("translation request", translation.clone()),
        ("the same, padded", padded(translation, MIN_DATAGRAM)),
        ("download request", part.clone()),
        ("the same, padded", padded(part.clone(), MIN_DATAGRAM)),
        ("the same, long", padded(part.clone(), 1472)),
        ("of what is not there, padded", padded(absent, MIN_DATAGRAM)),
        ("poke", capsule(&liveness_id(REQUEST), &[1; 8])),
        ("the same, padded", padded(capsule(&liveness_id(REQUEST), &[1; 8]), MIN_DATAGRAM)),
        ("agent's capsule", capsule(&agent_id(), &[9; 120])),
        ("hello", link_frame(&Frame::Hello { sender: 1, cookie, noise: &[9; 32] })),
        ("answer", link_frame(&Frame::Answer { receiver: 1, sender: 2, noise: &[9; 192] })),
        ("proof", link_frame(&Frame::Proof { receiver: 1, noise: &[9; 160] })),
        ("cookie", link_frame(&Frame::Cookie { receiver: 1, cookie })),
        ("sealed", link_frame(&Frame::Sealed { receiver: 1, counter: 0, sealed: &[9; 40] })),
        ("noise", vec![7; 60]),
    ]
}

/// What a companion is coupled with makes the answer about it long: not where anybody may have asked.
#[test]
fn an_answer_about_a_companion_is_no_longer_either() {
    let module = guest::module(
        r#"(func (export "on_boot") (param i32))
        (func (export "on_capsule") (param i32 i32 i32 i32))
        (func (export "on_companion") (param i32 i32 i32 i32) (result i32) (i32.const 0))"#,
    );
    let flow = guest::flow("main", module.clone(), |body| {
        let mut protocol = guest::body("friend", &module, 4).protocols.swap_remove(0);
        protocol.session = false;
        body.protocols.push(protocol);
        let main = &mut body.protocols[0];
        main.session = false;
        let kind = main.capsules[0].clone();
        main.capsules = (0..6).map(|n| CapsuleType { name: format!("k{n}"), ..kind.clone() }).collect();
        let (interface, coupling, provider) = ("friend".into(), Coupling::Capsules, Provider::Tuple(1));
        main.companions = vec![Companion { interface, coupling, provider }];
    });
    let tuple = Tuple::decode(&flow.tuple).unwrap();
    let unknown = tuple.capsule_id(&flow.hash(), 1, &Path(vec![0]), 0);
    let request = capsule(&translation_id(REQUEST), &encode(&TranslationRequest { nonce: 1, unknown }));
    let packet = padded(request, MIN_DATAGRAM);
    let quiet = sent(&flow, &[]);
    let answer = |link| {
        let frame = carried(link, &packet, false);
        (sent(&flow, &[(link, frame.clone())]) - quiet, frame.len() as i64)
    };
    let (answered, asked) = answer(UDP_CLEAR);
    assert!(answered > 0 && answered <= asked, "{answered} for {asked}");
    assert!(answer(CLEAR).0 > 6 * 32, "all of it where it can be");
}

#[test]
fn a_node_sends_no_more_than_it_was_sent_on_protected_links_and_by_udp() {
    let flow = big(ask("ask", 7), 40_000);
    let quiet = sent(&flow, &[]);
    println!("{:<28} {:>14} {:>6} {:>7} {:>6}", "frame", "link", "bytes", "answer", "factor");
    let row = |name: &str, link: &str, frame: &[u8], answer: i64| {
        let factor = answer as f64 / frame.len() as f64;
        println!("{name:<28} {link:>14} {:>6} {answer:>7} {factor:>6.1}", frame.len());
        factor
    };
    let all = packets(&flow);
    let mut most = 0.0f64;
    for (name, packet) in &all {
        for (text, link) in
            [("sealed", SEALED), ("clear", CLEAR), ("sealed udp", UDP_SEALED), ("clear udp", UDP_CLEAR)]
        {
            let frame = carried(link, packet, false);
            let answer = sent(&flow, &[(link, frame.clone())]) - quiet;
            let factor = row(name, text, &frame, answer);
            if link != CLEAR {
                // Below 0 where the node's own handshake waits for the one that seems to begin.
                assert!(factor <= 1.0, "{name} on {text}: {factor}");
            } else {
                most = most.max(factor);
            }
            // Whoever is no neighbor is not answered at all.
            let frame = carried(link, packet, true);
            assert_eq!(sent(&flow, &[(link, frame)]), quiet, "{name} on {text} from a stranger");
        }
    }
    let hello = all.iter().find(|(name, _)| *name == "hello").map(|(_, packet)| packet).unwrap();
    for (link, answers) in [(SEALED, 1), (UDP_SEALED, 0)] {
        let (_, seen) = watched(&flow, &[(link, carried(link, hello, false))]);
        assert_eq!(seen, answers, "over UDP a cookie comes first");
    }
    // A request is answered with 16 frames at most.
    assert!((50.0..=16.0 * 1514.0 / 45.0).contains(&most), "{most}");
    for (name, frame) in [
        ("ping", ping()),
        ("UDP to a closed port", udp(9, &[])),
        ("IP of an unknown protocol", unknown()),
        ("TCP to an open port", syn(3322)),
        ("TCP to a closed port", syn(80)),
    ] {
        // So that the node knows where to send an answer.
        let known = (MGMT, arp(MGMT, ArpOperation::Request, address(MGMT, 2)));
        let answer = sent(&flow, &[known, (MGMT, frame.clone())]) - quiet;
        let factor = row(name, "management", &frame, answer);
        assert!(factor <= 12.0, "{name}: {factor}");
    }
    // All of it at once, ten times: still no more than came.
    let sealed = |link| all.iter().map(move |(_, packet)| (link, carried(link, packet, false)));
    let frames: Vec<_> = [SEALED, UDP_SEALED, UDP_CLEAR].into_iter().flat_map(sealed).collect();
    let frames: Vec<_> = std::iter::repeat_n(frames, 10).flatten().collect();
    let came: usize = frames.iter().map(|(_, f)| f.len()).sum();
    let answer = sent(&flow, &frames) - quiet;
    println!("all of them ten times: {came} bytes, {answer} in answer");
    assert!(answer <= came as i64);
}
