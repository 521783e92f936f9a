//! A program's side of a protocol session: over TCP ([`wire::session`]), or by UDP ([`wire::datagram`]).
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//! use client::session::{Received, Session};
//!
//! # fn main() -> anyhow::Result<()> {
//! // A node's session server, the protocol's name, and how long to wait for an answer.
//! let mut session = Session::open("192.0.2.1:3323", "hello", Duration::from_secs(5))?;
//! session.send(b"find")?;
//! let deadline = Instant::now() + Duration::from_secs(10);
//! while let Received::Packet(packet) = session.receive(deadline)? {
//!     println!("{}", String::from_utf8_lossy(&packet));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Session::open_datagrams`] does the same by UDP. `examples/session.rs` is a whole program, and
//! `examples/session.py` the same with nothing but Python's sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wire::datagram::{self, FromNode, IDLE_SECONDS, Said, Token};
use wire::session::{MAX_PACKET, Reader, frame};

use crate::exit::{Code, failure};
use crate::remote::connect;

/// How long to wait for the answer to an `open` by UDP before it is sent again.
const AGAIN: Duration = Duration::from_millis(300);
/// A node that has not heard of us for so long is told that we are here.
const TELL: Duration = Duration::from_secs(IDLE_SECONDS / 4);
/// And when so many bytes have come since.
const TELL_AFTER: usize = datagram::CREDIT / 2;

/// An open session. Dropped, it is over.
pub struct Session {
    line: Line,
    flow: String,
}

enum Line {
    Stream(TcpStream, Reader),
    Datagrams(Datagrams),
}

struct Datagrams {
    socket: UdpSocket,
    token: Token,
    /// When the node was last told that we are here, and how many bytes have come since.
    told: Instant,
    came: usize,
}

/// What came of waiting for a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A packet.
    Packet(Vec<u8>),
    /// None in the time given.
    Nothing,
    /// The protocol has closed the session.
    Closed,
}

/// The half of a session that sends, for another thread.
pub enum Sender {
    /// Over TCP.
    Stream(TcpStream),
    /// By UDP.
    Datagrams(UdpSocket, Token),
}

impl Session {
    /// Opens a session of the flow called `name` (or with the hash, or its first digits, `name`) at the
    /// session server `address`, over TCP. Whoever is slow is waited for.
    pub fn open(address: &str, name: &str, timeout: Duration) -> Result<Self> {
        let mut stream = connect(address, timeout)?;
        // However this program ends, the node is to hear that nobody listens any more; an ordinary end only
        // says that nobody will speak, and the session would stay open for a while.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        stream.write_all(format!("open {name}\n").as_bytes()).context("the connection broke")?;
        let mut reader = Reader::default();
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(line) = reader.line()? {
                let Some(flow) = line.strip_prefix("ok ") else {
                    return Err(refused(
                        name,
                        line.strip_prefix("error ").unwrap_or("the answer is nonsense"),
                    ));
                };
                return Ok(Self { flow: flow.to_string(), line: Line::Stream(stream, reader) });
            }
            match fill(&mut stream, &mut reader, deadline)? {
                Filled::Bytes => {}
                Filled::Late => return Err(late()),
                Filled::End => {
                    return Err(failure(Code::Unreachable, "the node closed the connection"));
                }
            }
        }
    }

    /// The same by UDP: packets of up to 1200 bytes that may be lost, or come in another order.
    pub fn open_datagrams(address: &str, name: &str, timeout: Duration) -> Result<Self> {
        let unreachable =
            |e: std::io::Error| failure(Code::Unreachable, format!("cannot reach {address}: {e}"));
        let mut addresses = address.to_socket_addrs().map_err(unreachable)?;
        let node = addresses.next().ok_or_else(|| unreachable(ErrorKind::AddrNotAvailable.into()))?;
        let own: SocketAddr = match node {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(own).map_err(unreachable)?;
        socket.connect(node).map_err(unreachable)?;
        let deadline = Instant::now() + timeout;
        let (mut cookie, mut bytes) = (None, [0; datagram::MAX_DATAGRAM + 1]);
        loop {
            // A port that nobody has opened yet answers with an error, which the next call would get.
            let _ = socket.send(&datagram::open(name, cookie));
            let again = deadline.min(Instant::now() + AGAIN);
            while let Some(n) = read_datagram(&socket, &mut bytes, again)? {
                match FromNode::parse(&bytes[..n]) {
                    Ok(FromNode::Cookie(fresh)) if cookie != Some(fresh) => {
                        cookie = Some(fresh);
                        break;
                    }
                    Ok(FromNode::Opened(token, flow)) => {
                        let flow = flow.to_string();
                        let line = Datagrams { socket, token, told: Instant::now(), came: 0 };
                        return Ok(Self { line: Line::Datagrams(line), flow });
                    }
                    Ok(FromNode::Refused(why)) => return Err(refused(name, why)),
                    _ => {}
                }
            }
            if Instant::now() >= deadline {
                return Err(late());
            }
        }
    }

    /// The hash of the session's flow.
    pub fn flow(&self) -> &str {
        &self.flow
    }

    /// A sender for use beside [`Session::receive`].
    pub fn sender(&self) -> Result<Sender> {
        Ok(match &self.line {
            Line::Stream(stream, _) => Sender::Stream(stream.try_clone()?),
            Line::Datagrams(line) => Sender::Datagrams(line.socket.try_clone()?, line.token),
        })
    }

    /// Sends one packet: at most 16384 bytes, 1200 by UDP. Over TCP it waits while the node is busy.
    pub fn send(&mut self, packet: &[u8]) -> Result<()> {
        match &mut self.line {
            Line::Stream(stream, _) => send_framed(stream, packet),
            Line::Datagrams(line) => send_datagram(&line.socket, line.token, packet),
        }
    }

    /// Waits for the next packet until `deadline`. By UDP it also tells the node that somebody is here, so it is to be
    /// called at least once in half a minute.
    pub fn receive(&mut self, deadline: Instant) -> Result<Received> {
        match &mut self.line {
            Line::Stream(stream, reader) => loop {
                if let Some(packet) = reader.packet()? {
                    return Ok(Received::Packet(packet));
                }
                match fill(stream, reader, deadline)? {
                    Filled::Bytes => {}
                    Filled::Late => return Ok(Received::Nothing),
                    Filled::End => return Ok(Received::Closed),
                }
            },
            Line::Datagrams(line) => line.receive(deadline),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Line::Datagrams(line) = &self.line {
            // If it is lost, the node finds out after a minute.
            let _ = line.socket.send(&Said::Close(line.token).encode());
        }
    }
}

impl Datagrams {
    fn receive(&mut self, deadline: Instant) -> Result<Received> {
        let mut bytes = [0; datagram::MAX_DATAGRAM + 1];
        loop {
            if self.told.elapsed() >= TELL || self.came >= TELL_AFTER {
                let _ = self.socket.send(&Said::Alive(self.token).encode());
                (self.told, self.came) = (Instant::now(), 0);
            }
            let until = deadline.min(self.told + TELL);
            match read_datagram(&self.socket, &mut bytes, until)? {
                None if Instant::now() >= deadline => return Ok(Received::Nothing),
                None => {}
                Some(n) => match FromNode::parse(&bytes[..n]) {
                    Ok(FromNode::Said(Said::Packet(token, packet))) if token == self.token => {
                        self.came += n;
                        return Ok(Received::Packet(packet.to_vec()));
                    }
                    Ok(FromNode::Said(Said::Close(token))) if token == self.token => {
                        return Ok(Received::Closed);
                    }
                    // Late answers to the opening, and what others send.
                    _ => {}
                },
            }
        }
    }
}

impl Sender {
    /// Sends one packet.
    pub fn send(&mut self, packet: &[u8]) -> Result<()> {
        match self {
            Self::Stream(stream) => send_framed(stream, packet),
            Self::Datagrams(socket, token) => send_datagram(socket, *token, packet),
        }
    }
}

enum Filled {
    Bytes,
    Late,
    End,
}

fn fill(stream: &mut TcpStream, reader: &mut Reader, deadline: Instant) -> Result<Filled> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(Filled::Late);
    }
    stream.set_read_timeout(Some(left))?;
    let mut bytes = [0; 4096];
    match stream.read(&mut bytes) {
        Ok(0) => Ok(Filled::End),
        Ok(n) => {
            reader.push(&bytes[..n]);
            Ok(Filled::Bytes)
        }
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(Filled::Bytes),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(Filled::Late),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(Filled::End),
        Err(e) => Err(e).context("the session's connection broke"),
    }
}

/// The length of the next datagram; `None`: none came before `until`.
fn read_datagram(socket: &UdpSocket, bytes: &mut [u8], until: Instant) -> Result<Option<usize>> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(bytes) {
            Ok(n) => return Ok(Some(n)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
            // Nobody is at that port; there may be soon.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                std::thread::sleep(left.min(Duration::from_millis(20)));
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("the session's socket broke"),
        }
    }
}

fn send_framed(stream: &mut TcpStream, packet: &[u8]) -> Result<()> {
    let framed = frame(packet).ok_or_else(|| too_long(MAX_PACKET))?;
    stream.write_all(&framed).context("the session's connection broke")
}

fn send_datagram(socket: &UdpSocket, token: Token, packet: &[u8]) -> Result<()> {
    if packet.len() > datagram::MAX_PACKET {
        return Err(too_long(datagram::MAX_PACKET));
    }
    match socket.send(&Said::Packet(token, packet).encode()) {
        // Lost, as any packet may be.
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(()),
        sent => sent.map(drop).context("the session's socket broke"),
    }
}

fn too_long(most: usize) -> anyhow::Error {
    failure(Code::Usage, format!("a packet has at most {most} bytes"))
}

fn late() -> anyhow::Error {
    failure(Code::TimedOut, "the node did not open the session in time")
}

/// A refusal, and what can be done about it where the node's words tell.
fn refused(name: &str, why: &str) -> anyhow::Error {
    let hint = if why.contains("no flow of that name") {
        "; `bees flow show` lists what runs there, `bees flow inject` starts a flow"
    } else if why.contains("hashes begin so") {
        "; give more digits of the one that is meant (`bees flow show`)"
    } else if why.contains("budget allows") {
        "; close one, or raise the budget `sessions` (`bees team limit`, the node's [team] or the tuple's request)"
    } else if why.contains("many sessions") || why.contains("is busy") {
        "; try again later"
    } else {
        ""
    };
    failure(Code::Failed, format!("no session of {name}: {why}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Accepts one connection, reads its first line and answers with `answer`.
    fn node(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0; 11];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"open hello\n");
            stream.write_all(answer).unwrap();
        });
        address
    }

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn soon() -> Instant {
        Instant::now() + TIMEOUT
    }

    #[test]
    fn packets_come_until_the_end() {
        let address = node(b"ok 1234\n\0\x02ab\0\0");
        let mut s = Session::open(&address, "hello", TIMEOUT).unwrap();
        assert_eq!(s.flow(), "1234");
        assert_eq!(s.receive(soon()).unwrap(), Received::Packet(b"ab".to_vec()));
        assert_eq!(s.receive(soon()).unwrap(), Received::Packet(vec![]));
        assert_eq!(s.receive(soon()).unwrap(), Received::Closed);
    }

    #[test]
    fn a_refusal_says_why_and_what_to_do() {
        let address = node(b"error no flow of that name or hash runs here\n");
        let e = Session::open(&address, "hello", TIMEOUT).err().unwrap().to_string();
        assert!(e.starts_with("no session of hello: no flow of that name") && e.contains("flow show"), "{e}");
        let address = node(b"ok 1\n\xff\xff");
        let mut s = Session::open(&address, "hello", TIMEOUT).unwrap();
        assert!(s.receive(soon()).is_err());
    }

    #[test]
    fn a_long_packet_is_refused_here() {
        let address = node(b"ok 1\n");
        let mut s = Session::open(&address, "hello", TIMEOUT).unwrap();
        let e = s.send(&[0; MAX_PACKET + 1]).unwrap_err();
        assert_eq!(crate::exit::code(&e), Code::Usage);
        assert!(s.sender().unwrap().send(&[0; MAX_PACKET + 1]).is_err());
    }

    /// A node that loses the first datagram of each kind, and echoes.
    fn lossy() -> (String, std::thread::JoinHandle<Vec<&'static str>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let (cookie, token) = (Token([7; 8]), Token([9; 8]));
        let node = std::thread::spawn(move || {
            let (mut bytes, mut seen) = ([0; 2000], Vec::new());
            loop {
                let (n, from) = socket.recv_from(&mut bytes).unwrap();
                let (what, answer) = match datagram::FromProgram::parse(&bytes[..n]).unwrap() {
                    datagram::FromProgram::Open { cookie: None, .. } => {
                        ("open", datagram::answer(&format!("cookie {cookie}")))
                    }
                    datagram::FromProgram::Open { cookie: Some(back), .. } => {
                        assert_eq!(back, cookie);
                        ("open again", datagram::answer(&format!("ok {token} 1234")))
                    }
                    datagram::FromProgram::Said(Said::Close(_)) => return seen,
                    datagram::FromProgram::Said(said) => ("said", said.encode()),
                };
                if seen.contains(&what) {
                    socket.send_to(&Said::Packet(Token([0; 8]), b"not yours").encode(), from).unwrap();
                    socket.send_to(b"nonsense", from).unwrap();
                    socket.send_to(&answer, from).unwrap();
                }
                seen.push(what);
            }
        });
        (address, node)
    }

    #[test]
    fn a_session_by_datagrams_outlives_losses() {
        let (address, node) = lossy();
        let mut s = Session::open_datagrams(&address, "hello", TIMEOUT).unwrap();
        assert_eq!(s.flow(), "1234");
        s.send(b"one").unwrap();
        assert_eq!(s.receive(Instant::now() + Duration::from_millis(100)).unwrap(), Received::Nothing);
        s.sender().unwrap().send(b"two").unwrap();
        assert_eq!(s.receive(soon()).unwrap(), Received::Packet(b"two".to_vec()));
        assert_eq!(crate::exit::code(&s.send(&[0; 1201]).unwrap_err()), Code::Usage);
        drop(s);
        let mut seen = node.join().unwrap();
        seen.dedup();
        assert_eq!(seen, ["open", "open again", "said"]);
    }

    #[test]
    fn a_node_that_is_not_there_is_given_up() {
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let e = Session::open_datagrams(&address, "hello", Duration::from_millis(700)).err().unwrap();
        assert_eq!(crate::exit::code(&e), Code::TimedOut);
    }
}
