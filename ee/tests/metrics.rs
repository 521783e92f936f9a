//! Metrics over HTTP: a client of the management link reads them, and what else it may try.

mod common;

use std::collections::VecDeque;
use std::time::Duration;

use common::guest::{ask, question};
use common::{Options, World};
use nodeos::link::LinkId;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};

/// Node a's management link: behind the one to b.
const MGMT: LinkId = LinkId(1);
const ON: &str = r#"
    [[link]]
    name = "mgmt"
    mac = "02:00:00:00:10:00"
    address = "10.255.0.2/16"
    management = true
    [control]
    admin = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    metrics = true
"#;

/// A host on node a's management link.
struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    nic: Nic,
    port: u16,
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
    fn new() -> Self {
        let mut nic = Nic::default();
        let config = Config::new(EthernetAddress([2, 0, 0, 0, 0x20, 1]).into());
        let mut interface = Interface::new(config, &mut nic, Instant::ZERO);
        interface.update_ip_addrs(|a| a.push("10.255.0.99/16".parse::<IpCidr>().unwrap()).unwrap());
        Self { interface, sockets: SocketSet::new(Vec::new()), nic, port: 2000 }
    }

    fn connect(&mut self) -> SocketHandle {
        self.port += 1;
        let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .connect(
                self.interface.context(),
                ("10.255.0.2".parse::<std::net::IpAddr>().unwrap(), 3324),
                self.port,
            )
            .unwrap();
        self.sockets.add(socket)
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A millisecond passes.
    fn step(&mut self, world: &mut World) {
        world.run(Duration::from_millis(1));
        let now = world.time();
        for _ in 0..8 {
            self.interface.poll(now.mono.into(), &mut self.nic, &mut self.sockets);
            while let Some(frame) = self.nic.sent.pop_front() {
                world.hand(0, MGMT, &frame);
            }
            let node = &mut world.stations[0].node;
            node.poll(now);
            while let Some(frame) = node.transmit(now, MGMT) {
                self.nic.received.push_back(frame.to_vec());
            }
        }
    }

    /// Says something; everything that is answered until the node ends the connection.
    fn ask(&mut self, world: &mut World, request: &str) -> String {
        let client = self.connect();
        let mut heard = Vec::new();
        let mut said = false;
        for _ in 0..60_000 {
            self.step(world);
            let socket = self.tcp(client);
            if socket.can_send() && !said {
                socket.send_slice(request.as_bytes()).unwrap();
                said = true;
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), heard.extend_from_slice(bytes))).unwrap();
            }
            if said && !socket.may_recv() && !socket.can_recv() {
                socket.close();
                self.step(world);
                return String::from_utf8(heard).unwrap();
            }
        }
        panic!("no end: {}", String::from_utf8_lossy(&heard));
    }
}

fn world() -> World {
    World::line_with(2, Options { more: ON, ..Options::default() })
}

#[test]
fn a_client_reads_what_teams_use() {
    let (mut world, mut host) = (world(), Host::new());
    world.start(0, &ask("as\"k\\", 7));
    let session = world.session(0, "as\"k\\");
    world.say(0, session, &question(b'b', 1));
    world.run(Duration::from_secs(1));
    let text = host.ask(&mut world, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    let sent =
        body.lines().find(|l| l.starts_with("bees_team_sent_bytes_total{") && l.contains("as\\\"k\\\\"));
    let sent: u64 = sent.unwrap_or_else(|| panic!("{body}")).rsplit(' ').next().unwrap().parse().unwrap();
    assert!(sent > 0);
    assert!(
        body.contains("bees_flows_started_total 1\n") && body.contains("resource=\"compile\"}"),
        "{body}"
    );
    let of_team = |l: &&str| l.starts_with("bees_team_link_dropped_frames_total{") && l.contains("as\\\"k");
    let links = body.lines().filter(of_team).filter(|l| l.ends_with(" 0")).count();
    assert_eq!((links, body.contains("bees_link_waiting_frames{link=\"w0\"} 0\n")), (2, true), "{body}");
    let heads: Vec<&str> = body.lines().filter(|l| l.starts_with("# TYPE ")).collect();
    let mut once = heads.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), heads.len(), "a family comes once");
}

#[test]
fn what_is_no_request_for_metrics_gets_its_status() {
    let (mut world, mut host) = (world(), Host::new());
    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.0\r\n\r\n", "405"),
        ("hello\r\n\r\n", "400"),
        ("GET /metrics HTTP/1.0\r\n\r\n", "200"),
    ] {
        let answer = host.ask(&mut world, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    assert_eq!(host.ask(&mut world, &"a".repeat(3000)), "", "cut off");
    let before = world.now;
    assert_eq!(host.ask(&mut world, "GET /met"), "", "cut off");
    assert!(world.now - before < 7_000_000, "{}", world.now - before);
}

/// Two clients that say nothing keep others out for a while only.
#[test]
fn idle_clients_make_room() {
    let (mut world, mut host) = (world(), Host::new());
    let idle = [host.connect(), host.connect()];
    (0..20).for_each(|_| host.step(&mut world));
    assert!(idle.iter().all(|c| host.tcp(*c).may_send()));
    let third = host.connect();
    (0..20).for_each(|_| host.step(&mut world));
    assert!(!host.tcp(third).may_send(), "two at a time");
    (0..7000).for_each(|_| host.step(&mut world));
    assert!(idle.iter().all(|c| !host.tcp(*c).may_send()), "cut off");
    assert!(host.ask(&mut world, "GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn nobody_listens_unless_configured() {
    let off = ON.replace("metrics = true", "");
    let mut world = World::line_with(2, Options { more: &off, ..Options::default() });
    let mut host = Host::new();
    let client = host.connect();
    (0..20).for_each(|_| host.step(&mut world));
    assert!(!host.tcp(client).is_open(), "refused");
}
