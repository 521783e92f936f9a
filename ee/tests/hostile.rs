//! A million hostile frames, and what else can be thrown at a node from outside: nothing panics, nothing
//! grows, and an honest ping goes through afterwards.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::guest::{self, Flow, answer, ask, question};
use common::{Frame, Options, Random, World};
use nodeos::link::LinkId;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet,
    Icmpv4Repr, IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, Ipv6Address, Ipv6Packet, Ipv6Repr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, FlowState, MAX_MESSAGE, Request};
use wire::id::{CapsuleId, PartHash, Path, TupleHash};
use wire::system::{
    DownloadRequest, DownloadResponse, REQUEST, RESPONSE, Translation, TranslationRequest,
    TranslationResponse, agent_id, decode, download_id, encode, translation_id,
};
use wire::tuple::Tuple;

const SECOND: Duration = Duration::from_secs(1);

/// Node b's further links: management, and one with a neighbor behind UDP.
const MORE: &str = r#"
    [[link]]
    name = "mgmt"
    mac = "02:00:00:00:10:00"
    address = "10.255.0.2/16"
    management = true
    [[link]]
    name = "udp"
    mac = "02:00:00:00:11:00"
    address = "10.1.0.2/24"
    [[neighbor]]
    name = "far"
    link = "udp"
    udp = "10.1.0.9:3322"
    [control]
    admin = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
"#;
const MGMT: LinkId = LinkId(2);
const UDP: LinkId = LinkId(3);
const STRANGER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0x20, 1]);

/// A frame for node b, and the link that it comes in by.
#[derive(Clone)]
struct Shot {
    link: LinkId,
    bytes: Vec<u8>,
}

fn world() -> World {
    World::line_with(3, Options { more: MORE, ..Options::default() })
}

/// Everything that a spread says to b, in both directions: translations, downloads, capsules.
fn overheard(flow: &Flow) -> Vec<Shot> {
    let mut world = world();
    let heard = Rc::new(RefCell::new(Vec::new()));
    let copy = heard.clone();
    world.tap(move |frame: &mut Frame| {
        if frame.to == 1 {
            copy.borrow_mut().push(Shot { link: frame.link, bytes: frame.bytes.clone() });
        }
        common::Fate::Pass
    });
    world.start(0, flow);
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 1));
    world.run(SECOND);
    assert_eq!(world.heard(0, session).len(), 1);
    world.untap();
    heard.take()
}

fn ethernet(to: [u8; 6], ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    EthernetRepr { src_addr: STRANGER, dst_addr: EthernetAddress(to), ethertype }.emit(&mut frame);
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

fn ipv4(to: [u8; 6], from: [u8; 4], dst: [u8; 4], next_header: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = Ipv4Repr {
        src_addr: Ipv4Address::from(from),
        dst_addr: Ipv4Address::from(dst),
        next_header,
        payload_len: payload.len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; 20 + payload.len()];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    repr.emit(&mut packet, &ChecksumCapabilities::default());
    packet.payload_mut().copy_from_slice(payload);
    ethernet(to, EthernetProtocol::Ipv4, &bytes)
}

fn udp(to: [u8; 6], from: ([u8; 4], u16), dst: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: from.1, dst_port: dst.1 };
    let mut bytes = vec![0; 8 + payload.len()];
    let (a, b) = (IpAddress::Ipv4(from.0.into()), IpAddress::Ipv4(dst.0.into()));
    let mut packet = UdpPacket::new_unchecked(&mut bytes);
    repr.emit(
        &mut packet,
        &a,
        &b,
        payload.len(),
        |p| p.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    ipv4(to, from.0, dst.0, IpProtocol::Udp, &bytes)
}

const MGMT_MAC: [u8; 6] = [2, 0, 0, 0, 0x10, 0];
const UDP_MAC: [u8; 6] = [2, 0, 0, 0, 0x11, 0];
const CLIENT: [u8; 4] = [10, 255, 0, 99];
const B: [u8; 4] = [10, 255, 0, 2];

fn tcp(port: u16, src_port: u16, control: TcpControl, seq: u32, ack: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let repr = TcpRepr {
        src_port,
        dst_port: port,
        control,
        seq_number: TcpSeqNumber(seq as i32),
        ack_number: ack.map(|n| TcpSeqNumber(n as i32)),
        window_len: 4096,
        window_scale: None,
        max_seg_size: (control == TcpControl::Syn).then_some(1400),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    let (a, b) = (IpAddress::Ipv4(CLIENT.into()), IpAddress::Ipv4(B.into()));
    repr.emit(&mut TcpPacket::new_unchecked(&mut bytes), &a, &b, &ChecksumCapabilities::default());
    ipv4(MGMT_MAC, CLIENT, B, IpProtocol::Tcp, &bytes)
}

/// What strangers say on the management link.
fn strangers() -> Vec<Shot> {
    let arp = |operation, target: [u8; 4]| {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: STRANGER,
            source_protocol_addr: CLIENT.into(),
            target_hardware_addr: EthernetAddress(MGMT_MAC),
            target_protocol_addr: target.into(),
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut smoltcp::wire::ArpPacket::new_unchecked(&mut bytes));
        ethernet([0xff; 6], EthernetProtocol::Arp, &bytes)
    };
    let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: &[3; 56] };
    let mut ping = vec![0; echo.buffer_len()];
    echo.emit(&mut Icmpv4Packet::new_unchecked(&mut ping), &ChecksumCapabilities::default());
    let v6 = Ipv6Repr {
        src_addr: Ipv6Address::LOCALHOST,
        dst_addr: Ipv6Address::LOCALHOST,
        next_header: IpProtocol::Udp,
        payload_len: 8,
        hop_limit: 64,
    };
    let mut six = vec![0; 48];
    v6.emit(&mut Ipv6Packet::new_unchecked(&mut six));
    let frames = [
        arp(ArpOperation::Request, B),
        arp(ArpOperation::Reply, B),
        arp(ArpOperation::Request, CLIENT),
        ipv4(MGMT_MAC, CLIENT, B, IpProtocol::Icmp, &ping),
        ethernet(MGMT_MAC, EthernetProtocol::Ipv6, &six),
        udp(MGMT_MAC, (CLIENT, 68), (B, 67), &[1; 300]),
        udp([0xff; 6], (CLIENT, 67), ([255; 4], 68), &[2; 300]),
        tcp(3322, 1000, TcpControl::Syn, 1, None, b""),
        tcp(3323, 1001, TcpControl::Syn, 1, None, b""),
        tcp(80, 1002, TcpControl::Syn, 1, None, b""),
        tcp(3323, 1001, TcpControl::Psh, 2, Some(77), b"open ask\n\0\x08AAAAAAAA"),
        tcp(3322, 1000, TcpControl::Psh, 2, Some(77), &[0; 200]),
        tcp(3323, 1001, TcpControl::Fin, 2, Some(77), b""),
        tcp(3322, 1000, TcpControl::Rst, 2, Some(77), b""),
    ];
    frames.into_iter().map(|bytes| Shot { link: MGMT, bytes }).collect()
}

/// The same capsules in UDP, from the neighbor that is behind it, and from one that is no neighbor.
fn in_udp(shots: &[Shot]) -> Vec<Shot> {
    let wrap = |shot: &Shot| {
        [[10, 1, 0, 9], [10, 1, 0, 8]].map(|from| Shot {
            link: UDP,
            bytes: udp(
                UDP_MAC,
                (from, 3322),
                ([10, 1, 0, 2], 3322),
                &shot.bytes[14..shot.bytes.len().min(1400)],
            ),
        })
    };
    shots.iter().flat_map(wrap).collect()
}

/// One to four changes, of all kinds.
fn mutate(random: &mut Random, all: &[Shot]) -> Shot {
    let mut shot = all[random.below(all.len())].clone();
    let bytes = &mut shot.bytes;
    for _ in 0..=random.below(4) {
        let len = bytes.len().max(1);
        match random.below(10) {
            0 | 1 if !bytes.is_empty() => bytes[random.below(len)] ^= 1 << random.below(8),
            2 if !bytes.is_empty() => bytes[random.below(len)] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            3 => bytes.truncate(random.below(len)),
            4 => bytes.extend((0..random.below(200)).map(|i| i as u8)),
            5 => {
                let other = &all[random.below(all.len())].bytes;
                let at = random.below(len.min(other.len().max(1)));
                bytes.truncate(at);
                bytes.extend(other.get(at..).unwrap_or(&[]));
            }
            // Behind the headers of a capsule, where its payload is.
            6 if bytes.len() > 14 + HEADER_LEN => {
                let at = 14 + HEADER_LEN + random.below(bytes.len() - 14 - HEADER_LEN);
                bytes[at] = (random.number() >> 32) as u8;
            }
            7 if bytes.len() > 2 => {
                let at = random.below(bytes.len() - 1);
                bytes.drain(at..at + 1);
            }
            8 => {
                let at = random.below(len);
                bytes.insert(at.min(bytes.len()), (random.number() >> 32) as u8);
            }
            _ => shot.link = LinkId(random.below(5) as u16),
        }
    }
    shot.bytes.truncate(1900);
    shot
}

#[test]
fn a_million_mutated_frames() {
    let target = ask("ask", 7);
    let fresh = ask("ask", 8);
    let mut all = overheard(&target);
    all.extend(overheard(&fresh));
    all.extend(in_udp(&all.clone()));
    all.extend(strangers());
    // A capsule for the agent, and one of each system protocol with nothing in it.
    for id in [
        agent_id(),
        translation_id(REQUEST),
        translation_id(RESPONSE),
        download_id(REQUEST, &target.hash(), None),
    ] {
        let mut bytes = all[0].bytes[..14].to_vec();
        bytes.resize(14 + HEADER_LEN + 3, 0);
        Capsule::emit_header(&mut bytes[14..], &id, 3);
        all.push(Shot { link: LinkId(0), bytes });
    }

    let mut world = world();
    // b has one of the two flows; the other one it may be told about by the frames.
    world.start(1, &target);
    let empty = world.holds(1);
    let mut random = Random::new(2026);
    let mut most = (0, 0, 0);
    let began = std::time::Instant::now();
    let count = 1_000_000;
    for n in 0..count {
        let shot = mutate(&mut random, &all);
        world.hand(1, shot.link, &shot.bytes);
        if n % 16 == 15 {
            // What b says goes to nobody: a and c are down, so to speak.
            world.now += 200;
            drain(&mut world);
        }
        if n % 1000 == 999 {
            let holds = world.holds(1);
            most = (most.0.max(holds.0), most.1.max(holds.1), most.2.max(holds.2));
        }
    }
    let took = began.elapsed();
    assert!(most.0 < 3 << 20, "{} bytes held", most.0);
    assert!(most.1 < 400, "{} buffers held", most.1);
    println!("{count} frames in {took:?}, at most {most:?} bytes, buffers, flows");
    for counter in [
        "peer_malformed_capsules",
        "peer_malformed_system_capsules",
        "peer_strangers",
        "capsules_unknown",
        "peer_unasked_answers",
        "translations_served",
        "downloads_served",
    ] {
        assert!(world.count(1, counter) > 100, "{counter}: {}", world.count(1, counter));
    }

    // In a quiet minute it forgets all that.
    for _ in 0..700 {
        world.now += 1_000_000;
        drain(&mut world);
    }
    let infos = world.flows(1);
    for info in infos.iter().filter(|f| f.hash != target.hash() && !matches!(f.state, FlowState::Ended(_))) {
        world.stop(1, info.hash, true);
    }
    assert_eq!(world.holds(1), empty);
    world.start(0, &target);
    // What the frames made b remember and c say comes to its end with the first one.
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 4));
    world.run(SECOND);
    assert!(world.heard(0, session).contains(&answer(b'c', 7, 4)));
    world.say(0, session, &question(b'c', 5));
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [answer(b'c', 7, 5)], "{:?}", world.log(1));
}

/// Node b works; what it sends is dropped.
fn drain(world: &mut World) {
    let now = world.time();
    let node = &mut world.stations[1].node;
    node.poll(now);
    for link in 0..node.links() {
        while node.transmit(now, LinkId(link as u16)).is_some() {}
    }
    while let Some(job) = node.job() {
        node.job_done(now, job.run());
    }
    while node.log_line().is_some() {}
}

/// A neighbor that answers every request, with truth, lies and nonsense.
#[test]
fn a_neighbor_that_lies_all_the_time() {
    let mut world = world();
    let honest = ask("ask", 7);
    let mut random = Random::new(11);
    let empty = world.holds(1);
    let mut most = (0, 0, 0);
    // Flows of the neighbor's making: sound ones, broken ones.
    let flows: Vec<Flow> = (0..24u8)
        .map(|n| {
            // Each has a module of its own, so that each is fetched.
            let handlers = "(func (export \"on_capsule\") (param i32 i32 i32 i32))";
            let mut flow = guest::big(guest::of("evil", handlers), 1000 + usize::from(n));
            if n % 5 == 0 {
                let mut tuple = Tuple::decode(&flow.tuple).unwrap();
                tuple.body.protocols[0].code.len += 1;
                flow.tuple = tuple.encode();
            }
            if n % 4 == 0 {
                let at = random.below(flow.tuple.len());
                flow.tuple[at] ^= 0x40;
            }
            flow
        })
        .collect();
    let first_id = |flow: &Flow| CapsuleId::compute(&flow.hash(), &Path::default(), 0, &[]);
    for step in 0..60_000 {
        let mut answers: Vec<(CapsuleId, Vec<u8>)> = Vec::new();
        if random.below(3) == 0 {
            answers.push((first_id(&flows[random.below(flows.len())]), vec![1, 2, 3]));
        }
        if random.below(50) == 0 {
            answers.push((CapsuleId(random.bytes()), vec![]));
        }
        world.now += 3000;
        let now = world.time();
        let node = &mut world.stations[1].node;
        node.poll(now);
        while let Some(job) = node.job() {
            node.job_done(now, job.run());
        }
        let mut sent = Vec::new();
        while let Some(frame) = node.transmit(now, LinkId(0)) {
            sent.push(frame.to_vec());
        }
        for link in 1..node.links() {
            while node.transmit(now, LinkId(link as u16)).is_some() {}
        }
        while node.log_line().is_some() {}
        for bytes in sent {
            let frame = Frame { from: 1, to: 0, link: LinkId(0), bytes };
            let Some((id, payload)) = frame.capsule() else { continue };
            if let Some(request) =
                (id == translation_id(REQUEST)).then(|| decode::<TranslationRequest>(payload)).flatten()
            {
                let response = translated(&mut random, &flows, request);
                answers.push((translation_id(RESPONSE), encode(&response)));
            } else if let Some(request) = decode::<DownloadRequest>(payload) {
                answers.extend(chunks(&mut random, &flows, &id, request));
            }
        }
        for (id, payload) in answers {
            let mut bytes = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5].to_vec();
            bytes.resize(14 + HEADER_LEN, 0);
            Capsule::emit_header(&mut bytes[14..], &id, payload.len());
            bytes.extend(payload);
            world.hand(1, LinkId(0), &bytes);
        }
        if step % 16 == 0 {
            let holds = world.holds(1);
            most = (most.0.max(holds.0), most.1.max(holds.1), most.2.max(holds.2));
        }
    }
    println!("at most {most:?} bytes, buffers, flows");
    for counter in [
        "peer_false_translations",
        "peer_bad_parts",
        "principal_bad_tuples",
        "peer_unasked_answers",
        "download_retries",
        "flows_started",
    ] {
        assert!(world.count(1, counter) > 0, "{counter} of {:?}", world.info(1).counters);
    }
    assert!(most.0 < 16 << 20 && most.1 < 400, "{most:?}");
    for _ in 0..60 {
        world.now += 1_000_000;
        drain(&mut world);
    }
    for info in world.flows(1).iter().filter(|f| !matches!(f.state, FlowState::Ended(_))) {
        world.stop(1, info.hash, true);
    }
    assert_eq!(world.holds(1), empty);
    world.start(0, &honest);
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 5));
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [answer(b'c', 7, 5)], "{:?}", world.log(1));
}

fn translated(random: &mut Random, flows: &[Flow], request: TranslationRequest) -> TranslationResponse {
    let flow =
        flows.iter().find(|f| CapsuleId::compute(&f.hash(), &Path::default(), 0, &[]) == request.unknown);
    let flow = flow.filter(|_| random.below(4) > 0).unwrap_or(&flows[random.below(flows.len())]);
    let answer = match random.below(24) {
        0 => Translation::Unknown,
        1 => Translation::Refused,
        n => Translation::Known {
            tuple: if n == 2 { TupleHash(random.bytes()) } else { flow.hash() },
            tuple_len: if n == 3 { random.number() as u32 } else { flow.tuple.len() as u32 },
            path: Path(if n == 4 { vec![0; random.below(20)] } else { vec![] }),
            kind: if n == 5 { random.number() as u16 } else { 0 },
            coupled: if n == 6 { vec![[0; 32]; random.below(4)] } else { vec![] },
        },
    };
    let nonce = if random.below(20) == 0 { 0 } else { request.nonce };
    TranslationResponse { nonce, unknown: request.unknown, answer }
}

fn chunks(
    random: &mut Random,
    flows: &[Flow],
    id: &CapsuleId,
    request: DownloadRequest,
) -> Vec<(CapsuleId, Vec<u8>)> {
    let object = flows.iter().find_map(|f| {
        let (tuple, part) =
            (download_id(REQUEST, &f.hash(), None), download_id(REQUEST, &f.hash(), Some(&f.part())));
        match *id {
            id if id == tuple => Some((download_id(RESPONSE, &f.hash(), None), &f.tuple)),
            id if id == part => Some((download_id(RESPONSE, &f.hash(), Some(&f.part())), &f.module)),
            _ => None,
        }
    });
    let Some((id, bytes)) = object else { return vec![] };
    let mut answers = Vec::new();
    let end = bytes.len().min(request.offset.saturating_add(request.len) as usize);
    let mut at = (request.offset as usize).min(end);
    while at < end {
        let len = (1 + random.below(900)).min(end - at);
        let mut piece = bytes[at..at + len].to_vec();
        let (mut offset, mut total, mut nonce) = (at as u32, bytes.len() as u32, request.nonce);
        match random.below(40) {
            0 | 7 => piece[0] ^= 1,
            1 => offset = random.number() as u32,
            2 => total = random.number() as u32,
            3 => nonce ^= 1,
            4 => piece.clear(),
            5 => answers.push((id, encode(&DownloadResponse::Refused { nonce }))),
            6 => answers.push((id, vec![0xff; random.below(50)])),
            _ => {}
        }
        answers.push((id, encode(&DownloadResponse::Chunk { nonce, offset, total, bytes: &piece })));
        at += len;
    }
    answers
}

/// Tuples and modules with damage, at the injection door: each is refused by name or runs within its bounds.
#[test]
fn damaged_tuples_and_modules() {
    let mut world = World::line(1);
    let empty = world.holds(0);
    let good = ask("ask", 7);
    let mut random = Random::new(77);
    let mut outcomes = std::collections::BTreeMap::<String, u32>::new();
    for n in 0..6000 {
        let mut module = good.module.clone();
        let mut tuple = Tuple::decode(&good.tuple).unwrap();
        if n % 2 == 0 {
            for _ in 0..=random.below(3) {
                let at = random.below(module.len());
                match random.below(4) {
                    0 => module.truncate(at.max(1)),
                    1 => module.insert(at, random.number() as u8),
                    _ => module[at] ^= 1 << random.below(8),
                }
            }
            tuple.body.protocols[0].code = wire::tuple::Part::of(&module).unwrap();
        }
        let mut bytes = tuple.encode();
        if n % 2 == 1 {
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.insert(at, random.number() as u8),
                    _ => bytes[at] ^= 1 << random.below(8),
                }
            }
        }
        world.put(0, &module);
        let flow = Flow { tuple: bytes, module };
        let outcome = match world.control(0, Request::FlowInject { tuple: flow.tuple.clone() }) {
            Answer::Injected(hash) => {
                world.run(Duration::from_millis(20));
                if let Ok(session) = {
                    let now = world.time();
                    world.stations[0].node.session_open(now, &hash.to_string())
                } {
                    let now = world.time();
                    let _ = world.stations[0].node.session_send(now, session, &question(b'a', 1));
                }
                world.run(Duration::from_millis(20));
                match world.state(0, hash) {
                    Some(FlowState::Ended(why)) => why.split([' ', ':']).next().unwrap().to_string(),
                    Some(state) => {
                        world.stop(0, hash, n % 3 == 0);
                        format!("{state:?}")
                    }
                    None => panic!("the flow is gone without a trace"),
                }
            }
            Answer::Error(error) => format!("not injected, {}", error.erred),
            other => panic!("{other:?}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
        if n % 64 == 63 {
            world.run(61 * SECOND);
            assert_eq!(world.holds(0), empty);
        }
    }
    println!("{outcomes:?}");
    for expected in ["Running", "principal", "not injected, operator"] {
        assert!(outcomes.get(expected).is_some_and(|n| *n > 20), "{expected} in {outcomes:?}");
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    let hash = any::<[u8; 32]>();
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        Just(Request::NodeShow),
        Just(Request::LinkShow),
        Just(Request::NeighborShow),
        any::<u32>().prop_map(|from| Request::TeamShow { from }),
        any::<u32>().prop_map(|from| Request::FlowShow { from }),
        hash.prop_map(|h| Request::FlowTuple { flow: TupleHash(h) }),
        Just(Request::ProtocolShow),
        any::<u64>().prop_map(|from| Request::Log { from }),
        (0u8..4, any::<u32>(), any::<u32>(), bytes.clone()).prop_map(|(part, total, offset, bytes)| {
            let (total, offset) = if part == 0 { (total, offset) } else { (total % 2000, offset % 600) };
            Request::PartPut { part: PartHash([part; 32]), total, offset, bytes }
        }),
        bytes.prop_map(|tuple| Request::FlowInject { tuple }),
        (0usize..2000, any::<u8>()).prop_map(|(at, byte)| {
            let mut tuple = ask("ask", 3).tuple;
            let at = at % tuple.len();
            tuple[at] = byte;
            Request::FlowInject { tuple }
        }),
        (hash, any::<bool>()).prop_map(|(h, kill)| Request::FlowStop { flow: TupleHash(h), kill }),
        any::<u32>().prop_map(|from| Request::ChannelShow { from }),
        ("[ab]|\\PC{0,40}", any::<[u8; 16]>(), "[ab]|\\PC{0,40}").prop_map(|(from, id, to)| {
            Request::ChannelAdd { from, capsule: CapsuleId(id), to, flow: None }
        }),
        ("[ab]|\\PC{0,40}", any::<[u8; 16]>())
            .prop_map(|(from, id)| Request::ChannelRemove { from, capsule: CapsuleId(id) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a client asks that is logged in: an answer that fits a message, and everything is given back.
    #[test]
    fn any_request_is_answered(requests in proptest::collection::vec(any_request(), 1..200)) {
        let mut world = World::line(2);
        let empty = world.holds(0);
        for request in requests {
            let answer = world.control(0, request.clone());
            prop_assert!(wire::control::encode(&answer).len() <= MAX_MESSAGE, "{request:?}");
            world.run(Duration::from_micros(300));
        }
        world.run(61 * SECOND);
        for info in world.flows(0).iter().filter(|f| !matches!(f.state, FlowState::Ended(_))) {
            world.stop(0, info.hash, true);
        }
        prop_assert_eq!(world.holds(0), empty);
    }
}
