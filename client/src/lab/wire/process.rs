//! The loop of the wire process: sockets, clock and files around [`super::flight`] and
//! [`super::gateway`].
//!
//! One thread, woken by `ppoll` when a datagram or a byte arrives or when something is due; with nothing
//! on the way it sleeps. Each round takes a bounded number of frames from each socket, so that no link
//! starves another.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sim::medium::{Direction, Fate};
use smoltcp::socket::tcp::State;

use super::flight::{Delivery, Flight};
use super::gateway::{Connection, DATAGRAM_PORTS, Ends, Gateway};
use super::{Ports, Sockets, Traffic, WireLink, WireNode, WirePlan};
use crate::files;

/// The longest frame, with room for jumbo frames.
const MAX_FRAME: usize = 10 << 10;
/// Frames taken from one socket in one round.
const BATCH: usize = 64;
/// Connections to one node at once.
const MAX_CONNECTIONS: usize = 256;
/// Ports that are tried until one is free for TCP and UDP.
const PORT_ATTEMPTS: usize = 32;
/// A capture grows no larger than this, in bytes.
const MAX_CAPTURE: u64 = 256 << 20;
/// A program that has ended its side may go on listening to silence for so long, in microseconds.
const LISTEN_ONLY: u64 = 60_000_000;
/// A protocol server on this machine takes a connection in this time.
const CONNECT: std::time::Duration = std::time::Duration::from_millis(100);
/// The counters are written this often at most, in microseconds.
const COUNTERS_EVERY: u64 = 500_000;
/// The kernel may wake us so much later than asked, in nanoseconds; its default is 50 us.
const TIMER_SLACK: u64 = 1000;

/// Does the wire process's work until it is killed.
pub fn run(plan: &WirePlan) -> Result<()> {
    // Only accuracy suffers without.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(TIMER_SLACK));
    let mut wire = Wire::open(plan)?;
    loop {
        wire.round()?;
        wire.sleep()?;
    }
}

struct Wire<'a> {
    plan: &'a WirePlan,
    clock: Clock,
    links: Vec<Link>,
    nodes: Vec<Node>,
    /// When the counters are to be written, if they changed.
    counters_due: Option<u64>,
    buffer: Vec<u8>,
}

struct Clock {
    start: Instant,
    /// Microseconds since 1970 at `start`.
    wall: u64,
}

struct Link {
    halves: [Half; 2],
    capture: Capture,
}

/// One end of a link: where frames come in, and those on their way out to it.
struct Half {
    socket: Socket,
    /// What befalls frames that enter here.
    outbound: Direction,
    /// Frames on their way to this end.
    inbound: Flight,
    bytes: u64,
}

struct Capture {
    file: sim::pcap::Writer<BufWriter<File>>,
    written: u64,
    dirty: bool,
}

struct Node {
    socket: Socket,
    gateway: Gateway,
    /// Listeners on this machine, and the node's port each leads to.
    services: [(TcpListener, u16); 3],
    connections: Vec<Piped>,
    /// The protocol server that the node may connect to.
    server: Option<std::net::SocketAddr>,
    /// Sessions by datagrams, on the port of those over TCP.
    datagrams: UdpSocket,
    /// Who sent datagrams, each from its own port of the gateway; and when last.
    senders: Vec<(std::net::SocketAddr, u64)>,
}

/// A connection from this machine, and its continuation to the node.
struct Piped {
    stream: TcpStream,
    connection: Connection,
    /// The program on this machine has ended its side.
    read_ended: bool,
    /// The node's end was passed on.
    write_ended: bool,
    /// This machine's side is broken.
    broken: bool,
    /// Bytes wait for the program to take them.
    blocked: bool,
    /// When bytes last passed.
    active: u64,
}

/// A datagram socket of the wire process and the address it sends to.
struct Socket {
    socket: UnixDatagram,
    peer: SocketAddr,
}

impl Wire<'_> {
    fn open(plan: &WirePlan) -> Result<Wire<'_>> {
        let clock = Clock::new();
        let links = plan.links.iter().zip(0..).map(|(l, n)| Link::open(l, plan.seed, n));
        let links = links.collect::<Result<Vec<_>>>()?;
        let nodes =
            plan.nodes.iter().map(|n| Node::open(n, plan, clock.now())).collect::<Result<Vec<_>>>()?;
        let ports: Vec<Ports> = nodes.iter().map(Node::ports).collect::<io::Result<_>>()?;
        let wire = Wire { plan, clock, links, nodes, counters_due: None, buffer: vec![0; MAX_FRAME] };
        wire.write_counters()?;
        files::write_json(&plan.ports, &ports)?;
        Ok(wire)
    }

    /// Moves everything that can move now.
    fn round(&mut self) -> Result<()> {
        for link in &mut self.links {
            if link.round(&self.clock, &mut self.buffer)? {
                self.counters_due.get_or_insert(self.clock.now() + COUNTERS_EVERY);
            }
        }
        for node in &mut self.nodes {
            node.round(&self.clock, &mut self.buffer)?;
        }
        if self.counters_due.is_some_and(|due| due <= self.clock.now()) {
            self.write_counters()?;
            self.counters_due = None;
        }
        Ok(())
    }

    /// Sleeps until a socket or the clock has something to do.
    fn sleep(&mut self) -> Result<()> {
        let now = self.clock.now();
        let mut due = self.counters_due;
        let mut sooner = |at: Option<u64>| due = due.into_iter().chain(at).min();
        for half in self.links.iter().flat_map(|l| &l.halves) {
            sooner(half.inbound.deadline());
        }
        for node in &mut self.nodes {
            sooner(node.gateway.deadline(now));
            node.connections.iter().for_each(|c| sooner(c.connection.deadline()));
        }
        let wait = due.map(|due| due.saturating_sub(now));
        if wait == Some(0) {
            return Ok(());
        }
        for link in &mut self.links {
            link.capture.flush()?;
        }
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        for half in self.links.iter().flat_map(|l| &l.halves) {
            fds.push(PollFd::new(&half.socket.socket, PollFlags::IN));
        }
        for node in &mut self.nodes {
            fds.push(PollFd::new(&node.socket.socket, PollFlags::IN));
            if node.connections.len() < MAX_CONNECTIONS {
                fds.extend(node.services.iter().map(|(l, _)| PollFd::new(l, PollFlags::IN)));
            }
            fds.push(PollFd::new(&node.datagrams, PollFlags::IN));
            for piped in &node.connections {
                let flags = piped.interest(&mut node.gateway);
                if !flags.is_empty() {
                    fds.push(PollFd::from_borrowed_fd(piped.stream.as_fd(), flags));
                }
            }
        }
        let timeout = wait
            .map(|us| Timespec { tv_sec: (us / 1_000_000) as i64, tv_nsec: (us % 1_000_000 * 1000) as i64 });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e).context("waiting for the lab's sockets"),
        }
    }

    fn write_counters(&self) -> Result<()> {
        let traffic: Vec<Traffic> = self
            .links
            .iter()
            .zip(&self.plan.links)
            .flat_map(|(link, plan)| [(link, plan, 0, 1), (link, plan, 1, 0)])
            .map(|(link, plan, from, to)| link.traffic(plan, from, to))
            .collect();
        files::write_json(&self.plan.counters, &traffic)
    }
}

impl Link {
    fn open(plan: &WireLink, seed: u64, number: u64) -> Result<Self> {
        let half = |end: usize| -> Result<Half> {
            Ok(Half {
                socket: Socket::open(&plan.ends[end].sockets)?,
                outbound: Direction::new(plan.shape.into(), seed ^ (2 * number + end as u64)),
                inbound: Flight::default(),
                bytes: 0,
            })
        };
        Ok(Self { halves: [half(0)?, half(1)?], capture: Capture::create(plan)? })
    }

    /// `true`: something happened.
    fn round(&mut self, clock: &Clock, buffer: &mut [u8]) -> Result<bool> {
        let [a, b] = &mut self.halves;
        let mut busy = a.take_in(b, clock, buffer)?;
        busy |= b.take_in(a, clock, buffer)?;
        for half in &mut self.halves {
            let Half { socket, inbound, bytes, .. } = half;
            let mut failed = None;
            inbound.deliver(clock.now(), |frame| {
                busy = true;
                let delivery = socket.send(frame);
                if delivery == Delivery::Taken {
                    *bytes += frame.len() as u64;
                    failed = self.capture.frame(clock.wall(), frame).err();
                }
                delivery
            });
            failed.map_or(Ok(()), Err)?;
        }
        Ok(busy)
    }

    fn traffic(&self, plan: &WireLink, from: usize, to: usize) -> Traffic {
        let medium = self.halves[from].outbound.counters();
        let flight = self.halves[to].inbound.counters();
        Traffic {
            link: plan.name.clone(),
            from: plan.ends[from].node.clone(),
            to: plan.ends[to].node.clone(),
            frames: flight.delivered,
            bytes: self.halves[to].bytes,
            lost: medium.lost,
            dropped: medium.dropped + flight.dropped + flight.undelivered,
        }
    }
}

impl Half {
    /// Takes in frames that the node here sent, on their way `to` the other end. `true`: there were some.
    fn take_in(&mut self, to: &mut Half, clock: &Clock, buffer: &mut [u8]) -> Result<bool> {
        for taken in 0..BATCH {
            let Some(len) = self.socket.receive(buffer)? else { return Ok(taken > 0) };
            let frame = &buffer[..len];
            match self.outbound.send(clock.now(), len) {
                Fate::Arrives(at) => to.inbound.push(at, frame),
                Fate::Twice(first, second) => {
                    to.inbound.push(first, frame);
                    to.inbound.push(second, frame);
                }
                Fate::Lost | Fate::Dropped | Fate::Down => {}
            }
        }
        Ok(true)
    }
}

impl Capture {
    fn create(plan: &WireLink) -> Result<Self> {
        let what = || format!("cannot write the capture {}", plan.capture.display());
        let file = BufWriter::with_capacity(64 << 10, File::create(&plan.capture).with_context(what)?);
        let file = sim::pcap::Writer::new(file).with_context(what)?;
        let mut capture = Self { file, written: 0, dirty: true };
        capture.flush()?;
        Ok(capture)
    }

    fn frame(&mut self, wall: u64, frame: &[u8]) -> Result<()> {
        self.written += frame.len() as u64 + 16;
        if self.written <= MAX_CAPTURE {
            self.dirty = true;
            self.file.frame(wall, frame).context("cannot write a capture; is the disk full?")?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if std::mem::take(&mut self.dirty) {
            self.file.flush().context("cannot write a capture; is the disk full?")?;
        }
        Ok(())
    }
}

impl Node {
    fn open(plan: &WireNode, wire: &WirePlan, now: u64) -> Result<Self> {
        let listen = || -> Result<TcpListener> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let (sessions, datagrams) = listen_twice(listen)?;
        let ends = Ends {
            gateway_mac: wire.gateway_mac,
            gateway: wire.gateway,
            node_mac: plan.mac,
            node: plan.address,
        };
        let seed = wire.seed ^ u64::from(plan.address.to_bits()) << 16;
        let mut gateway = Gateway::new(ends, seed, now);
        if wire.server.is_some() {
            gateway.listen(wire::SERVER_PORT);
        }
        Ok(Self {
            socket: Socket::open(&plan.sockets)?,
            gateway,
            server: wire.server,
            services: [
                (listen()?, wire::CONTROL_PORT),
                (sessions, wire::SESSION_PORT),
                (listen()?, wire::METRICS_PORT),
            ],
            connections: Vec::new(),
            datagrams,
            senders: Vec::new(),
        })
    }

    fn ports(&self) -> io::Result<Ports> {
        let port = |at: usize| self.services[at].0.local_addr().map(|a| a.port());
        Ok(Ports { control: port(0)?, session: port(1)?, metrics: port(2)? })
    }

    fn round(&mut self, clock: &Clock, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..BATCH {
            let Some(len) = self.socket.receive(buffer)? else { break };
            match self.gateway.datagram(&buffer[..len]) {
                Some((port, payload)) => self.deliver(port, payload),
                None => self.gateway.frame(&buffer[..len]),
            }
        }
        self.take_datagrams(clock.now(), buffer);
        self.accept(clock.now());
        // Once for what arrived, once for what the pipes made of it.
        for _ in 0..2 {
            let now = clock.now();
            self.gateway.poll(now);
            self.connect(now);
            for piped in &mut self.connections {
                piped.pump(&mut self.gateway, now);
            }
        }
        self.gateway.poll(clock.now());
        while let Some(frame) = self.gateway.transmit() {
            // The stack repeats what a full or absent node did not take.
            self.socket.send(&frame);
        }
        for at in (0..self.connections.len()).rev() {
            if self.connections[at].over(&mut self.gateway) {
                self.gateway.remove(self.connections.swap_remove(at).connection);
            }
        }
        Ok(())
    }

    /// A datagram of the node's, for the program whose port that is.
    fn deliver(&self, port: u16, payload: &[u8]) {
        if let Some((program, _)) = self.senders.get(usize::from(port - DATAGRAM_PORTS.start)) {
            // What a program does not take is lost, as any datagram may be.
            let _ = self.datagrams.send_to(payload, program);
        }
    }

    fn take_datagrams(&mut self, now: u64, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            // An error is that of an earlier datagram, whose program is gone.
            let Ok((len, program)) = self.datagrams.recv_from(buffer) else { return };
            let known = self.senders.iter().position(|(known, _)| *known == program);
            let at = known.unwrap_or_else(|| self.place_for_sender(program));
            self.senders[at].1 = now;
            if len <= wire::datagram::MAX_DATAGRAM {
                let port = DATAGRAM_PORTS.start + at as u16;
                self.gateway.send_datagram(port, wire::SESSION_PORT, &buffer[..len]);
            }
        }
    }

    /// The place of a new program: its own, or of who has been silent longest.
    fn place_for_sender(&mut self, program: std::net::SocketAddr) -> usize {
        if self.senders.len() < DATAGRAM_PORTS.len() {
            self.senders.push((program, 0));
            return self.senders.len() - 1;
        }
        let oldest = (0..self.senders.len()).min_by_key(|&at| self.senders[at].1).unwrap_or(0);
        self.senders[oldest].0 = program;
        oldest
    }

    fn accept(&mut self, now: u64) {
        for (listener, port) in &self.services {
            while self.connections.len() < MAX_CONNECTIONS {
                // A program that is gone already, or no descriptors left: the next round tries again.
                let Ok((stream, _)) = listener.accept() else { break };
                if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
                    let connection = self.gateway.open(now, *port);
                    self.connections.push(Piped::new(stream, connection, now));
                }
            }
        }
    }

    /// Takes what the node opened on to the protocol server.
    fn connect(&mut self, now: u64) {
        let Some(server) = self.server else { return };
        while let Some(connection) = self.gateway.accept(now) {
            let room = self.connections.len() < MAX_CONNECTIONS;
            // It is on this machine: there, or refused at once.
            let stream = if room { TcpStream::connect_timeout(&server, CONNECT).ok() } else { None };
            let ready = |s: &TcpStream| s.set_nonblocking(true).is_ok() && s.set_nodelay(true).is_ok();
            match stream.filter(ready) {
                Some(stream) => self.connections.push(Piped::new(stream, connection, now)),
                None => {
                    self.gateway.socket(&connection).abort();
                    self.gateway.poll(now);
                    self.gateway.remove(connection);
                }
            }
        }
    }
}

/// A listener, and a socket for datagrams on the same port.
fn listen_twice(listen: impl Fn() -> Result<TcpListener>) -> Result<(TcpListener, UdpSocket)> {
    let mut last = io::Error::from(ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        let listener = listen()?;
        match UdpSocket::bind(listener.local_addr()?) {
            Ok(datagrams) => {
                datagrams.set_nonblocking(true)?;
                return Ok((listener, datagrams));
            }
            Err(e) => last = e,
        }
    }
    Err(last).context("no port for sessions")
}

impl Piped {
    fn new(stream: TcpStream, connection: Connection, active: u64) -> Self {
        let (read_ended, write_ended, broken, blocked) = (false, false, false, false);
        Self { stream, connection, read_ended, write_ended, broken, blocked, active }
    }

    /// Moves bytes both ways, as far as both sides have room.
    fn pump(&mut self, gateway: &mut Gateway, now: u64) {
        if !gateway.look_after(&mut self.connection, now) && !gateway.socket(&self.connection).can_recv() {
            return;
        }
        let socket = gateway.socket(&self.connection);
        while !self.read_ended && !self.broken && socket.can_send() {
            let taken = socket.send(|room| match self.stream.read(room) {
                Ok(n) => (n, Ok(n)),
                Err(e) => (0, Err(e)),
            });
            match taken {
                Ok(Ok(0)) => {
                    self.read_ended = true;
                    socket.close();
                }
                Ok(Ok(_)) => self.active = now,
                Ok(Err(e)) if e.kind() == ErrorKind::WouldBlock => break,
                Ok(Err(_)) | Err(_) => self.broken = true,
            }
        }
        self.blocked = false;
        while !self.broken && socket.can_recv() {
            let given = socket.recv(|bytes| match self.stream.write(bytes) {
                Ok(n) => (n, Ok(())),
                Err(e) => (0, Err(e)),
            });
            match given {
                Ok(Ok(())) => self.active = now,
                Ok(Err(e)) if e.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Ok(Err(_)) | Err(_) => self.broken = true,
            }
        }
        // A program that has ended cannot be told from one that only listens, so that has a limit.
        self.broken |= self.read_ended && now > self.active + LISTEN_ONLY;
        if self.broken {
            socket.abort();
        }
        let ended = !matches!(socket.state(), State::SynSent | State::Closed) && !socket.may_recv();
        if ended && !socket.can_recv() && !self.write_ended {
            self.write_ended = true;
            // It may be gone already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Whether nothing more will pass.
    fn over(&self, gateway: &mut Gateway) -> bool {
        let socket = gateway.socket(&self.connection);
        match socket.state() {
            State::TimeWait => !socket.can_recv() && !self.blocked,
            State::Closed => self.broken || self.connection.deadline().is_none() && !socket.can_recv(),
            _ => false,
        }
    }

    /// What to wait for on this machine's side.
    fn interest(&self, gateway: &mut Gateway) -> PollFlags {
        let mut flags = PollFlags::empty();
        if !self.read_ended && gateway.socket(&self.connection).can_send() {
            flags |= PollFlags::IN;
        }
        if self.blocked {
            flags |= PollFlags::OUT;
        }
        flags
    }
}

impl Socket {
    fn open(sockets: &Sockets) -> Result<Self> {
        let what = || format!("cannot make the socket {}", sockets.wire.display());
        files::remove_if_there(&sockets.wire)?;
        let socket = UnixDatagram::bind(&sockets.wire).with_context(what)?;
        socket.set_nonblocking(true).with_context(what)?;
        // Not connected: a connected socket would refuse the frames of a node that was started anew.
        let peer = SocketAddr::from_pathname(&sockets.node).with_context(what)?;
        Ok(Self { socket, peer })
    }

    /// The length of the next frame, if there is one.
    fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self.socket.recv(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e).context("cannot read from a lab socket"),
        }
    }

    fn send(&self, frame: &[u8]) -> Delivery {
        match self.socket.send_to_addr(frame, &self.peer) {
            Ok(_) => Delivery::Taken,
            Err(e) if e.kind() == ErrorKind::WouldBlock => Delivery::Busy,
            // The node is not there yet, or not any more, or takes no frame of this length.
            Err(_) => Delivery::Gone,
        }
    }
}

impl Clock {
    fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
        Self { start: Instant::now(), wall }
    }

    /// Microseconds since start.
    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Microseconds since 1970.
    fn wall(&self) -> u64 {
        self.wall + self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::super::gateway::tests::{ENDS, Node as Echo};
    use super::super::{WireEnd, WireShape};
    use super::*;
    use crate::files::tests::Scratch;
    use sim::medium::Shape;
    use std::time::Duration;

    /// A plan with one link of 20 ms and one node; the wire process runs until the tests end.
    fn start(scratch: &Scratch) -> (WirePlan, Vec<Ports>) {
        let end = |n: &str| WireEnd { node: n.into(), sockets: Sockets::new(&scratch.0, n) };
        let shape = WireShape::from(&Shape { delay: Duration::from_millis(20), ..Shape::default() });
        let capture = scratch.0.join("ab.pcap");
        let plan = WirePlan {
            seed: 1,
            links: vec![WireLink { name: "ab".into(), ends: [end("a"), end("b")], shape, capture }],
            nodes: vec![WireNode {
                name: "a".into(),
                sockets: Sockets::new(&scratch.0, "m"),
                mac: ENDS.node_mac,
                address: ENDS.node,
            }],
            gateway: ENDS.gateway,
            gateway_mac: ENDS.gateway_mac,
            server: None,
            ports: scratch.0.join("ports.json"),
            counters: scratch.0.join("links.json"),
        };
        let file = plan.clone();
        std::thread::spawn(move || run(&file));
        while !plan.ports.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let ports = files::read_json(&plan.ports).unwrap();
        (plan, ports)
    }

    #[test]
    fn frames_cross_a_link_late_and_are_captured() {
        let scratch = Scratch::new("wire-link");
        let (plan, _) = start(&scratch);
        let [a, b] = plan.links[0].ends.each_ref().map(|e| UnixDatagram::bind(&e.sockets.node).unwrap());
        b.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let sent = Instant::now();
        for n in 1..=3u8 {
            a.send_to(&[n; 60], &plan.links[0].ends[0].sockets.wire).unwrap();
        }
        let mut buffer = [0; 100];
        for n in 1..=3u8 {
            assert_eq!(b.recv(&mut buffer).unwrap(), 60);
            assert_eq!(buffer[..60], [n; 60]);
        }
        let took = sent.elapsed();
        assert!((Duration::from_millis(20)..Duration::from_secs(5)).contains(&took), "{took:?}");
        // A node that is not there any more holds nothing up.
        drop(b);
        a.send_to(&[4; 60], &plan.links[0].ends[0].sockets.wire).unwrap();
        let traffic = loop {
            let all: Vec<Traffic> = files::read_json(&plan.counters).unwrap();
            if all[0].dropped == 1 {
                break all;
            }
            assert!(sent.elapsed() < Duration::from_secs(20), "{all:?}");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!((traffic[0].frames, traffic[0].bytes, traffic[1].frames), (3, 180, 0));
        let capture = std::fs::read(&plan.links[0].capture).unwrap();
        assert_eq!(capture.len(), 24 + 3 * (16 + 60));
        assert_eq!(capture[40..100], [1; 60]);
    }

    #[test]
    fn a_program_reaches_a_service_of_the_node() {
        let scratch = Scratch::new("wire-tcp");
        let (plan, ports) = start(&scratch);
        let sockets = plan.nodes[0].sockets.clone();
        std::thread::spawn(move || {
            let socket = UnixDatagram::bind(&sockets.node).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let (mut echo, start, mut buffer) = (Echo::new(), Instant::now(), [0; MAX_FRAME]);
            loop {
                if let Ok(len) = socket.recv(&mut buffer) {
                    echo.frame(buffer[..len].to_vec());
                }
                for frame in echo.work(start.elapsed().as_micros() as u64) {
                    // The stack repeats what did not get through.
                    let _ = socket.send_to(&frame, &sockets.wire);
                }
            }
        });
        let data: Vec<u8> = (0..300_000u32).map(|n| (n / 5) as u8).collect();
        let mut stream = TcpStream::connect(("127.0.0.1", ports[0].control)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let to_send = data.clone();
        std::thread::spawn(move || {
            writer.write_all(&to_send).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == data, "{} of {} bytes came back", back.len(), data.len());
    }
}
