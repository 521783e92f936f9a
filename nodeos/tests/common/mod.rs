//! A network to test against: two nodes back to back, or a node and an ordinary IP host.
#![allow(dead_code, reason = "each test program uses its part")]

use nodeos::buf::BufPool;
use nodeos::channel::InChannel;
use nodeos::config::LinkConfig;
use nodeos::ip::StreamLimits;
use nodeos::link::{LinkId, Mac};
use nodeos::net::{Net, Received};
use nodeos::platform::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint};
use std::collections::VecDeque;
use std::time::Duration;

pub const LINK: LinkId = LinkId(0);
pub const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
pub const MAC_B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

pub fn ms(n: u64) -> Instant {
    Instant(n * 1000)
}

pub fn link(name: &str, mac: Mac, address: Option<&str>) -> LinkConfig {
    let address = address.map(|text| nodeos::config::LinkAddress::Static(text.parse().unwrap()));
    LinkConfig { address, ..LinkConfig::new(name, mac) }
}

/// What the station at 10.0.0.2 takes for its own.
pub fn station(mac: Mac) -> InChannel {
    InChannel { mac, mtu: 1500, v4: Some([10, 0, 0, 2].into()), v6: None, dhcp: false, sessions: false }
}

pub fn limits() -> StreamLimits {
    StreamLimits { control: 2, sessions: 2, metrics: 0, buffer: 2048, idle: Duration::from_secs(60) }
}

pub fn net(configs: &[LinkConfig], pool: &BufPool) -> Net {
    Net::new(configs, pool.clone(), 7, limits()).unwrap()
}

/// Everything that `from` has to send on its first link, given to `to`; returns the capsules.
pub fn carry(now: Instant, from: &mut Net, to: &mut Net) -> Vec<Received> {
    std::iter::from_fn(|| from.transmit(now, LINK)).filter_map(|frame| to.frame(now, LINK, frame)).collect()
}

/// An ordinary host with TCP sockets.
pub struct Host {
    pub iface: Interface,
    pub sockets: SocketSet<'static>,
    pub device: Nic,
}

#[derive(Default)]
pub struct Nic {
    pub rx: VecDeque<Vec<u8>>,
    pub tx: VecDeque<Vec<u8>>,
}

impl Host {
    pub fn new(mac: Mac, address: &str) -> Self {
        let mut device = Nic::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        config.random_seed = 99;
        let mut iface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        let cidr: IpCidr = address.parse().unwrap();
        iface.update_ip_addrs(|addresses| addresses.push(cidr).unwrap());
        Self { iface, sockets: SocketSet::new(Vec::new()), device }
    }

    pub fn connect(&mut self, to: &str, own_port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let to: IpEndpoint = to.parse().unwrap();
        socket.connect(self.iface.context(), to, own_port).unwrap();
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Runs host and node against each other until both are quiet.
    pub fn run(&mut self, now: Instant, net: &mut Net, pool: &BufPool) {
        for _ in 0..200 {
            net.poll(now);
            let mut quiet = true;
            while let Some(frame) = net.transmit(now, LINK) {
                self.device.rx.push_back(frame.to_vec());
                quiet = false;
            }
            self.iface.poll(now.into(), &mut self.device, &mut self.sockets);
            while let Some(frame) = self.device.tx.pop_front() {
                assert!(net.frame(now, LINK, pool.copy_of(&frame).unwrap()).is_none());
                quiet = false;
            }
            if quiet {
                return;
            }
        }
        panic!("host and node never become quiet");
    }
}

impl Device for Nic {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Queue<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Frame, Queue<'_>)> {
        Some((Frame(self.rx.pop_front()?), Queue(&mut self.tx)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Queue<'_>> {
        Some(Queue(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

pub struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub struct Queue<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Queue<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
