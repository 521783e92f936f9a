//! An ordinary host on a node's management link: TCP by smoltcp, and datagrams of any sender.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nodeos::buf::BufPool;
use nodeos::channel::emit_datagram;
use nodeos::link::{LinkId, Mac};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr, IpProtocol, Ipv4Packet, UdpPacket,
};

use super::World;

/// The host, by its station and address.
pub const MAC: Mac = Mac([2, 0, 0, 0, 0x20, 1]);
pub const HOST: [u8; 4] = [10, 255, 0, 99];
/// The node's management link.
pub const NODE_MAC: Mac = Mac([2, 0, 0, 0, 0x10, 0]);
pub const NODE: [u8; 4] = [10, 255, 0, 2];

/// A host at node 0.
pub struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    nic: Nic,
    port: u16,
    link: LinkId,
    /// Datagrams that the node sent: where to, and what.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
}

#[derive(Default)]
struct Nic {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl Host {
    /// A host on this link of node 0.
    pub fn new(link: LinkId) -> Self {
        let mut nic = Nic::default();
        let config = Config::new(EthernetAddress(MAC.0).into());
        let mut interface = Interface::new(config, &mut nic, Instant::ZERO);
        interface.update_ip_addrs(|a| a.push("10.255.0.99/16".parse::<IpCidr>().unwrap()).unwrap());
        Self { interface, sockets: SocketSet::new(Vec::new()), nic, port: 2000, link, datagrams: Vec::new() }
    }

    /// Connects to a port of the node.
    pub fn connect(&mut self, port: u16) -> SocketHandle {
        self.port += 1;
        let mut socket = socket();
        socket.connect(self.interface.context(), (IpAddr::from(NODE), port), self.port).unwrap();
        self.sockets.add(socket)
    }

    /// Listens at a port.
    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = socket();
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Everything that has come on a connection.
    pub fn take(&mut self, handle: SocketHandle) -> Vec<u8> {
        let (socket, mut all) = (self.tcp(handle), Vec::new());
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), all.extend_from_slice(bytes))).unwrap();
        }
        all
    }

    /// A millisecond passes.
    pub fn step(&mut self, world: &mut World) {
        world.run(Duration::from_millis(1));
        self.exchange(world);
    }

    /// Frames go back and forth.
    fn exchange(&mut self, world: &mut World) {
        let now = world.time();
        for _ in 0..8 {
            self.interface.poll(now.mono.into(), &mut self.nic, &mut self.sockets);
            while let Some(frame) = self.nic.sent.pop_front() {
                world.hand(0, self.link, &frame);
            }
            let node = &mut world.stations[0].node;
            node.poll(now);
            while let Some(frame) = node.transmit(now, self.link) {
                match datagram(&frame) {
                    Some(datagram) => self.datagrams.push(datagram),
                    None => self.nic.received.push_back(frame.to_vec()),
                }
            }
        }
    }

    /// A datagram from whoever says that he is `from` to the node's session port; what the node sent at once.
    pub fn say(&mut self, world: &mut World, from: SocketAddr, payload: &[u8]) -> Vec<Vec<u8>> {
        self.datagrams.clear();
        world.hand(0, self.link, &to_node(from, payload));
        self.exchange(world);
        let (his, others): (Vec<_>, Vec<_>) = self.datagrams.drain(..).partition(|(to, _)| *to == from);
        self.datagrams = others;
        his.into_iter().map(|(_, payload)| payload).collect()
    }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
    tcp::Socket::new(buffer(), buffer())
}

/// The frame of a datagram to the node's session port.
pub fn to_node(from: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut buf = BufPool::new(1).copy_of(payload).unwrap();
    emit_datagram(&mut buf, MAC, from, SocketAddr::new(NODE.into(), wire::SESSION_PORT), NODE_MAC).unwrap();
    buf.to_vec()
}

/// What the node sends from its session port by UDP, to whoever's address.
fn datagram(frame: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 || frame.dst_addr().0 != MAC.0 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if packet.next_header() != IpProtocol::Udp {
        return None;
    }
    let udp = UdpPacket::new_checked(packet.payload()).ok()?;
    assert!(udp.verify_checksum(&packet.src_addr().into(), &packet.dst_addr().into()));
    assert_eq!((packet.src_addr(), udp.src_port()), (NODE.into(), wire::SESSION_PORT));
    Some((SocketAddr::new(packet.dst_addr().into(), udp.dst_port()), udp.payload().to_vec()))
}
