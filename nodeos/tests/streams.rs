//! The rest of IP: ping, TCP streams and DHCP, against an ordinary host.

mod common;

use common::{Host, LINK, MAC_A, MAC_B, limits, link, ms, net, station};
use nodeos::buf::BufPool;
use nodeos::config::{LinkAddress, LinkConfig};
use nodeos::ip::StreamEvent;
use nodeos::net::{Net, StreamId};
use nodeos::platform::Instant;
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp;
use smoltcp::wire::*;

fn setup() -> (BufPool, Net, Host) {
    let pool = BufPool::new(600);
    let config = LinkConfig { management: true, ..link("mgmt", MAC_A, Some("10.0.0.1/24")) };
    let net = net(&[config], &pool);
    (pool, net, Host::new(MAC_B, "10.0.0.2/24"))
}

/// Events until there are none.
fn events(net: &mut Net) -> Vec<(StreamId, StreamEvent)> {
    std::iter::from_fn(|| net.stream_event()).collect()
}

fn opened(net: &mut Net) -> StreamId {
    let events = events(net);
    assert!(matches!(events[0].1, StreamEvent::Open { .. }), "{events:?}");
    events[0].0
}

#[test]
fn bytes_both_ways_and_a_clean_end() {
    let (pool, mut net, mut host) = setup();
    let client = host.connect("10.0.0.1:3322", 40_000);
    host.run(ms(0), &mut net, &pool);
    let (id, event) = net.stream_event().unwrap();
    assert_eq!(event, StreamEvent::Open { port: 3322, peer: "10.0.0.2:40000".parse().unwrap() });
    assert_eq!(net.stream_event(), None);

    host.tcp(client).send_slice(b"request").unwrap();
    host.run(ms(1), &mut net, &pool);
    assert_eq!(events(&mut net), [(id, StreamEvent::Data)], "once until it is read");
    let mut out = [0; 4];
    assert_eq!((net.read(ms(1), id, &mut out), &out), (4, b"requ"));
    assert_eq!(events(&mut net), [(id, StreamEvent::Data)]);
    assert_eq!((net.read(ms(1), id, &mut out), &out[..3]), (3, &b"est"[..]));
    assert_eq!(net.read(ms(1), id, &mut out), 0);

    assert_eq!(net.room(id), 2048);
    assert_eq!(net.write(ms(2), id, &[b'x'; 5000]), 2048, "no more than the buffer takes");
    assert_eq!(net.write(ms(2), id, b"more"), 0);
    host.run(ms(2), &mut net, &pool);
    host.run(ms(30), &mut net, &pool);
    assert_eq!(host.tcp(client).recv(|bytes| (bytes.len(), bytes.len())), Ok(2048));

    host.tcp(client).close();
    host.run(ms(60), &mut net, &pool);
    assert_eq!(events(&mut net), [(id, StreamEvent::Finished)]);
    assert_eq!(net.write(ms(60), id, b"bye"), 3, "the other direction still works");
    net.close(ms(60), id);
    assert_eq!(net.read(ms(60), id, &mut out), 0, "the name is gone");
    host.run(ms(60), &mut net, &pool);
    assert_eq!(host.tcp(client).recv(|bytes| (bytes.len(), bytes.len())), Ok(3));
    assert_eq!(events(&mut net), []);
    assert_eq!(pool.lent(), 0);
}

#[test]
fn sockets_listen_again_after_each_end() {
    let (pool, mut net, mut host) = setup();
    let mut now = ms(0);
    let mut port = 1000;
    type End = fn(&mut Host, SocketHandle, &mut Net, StreamId, Instant);
    let ends: [End; 4] = [
        |_, _, net, id, now| net.close(now, id),
        |_, _, net, id, now| net.abort(now, id),
        |host, client, _, _, _| host.tcp(client).abort(),
        |host, client, net, id, now| {
            host.tcp(client).close();
            net.close(now, id);
        },
    ];
    for round in 0..40 {
        port += 1;
        now = now + std::time::Duration::from_millis(20);
        let client = host.connect("10.0.0.1:3323", port);
        host.run(now, &mut net, &pool);
        let id = opened(&mut net);
        ends[round % 4](&mut host, client, &mut net, id, now);
        host.run(now, &mut net, &pool);
        host.tcp(client).close();
        host.run(now, &mut net, &pool);
        assert!(events(&mut net).iter().all(|event| *event == (id, StreamEvent::Closed)));
    }
    assert_eq!(pool.lent(), 0);
}

#[test]
fn connections_are_bounded_and_idle_ones_make_room() {
    let (pool, mut net, mut host) = setup();
    let clients: Vec<_> = (0..5).map(|n| host.connect("10.0.0.1:3323", 2000 + n)).collect();
    host.run(ms(0), &mut net, &pool);
    let established =
        |host: &mut Host| clients.iter().filter(|c| host.tcp(**c).state() == tcp::State::Established).count();
    assert_eq!(established(&mut host), limits().sessions);
    assert_eq!(events(&mut net).len(), 2);
    // The control port has its own.
    host.connect("10.0.0.1:3322", 3000);
    host.run(ms(1), &mut net, &pool);
    opened(&mut net);
    let mut now = ms(1);
    let mut closed = 0;
    while now < ms(62_000) {
        now = now + std::time::Duration::from_millis(500);
        host.run(now, &mut net, &pool);
        closed += events(&mut net).iter().filter(|(_, event)| *event == StreamEvent::Closed).count();
    }
    assert_eq!(closed, 3, "idle for a minute");
    host.connect("10.0.0.1:3323", 4000);
    host.run(now, &mut net, &pool);
    opened(&mut net);
}

#[test]
fn an_unfinished_handshake_is_cut_off() {
    let (pool, mut net, mut host) = setup();
    let clients = [host.connect("10.0.0.1:3323", 2000), host.connect("10.0.0.1:3323", 2001)];
    host.run(ms(0), &mut net, &pool);
    let streams: Vec<StreamId> = events(&mut net).iter().map(|(id, _)| *id).collect();
    assert_eq!(streams.len(), 2);
    for (client, stream) in clients.into_iter().zip(streams) {
        net.abort(ms(1), stream);
        host.run(ms(1), &mut net, &pool);
        host.sockets.remove(client);
    }
    // Two hosts say SYN and are never heard of again.
    for port in [5000u16, 5001] {
        let syn = syn([10, 0, 0, 2], port);
        assert!(net.frame(ms(2), LINK, pool.copy_of(&syn).unwrap()).is_none());
        assert!(net.transmit(ms(2), LINK).is_some(), "our answer, which nobody hears");
    }
    let client = host.connect("10.0.0.1:3323", 2002);
    host.run(ms(3), &mut net, &pool);
    assert_ne!(host.tcp(client).state(), tcp::State::Established);
    host.sockets.remove(client);
    let mut now = ms(3);
    while let Some(at) = net.deadline(now) {
        now = at.max(Instant(now.0 + 1));
        net.poll(now);
        while net.transmit(now, LINK).is_some() {}
    }
    assert!((ms(5000)..ms(5100)).contains(&now), "{} ms", now.0 / 1000);
    let client = host.connect("10.0.0.1:3323", 2003);
    host.run(now, &mut net, &pool);
    assert_eq!(host.tcp(client).state(), tcp::State::Established);
}

/// Neither our answer nor a reset can ever be sent to these, and the sockets are still free again.
#[test]
fn connections_from_addresses_that_lead_nowhere_are_cut_off() {
    let (pool, mut net, mut host) = setup();
    for (from, port) in [([10, 0, 0, 99], 5000), ([192, 168, 7, 7], 5001)] {
        net.frame(ms(0), LINK, pool.copy_of(&syn(from, port)).unwrap());
    }
    let mut now = ms(0);
    while let Some(at) = net.deadline(now) {
        now = at.max(Instant(now.0 + 1));
        net.poll(now);
        while net.transmit(now, LINK).is_some() {}
        assert!(now < ms(8000));
    }
    let clients = [host.connect("10.0.0.1:3323", 2000), host.connect("10.0.0.1:3323", 2001)];
    host.run(now, &mut net, &pool);
    assert!(clients.iter().all(|client| host.tcp(*client).state() == tcp::State::Established));
    assert_eq!(events(&mut net).len(), 2);
}

fn syn(from: [u8; 4], src_port: u16) -> Vec<u8> {
    let tcp = TcpRepr {
        src_port,
        dst_port: 3323,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (src_addr, dst_addr) = (from.into(), Ipv4Address::new(10, 0, 0, 1));
    let ip = Ipv4Repr {
        src_addr,
        dst_addr,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let caps = ChecksumCapabilities::default();
    let mut frame = vec![0; 34 + tcp.buffer_len()];
    let mut eth = EthernetFrame::new_unchecked(&mut frame[..]);
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(MAC_B.0),
        dst_addr: EthernetAddress(MAC_A.0),
        ethertype: EthernetProtocol::Ipv4,
    };
    ethernet.emit(&mut eth);
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &caps);
    tcp.emit(&mut TcpPacket::new_unchecked(&mut frame[34..]), &src_addr.into(), &dst_addr.into(), &caps);
    frame
}

#[test]
fn unread_bytes_survive_the_peers_end() {
    let (pool, mut net, mut host) = setup();
    let client = host.connect("10.0.0.1:3323", 2000);
    host.run(ms(0), &mut net, &pool);
    let id = opened(&mut net);
    host.tcp(client).send_slice(b"last words").unwrap();
    host.run(ms(1), &mut net, &pool);
    host.tcp(client).abort();
    host.run(ms(2), &mut net, &pool);
    assert_eq!(events(&mut net), [(id, StreamEvent::Data)]);
    let mut out = [0; 20];
    assert_eq!(net.read(ms(3), id, &mut out), 10);
    assert_eq!(events(&mut net), [(id, StreamEvent::Closed)]);
}

#[test]
fn who_sends_and_is_gone_at_once_keeps_no_socket() {
    let (pool, mut net, mut host) = setup();
    let client = host.connect("10.0.0.1:3322", 40_000);
    host.run(ms(0), &mut net, &pool);
    host.tcp(client).send_slice(b"x").unwrap();
    host.run(ms(1), &mut net, &pool);
    host.tcp(client).abort();
    host.run(ms(1), &mut net, &pool);
    // Nobody has looked until now.
    let id = opened(&mut net);
    assert_eq!(net.read(ms(1), id, &mut [0; 4]), 1);
    assert_eq!(events(&mut net), [(id, StreamEvent::Closed)]);
}

#[test]
fn a_program_that_does_not_read_keeps_no_socket() {
    let (pool, mut net, mut host) = setup();
    let client = host.connect("10.0.0.1:3323", 2000);
    host.run(ms(0), &mut net, &pool);
    let id = opened(&mut net);
    host.tcp(client).send_slice(b"nobody reads this").unwrap();
    host.run(ms(1), &mut net, &pool);
    host.tcp(client).abort();
    host.run(ms(2), &mut net, &pool);
    assert_eq!(events(&mut net), [(id, StreamEvent::Data)]);
    let at = net.deadline(ms(3)).unwrap();
    assert_eq!(at, Instant(60_001_000), "idle since the last byte moved");
    net.poll(at);
    assert_eq!(events(&mut net), [(id, StreamEvent::Closed)]);
    net.poll(at);
    assert_eq!(net.deadline(at), None);
}

#[test]
fn a_bulk_transfer_survives_a_slow_link_and_few_buffers() {
    let pool = BufPool::new(12);
    let config = LinkConfig {
        management: true,
        rate: Some(nodeos::units::Rate(125_000)),
        queue: 3,
        ..link("mgmt", MAC_A, Some("10.0.0.1/24"))
    };
    let mut net = net(&[config], &pool);
    let mut host = Host::new(MAC_B, "10.0.0.2/24");
    let client = host.connect("10.0.0.1:3323", 2000);
    let (mut now, mut id, mut sent, mut got, mut polls) = (ms(0), None, 0usize, 0usize, 0);
    let data: Vec<u8> = (0..50_000u32).map(|n| (n % 251) as u8).collect();
    while got < data.len() {
        polls += 1;
        assert!(polls < 20_000, "{got} of {} bytes after {} ms", data.len(), now.0 / 1000);
        host.iface.poll(now.into(), &mut host.device, &mut host.sockets);
        while let Some(frame) = host.device.tx.pop_front() {
            net.frame(now, LINK, pool.copy_of(&frame).unwrap());
        }
        while let Some((stream, event)) = net.stream_event() {
            if let StreamEvent::Open { .. } = event {
                id = Some(stream);
            }
        }
        if let Some(id) = id {
            sent += net.write(now, id, &data[sent..]);
        }
        while let Ok(n) = host.tcp(client).recv(|bytes| {
            assert_eq!(bytes, &data[got..got + bytes.len()]);
            (bytes.len(), bytes.len())
        }) {
            got += n;
            if n == 0 {
                break;
            }
        }
        net.poll(now);
        while let Some(frame) = net.transmit(now, LINK) {
            host.device.rx.push_back(frame.to_vec());
        }
        let host_due =
            host.iface.poll_at(now.into(), &host.sockets).map(|at| Instant(at.total_micros() as u64));
        let arrived = (!host.device.rx.is_empty()).then_some(now);
        let due = [net.deadline(now), host_due, arrived].into_iter().flatten().min().unwrap_or(now);
        now = due.max(Instant(now.0 + 50));
    }
    // 50 kB at 125 kB/s.
    assert!((ms(400)..ms(1000)).contains(&now), "{} ms", now.0 / 1000);
}

#[test]
fn nobody_listens_where_management_is_off() {
    let pool = BufPool::new(64);
    let mut net = net(&[link("x", MAC_A, Some("10.0.0.1/24"))], &pool);
    let mut host = Host::new(MAC_B, "10.0.0.2/24");
    let client = host.connect("10.0.0.1:3322", 2000);
    host.run(ms(0), &mut net, &pool);
    assert_eq!(host.tcp(client).state(), tcp::State::Closed, "refused");
    assert_eq!(net.stream_event(), None);
}

#[test]
fn ping_is_answered() {
    let pool = BufPool::new(8);
    let mut net = net(&[link("x", MAC_A, Some("10.0.0.1/24"))], &pool);
    let caps = ChecksumCapabilities::default();
    // The host is known by its question for our address.
    let host = station(MAC_B);
    let arp = nodeos::nexthop::emit_question(&pool, &host, [10, 0, 0, 1].into(), None).unwrap();
    net.frame(ms(0), LINK, arp);
    assert!(net.transmit(ms(0), LINK).is_some(), "our answer to it");
    let icmp = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 8, data: b"are you there" };
    let (src_addr, dst_addr) = (Ipv4Address::new(10, 0, 0, 2), Ipv4Address::new(10, 0, 0, 1));
    let payload_len = icmp.buffer_len();
    let ip = Ipv4Repr { src_addr, dst_addr, next_header: IpProtocol::Icmp, payload_len, hop_limit: 64 };
    let mut frame = pool.take().unwrap();
    frame.set_len(34 + payload_len).unwrap();
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(MAC_B.0),
        dst_addr: EthernetAddress(MAC_A.0),
        ethertype: EthernetProtocol::Ipv4,
    };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &caps);
    icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut frame[34..]), &caps);
    net.frame(ms(0), LINK, frame);
    let answer = net.transmit(ms(0), LINK).unwrap();
    let packet = Icmpv4Packet::new_checked(&answer[34..]).unwrap();
    let repr = Icmpv4Repr::parse(&packet, &caps).unwrap();
    assert_eq!(repr, Icmpv4Repr::EchoReply { ident: 7, seq_no: 8, data: b"are you there" });
}

#[test]
fn an_address_comes_by_dhcp() {
    let pool = BufPool::new(64);
    let config =
        LinkConfig { address: Some(LinkAddress::Dhcp), management: true, ..link("mgmt", MAC_A, None) };
    let mut net = net(&[config], &pool);
    assert_eq!(net.link_infos()[0].address, None);
    let (server, client, router) =
        (Ipv4Address::new(10, 0, 0, 254), Ipv4Address::new(10, 0, 0, 77), Ipv4Address::new(10, 0, 0, 253));
    let mut now = ms(0);
    for _ in 0..4 {
        net.poll(now);
        while let Some(frame) = net.transmit(now, LINK) {
            if let Some(reply) = dhcp_reply(&frame, server, client, router) {
                net.frame(now, LINK, pool.copy_of(&reply).unwrap());
            }
        }
        now = now + std::time::Duration::from_millis(10);
    }
    assert_eq!(net.link_infos()[0].address.as_deref(), Some("10.0.0.77/24"));
    let mut host = Host::new(MAC_B, "10.0.0.2/24");
    let tcp = host.connect("10.0.0.77:3322", 2000);
    host.run(now, &mut net, &pool);
    assert_eq!(host.tcp(tcp).state(), tcp::State::Established);
}

/// What a DHCP server answers to `frame`, if that is a request.
fn dhcp_reply(
    frame: &[u8],
    server: Ipv4Address,
    client: Ipv4Address,
    router: Ipv4Address,
) -> Option<Vec<u8>> {
    let eth = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv4Packet::new_checked(eth.payload()).ok()?;
    let udp = UdpPacket::new_checked(ip.payload()).ok().filter(|udp| udp.dst_port() == 67)?;
    let packet = DhcpPacket::new_checked(udp.payload()).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    let message_type = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request => DhcpMessageType::Ack,
        _ => return None,
    };
    let reply = DhcpRepr {
        message_type,
        your_ip: client,
        server_ip: server,
        router: Some(router),
        subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(server),
        parameter_request_list: None,
        max_size: None,
        lease_duration: Some(3600),
        dns_servers: None,
        ..request
    };
    let caps = ChecksumCapabilities::default();
    let len = reply.buffer_len();
    let mut out = vec![0; 42 + len];
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(MAC_B.0),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Ipv4,
    };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut out[..]));
    let dst_addr = Ipv4Address::BROADCAST;
    let ip = Ipv4Repr {
        src_addr: server,
        dst_addr,
        next_header: IpProtocol::Udp,
        payload_len: 8 + len,
        hop_limit: 64,
    };
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut out[14..]), &caps);
    let repr = UdpRepr { src_port: 67, dst_port: 68 };
    let mut datagram = UdpPacket::new_unchecked(&mut out[34..]);
    let emit = |payload: &mut [u8]| reply.emit(&mut DhcpPacket::new_unchecked(payload)).unwrap();
    repr.emit(&mut datagram, &server.into(), &dst_addr.into(), len, emit, &caps);
    Some(out)
}

#[test]
fn sockets_for_sessions_come_and_go_with_programs() {
    let pool = BufPool::new(600);
    let config = LinkConfig { management: true, ..link("mgmt", MAC_A, Some("10.0.0.1/24")) };
    let limits = nodeos::ip::StreamLimits { sessions: 100, ..limits() };
    let mut net = Net::new(&[config], pool.clone(), 7, limits).unwrap();
    let mut host = Host::new(MAC_B, "10.0.0.2/24");
    for round in 0..3 {
        let now = ms(100 * round);
        let first = 2000 + 200 * round as u16;
        let clients: Vec<_> = (0..120).map(|n| host.connect("10.0.0.1:3323", first + n)).collect();
        host.run(now, &mut net, &pool);
        let open: Vec<StreamId> = events(&mut net).iter().map(|(id, _)| *id).collect();
        assert_eq!(open.len(), 100, "round {round}");
        assert!(open.iter().all(|id| net.write(now, *id, b"x") == 1));
        host.run(now, &mut net, &pool);
        for client in clients {
            host.tcp(client).abort();
            host.run(now, &mut net, &pool);
            host.sockets.remove(client);
        }
        host.run(now, &mut net, &pool);
        assert_eq!(events(&mut net).len(), 100, "all have ended");
    }
    assert_eq!(pool.lent(), 0);
}

/// Programs come and go; those that stay are the ones that they were.
#[test]
fn a_program_that_stays_is_not_mistaken_for_another() {
    let pool = BufPool::new(600);
    let config = LinkConfig { management: true, ..link("mgmt", MAC_A, Some("10.0.0.1/24")) };
    let limits = nodeos::ip::StreamLimits { sessions: 60, ..limits() };
    let mut net = Net::new(&[config], pool.clone(), 7, limits).unwrap();
    let mut host = Host::new(MAC_B, "10.0.0.2/24");
    let mut stay: Vec<(SocketHandle, StreamId)> = Vec::new();
    for round in 0..6u16 {
        let now = ms(100 * u64::from(round));
        let clients: Vec<_> =
            (0..40).map(|n| host.connect("10.0.0.1:3323", 2000 + 100 * round + n)).collect();
        host.run(now, &mut net, &pool);
        let open = events(&mut net);
        let opened = |port| {
            let is =
                |event: &StreamEvent| matches!(event, StreamEvent::Open { peer, .. } if peer.port() == port);
            open.iter().find(|(_, event)| is(event)).map(|(id, _)| *id)
        };
        // The last and one in the middle stay.
        for (n, client) in clients.into_iter().enumerate() {
            match opened(2000 + 100 * round + n as u16) {
                Some(id) if n == 39 || n == 17 => stay.push((client, id)),
                _ => {
                    host.tcp(client).abort();
                    host.run(now, &mut net, &pool);
                    host.sockets.remove(client);
                }
            }
        }
        events(&mut net);
        for step in 0..20 {
            host.run(ms(100 * u64::from(round) + step), &mut net, &pool);
        }
        for (n, (client, id)) in stay.iter().enumerate() {
            assert_eq!(net.write(now, *id, &[n as u8]), 1, "round {round}");
            host.tcp(*client).send_slice(&[100 + n as u8]).unwrap();
        }
        host.run(ms(100 * u64::from(round) + 50), &mut net, &pool);
        for (n, (client, id)) in stay.iter().enumerate() {
            let mut got = [0];
            assert_eq!((net.read(now, *id, &mut got), got[0]), (1, 100 + n as u8), "round {round}");
            assert_eq!(host.tcp(*client).recv_slice(&mut got), Ok(1));
            assert_eq!(got[0], n as u8);
        }
        events(&mut net);
    }
    assert_eq!(stay.len(), 12);
}

#[test]
fn a_stream_that_the_node_opens() {
    let (pool, mut net, mut host) = setup();
    let mut listen = || {
        let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.listen(3325).unwrap();
        host.sockets.add(socket)
    };
    let server = listen();
    let to = "10.0.0.2:3325".parse().unwrap();
    let id = net.connect(ms(0), to).unwrap();
    assert_eq!(net.connect(ms(0), to), None, "one at a time");
    assert_eq!(net.connect(ms(0), "192.0.2.1:1".parse().unwrap()), None, "no way there");
    assert_eq!(net.connect(ms(0), "[fd00::1]:1".parse().unwrap()), None);
    assert_eq!(net.write(ms(0), id, b"early"), 0);
    host.run(ms(0), &mut net, &pool);
    assert_eq!(events(&mut net), [(id, StreamEvent::Open { port: 0, peer: to })]);
    assert_eq!(net.write(ms(1), id, b"list"), 4);
    host.run(ms(1), &mut net, &pool);
    assert_eq!(host.tcp(server).recv(|bytes| (bytes.len(), bytes.len())), Ok(4));
    host.tcp(server).send_slice(b"ok").unwrap();
    host.run(ms(2), &mut net, &pool);
    assert_eq!(events(&mut net), [(id, StreamEvent::Data)]);
    let mut out = [0; 10];
    assert_eq!(net.read(ms(2), id, &mut out), 2);
    net.close(ms(3), id);
    host.tcp(server).close();
    host.run(ms(3), &mut net, &pool);
    host.run(ms(30), &mut net, &pool);
    assert_eq!(events(&mut net), []);
    // Nobody listens there any more: it is told that there is no stream.
    host.tcp(server).abort();
    host.run(ms(30), &mut net, &pool);
    let again = net.connect(ms(31), to).unwrap();
    assert_ne!(again, id);
    host.run(ms(31), &mut net, &pool);
    assert_eq!(events(&mut net), [(again, StreamEvent::Closed)]);
    host.run(ms(32), &mut net, &pool);
    let third = net.connect(ms(33), to).unwrap();
    net.abort(ms(33), third);
    host.run(ms(2000), &mut net, &pool);
    assert_eq!((events(&mut net), pool.lent()), (vec![], 0));
}

#[test]
fn datagrams_wait_in_a_bounded_row_and_go_back_the_way_they_came() {
    use nodeos::channel::emit_datagram;
    use nodeos::link::Mac;
    use nodeos::net::{Correspondent, MAX_DATAGRAMS};
    use nodeos::team::TeamId;

    let (pool, mut net, _) = setup();
    let router = Mac([2, 0, 0, 0, 0, 0xc]);
    let from = |n: u16| std::net::SocketAddr::from(([192, 0, 2, 7], n));
    for n in 0..MAX_DATAGRAMS as u16 + 5 {
        let mut buf = pool.copy_of(b"open").unwrap();
        emit_datagram(&mut buf, router, from(1 + n), "10.0.0.1:3323".parse().unwrap(), MAC_A).unwrap();
        assert!(net.frame(ms(0), LINK, buf).is_none());
    }
    assert_eq!((net.counters().datagrams, net.counters().datagrams_dropped), (69, 5));
    let first = net.datagram().unwrap();
    assert_eq!(first.from, Correspondent { link: LINK, station: router, address: from(1) });
    assert_eq!(&first.payload[..], b"open");
    net.send_datagram(TeamId::ROOT, &first.from, pool.copy_of(b"cookie").unwrap()).unwrap();
    let frame = net.transmit(ms(0), LINK).unwrap();
    assert_eq!((&frame[..6], &frame[42..]), (&router.0[..], &b"cookie"[..]), "nobody is asked for a station");
    assert_eq!(frame[34..38], [12, 251, 0, 1], "from port 3323 to its own");
    let v6 = Correspondent { address: "[fd00::1]:1".parse().unwrap(), ..first.from };
    assert!(net.send_datagram(TeamId::ROOT, &v6, pool.copy_of(b"x").unwrap()).is_err());
    assert!(net.send_datagram(TeamId::ROOT, &first.from, pool.copy_of(&[0; 1480]).unwrap()).is_err());
    while net.datagram().is_some() {}
    drop((first, frame));
    assert_eq!(pool.lent(), 0);
}
