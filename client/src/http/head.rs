//! Requests of clients: heads within bounds, and what of them is carried through the network: a URL, and whether it is to be
//! fetched anew.

use std::io::{self, Read};

use super::message::MAX_URL;
use super::{MAX_HEAD, MAX_HEADERS};

/// A request that can be carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Only the head of the answer is wanted.
    pub head_only: bool,
    /// `http://AUTHORITY/PATH`, the host in small letters, port 80 left out.
    pub url: String,
    pub reload: bool,
    /// The connection stays open afterwards.
    pub keep: bool,
}

/// Why a request is refused: a status, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub u16, pub String);

fn refuse<T>(status: u16, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(status, why.into()))
}

/// Reads up to the end of a head; `None`: the connection ended before it began. What follows the head stays in `buffer`.
pub fn read_head(
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Result<Vec<u8>, Refusal>>> {
    loop {
        let end = buffer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = end.filter(|end| *end <= MAX_HEAD) {
            let rest = buffer.split_off(end);
            return Ok(Some(Ok(std::mem::replace(buffer, rest))));
        }
        if buffer.len() > MAX_HEAD {
            return Ok(Some(refuse(431, "the head has more than 16 KiB")));
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes)? {
            0 if buffer.is_empty() => return Ok(None),
            0 => return Ok(Some(refuse(400, "the head was cut off"))),
            n => buffer.extend_from_slice(&bytes[..n]),
        }
    }
}

impl Ask {
    /// Reads a request's head. What is asked for without a server is asked of `origin`.
    pub fn read(head: &[u8], origin: Option<&str>) -> Result<Self, Refusal> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return refuse(400, "the head was cut off"),
            Err(httparse::Error::TooManyHeaders) => return refuse(431, "more than 64 headers"),
            Err(httparse::Error::Version) => return refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken"),
            Err(why) => return refuse(400, format!("this is no request: {why}")),
        }
        let head_only = match request.method.unwrap_or("") {
            "GET" => false,
            "HEAD" => true,
            "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" | "TRACE" | "CONNECT" => {
                return refuse(405, "only GET and HEAD are carried");
            }
            other => return refuse(501, format!("the method {other} is not known")),
        };
        let mut ask = Self { head_only, url: String::new(), reload: false, keep: request.version == Some(1) };
        let mut host = false;
        for header in request.headers.iter() {
            let value = std::str::from_utf8(header.value).unwrap_or("").trim().to_ascii_lowercase();
            let lists = |word: &str| value.split(',').any(|part| part.trim() == word);
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" if value != "0" => return refuse(400, "a body is not carried"),
                "transfer-encoding" => return refuse(400, "a body is not carried"),
                "authorization" => return refuse(501, "credentials are not carried"),
                "connection" | "proxy-connection" if lists("close") => ask.keep = false,
                "cache-control" if lists("no-cache") || lists("no-store") || lists("max-age=0") => {
                    ask.reload = true
                }
                "pragma" if lists("no-cache") => ask.reload = true,
                "host" if host => return refuse(400, "there are two hosts"),
                "host" => host = true,
                _ => {}
            }
        }
        if request.version == Some(1) && !host {
            return refuse(400, "the host is missing");
        }
        let target = request.path.unwrap_or("");
        ask.url = match (target.starts_with('/'), origin) {
            (true, Some(origin)) => url(&format!("{}{target}", origin.trim_end_matches('/'))),
            (true, None) => {
                return refuse(400, "which server? Use this as a proxy (curl -x), or start it with --origin");
            }
            (false, _) => url(target),
        }?;
        Ok(ask)
    }
}

/// A URL in the form that names it everywhere.
pub fn url(text: &str) -> Result<String, Refusal> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return refuse(400, "the URL is none");
    };
    if !scheme.eq_ignore_ascii_case("http") {
        return refuse(501, "only http:// is carried");
    }
    let rest = rest.split('#').next().unwrap_or("");
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let authority = authority.to_ascii_lowercase();
    let authority = authority.trim_end_matches(":80");
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if authority.is_empty() || !authority.bytes().all(sound) {
        return refuse(400, "the URL's host is none");
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("http://{authority}{slash}{path}");
    if url.len() > MAX_URL {
        return refuse(414, "the URL has more than 1024 characters");
    }
    if !url.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse(400, "the URL has characters that are not graphic");
    }
    Ok(url)
}

/// The authority and the path of a URL in that form.
pub fn split(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    rest.split_at_checked(rest.find('/')?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(text: &str) -> Result<Ask, Refusal> {
        Ask::read(text.replace('\n', "\r\n").as_bytes(), None)
    }

    #[test]
    fn requests_are_read() {
        let whole = ask("GET http://Example.ORG:80/a?b#c HTTP/1.1\nHost: example.org\n\n").unwrap();
        assert_eq!(
            whole,
            Ask { head_only: false, url: "http://example.org/a?b".into(), reload: false, keep: true }
        );
        let old = ask("HEAD http://a:8080 HTTP/1.0\nCache-Control: max-age=0\n\n").unwrap();
        assert_eq!(old, Ask { head_only: true, url: "http://a:8080/".into(), reload: true, keep: false });
        let head = b"GET /x?y HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let plain = Ask::read(head, Some("http://a/b/")).unwrap();
        assert_eq!((plain.url.as_str(), plain.keep), ("http://a/b/x?y", false));
    }

    #[test]
    fn what_is_not_carried_is_refused() {
        for (text, status) in [
            ("POST http://a/ HTTP/1.1\nHost: a\n\n", 405),
            ("CONNECT a:443 HTTP/1.1\nHost: a\n\n", 405),
            ("BREW http://a/ HTTP/1.1\nHost: a\n\n", 501),
            ("GET https://a/ HTTP/1.1\nHost: a\n\n", 501),
            ("GET /x HTTP/1.1\nHost: a\n\n", 400),
            ("GET http://a/ HTTP/1.1\n\n", 400),
            ("GET http://a/ HTTP/1.1\nHost: a\nHost: b\n\n", 400),
            ("GET http://u:p@a/ HTTP/1.1\nHost: a\n\n", 400),
            ("GET http:/// HTTP/1.1\nHost: a\n\n", 400),
            ("GET http://a/ HTTP/3.0\nHost: a\n\n", 505),
            ("GET http://a/ HTTP/1.1\nHost: a\nAuthorization: Basic x\n\n", 501),
            ("GET http://a/ HTTP/1.1\nHost: a\nContent-Length: 3\n\n", 400),
            ("GET http://a/ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n", 400),
            (&format!("GET http://a/{} HTTP/1.1\nHost: a\n\n", "x".repeat(1100)), 414),
            (&format!("GET http://a/ HTTP/1.1\nHost: a\n{}\n", "x: y\n".repeat(64)), 431),
            ("nonsense\n\n", 400),
        ] {
            assert_eq!(ask(text).unwrap_err().0, status, "{text}");
        }
        let mut endless = io::repeat(b'x');
        let refused = read_head(&mut endless, &mut vec![]).unwrap().unwrap().unwrap_err();
        assert_eq!(refused.0, 431);
        let mut cut = &b"GET"[..];
        assert_eq!(read_head(&mut cut, &mut vec![]).unwrap().unwrap().unwrap_err().0, 400);
        assert!(read_head(&mut &b""[..], &mut vec![]).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_head_is_read_or_refused(head in proptest::collection::vec(any::<u8>(), 0..300), text in "[ -~]{0,60}") {
            let _ = Ask::read(&head, Some("http://a"));
            let line = format!("GET http://{text} HTTP/1.1\r\nHost: {text}\r\n\r\n");
            if let Ok(ask) = Ask::read(line.as_bytes(), None) {
                prop_assert_eq!(url(&ask.url), Ok(ask.url.clone()));
                prop_assert!(split(&ask.url).is_some());
            }
        }
    }
}
