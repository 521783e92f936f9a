//! The head of an HTTP/1 request (RFC 9112), as far as a server of one page reads it: the node's metrics over
//! TCP 3324. Bodies, other forms of a target than a path, and connections that are used again are not for it.
//!
//! [`request`] looks at what has arrived so far, again with each piece.

use core::fmt;

/// The longest head, in bytes, the empty line at its end included.
pub const MAX_HEAD: usize = 2048;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// `GET`, or something else.
    pub method: &'a str,
    /// The target up to its query; begins with a slash.
    pub path: &'a str,
}

/// The client erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// This is no HTTP/1 request.
    Malformed,
    /// The head is longer than [`MAX_HEAD`].
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not an HTTP/1 request"),
            Self::TooLong => write!(f, "the request's head is longer than {MAX_HEAD} bytes"),
        }
    }
}

impl core::error::Error for Error {}

/// Reads the head at the beginning of `bytes`; `None` while it is not complete. What comes behind it is not
/// looked at.
pub fn request(bytes: &[u8]) -> Result<Option<Request<'_>>, Error> {
    let Some(head) = head(&bytes[..bytes.len().min(MAX_HEAD)]) else {
        return if bytes.len() >= MAX_HEAD { Err(Error::TooLong) } else { Ok(None) };
    };
    let mut lines = head.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (request, needs_host) = lines.next().and_then(first_line).ok_or(Error::Malformed)?;
    let mut hosts = 0;
    for line in lines {
        let name = field_name(line).ok_or(Error::Malformed)?;
        hosts += u32::from(name.eq_ignore_ascii_case(b"host"));
    }
    // RFC 9112, section 3.2: one in HTTP/1.1, never two.
    if hosts > 1 || (needs_host && hosts == 0) {
        return Err(Error::Malformed);
    }
    Ok(Some(request))
}

/// The lines before the empty one, without the last line's end.
fn head(bytes: &[u8]) -> Option<&[u8]> {
    (0..bytes.len()).find_map(|at| {
        let (before, rest) = bytes.split_at(at);
        (rest.starts_with(b"\n\n") || rest.starts_with(b"\n\r\n")).then_some(before)
    })
}

/// The request line; whether its version wants the field `Host`.
fn first_line(line: &[u8]) -> Option<(Request<'_>, bool)> {
    let line = core::str::from_utf8(line).ok()?;
    let mut parts = line.split(' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let minor =
        version.strip_prefix("HTTP/1.").filter(|v| v.len() == 1 && v.as_bytes()[0].is_ascii_digit())?;
    let visible = target.starts_with('/') && target.bytes().all(|b| b.is_ascii_graphic());
    if parts.next().is_some() || !is_token(method.as_bytes()) || !visible {
        return None;
    }
    let path = target.split('?').next()?;
    Some((Request { method, path }, minor != "0"))
}

fn field_name(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|&b| b == b':')?;
    let (name, value) = line.split_at(colon);
    let sound = value.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f));
    (is_token(name) && sound).then_some(name)
}

/// RFC 9110, section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<(String, String)>, Error> {
        request(text.as_bytes()).map(|r| r.map(|r| (r.method.into(), r.path.into())))
    }

    fn asks(method: &str, path: &str) -> Result<Option<(String, String)>, Error> {
        Ok(Some((method.into(), path.into())))
    }

    #[test]
    fn what_clients_send() {
        let real =
            "GET /metrics HTTP/1.1\r\nHost: 10.255.0.1:3324\r\nUser-Agent: x/1 (y)\r\nAccept: */*\r\n\r\n";
        assert_eq!(read(real), asks("GET", "/metrics"));
        assert_eq!(read("GET /metrics HTTP/1.0\r\n\r\n"), asks("GET", "/metrics"));
        assert_eq!(read("GET /metrics HTTP/1.0\n\n"), asks("GET", "/metrics"));
        assert_eq!(read("POST /a?b=/c HTTP/1.0\r\nX:\r\n\r\nbody"), asks("POST", "/a"));
        for cut in 0..real.len() {
            assert_eq!(read(&real[..cut]), Ok(None), "at {cut}");
        }
    }

    #[test]
    fn what_is_no_request() {
        for bad in [
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET /metrics\r\n\r\n",
            "GET  /metrics HTTP/1.0\r\n\r\n",
            "GET /metrics HTTP/1.0 \r\n\r\n",
            "GET /metrics HTTP/2.0\r\n\r\n",
            "GET /metrics HTTP/1.10\r\n\r\n",
            "GET metrics HTTP/1.0\r\n\r\n",
            "GET http://a/metrics HTTP/1.0\r\n\r\n",
            "G(T /metrics HTTP/1.0\r\n\r\n",
            "GET /\u{e4} HTTP/1.0\r\n\r\n",
            "GET /metrics HTTP/1.1\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            "GET /metrics HTTP/1.0\r\nno colon\r\n\r\n",
            "GET /metrics HTTP/1.0\r\nA : b\r\n\r\n",
            "GET /metrics HTTP/1.0\r\nA: b\r\n folded: c\r\n\r\n",
            "GET /metrics HTTP/1.0\r\nA: \0\r\n\r\n",
            "GET /metrics HTTP/1.0\r\nA: b\rc\r\n\r\n",
        ] {
            assert_eq!(read(bad), Err(Error::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn a_head_has_a_longest() {
        let with = |len: usize| {
            let mut text = String::from("GET /metrics HTTP/1.0\r\nA: ");
            text.push_str(&"a".repeat(len - text.len() - 4));
            text + "\r\n\r\n"
        };
        assert_eq!(read(&with(MAX_HEAD)), asks("GET", "/metrics"));
        assert_eq!(read(&with(MAX_HEAD + 1)), Err(Error::TooLong));
        assert_eq!(request(b"\n"), Ok(None));
        assert_eq!(request(&vec![b'a'; MAX_HEAD]), Err(Error::TooLong));
    }

    proptest! {
        /// Whatever comes, in whatever pieces: the first verdict stands, and is about the bytes so far.
        #[test]
        fn nothing_panics_and_verdicts_stand(
            bytes in prop::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b' '), Just(b':'), Just(b'/'), any::<u8>()],
                0..3000,
            ),
        ) {
            let whole = request(&bytes);
            if let Ok(Some(asked)) = whole {
                prop_assert!(asked.path.starts_with('/') && !asked.path.contains([' ', '?', '\r', '\n']));
                prop_assert!(is_token(asked.method.as_bytes()));
            }
            let first = (0..=bytes.len()).map(|n| request(&bytes[..n])).find(|r| *r != Ok(None));
            prop_assert_eq!(first.unwrap_or(Ok(None)), whole);
        }

        /// Sound requests are read, whatever comes behind them.
        #[test]
        fn sound_heads_are_read(
            method in "[A-Z!#$%&'*+.^_`|~-]{1,12}",
            path in "/[!-;=@-~]{0,60}",
            query in prop::option::of("[!-~]{0,20}"),
            fields in prop::collection::vec(("[A-Za-z-]{1,12}", "[\t -~]{0,40}"), 0..8),
            behind in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let query = query.map(|q| format!("?{q}")).unwrap_or_default();
            let mut bytes: Vec<u8> = format!("{method} {path}{query} HTTP/1.1\r\nHost: x\r\n").into();
            for (name, value) in fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
                bytes.extend(format!("{name}: {value}\r\n").into_bytes());
            }
            bytes.extend(b"\r\n");
            bytes.extend(behind);
            prop_assert_eq!(request(&bytes), Ok(Some(Request { method: &method, path: &path })));
        }
    }
}
