//! The rest of IP on a link: a smoltcp interface with ARP, neighbor discovery, ICMP echo, DHCP, and a
//! bounded number of TCP connections for the control, session and metrics servers.
//!
//! [`Stack`] is one link's interface. On links for management it listens on the ports of [`StreamLimits`]: on each
//! with a few sockets from the start, and on the session port with more while many are in use, up to the limit, so
//! that memory and the number of connections are bounded. [`Stack::connect`] has one further socket. A connection is a *stream*: [`Stack::event`] says what happened, [`Stack::read`] and
//! [`Stack::write`] move bytes. Who does not finish the handshake, is idle for long, or does not finish
//! closing is cut off, and the socket listens again.

use crate::channel::InChannel;
use crate::config::LinkAddress;
use crate::link::Link;
use crate::platform::Instant;
use crate::slab::{Handle, Slab};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv6Cidr};

/// A handshake must be finished in this time.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A close must be finished in this time.
const CLOSING: Duration = Duration::from_secs(10);
/// A reset leaves in this time, or not at all: the peer's address may lead nowhere.
const RESET: Duration = Duration::from_secs(1);
/// A peer that does not acknowledge for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// Sockets that wait for sessions from the start, and that stay.
const FIRST: usize = 8;
/// Sockets that wait at least, as long as there may be more.
const WAITING: usize = 2;
/// Bytes of buffer in each direction of a stream beyond the first.
const LATER_BUFFER: usize = 4096;
/// Ports that connections are made from (RFC 6335, section 6).
const OWN_PORTS: core::ops::Range<u16> = 49152..65535;
/// What cannot proceed for want of a buffer or of room in the link's queue is tried again after this.
const PAUSE: Duration = Duration::from_millis(1);

/// How many streams there may be, and what they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams to the control port at once, on each link.
    pub control: usize,
    /// Streams to the session port at once, on each link.
    pub sessions: usize,
    /// Streams to the metrics port at once, on each link; usually nobody listens there.
    pub metrics: usize,
    /// Bytes of buffer in each direction of a stream, kept from the start. Streams of sessions beyond the first eight have
    /// 4096 at most, and only while there are so many.
    pub buffer: usize,
    /// A stream on which nothing moves for so long is cut off.
    pub idle: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { control: 4, sessions: 256, metrics: 0, buffer: 8192, idle: Duration::from_secs(600) }
    }
}

/// What happened to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEvent {
    /// Somebody connected, or did as [`Stack::connect`] asked.
    Open {
        /// To this port of ours; 0: we connected.
        port: u16,
        /// The other end.
        peer: SocketAddr,
    },
    /// There are bytes to read. Comes again only after a read.
    Data,
    /// The peer will send no more, and everything was read; it may still be written to.
    Finished,
    /// The stream is gone, and so is its name.
    Closed,
}

/// The IP interface of one link.
pub struct Stack {
    iface: Interface,
    sockets: SocketSet<'static>,
    dhcp: Option<SocketHandle>,
    slots: Vec<Slot>,
    /// Slots from the start, which stay where they are.
    first: usize,
    /// From a stream to its slot.
    streams: Slab<usize>,
    limits: StreamLimits,
    /// The port to connect from next.
    own_port: u16,
    wake: Option<Instant>,
}

/// One TCP socket, and what it is used for at the moment.
struct Slot {
    socket: SocketHandle,
    port: u16,
    use_: Use,
}

enum Use {
    /// Nobody's, and waits for nobody: of a socket to connect with.
    Unused,
    /// Waits for somebody to connect.
    Listening,
    /// Somebody began to connect, at this time.
    Opening(Instant),
    /// A stream.
    Open(Stream),
    /// Nobody's; the connection is being ended since this time.
    Closing(Instant),
    /// Nobody's; the connection was aborted at this time, and a reset is to tell the peer.
    Resetting(Instant),
}

struct Stream {
    name: Handle,
    peer: SocketAddr,
    /// When a byte last moved.
    moved: Instant,
    unread: usize,
    opened_told: bool,
    data_told: bool,
    finished_told: bool,
    /// The connection is over; what was received can still be read.
    gone: bool,
    /// It was cut off, and what was not read is lost: nobody has moved a byte for too long.
    cut: bool,
}

impl Stack {
    /// An interface for `link` with this address. Listens if `listen` is given. `seed` makes TCP sequence
    /// numbers and must not be known to others.
    pub fn new(
        link: &mut Link,
        address: LinkAddress,
        gateway: Option<IpAddr>,
        listen: Option<StreamLimits>,
        seed: u64,
    ) -> Self {
        let mac = link.mac();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        config.random_seed = seed;
        let mut iface = Interface::new(config, link, smoltcp::time::Instant::ZERO);
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = match address {
            LinkAddress::Dhcp => Some(sockets.add(dhcpv4::Socket::new())),
            LinkAddress::Static(cidr) => {
                set_address(&mut iface, Some(cidr), gateway);
                None
            }
        };
        let limits = listen.unwrap_or(StreamLimits { control: 0, sessions: 0, ..StreamLimits::default() });
        let ports = [
            (wire::CONTROL_PORT, limits.control),
            (wire::SESSION_PORT, limits.sessions.min(FIRST)),
            (wire::METRICS_PORT, limits.metrics),
        ];
        let ports = ports.iter().flat_map(|(port, count)| core::iter::repeat_n(*port, *count));
        let mut slots = Vec::new();
        for port in ports {
            slots.push(Slot::new(&mut sockets, port, limits.buffer));
        }
        let streams = Slab::new(limits.control + limits.sessions + limits.metrics + 1);
        let own_port = OWN_PORTS.start + (seed % OWN_PORTS.len() as u64) as u16;
        let wake = Some(Instant::ZERO);
        let first = slots.len();
        let mut stack = Self { iface, sockets, dhcp, slots, first, streams, limits, own_port, wake };
        stack.update_slots(Instant::ZERO);
        stack
    }

    /// Does what is due, and takes the received frame that waits in `link`. Returns whether the address
    /// has changed; then [`own_addresses`](Self::own_addresses) tells the new one.
    pub fn poll(&mut self, now: Instant, link: &mut Link) -> bool {
        self.iface.poll(now.into(), link, &mut self.sockets);
        let changed = self.poll_dhcp();
        self.update_slots(now);
        let network = self.iface.poll_at(now.into(), &self.sockets).map(|at| {
            let at = u64::try_from(at.total_micros()).map_or(Instant::ZERO, Instant);
            // What is still to be done after everything that could be done was done has to wait.
            if at <= now { now + PAUSE } else { at }
        });
        let slots = self.slots.iter().filter_map(|slot| slot.deadline(self.limits.idle)).min();
        self.wake = [network, slots].into_iter().flatten().min();
        changed
    }

    /// When [`poll`](Self::poll) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.wake
    }

    /// Writes the addresses that the link has now into `channel`; returns the gateways.
    pub fn own_addresses(&self, channel: &mut InChannel) -> Option<IpAddr> {
        let global = |ip: &Ipv6Addr| !ip.is_unicast_link_local();
        let v6 = self.iface.ip_addrs().iter().filter_map(|cidr| match cidr {
            IpCidr::Ipv6(cidr) => Some(cidr.address()),
            IpCidr::Ipv4(_) => None,
        });
        channel.v4 = self.iface.ipv4_addr();
        channel.v6 = v6.clone().find(global).or_else(|| v6.clone().next());
        let routes = self.iface.routes();
        let route = routes.get_default_ipv4_route().or_else(|| routes.get_default_ipv6_route());
        route.map(|route| route.via_router.into())
    }

    /// The main address with its prefix length.
    pub fn address(&self) -> Option<IpCidr> {
        self.iface.ip_addrs().first().copied()
    }

    /// Whether `ip` is on the link itself.
    pub fn is_on_link(&self, ip: IpAddr) -> bool {
        self.iface.ip_addrs().iter().any(|cidr| cidr.contains_addr(&ip.into()))
    }

    /// The next thing that happened to a stream.
    pub fn event(&mut self) -> Option<(Handle, StreamEvent)> {
        for slot in &mut self.slots {
            let Use::Open(stream) = &mut slot.use_ else { continue };
            let name = stream.name;
            let socket: &tcp::Socket = self.sockets.get(slot.socket);
            if socket.state() == tcp::State::SynSent {
                continue;
            }
            // Who connected and is gone already is told of nevertheless: what it sent must find a reader. Not so a
            // stream of ours that was refused.
            let refused = stream.gone && slot.port == 0;
            if !stream.opened_told && !refused {
                stream.opened_told = true;
                return Some((name, StreamEvent::Open { port: slot.port, peer: stream.peer }));
            }
            if socket.can_recv() && !stream.cut {
                if !stream.data_told {
                    stream.data_told = true;
                    return Some((name, StreamEvent::Data));
                }
            } else if stream.gone {
                slot.use_ = Use::Closing(stream.moved);
                self.streams.remove(name);
                self.wake = Some(Instant::ZERO);
                return Some((name, StreamEvent::Closed));
            } else if !socket.may_recv() && !stream.finished_told {
                stream.finished_told = true;
                return Some((name, StreamEvent::Finished));
            }
        }
        None
    }

    /// Opens a stream to `to`, whose address has a route: [`StreamEvent::Open`] tells that it is there,
    /// [`StreamEvent::Closed`] that it is not. One at a time; `None` while there is one.
    pub fn connect(&mut self, now: Instant, to: SocketAddr) -> Option<Handle> {
        let own = |slot: &Slot| slot.port == 0;
        let at = self.slots.iter().position(own).unwrap_or_else(|| {
            let slot = Slot::new(&mut self.sockets, 0, self.limits.buffer);
            self.slots.push(slot);
            self.slots.len() - 1
        });
        let slot = &mut self.slots[at];
        let socket = self.sockets.get_mut::<tcp::Socket>(slot.socket);
        if !matches!(slot.use_, Use::Unused) && !has_ended(socket) {
            return None;
        }
        self.own_port = if self.own_port + 1 < OWN_PORTS.end { self.own_port + 1 } else { OWN_PORTS.start };
        socket.connect(self.iface.context(), to, self.own_port).ok()?;
        let name = self.streams.insert(at).ok()?;
        slot.use_ = Use::Open(Stream::new(name, to, now));
        self.wake = Some(now);
        Some(name)
    }

    /// Moves received bytes into `out`; returns how many. 0 also when there is no such stream.
    pub fn read(&mut self, now: Instant, name: Handle, out: &mut [u8]) -> usize {
        let Some((socket, stream)) = self.stream(name) else { return 0 };
        stream.data_told = false;
        let n = socket.recv_slice(out).unwrap_or(0);
        if n > 0 {
            stream.moved = now;
            stream.unread = socket.recv_queue();
            // The peer may wait for the window to open.
            self.wake = Some(now);
        }
        n
    }

    /// Queues bytes to be sent; returns how many were taken: fewer when the buffer is full, none when
    /// there is no such stream or the peer is gone.
    pub fn write(&mut self, now: Instant, name: Handle, bytes: &[u8]) -> usize {
        let Some((socket, stream)) = self.stream(name) else { return 0 };
        let n = if socket.may_send() { socket.send_slice(bytes).unwrap_or(0) } else { 0 };
        if n > 0 {
            stream.moved = now;
            self.wake = Some(now);
        }
        n
    }

    /// How many bytes [`write`](Self::write) would take now.
    pub fn room(&mut self, name: Handle) -> usize {
        match self.stream(name) {
            Some((socket, _)) if socket.may_send() => socket.send_capacity() - socket.send_queue(),
            _ => 0,
        }
    }

    /// Ends a stream after what was written has been sent. Its name is gone at once.
    pub fn close(&mut self, now: Instant, name: Handle) {
        self.end(now, name, tcp::Socket::close, Use::Closing(now));
    }

    /// Ends a stream at once; what was written may be lost. Its name is gone.
    pub fn abort(&mut self, now: Instant, name: Handle) {
        self.end(now, name, tcp::Socket::abort, Use::Resetting(now));
    }

    fn end(&mut self, now: Instant, name: Handle, how: impl FnOnce(&mut tcp::Socket<'static>), then: Use) {
        if let Some((socket, _)) = self.stream(name) {
            how(socket);
            if let Some(slot) = self.streams.remove(name) {
                self.slots[slot].use_ = then;
            }
            self.wake = Some(now);
        }
    }

    fn stream(&mut self, name: Handle) -> Option<(&mut tcp::Socket<'static>, &mut Stream)> {
        let slot = self.slots.get_mut(*self.streams.get(name)?)?;
        match &mut slot.use_ {
            Use::Open(stream) => Some((self.sockets.get_mut(slot.socket), stream)),
            _ => None,
        }
    }

    fn poll_dhcp(&mut self) -> bool {
        let Some(handle) = self.dhcp else { return false };
        match self.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
            Some(dhcpv4::Event::Configured(lease)) => {
                let router = lease.router.map(IpAddr::V4);
                set_address(&mut self.iface, Some(IpCidr::Ipv4(lease.address)), router);
                true
            }
            Some(dhcpv4::Event::Deconfigured) => {
                set_address(&mut self.iface, None, None);
                true
            }
            None => false,
        }
    }

    fn update_slots(&mut self, now: Instant) {
        for n in 0..self.slots.len() {
            let slot = &mut self.slots[n];
            let socket = self.sockets.get_mut::<tcp::Socket>(slot.socket);
            slot.update(now, n, socket, &mut self.streams, self.limits.idle);
        }
        self.keep_waiting(now);
    }

    /// Has sockets wait for sessions as long as there may be more, and gives back those that are too many, wherever they
    /// are: one program that stays does not keep the sockets of all that were there before it.
    fn keep_waiting(&mut self, now: Instant) {
        let of_sessions = |slot: &&Slot| slot.port == wire::SESSION_PORT;
        let mut all = self.slots.iter().filter(of_sessions).count();
        let is_free = |slot: &Slot| slot.port == wire::SESSION_PORT && matches!(slot.use_, Use::Listening);
        let mut free = self.slots.iter().filter(|slot| is_free(slot)).count();
        if free < WAITING && all < self.limits.sessions {
            let buffer = self.limits.buffer.min(LATER_BUFFER);
            let mut slot = Slot::new(&mut self.sockets, wire::SESSION_PORT, buffer);
            let socket = self.sockets.get_mut::<tcp::Socket>(slot.socket);
            slot.update(now, self.slots.len(), socket, &mut self.streams, self.limits.idle);
            self.slots.push(slot);
        }
        while free > 2 * WAITING
            && all > FIRST
            && let Some(at) = (self.first..self.slots.len()).rev().find(|at| is_free(&self.slots[*at]))
        {
            let gone = self.slots.swap_remove(at);
            self.sockets.remove(gone.socket);
            // The last one has taken its place.
            if let Some(Slot { use_: Use::Open(stream), .. }) = self.slots.get(at)
                && let Some(place) = self.streams.get_mut(stream.name)
            {
                *place = at;
            }
            (all, free) = (all - 1, free - 1);
        }
    }
}

impl Slot {
    /// A socket for `port`, with so many bytes of buffer in each direction.
    fn new(sockets: &mut SocketSet<'static>, port: u16, bytes: usize) -> Self {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(SILENCE.into()));
        socket.set_keep_alive(Some((SILENCE / 3).into()));
        let use_ = if port == 0 { Use::Unused } else { Use::Closing(Instant::ZERO) };
        Self { socket: sockets.add(socket), port, use_ }
    }

    fn update(
        &mut self,
        now: Instant,
        n: usize,
        socket: &mut tcp::Socket,
        streams: &mut Slab<usize>,
        idle: Duration,
    ) {
        match &mut self.use_ {
            Use::Unused => {}
            Use::Listening | Use::Opening(_) => match socket.state() {
                tcp::State::Listen => self.use_ = Use::Listening,
                tcp::State::SynReceived => match self.use_ {
                    Use::Opening(since) if now.since(since) >= HANDSHAKE => self.cut_off(now, socket),
                    Use::Opening(_) => (),
                    _ => self.use_ = Use::Opening(now),
                },
                _ => match (socket.remote_endpoint(), streams.insert(n)) {
                    (Some(peer), Ok(name)) => self.use_ = Use::Open(Stream::new(name, peer.into(), now)),
                    (_, name) => {
                        name.ok().and_then(|name| streams.remove(name));
                        self.cut_off(now, socket);
                    }
                },
            },
            Use::Open(stream) => {
                let unread = socket.recv_queue();
                if unread != stream.unread {
                    stream.unread = unread;
                    stream.moved = now;
                }
                if now.since(stream.moved) >= idle {
                    socket.abort();
                    stream.cut = true;
                }
                stream.gone |= !socket.is_active();
            }
            Use::Closing(since) => {
                // What still arrives is nobody's.
                let _ = socket.recv(|bytes| (bytes.len(), ()));
                let ended = socket.state() == tcp::State::TimeWait || has_ended(socket);
                let late = now.since(*since) >= CLOSING;
                if !(ended && self.listen_again(socket)) && late {
                    self.cut_off(now, socket);
                }
            }
            Use::Resetting(since) => {
                // Listening again forgets a reset that could not be sent.
                let over = has_ended(socket) || now.since(*since) >= RESET;
                if over {
                    self.listen_again(socket);
                }
            }
        }
    }

    fn listen_again(&mut self, socket: &mut tcp::Socket) -> bool {
        if self.port == 0 {
            self.use_ = Use::Unused;
        } else if socket.listen(self.port).is_ok() {
            self.use_ = Use::Listening;
        }
        matches!(self.use_, Use::Unused | Use::Listening)
    }

    fn cut_off(&mut self, now: Instant, socket: &mut tcp::Socket) {
        socket.abort();
        self.use_ = Use::Resetting(now);
    }

    fn deadline(&self, idle: Duration) -> Option<Instant> {
        match &self.use_ {
            Use::Unused | Use::Listening => None,
            Use::Opening(since) => Some(*since + HANDSHAKE),
            Use::Open(stream) if stream.cut => None,
            Use::Open(stream) => Some(stream.moved + idle),
            Use::Closing(since) => Some(*since + CLOSING),
            Use::Resetting(since) => Some(*since + RESET),
        }
    }
}

impl Stream {
    fn new(name: Handle, peer: SocketAddr, now: Instant) -> Self {
        let (opened_told, data_told, finished_told, gone, cut) = (false, false, false, false, false);
        Self { name, peer, moved: now, unread: 0, opened_told, data_told, finished_told, gone, cut }
    }
}

/// Whether a connection is over and nothing more has to be sent for it.
fn has_ended(socket: &tcp::Socket) -> bool {
    socket.state() == tcp::State::Closed && socket.remote_endpoint().is_none()
}

/// Gives the interface one address and a default route. An interface with an IPv6 address gets a
/// link-local one as well, as RFC 4291 section 2.8 asks.
fn set_address(iface: &mut Interface, address: Option<IpCidr>, gateway: Option<IpAddr>) {
    let link_local = match (address, iface.hardware_addr()) {
        (Some(IpCidr::Ipv6(_)), HardwareAddress::Ethernet(mac)) => mac.as_eui_64().map(|id| {
            let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            octets[8..].copy_from_slice(&id);
            IpCidr::Ipv6(Ipv6Cidr::new(octets.into(), 64))
        }),
        _ => None,
    };
    iface.update_ip_addrs(|addresses| {
        addresses.clear();
        for cidr in [address, link_local].into_iter().flatten() {
            // There is room for two.
            let _ = addresses.push(cidr);
        }
    });
    let routes = iface.routes_mut();
    routes.remove_default_ipv4_route();
    routes.remove_default_ipv6_route();
    // There is room for two routes.
    let _ = match gateway {
        Some(IpAddr::V4(via)) => routes.add_default_ipv4_route(via).map(|_| ()),
        Some(IpAddr::V6(via)) => routes.add_default_ipv6_route(via).map(|_| ()),
        None => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use crate::buf::BufPool;
    use crate::link::Mac;

    use super::*;

    /// Whoever stays, wherever its socket is, all others' go.
    #[test]
    fn one_program_that_stays_keeps_one_socket() {
        let mut link = Link::new("mgmt", Mac([2; 6]), 1500, None, 16, BufPool::new(4));
        let address = LinkAddress::Static("10.0.0.1/24".parse().unwrap());
        let mut stack = Stack::new(&mut link, address, None, Some(StreamLimits::default()), 1);
        let sessions = |stack: &Stack| stack.slots.iter().filter(|s| s.port == wire::SESSION_PORT).count();
        for stays in [12, 100, 255] {
            while sessions(&stack) < 256 {
                stack.slots.iter_mut().for_each(|slot| slot.use_ = Use::Opening(Instant::ZERO));
                stack.keep_waiting(Instant::ZERO);
            }
            let at = stays + stack.first - FIRST;
            for (n, slot) in stack.slots.iter_mut().enumerate() {
                slot.use_ = if n == at { Use::Opening(Instant::ZERO) } else { Use::Listening };
            }
            stack.keep_waiting(Instant::ZERO);
            assert_eq!(sessions(&stack), FIRST + 1);
            assert_eq!(stack.sockets.iter().count(), stack.slots.len());
        }
    }
}
