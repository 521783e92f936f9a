//! Frames as UDP datagrams: a link through an IP network.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use super::batch::Peer;
use super::{Header, Link, enlarge_buffers};

impl Link {
    /// A link between two UDP addresses. The kernel drops what comes from elsewhere, as far as source
    /// addresses can be trusted.
    pub fn udp(local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(remote)?;
        enlarge_buffers(socket.as_fd())?;
        Ok(Self::new(OwnedFd::from(socket), Peer::Fixed, Header::None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Batch;
    use crate::wait::Set;
    use nodeos::buf::BufPool;
    use std::time::Duration;

    #[test]
    fn frames_cross_and_strangers_are_not_heard() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        // Let the kernel choose free ports.
        let free = || UdpSocket::bind(at(0)).unwrap().local_addr().unwrap();
        let (x, y) = (free(), free());
        let (mut a, mut b) = (Link::udp(x, y).unwrap(), Link::udp(y, x).unwrap());
        let (pool, mut batch) = (BufPool::new(200), Batch::default());
        UdpSocket::bind(at(0)).unwrap().send_to(b"stranger", y).unwrap();
        for n in 0..100u8 {
            if !a.has_room() {
                assert!(a.flush(&mut batch));
            }
            a.queue(pool.copy_of(&[n; 1514]).unwrap());
        }
        assert!(a.flush(&mut batch));
        let mut got = Vec::new();
        let mut set = Set::default();
        set.add(&b);
        while got.len() < 100 {
            set.wait(Some(Duration::from_secs(10))).unwrap();
            assert!(set.is_ready(0), "{} frames came", got.len());
            b.receive(&mut batch, &pool, |f| got.push((f[0], f.len())));
        }
        assert!(got.iter().zip(0..).all(|(&g, n)| g == (n, 1514)));
    }
}
