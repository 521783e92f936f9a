//! Frames as Unix datagrams: a lab's links.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::batch::Peer;
use super::{Header, Link, enlarge_buffers};

impl Link {
    /// A link between the socket file `local`, which is made, and `remote`, which may come and go. A
    /// socket file that an earlier process left behind is replaced, one in use is not.
    ///
    /// Whoever may write to the file may send frames: put it into a folder of your own.
    pub fn unix(local: &Path, remote: &Path) -> io::Result<Self> {
        let (address, len) = address(remote)?;
        remove_stale(local)?;
        let socket = UnixDatagram::bind(local)?;
        enlarge_buffers(socket.as_fd())?;
        let mut link = Self::new(OwnedFd::from(socket), Peer::Unix(address, len), Header::None);
        link.file = Some(local.to_path_buf());
        Ok(link)
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is there and not a socket"));
    }
    let probe = UnixDatagram::unbound()?;
    match probe.connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process uses the socket")),
    }
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // Safety: a sockaddr_un is integers, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let bytes = path.as_os_str().as_bytes();
    // One byte stays 0 behind the path.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let text = format!("a socket's path has 1 to {} bytes", address.sun_path.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, len as libc::socklen_t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{BATCH, Batch, Received};
    use nodeos::buf::BufPool;

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("host-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn receive(link: &mut Link, batch: &mut Batch, pool: &BufPool) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        while link.receive(batch, pool, |f| got.push(f.to_vec())) == Received::More {}
        got
    }

    #[test]
    fn frames_cross_in_order_and_without_loss() {
        let at = folder("cross");
        let mut a = Link::unix(&at.join("a"), &at.join("b")).unwrap();
        let mut b = Link::unix(&at.join("b"), &at.join("a")).unwrap();
        let (pool, mut batch) = (BufPool::new(4 * BATCH), Batch::default());
        let mut got = Vec::new();
        let mut sent = 0u32;
        while got.len() < 1000 {
            while a.has_room() && sent < 1000 {
                let mut frame = vec![0; 60 + sent as usize % 1455];
                frame[..4].copy_from_slice(&sent.to_be_bytes());
                a.queue(pool.copy_of(&frame).unwrap());
                sent += 1;
            }
            // The kernel lets few datagrams wait: what does not go now goes later.
            a.flush(&mut batch);
            got.extend(receive(&mut b, &mut batch, &pool));
        }
        for (n, frame) in got.iter().enumerate() {
            assert_eq!(frame.len(), 60 + n % 1455);
            assert_eq!(frame[..4], (n as u32).to_be_bytes());
        }
        assert!(a.counters().blocked > 0);
        assert_eq!((a.counters().sent, b.counters().received), (1000, 1000));
        drop((a, b));
        assert!(!at.join("a").exists());
        std::fs::remove_dir(&at).unwrap();
    }

    #[test]
    fn the_other_end_may_come_and_go() {
        let at = folder("come");
        let mut a = Link::unix(&at.join("a"), &at.join("b")).unwrap();
        let (pool, mut batch) = (BufPool::new(2 * BATCH), Batch::default());
        let send = |a: &mut Link, batch: &mut Batch| {
            a.queue(pool.copy_of(&[7; 60]).unwrap());
            assert!(a.flush(batch));
        };
        send(&mut a, &mut batch);
        assert_eq!(a.trouble(), Some(io::ErrorKind::NotFound));
        for _ in 0..2 {
            let mut b = Link::unix(&at.join("b"), &at.join("a")).unwrap();
            send(&mut a, &mut batch);
            assert_eq!(a.trouble(), None);
            assert_eq!(receive(&mut b, &mut batch, &pool).len(), 1);
            // As if the process had been killed: the file stays.
            b.file = None;
            drop(b);
            send(&mut a, &mut batch);
            assert_eq!(a.trouble(), Some(io::ErrorKind::ConnectionRefused));
        }
        std::fs::remove_dir_all(&at).unwrap();
    }

    #[test]
    fn others_files_are_left_alone() {
        let at = folder("others");
        std::fs::write(at.join("file"), "x").unwrap();
        assert!(Link::unix(&at.join("file"), &at.join("b")).is_err());
        let _a = Link::unix(&at.join("a"), &at.join("b")).unwrap();
        assert_eq!(Link::unix(&at.join("a"), &at.join("b")).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(Link::unix(&at.join("c"), Path::new(&"x".repeat(200))).is_err());
        drop(_a);
        std::fs::remove_dir_all(&at).unwrap();
    }

    #[test]
    fn too_long_and_no_buffers() {
        let at = folder("long");
        let mut b = Link::unix(&at.join("b"), &at.join("a")).unwrap();
        let raw = UnixDatagram::unbound().unwrap();
        raw.send_to(&[1; 9000], at.join("b")).unwrap();
        raw.send_to(&[2; 60], at.join("b")).unwrap();
        let mut batch = Batch::default();
        let empty = BufPool::new(0);
        assert_eq!(b.receive(&mut batch, &empty, |_| panic!("there is no buffer")), Received::NoBuffer);
        assert_eq!(b.counters().no_buffer, 1);
        let pool = BufPool::new(1);
        assert_eq!(receive(&mut b, &mut batch, &pool), [vec![2; 60]]);
        assert_eq!(b.counters().misfits, 1);
        drop(b);
        std::fs::remove_dir(&at).unwrap();
    }
}
