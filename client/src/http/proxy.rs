//! The proxy: clients speak HTTP/1.1 with it, and what they ask for comes through the network, piece by piece.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use wire::id::PartHash;

use super::head::{Ask, Refusal, read_head};
use super::message::{MAX_BYTES, Piece, Told};
use super::origin::reason;
use super::{MAX_HEADERS, MAX_OBJECT};
use crate::session::{Received, Session};

/// Clients at once; further ones are turned away.
const MAX_CLIENTS: usize = 64;
/// Requests that the protocol works on at once, on one node.
const MAX_REQUESTS: usize = 4;
/// How long a client may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// How long an object may take.
const ALL: Duration = Duration::from_secs(120);

/// Where a proxy gets its objects.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The session server of its node.
    pub address: String,
    /// The flow.
    pub flow: String,
    /// How long the node may take to open a session.
    pub timeout: Duration,
    /// Whose objects are meant where a client names no server.
    pub origin: Option<String>,
}

/// A proxy that is not running yet.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    terms: Terms,
}

/// So many at once.
#[derive(Debug)]
struct Permits {
    left: Mutex<usize>,
    freed: Condvar,
}

/// One of them, until it is dropped.
struct Permit<'a>(&'a Permits);

/// An object that came.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    /// Head and body.
    bytes: Vec<u8>,
    /// Seconds since it was fetched.
    age: u32,
    /// The most hops that a piece came.
    hops: u8,
}

impl Permits {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(most), freed: Condvar::new() })
    }

    fn left(&self) -> std::sync::MutexGuard<'_, usize> {
        self.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for one, at most so long.
    fn take(&self, patience: Duration) -> Option<Permit<'_>> {
        let waited = self.freed.wait_timeout_while(self.left(), patience, |left| *left == 0);
        let (mut left, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        *left = left.checked_sub(1)?;
        Some(Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.left() += 1;
        self.0.freed.notify_one();
    }
}

impl Proxy {
    /// A proxy that will serve those who connect to `listener`.
    pub fn new(listener: TcpListener, terms: Terms) -> Self {
        Self { listener, terms }
    }

    /// Serves clients until the listener fails.
    pub fn run(self) -> Result<()> {
        let (clients, requests) = (Permits::new(MAX_CLIENTS), Permits::new(MAX_REQUESTS));
        for stream in self.listener.incoming() {
            let mut stream = match stream {
                Ok(stream) => stream,
                // The client is gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            let (clients, requests, terms) = (clients.clone(), requests.clone(), self.terms.clone());
            thread::spawn(move || {
                let Some(_permit) = clients.take(Duration::ZERO) else {
                    let refusal = Refusal(503, "too many clients".into());
                    return drop(say(&mut stream, &refusal, false, false));
                };
                // Whatever goes wrong goes wrong between the client and us.
                let _ = client(&mut stream, &terms, &requests);
            });
        }
        Ok(())
    }
}

/// Serves one client until it, or we, end the connection.
fn client(stream: &mut TcpStream, terms: &Terms, requests: &Permits) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(head) = read_head(stream, &mut buffer)? {
        let ask = match head.and_then(|head| Ask::read(&head, terms.origin.as_deref())) {
            Ok(ask) => ask,
            // What follows such a head may be anything.
            Err(refusal) => return say(stream, &refusal, false, false),
        };
        match obtain(&ask, terms, requests).and_then(|object| response(&object, &ask)) {
            Ok(bytes) => stream.write_all(&bytes)?,
            Err(refusal) => say(stream, &refusal, ask.head_only, ask.keep)?,
        }
        if !ask.keep {
            break;
        }
    }
    Ok(())
}

/// Tells a client why it gets nothing.
fn say(
    stream: &mut TcpStream,
    Refusal(status, why): &Refusal,
    head_only: bool,
    keep: bool,
) -> io::Result<()> {
    let allow = if *status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let connection = if keep { "keep-alive" } else { "close" };
    let body = format!("{why}\n");
    let mut text = format!(
        "HTTP/1.1 {status} {}\r\n{allow}Content-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        reason(*status),
        body.len()
    );
    if !head_only {
        text.push_str(&body);
    }
    stream.write_all(text.as_bytes())
}

/// Gets an object through the network.
fn obtain(ask: &Ask, terms: &Terms, requests: &Permits) -> Result<Object, Refusal> {
    let _permit = requests.take(ALL).ok_or_else(|| Refusal(503, "too many requests".into()))?;
    let gone = |error: anyhow::Error| Refusal(502, format!("{error:#}"));
    let mut session = Session::open(&terms.address, &terms.flow, terms.timeout).map_err(gone)?;
    let request = format!("get 1 {}{}", ask.url, if ask.reload { " reload" } else { "" });
    session.send(request.as_bytes()).map_err(gone)?;
    let deadline = Instant::now() + ALL;
    let mut pieces = Pieces::default();
    loop {
        let packet = match session.receive(deadline).map_err(gone)? {
            Received::Packet(packet) => packet,
            Received::Nothing => return Err(Refusal(504, "the object takes too long".into())),
            Received::Closed => return Err(Refusal(502, "the protocol closed the session".into())),
        };
        match Told::read(&packet) {
            Some(Told::Piece(1, piece, bytes)) => pieces.add(&piece, bytes)?,
            Some(Told::Again(1)) => pieces = Pieces::default(),
            Some(Told::End(1)) => return pieces.whole(),
            Some(Told::Failed(1, why)) if why.starts_with("too many") => {
                return Err(Refusal(503, why.into()));
            }
            Some(Told::Failed(1, why)) => return Err(Refusal(504, why.into())),
            _ => return Err(Refusal(502, "the protocol answered nonsense".into())),
        }
    }
}

/// Pieces of an object, in any order.
#[derive(Debug, Default)]
struct Pieces {
    first: Option<Piece>,
    bytes: BTreeMap<u16, Vec<u8>>,
    age: u32,
    hops: u8,
}

impl Pieces {
    fn add(&mut self, piece: &Piece, bytes: &[u8]) -> Result<(), Refusal> {
        let first = self.first.get_or_insert(*piece);
        if (piece.digest, piece.count) != (first.digest, first.count) {
            return Err(Refusal(502, "the pieces are of different objects".into()));
        }
        if usize::from(piece.count) * MAX_BYTES > MAX_OBJECT + MAX_BYTES {
            return Err(Refusal(502, "the object has more than 8 MiB".into()));
        }
        self.age = self.age.max(piece.life.saturating_sub(piece.left));
        self.hops = self.hops.max(piece.hops);
        self.bytes.insert(piece.index, bytes.to_vec());
        Ok(())
    }

    /// The object, if it is what its digest says.
    fn whole(self) -> Result<Object, Refusal> {
        let bytes = self.bytes.into_values().collect::<Vec<_>>().concat();
        if self.first.is_none_or(|first| PartHash::of(&bytes).0 != first.digest) {
            return Err(Refusal(502, "the object is not what its digest says".into()));
        }
        Ok(Object { bytes, age: self.age, hops: self.hops })
    }
}

/// What a client gets of an object.
fn response(object: &Object, ask: &Ask) -> Result<Vec<u8>, Refusal> {
    let broken = || Refusal(502, "the object is no response".into());
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS + 2];
    let mut parsed = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(body)) = parsed.parse(&object.bytes) else { return Err(broken()) };
    // Everything up to the empty line is as it came.
    let head = object.bytes[..body].strip_suffix(b"\r\n").ok_or_else(broken)?;
    let connection = if ask.keep { "keep-alive" } else { "close" };
    let own =
        format!("Age: {}\r\nX-Bees-Hops: {}\r\nConnection: {connection}\r\n\r\n", object.age, object.hops);
    let rest = if ask.head_only { &[][..] } else { &object.bytes[body..] };
    Ok([head, own.as_bytes(), rest].concat())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const OBJECT: &[u8] = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhello";

    fn ask(head_only: bool) -> Ask {
        Ask { head_only, url: "http://a/".into(), reload: false, keep: true }
    }

    #[test]
    fn a_client_gets_the_object_and_where_it_was() {
        let object = Object { bytes: OBJECT.to_vec(), age: 7, hops: 2 };
        let text = |head_only| String::from_utf8(response(&object, &ask(head_only)).unwrap()).unwrap();
        let head = "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\nAge: 7\r\nX-Bees-Hops: 2\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(text(true), head);
        assert_eq!(text(false), format!("{head}hello"));
        let broken = Object { bytes: b"hello".to_vec(), age: 0, hops: 0 };
        assert_eq!(response(&broken, &ask(false)).unwrap_err().0, 502);
    }

    #[test]
    fn pieces_are_held_against_the_digest() {
        let bytes = [7; 2500];
        let digest = PartHash::of(&bytes).0;
        let piece = |index| Piece {
            hops: index as u8,
            key: [1; 16],
            asked: 0,
            nonce: 1,
            index,
            count: 3,
            life: 60,
            left: 50,
            digest,
        };
        let chunk = |index: u16| bytes.chunks(MAX_BYTES).nth(index.into()).unwrap();
        let mut pieces = Pieces::default();
        [2, 0, 1, 0].into_iter().for_each(|at| pieces.add(&piece(at), chunk(at)).unwrap());
        assert_eq!(pieces.whole(), Ok(Object { bytes: bytes.to_vec(), age: 10, hops: 2 }));
        // One is missing, or another one.
        let mut pieces = Pieces::default();
        [0, 2].into_iter().for_each(|at| pieces.add(&piece(at), chunk(at)).unwrap());
        assert_eq!(pieces.whole().unwrap_err().0, 502);
        let mut pieces = Pieces::default();
        (0..3).for_each(|at| pieces.add(&piece(at), &[8; 10]).unwrap());
        assert_eq!(pieces.whole().unwrap_err().0, 502);
        let mut pieces = Pieces::default();
        pieces.add(&piece(0), chunk(0)).unwrap();
        assert!(pieces.add(&Piece { digest: [0; 32], ..piece(1) }, chunk(1)).is_err());
    }

    /// No node is needed for what is refused.
    #[test]
    fn clients_are_told_what_is_not_carried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let terms = Terms {
            address: "127.0.0.1:1".into(),
            flow: "http".into(),
            timeout: Duration::from_secs(1),
            origin: None,
        };
        thread::spawn(|| Proxy::new(listener, terms).run());
        let asked = |request: &str| {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        };
        let answer = asked("POST http://a/ HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nAllow: GET, HEAD\r\n"),
            "{answer}"
        );
        assert!(asked("BREW http://a/ HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 501 "));
        assert!(asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 400 "));
        let long = format!("GET http://a/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(17_000));
        // What was not read of it may take the answer away.
        let answer = asked(&long);
        assert!(answer.starts_with("HTTP/1.1 431 ") || answer.is_empty(), "{answer}");
        // There is no node.
        let answer = asked("GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
}
