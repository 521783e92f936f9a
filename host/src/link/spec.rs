//! A link as the command line names it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Link, packet};

/// What a link is made of: `unix:LOCAL,REMOTE`, `udp:LOCAL,REMOTE` or `packet:IFNAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Unix datagram sockets: paths of ours and of the other end's.
    Unix(PathBuf, PathBuf),
    /// UDP: addresses of ours and of the other end's.
    Udp(SocketAddr, SocketAddr),
    /// A network interface.
    Packet(String),
}

/// The operator named no link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError(String);

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SpecError {}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let usage = || SpecError("expected unix:LOCAL,REMOTE or udp:LOCAL,REMOTE or packet:IFNAME".into());
        let (kind, rest) = text.split_once(':').ok_or_else(usage)?;
        let ends = || rest.split_once(',').filter(|(a, b)| !a.is_empty() && !b.is_empty()).ok_or_else(usage);
        match kind {
            "unix" => ends().map(|(local, remote)| Self::Unix(local.into(), remote.into())),
            "udp" => {
                let parse =
                    |end: &str| end.parse().map_err(|_| SpecError(format!("\"{end}\" is not ADDRESS:PORT")));
                let (local, remote) = ends()?;
                Ok(Self::Udp(parse(local)?, parse(remote)?))
            }
            "packet" if !rest.is_empty() => Ok(Self::Packet(rest.into())),
            _ => Err(usage()),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(local, remote) => write!(f, "unix:{},{}", local.display(), remote.display()),
            Self::Udp(local, remote) => write!(f, "udp:{local},{remote}"),
            Self::Packet(name) => write!(f, "packet:{name}"),
        }
    }
}

impl Spec {
    /// The address that the device itself has; none where there is no device.
    pub fn hardware_address(&self) -> io::Result<Option<[u8; 6]>> {
        match self {
            Self::Packet(name) => packet::hardware_address(name).map(Some),
            Self::Unix(..) | Self::Udp(..) => Ok(None),
        }
    }

    /// Opens the link; `mac` is the node's address on it.
    pub fn open(&self, mac: [u8; 6]) -> io::Result<Link> {
        match self {
            Self::Unix(local, remote) => Link::unix(local, remote),
            Self::Udp(local, remote) => Link::udp(*local, *remote),
            Self::Packet(name) => Link::packet(name, mac),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["unix:/run/a,b", "udp:127.0.0.1:1,[::1]:2", "packet:veth0"] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
        for text in ["", "unix", "unix:a", "unix:,b", "udp:a,b", "udp:1.2.3.4,5.6.7.8", "packet:", "tap:x"] {
            assert!(text.parse::<Spec>().is_err(), "{text}");
        }
    }
}
