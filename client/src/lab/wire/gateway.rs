//! The near end of one node's management network: a TCP/IP stack (smoltcp) that opens connections to the
//! node's services over Ethernet frames. No clock, no sockets: frames and time go in, frames come out.
//!
//! Each node has a stack of its own, all with the gateway's address, so that no node can disturb the way
//! to another. A connection that the node does not answer, or refuses because it is not ready, is tried
//! anew with a fresh port for a while: a node that boots is reached the moment it listens.
//!
//! Datagrams to a service of the node pass beside the stack, each program's from a port of its own.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    IpAddress, IpCidr, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

/// Bytes that wait in a connection in each direction, at most.
const BUFFER: usize = 64 << 10;
/// Frames from the node that wait for the stack, at most.
const MAX_FRAMES: usize = 256;
/// An attempt that got no answer is given up after this at first, in microseconds: a node that boots is
/// noticed at once.
const ATTEMPT: u64 = 50_000;
/// And after this later on: a busy node gets the time to answer.
const LATER_ATTEMPT: u64 = 500_000;
/// When later is, in microseconds since the connection was opened.
const LATER: u64 = 1_500_000;
/// No further attempt is made after this, in microseconds.
const PATIENCE: u64 = 20_000_000;
/// A silent connection is asked for a sign of life, and ended if there is none.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Local ports of programs that send datagrams; each is one program's.
pub const DATAGRAM_PORTS: std::ops::Range<u16> = 40000..40064;
/// Local ports of connections.
const PORTS: std::ops::Range<u16> = 49152..65535;

/// Who the two ends of a management link are.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The gateway's MAC address.
    pub gateway_mac: [u8; 6],
    /// The gateway's address.
    pub gateway: Ipv4Address,
    /// The node's MAC address.
    pub node_mac: [u8; 6],
    /// The node's address.
    pub node: Ipv4Address,
}

/// The stack that reaches one node.
pub struct Gateway {
    ends: Ends,
    interface: Interface,
    sockets: SocketSet<'static>,
    frames: Frames,
    next_port: u16,
    /// Waits for the node to connect, and the port where.
    listener: Option<(SocketHandle, u16)>,
}

/// A connection to a service of the node.
#[derive(Debug)]
pub struct Connection {
    handle: SocketHandle,
    port: u16,
    opened: u64,
    attempted: u64,
    /// Whether the node ever answered.
    established: bool,
    ended: bool,
}

impl Gateway {
    /// A stack for the management link between `ends`; `seed` makes its sequence numbers.
    pub fn new(ends: Ends, seed: u64, now: u64) -> Self {
        let mut config = Config::new(EthernetAddress(ends.gateway_mac).into());
        config.random_seed = seed;
        let mut frames = Frames::default();
        let mut interface = Interface::new(config, &mut frames, instant(now));
        interface.update_ip_addrs(|addresses| {
            // The list has room for two.
            let _ = addresses.push(IpCidr::new(ends.gateway.into(), 16));
        });
        let span = u64::from(PORTS.end - PORTS.start);
        let next_port = PORTS.start + (seed % span) as u16;
        Self { ends, interface, sockets: SocketSet::new(Vec::new()), frames, next_port, listener: None }
    }

    /// A frame came from the node.
    pub fn frame(&mut self, frame: &[u8]) {
        if self.frames.received.len() < MAX_FRAMES {
            self.frames.received.push_back(frame.to_vec());
        }
    }

    /// Sends a datagram to a port of the node, from one of ours.
    pub fn send_datagram(&mut self, from: u16, to: u16, payload: &[u8]) {
        if self.frames.sent.len() >= MAX_FRAMES {
            return;
        }
        let Ends { gateway_mac, gateway, node_mac, node } = self.ends;
        let checksums = ChecksumCapabilities::default();
        let udp = UdpRepr { src_port: from, dst_port: to };
        let ip = Ipv4Repr {
            src_addr: gateway,
            dst_addr: node,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + payload.len(),
            hop_limit: 64,
        };
        let mut frame = vec![0; EthernetFrame::<&[u8]>::buffer_len(ip.buffer_len() + ip.payload_len)];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
        let head = EthernetRepr {
            src_addr: EthernetAddress(gateway_mac),
            dst_addr: EthernetAddress(node_mac),
            ethertype: EthernetProtocol::Ipv4,
        };
        head.emit(&mut ethernet);
        let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        ip.emit(&mut packet, &checksums);
        let mut segment = UdpPacket::new_unchecked(packet.payload_mut());
        let (own, its): (IpAddress, IpAddress) = (gateway.into(), node.into());
        let fill = |out: &mut [u8]| out.copy_from_slice(payload);
        udp.emit(&mut segment, &own, &its, payload.len(), fill, &checksums);
        self.frames.sent.push_back(frame);
    }

    /// What a frame from the node brings for a program that sends datagrams: the program's port here, and the
    /// payload. Any other frame is for [`Gateway::frame`].
    pub fn datagram<'a>(&self, frame: &'a [u8]) -> Option<(u16, &'a [u8])> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let ours = ethernet.ethertype() == EthernetProtocol::Ipv4
            && ethernet.dst_addr() == EthernetAddress(self.ends.gateway_mac);
        let packet = ours.then(|| Ipv4Packet::new_checked(ethernet.payload()).ok()).flatten()?;
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        if packet.next_header() != IpProtocol::Udp || (from, to) != (self.ends.node, self.ends.gateway) {
            return None;
        }
        let segment = UdpPacket::new_checked(packet.payload()).ok()?;
        let sound = packet.verify_checksum() && segment.verify_checksum(&from.into(), &to.into());
        let port = segment.dst_port();
        (sound && DATAGRAM_PORTS.contains(&port)).then(|| (port, segment.payload()))
    }

    /// Lets the node connect to a port of ours; [`Gateway::accept`] gives the connections.
    pub fn listen(&mut self, port: u16) {
        let mut socket = socket();
        // Refused only for an open socket or port 0, and it is neither.
        let _ = socket.listen(port);
        self.listener = Some((self.sockets.add(socket), port));
    }

    /// A connection that the node has opened.
    pub fn accept(&mut self, now: u64) -> Option<Connection> {
        let (handle, port) = self.listener?;
        let socket = self.sockets.get_mut::<tcp::Socket<'static>>(handle);
        if matches!(socket.state(), State::Listen | State::SynReceived) {
            return None;
        }
        self.listen(port);
        Some(Connection { handle, port, opened: now, attempted: now, established: true, ended: false })
    }

    /// Starts a connection to `port` of the node.
    pub fn open(&mut self, now: u64, port: u16) -> Connection {
        let handle = self.sockets.add(socket());
        let mut connection =
            Connection { handle, port, opened: now, attempted: now, established: false, ended: false };
        self.attempt(&mut connection, now);
        connection
    }

    /// Looks after a connection: tries again while the node does not answer. `false`: it is over.
    pub fn look_after(&mut self, connection: &mut Connection, now: u64) -> bool {
        let state = self.socket(connection).state();
        if connection.established || !matches!(state, State::SynSent | State::Closed) {
            connection.established = true;
            connection.ended = state == State::Closed;
        } else if now >= connection.next_attempt() {
            if now >= connection.opened + PATIENCE {
                connection.ended = true;
            } else {
                self.socket(connection).abort();
                self.attempt(connection, now);
            }
        }
        !connection.ended
    }

    /// The connection's socket.
    pub fn socket(&mut self, connection: &Connection) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(connection.handle)
    }

    /// Gives a connection's memory back; what the node should still hear of it must have been polled.
    pub fn remove(&mut self, connection: Connection) {
        self.sockets.remove(connection.handle);
    }

    /// Does what is due. `true`: a connection may have changed.
    pub fn poll(&mut self, now: u64) -> bool {
        let result = self.interface.poll(instant(now), &mut self.frames, &mut self.sockets);
        let answered = self.answer_arp();
        if answered {
            self.interface.poll(instant(now), &mut self.frames, &mut self.sockets);
        }
        answered || result == smoltcp::iface::PollResult::SocketStateChanged
    }

    /// The next frame for the node.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.frames.sent.pop_front()
    }

    /// When [`Gateway::poll`] must be called at the latest.
    pub fn deadline(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(u64::try_from(at.total_micros()).unwrap_or(0))
    }

    fn attempt(&mut self, connection: &mut Connection, now: u64) {
        let local = self.next_port;
        self.next_port = if local + 1 < PORTS.end { local + 1 } else { PORTS.start };
        connection.attempted = now;
        let remote = (self.ends.node, connection.port);
        let socket = self.sockets.get_mut::<tcp::Socket<'static>>(connection.handle);
        // Refused only for an open socket or port 0, and it is neither.
        let _ = socket.connect(self.interface.context(), remote, local);
    }

    /// Answers the stack's own questions for the node's MAC address, which the lab knows: a node that is
    /// not up yet costs no second of waiting then.
    fn answer_arp(&mut self) -> bool {
        let Ends { gateway_mac, gateway, node_mac, node } = self.ends;
        let asks = |frame: &Vec<u8>| {
            let ethernet = EthernetFrame::new_checked(&frame[..]).ok()?;
            let arp = (ethernet.ethertype() == EthernetProtocol::Arp).then_some(ethernet.payload())?;
            match ArpRepr::parse(&ArpPacket::new_checked(arp).ok()?).ok()? {
                ArpRepr::EthernetIpv4 { operation: ArpOperation::Request, target_protocol_addr, .. } => {
                    Some(target_protocol_addr == node)
                }
                _ => None,
            }
        };
        let before = self.frames.sent.len();
        self.frames.sent.retain(|frame| asks(frame) != Some(true));
        if self.frames.sent.len() == before {
            return false;
        }
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(node_mac),
            source_protocol_addr: node,
            target_hardware_addr: EthernetAddress(gateway_mac),
            target_protocol_addr: gateway,
        };
        let mut frame = vec![0; EthernetFrame::<&[u8]>::buffer_len(arp.buffer_len())];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.set_src_addr(EthernetAddress(node_mac));
        ethernet.set_dst_addr(EthernetAddress(gateway_mac));
        ethernet.set_ethertype(EthernetProtocol::Arp);
        arp.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
        self.frames.received.push_front(frame);
        true
    }
}

impl Connection {
    /// When [`Gateway::look_after`] must be called at the latest.
    pub fn deadline(&self) -> Option<u64> {
        (!self.established && !self.ended).then(|| self.next_attempt())
    }

    fn next_attempt(&self) -> u64 {
        let late = self.attempted >= self.opened + LATER;
        self.attempted + if late { LATER_ATTEMPT } else { ATTEMPT }
    }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_keep_alive(Some(KEEP_ALIVE));
    socket.set_timeout(Some(TIMEOUT));
    socket
}

/// The stack's network device: two queues.
#[derive(Debug, Default)]
struct Frames {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Frames {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        (self.sent.len() < MAX_FRAMES).then_some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

fn instant(now: u64) -> Instant {
    Instant::from_micros(i64::try_from(now).unwrap_or(i64::MAX))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const ENDS: Ends = Ends {
        gateway_mac: [2, 0, 0, 0, 0, 0xfe],
        gateway: Ipv4Address::new(10, 255, 255, 254),
        node_mac: [2, 0, 0, 0, 1, 0],
        node: Ipv4Address::new(10, 255, 0, 1),
    };

    /// A node with one listening socket that echoes.
    pub struct Node {
        interface: Interface,
        sockets: SocketSet<'static>,
        frames: Frames,
        socket: SocketHandle,
    }

    impl Node {
        pub fn new() -> Self {
            let mut frames = Frames::default();
            let config = Config::new(EthernetAddress(ENDS.node_mac).into());
            let mut interface = Interface::new(config, &mut frames, instant(0));
            interface.update_ip_addrs(|a| a.push(IpCidr::new(ENDS.node.into(), 16)).unwrap());
            let mut sockets = SocketSet::new(Vec::new());
            let buffer = || tcp::SocketBuffer::new(vec![0; 2000]);
            let mut socket = tcp::Socket::new(buffer(), buffer());
            socket.listen(3322).unwrap();
            let socket = sockets.add(socket);
            Self { interface, sockets, frames, socket }
        }

        fn exchange(&mut self, now: u64, gateway: &mut Gateway) {
            while let Some(frame) = gateway.transmit() {
                self.frame(frame);
            }
            self.work(now).for_each(|f| gateway.frame(&f));
        }

        pub fn frame(&mut self, frame: Vec<u8>) {
            self.frames.received.push_back(frame);
        }

        /// Does what is due; gives the frames to send.
        pub fn work(&mut self, now: u64) -> impl Iterator<Item = Vec<u8>> + '_ {
            self.interface.poll(instant(now), &mut self.frames, &mut self.sockets);
            let socket = self.sockets.get_mut::<tcp::Socket<'static>>(self.socket);
            while socket.can_recv() && socket.send_capacity() > socket.send_queue() {
                let room = socket.send_capacity() - socket.send_queue();
                let echo = |bytes: &mut [u8]| {
                    let bytes = &bytes[..bytes.len().min(room)];
                    (bytes.len(), bytes.to_vec())
                };
                let bytes = socket.recv(echo).unwrap();
                assert_eq!(socket.send_slice(&bytes), Ok(bytes.len()));
            }
            if socket.state() == State::CloseWait && !socket.can_recv() {
                socket.close();
            }
            self.interface.poll(instant(now), &mut self.frames, &mut self.sockets);
            self.frames.sent.drain(..)
        }
    }

    #[test]
    fn a_node_connects_as_often_as_it_likes() {
        let (mut gateway, mut node, mut now) = (Gateway::new(ENDS, 7, 0), Node::new(), 0);
        gateway.listen(3325);
        for port in [50_000, 50_001] {
            let mut client = socket();
            client.connect(node.interface.context(), (ENDS.gateway, 3325), port).unwrap();
            let client = node.sockets.add(client);
            let connection = loop {
                now += 1000;
                assert!(now < 1_000_000, "not connected after {now} us");
                node.exchange(now, &mut gateway);
                gateway.poll(now);
                if let Some(connection) = gateway.accept(now) {
                    break connection;
                }
            };
            assert!(gateway.accept(now).is_none());
            assert_eq!(gateway.socket(&connection).send_slice(b"hello"), Ok(5));
            let mut got = [0; 8];
            while !node.sockets.get_mut::<tcp::Socket<'static>>(client).can_recv() {
                now += 1000;
                assert!(now < 1_000_000, "nothing came in {now} us");
                gateway.poll(now);
                node.exchange(now, &mut gateway);
            }
            let socket = node.sockets.get_mut::<tcp::Socket<'static>>(client);
            assert_eq!((socket.recv_slice(&mut got), &got[..5]), (Ok(5), &b"hello"[..]));
        }
    }

    #[test]
    fn a_node_that_comes_up_late_is_reached_at_once() {
        let mut gateway = Gateway::new(ENDS, 7, 0);
        let mut c = gateway.open(0, 3322);
        let (mut now, mut node) = (0, None::<Node>);
        while gateway.socket(&c).state() != State::Established {
            now += 1000;
            assert!(now < 2_500_000, "not connected after {now} us");
            assert!(gateway.look_after(&mut c, now));
            gateway.poll(now);
            match &mut node {
                Some(node) => node.exchange(now, &mut gateway),
                None if now > 1_000_000 => node = Some(Node::new()),
                None => while gateway.transmit().is_some() {},
            }
        }
        assert!(now <= 1_000_000 + 2 * ATTEMPT);
    }

    #[test]
    fn bytes_come_back_in_order_and_the_end_is_seen() {
        let (mut gateway, mut node) = (Gateway::new(ENDS, 9, 0), Node::new());
        let mut c = gateway.open(0, 3322);
        let data: Vec<u8> = (0..200_000u32).map(|i| (i / 7) as u8).collect();
        let (mut sent, mut back, mut now) = (0, Vec::new(), 0);
        while gateway.look_after(&mut c, now) {
            now += 500;
            assert!(now < 60_000_000, "{} of {} bytes came back", back.len(), data.len());
            let socket = gateway.socket(&c);
            if socket.can_send() && sent < data.len() {
                sent += socket.send_slice(&data[sent..]).unwrap();
                if sent == data.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                socket.recv(|b| (b.len(), back.extend_from_slice(b))).unwrap();
            }
            gateway.poll(now);
            node.exchange(now, &mut gateway);
            if back.len() == data.len() && gateway.socket(&c).state() == State::TimeWait {
                break;
            }
        }
        assert_eq!(back, data);
    }

    #[test]
    fn datagrams_pass_and_nothing_else_does() {
        let mut gateway = Gateway::new(ENDS, 9, 0);
        let back = Ends {
            gateway_mac: ENDS.node_mac,
            gateway: ENDS.node,
            node_mac: ENDS.gateway_mac,
            node: ENDS.gateway,
        };
        let mut node = Gateway::new(back, 9, 0);
        node.send_datagram(3323, DATAGRAM_PORTS.start, b"hello");
        node.send_datagram(3323, DATAGRAM_PORTS.end, b"hello");
        let (frame, other) = (node.transmit().unwrap(), node.transmit().unwrap());
        assert_eq!(gateway.datagram(&frame), Some((DATAGRAM_PORTS.start, &b"hello"[..])));
        assert_eq!(gateway.datagram(&other), None);
        for at in 0..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 0x5a;
            if let Some((_, payload)) = gateway.datagram(&changed) {
                assert!(payload == b"hello" && at < 14, "byte {at} is not covered by anything");
            }
            assert_eq!(gateway.datagram(&frame[..at]), None);
        }
        (0..1000).for_each(|_| gateway.send_datagram(DATAGRAM_PORTS.start, 3323, &[0; 1200]));
        assert_eq!(gateway.frames.sent.len(), MAX_FRAMES);
    }

    #[test]
    fn patience_has_an_end_and_frames_have_a_bound() {
        let mut gateway = Gateway::new(ENDS, 9, 0);
        let mut c = gateway.open(0, 3322);
        let mut now = 0;
        while gateway.look_after(&mut c, now) {
            now = c.deadline().unwrap();
            gateway.poll(now);
            while gateway.transmit().is_some() {}
        }
        assert!((PATIENCE..PATIENCE + LATER_ATTEMPT).contains(&now));
        gateway.remove(c);
        for _ in 0..10_000 {
            gateway.frame(&[0; 60]);
        }
        assert_eq!(gateway.frames.received.len(), MAX_FRAMES);
        gateway.poll(now);
    }
}
