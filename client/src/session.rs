//! A program's side of a protocol session (`wire::session`): TCP, a first line, then packets.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wire::session::{MAX_PACKET, Reader, frame};

use crate::exit::{Code, failure};
use crate::remote::connect;

/// An open session.
pub struct Session {
    stream: TcpStream,
    reader: Reader,
    flow: String,
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

/// The half of a session that sends.
pub struct Sender {
    stream: TcpStream,
}

impl Session {
    /// Opens a session of the flow called `name` (or with the hash, or its first digits, `name`) at the
    /// session server `address`.
    pub fn open(address: &str, name: &str, timeout: Duration) -> Result<Self> {
        let mut stream = connect(address, timeout)?;
        // However this program ends, the node is to hear that nobody listens any more; an ordinary end only
        // says that nobody will speak, and the session would stay open for a while.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        stream.write_all(format!("open {name}\n").as_bytes()).context("the connection broke")?;
        let mut session = Self { stream, reader: Reader::default(), flow: String::new() };
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(line) = session.reader.line()? {
                let Some(flow) = line.strip_prefix("ok ") else {
                    let why = line.strip_prefix("error ").unwrap_or("the node answered nonsense");
                    return Err(failure(Code::Failed, format!("no session of {name}: {why}")));
                };
                session.flow = flow.to_string();
                return Ok(session);
            }
            match session.fill(deadline)? {
                Filled::Bytes => {}
                Filled::Late => {
                    return Err(failure(Code::TimedOut, "the node did not open the session in time"));
                }
                Filled::End => {
                    return Err(failure(Code::Unreachable, "the node closed the connection"));
                }
            }
        }
    }

    /// The hash of the session's flow.
    pub fn flow(&self) -> &str {
        &self.flow
    }

    /// A sender for use beside [`Session::receive`].
    pub fn sender(&self) -> Result<Sender> {
        Ok(Sender { stream: self.stream.try_clone()? })
    }

    /// Waits for the next packet until `deadline`.
    pub fn receive(&mut self, deadline: Instant) -> Result<Received> {
        loop {
            if let Some(packet) = self.reader.packet()? {
                return Ok(Received::Packet(packet));
            }
            match self.fill(deadline)? {
                Filled::Bytes => {}
                Filled::Late => return Ok(Received::Nothing),
                Filled::End => return Ok(Received::Closed),
            }
        }
    }

    fn fill(&mut self, deadline: Instant) -> Result<Filled> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Filled::Late);
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Ok(Filled::End),
            Ok(n) => {
                self.reader.push(&bytes[..n]);
                Ok(Filled::Bytes)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(Filled::Bytes),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(Filled::Late),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(Filled::End),
            Err(e) => Err(e).context("the session's connection broke"),
        }
    }
}

enum Filled {
    Bytes,
    Late,
    End,
}

impl Sender {
    /// Sends one packet.
    pub fn send(&mut self, packet: &[u8]) -> Result<()> {
        let framed = frame(packet)
            .ok_or_else(|| failure(Code::Usage, format!("a packet has at most {MAX_PACKET} bytes")))?;
        self.stream.write_all(&framed).context("the session's connection broke")
    }
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

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn packets_come_until_the_end() {
        let address = node(b"ok 1234\n\0\x02ab\0\0");
        let mut s = Session::open(&address, "hello", Duration::from_secs(10)).unwrap();
        assert_eq!(s.flow(), "1234");
        assert_eq!(s.receive(soon()).unwrap(), Received::Packet(b"ab".to_vec()));
        assert_eq!(s.receive(soon()).unwrap(), Received::Packet(vec![]));
        assert_eq!(s.receive(soon()).unwrap(), Received::Closed);
    }

    #[test]
    fn a_refusal_says_why() {
        let address = node(b"error no flow hello\n");
        let e = Session::open(&address, "hello", Duration::from_secs(10)).err().unwrap();
        assert_eq!(e.to_string(), "no session of hello: no flow hello");
        let address = node(b"ok 1\n\xff\xff");
        let mut s = Session::open(&address, "hello", Duration::from_secs(10)).unwrap();
        assert!(s.receive(soon()).is_err());
    }

    #[test]
    fn a_long_packet_is_refused_here() {
        let address = node(b"ok 1\n");
        let s = Session::open(&address, "hello", Duration::from_secs(10)).unwrap();
        let e = s.sender().unwrap().send(&[0; MAX_PACKET + 1]).unwrap_err();
        assert_eq!(crate::exit::code(&e), Code::Usage);
    }
}
