//! Asking a server for an object, and what becomes of its response on the way through the network: a head without what is
//! for one connection only, the body in one piece, and how long it may be kept.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::head::{read_head, split};
use super::{MAX_HEADERS, MAX_OBJECT, fresh};

/// How long a server may take to answer, and how long to send everything.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(15);
const ALL: Duration = Duration::from_secs(25);

/// A response as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Seconds that it may be kept.
    pub life: u32,
    /// Its head, an empty line, its body.
    pub bytes: Vec<u8>,
}

/// A response of the gateway's own.
pub fn answer(status: u16, why: &str) -> Object {
    let body = format!("{status} {why}\n");
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        reason(status),
        body.len()
    );
    Object { life: 0, bytes: [head.as_bytes(), body.as_bytes()].concat() }
}

/// The reason phrase of a status that is made here.
pub fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// Fetches what a URL names: a response of its server's, or one of the gateway's own that says why there is none.
pub fn fetch(url: &str, reload: bool) -> Object {
    let Some((authority, path)) = split(url) else { return answer(400, "the URL is none") };
    match ask(authority, path, reload) {
        Ok(object) => object,
        Err(error) => {
            let late = error.downcast_ref::<std::io::Error>().is_some_and(|e| {
                matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            });
            answer(if late { 504 } else { 502 }, &format!("{authority}: {error:#}"))
        }
    }
}

fn ask(authority: &str, path: &str, reload: bool) -> Result<Object> {
    // Behind a bracket a colon belongs to an address.
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let address = if has_port { authority.to_string() } else { format!("{authority}:80") };
    let address = address.to_socket_addrs()?.next().context("the host has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let control = if reload { "Cache-Control: no-cache\r\n" } else { "" };
    stream.write_all(
        format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: bees\r\nAccept: */*\r\nVia: 1.1 bees\r\n\
             {control}Connection: close\r\n\r\n"
        )
        .as_bytes(),
    )?;
    read(&mut Timely { stream, until: Instant::now() + ALL })
}

/// A stream that ends with an error when it takes too long in all.
struct Timely {
    stream: TcpStream,
    until: Instant,
}

impl Read for Timely {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if Instant::now() > self.until {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.read(bytes)
    }
}

/// Reads a response to a GET.
fn read(stream: &mut impl Read) -> Result<Object> {
    let mut buffer = Vec::new();
    loop {
        let head = read_head(stream, &mut buffer)?.context("the server closed the connection")?;
        let head = head.map_err(|refusal| anyhow::anyhow!("of the response {}", refusal.1))?;
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        if response.parse(&head).context("this is no response")?.is_partial() {
            bail!("the response's head was cut off");
        }
        let status = response.code.unwrap_or(0);
        // What comes before the response proper.
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let mut headers = Vec::with_capacity(response.headers.len());
        for header in response.headers.iter() {
            headers.push((
                header.name,
                std::str::from_utf8(header.value).context("a header is no text")?.trim(),
            ));
        }
        return object(status, response.reason.unwrap_or(""), &headers, stream, buffer);
    }
}

/// Headers that are for one connection only (RFC 9110, section 7.6.1), and those that are made anew.
const DROPPED: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "age",
];

fn object(
    status: u16,
    reason: &str,
    headers: &[(&str, &str)],
    stream: &mut impl Read,
    begun: Vec<u8>,
) -> Result<Object> {
    let all =
        |name: &'static str| headers.iter().filter(move |h| h.0.eq_ignore_ascii_case(name)).map(|h| h.1);
    let chunked = all("transfer-encoding").any(|v| v.eq_ignore_ascii_case("chunked"));
    if !chunked && all("transfer-encoding").next().is_some() {
        bail!("the response's transfer coding is not known");
    }
    let mut lengths = all("content-length").map(|v| v.parse::<usize>());
    let length = lengths.next().transpose().context("the response's length is no number")?;
    if lengths.any(|other| other.ok() != length) {
        bail!("the response has several lengths");
    }
    let mut body = Body { stream, ready: begun };
    let body = match (status, chunked, length) {
        (101 | 204 | 304, ..) => vec![],
        (_, true, _) => body.chunks()?,
        (_, _, Some(length)) => body.exactly(length)?,
        (_, _, None) => body.rest()?,
    };
    let life = fresh::life(status, headers.iter().copied(), SystemTime::now());
    let named: Vec<&str> = all("connection").flat_map(|v| v.split(',')).map(str::trim).collect();
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in headers {
        let hop = |other: &&str| other.eq_ignore_ascii_case(name);
        if !DROPPED.iter().any(hop) && !named.iter().any(hop) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("Via: 1.1 bees\r\n");
    // It has none, not one of 0 bytes (RFC 9110, section 8.6).
    if status != 204 {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    if head.len() + body.len() > MAX_OBJECT {
        bail!("the object has more than 8 MiB");
    }
    Ok(Object { life, bytes: [head.into_bytes(), body].concat() })
}

/// A response's body.
struct Body<'a, R> {
    stream: &'a mut R,
    /// What was read already.
    ready: Vec<u8>,
}

impl<R: Read> Body<'_, R> {
    /// Reads on; whether anything came.
    fn more(&mut self) -> Result<bool> {
        if self.ready.len() > MAX_OBJECT {
            bail!("the object has more than 8 MiB");
        }
        let mut bytes = [0; 16 * 1024];
        let n = self.stream.read(&mut bytes)?;
        self.ready.extend_from_slice(&bytes[..n]);
        Ok(n > 0)
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        if length > MAX_OBJECT {
            bail!("the object has more than 8 MiB");
        }
        while self.ready.len() < length {
            if !self.more()? {
                bail!("the response was cut off");
            }
        }
        let rest = self.ready.split_off(length);
        Ok(std::mem::replace(&mut self.ready, rest))
    }

    fn rest(&mut self) -> Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.ready))
    }

    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            match httparse::parse_chunk_size(&self.ready) {
                Ok(httparse::Status::Complete((start, size))) => {
                    self.ready.drain(..start);
                    if size == 0 {
                        return Ok(body);
                    }
                    let size = usize::try_from(size).ok().filter(|size| *size <= MAX_OBJECT - body.len());
                    let size = size.context("the object has more than 8 MiB")?;
                    let chunk = self.exactly(size + 2)?;
                    body.extend_from_slice(chunk.strip_suffix(b"\r\n").context("a chunk has not its size")?);
                }
                // A size and its extensions are short.
                Ok(httparse::Status::Partial) if self.ready.len() < 1024 => {
                    if !self.more()? {
                        bail!("the response was cut off");
                    }
                }
                _ => bail!("a chunk's size is none"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Result<Object> {
        read(&mut text.replace('\n', "\r\n").as_bytes())
    }

    fn text(object: Object) -> String {
        String::from_utf8(object.bytes).unwrap()
    }

    #[test]
    fn responses_come_in_three_kinds() {
        let long = of("HTTP/1.1 200 OK\nContent-Length: 5\nCache-Control: max-age=9\nConnection: x\nX: y\nEtag: z\n\nhello more").unwrap();
        assert_eq!(long.life, 9);
        assert_eq!(
            text(long),
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nEtag: z\r\nVia: 1.1 bees\r\nContent-Length: 5\r\n\r\nhello"
        );
        let chunked = "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5;x=y\nhello\n6\n world\n0\n\n";
        assert!(text(of(chunked).unwrap()).ends_with("Content-Length: 11\r\n\r\nhello world"));
        assert!(text(of("HTTP/1.0 404 No\n\ngone").unwrap()).ends_with("Content-Length: 4\r\n\r\ngone"));
        assert!(text(of("HTTP/1.1 204 None\n\n").unwrap()).ends_with("None\r\nVia: 1.1 bees\r\n\r\n"));
    }

    #[test]
    fn what_is_no_whole_response_is_none() {
        for wrong in [
            "",
            "HTTP/1.1 200 OK\n",
            "nonsense\n\n",
            "HTTP/1.1 200 OK\nContent-Length: 5\n\nhell",
            "HTTP/1.1 200 OK\nContent-Length: x\n\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\nab",
            "HTTP/1.1 200 OK\nContent-Length: 99999999\n\n",
            "HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\n",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello!!\n0\n\n",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nffffffffffffffff\n",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        let mut endless = std::io::repeat(b'x');
        assert!(read(&mut (&b"HTTP/1.1 200 OK\r\n\r\n"[..]).chain(&mut endless)).is_err());
    }

    proptest! {
        #[test]
        fn any_response_is_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200), chunks in "[0-9a-f\r\n;]{0,60}") {
            let _ = read(&mut &bytes[..]);
            let whole = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            let _ = read(&mut whole.as_bytes());
        }
    }
}
