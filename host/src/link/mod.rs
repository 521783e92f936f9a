//! Frames in and out: one interface over three kinds of datagram sockets.
//!
//! | kind     | made by          | one datagram is                                            |
//! |----------|------------------|------------------------------------------------------------|
//! | `unix`   | [`Link::unix`]   | a raw Ethernet frame, as QEMU's `-netdev dgram` speaks it   |
//! | `udp`    | [`Link::udp`]    | the same, through an IP network                             |
//! | `packet` | [`Link::packet`] | a frame on a network interface (AF_PACKET)                  |
//!
//! Frames travel in batches of up to [`BATCH`] per system call, straight from and into packet buffers.
//! Nothing blocks: what a socket does not take now stays queued, and the caller comes back.

mod batch;
mod packet;
mod spec;
mod udp;
mod unix;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nodeos::buf::{Buf, BufPool};

pub use batch::{BATCH, Batch};
pub use spec::{Spec, SpecError};

use batch::Peer;

/// What a link's socket did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Frames handed to the socket.
    pub sent: u64,
    /// Received datagrams that fit no packet buffer, or no frame at all.
    pub misfits: u64,
    /// Times that there was no free packet buffer to receive into.
    pub no_buffer: u64,
    /// Frames that the socket refused for good: nobody listens, or the device is down.
    pub refused: u64,
    /// Times that the socket had no room and frames had to wait.
    pub blocked: u64,
}

/// A link of the node.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    peer: Peer,
    /// Bytes that the socket wants in front of each frame.
    header: Header,
    queue: VecDeque<Buf>,
    counters: Counters,
    /// Why the last frame was refused, as long as nothing went through since.
    trouble: Option<io::ErrorKind>,
    /// The socket file to remove at the end.
    file: Option<PathBuf>,
}

/// How a call to [`Link::receive`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing is left at the moment.
    All,
    /// There may be more.
    More,
    /// There was no free packet buffer. What arrived waits in the socket.
    NoBuffer,
}

/// What stands in front of a frame on the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    None,
    /// `struct virtio_net_hdr`, see [`packet`].
    Vnet,
}

impl Header {
    const fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Vnet => packet::VNET_LEN,
        }
    }
}

impl Link {
    fn new(fd: OwnedFd, peer: Peer, header: Header) -> Self {
        Self {
            fd,
            peer,
            header,
            queue: VecDeque::with_capacity(BATCH),
            counters: Counters::default(),
            trouble: None,
            file: None,
        }
    }

    /// Receives what is there, up to a batch, and hands each frame on.
    pub fn receive(&mut self, batch: &mut Batch, pool: &BufPool, mut frame: impl FnMut(Buf)) -> Received {
        let header = self.header;
        let wanted = batch.fill(pool, header.len());
        if wanted == 0 {
            self.counters.no_buffer += 1;
            return Received::NoBuffer;
        }
        let got = batch.receive(self.fd.as_fd(), wanted, |buf, whole| {
            let Some(mut buf) = buf.filter(|_| whole) else {
                self.counters.misfits += 1;
                return;
            };
            if header == Header::Vnet && packet::finish(&mut buf).is_err() {
                self.counters.misfits += 1;
                return;
            }
            self.counters.received += 1;
            frame(buf);
        });
        if got == wanted { Received::More } else { Received::All }
    }

    /// Whether there is room for one more frame.
    pub fn has_room(&self) -> bool {
        self.queue.len() < BATCH
    }

    /// Queues a frame; [`flush`](Self::flush) sends it. A frame without room for the socket's header is
    /// refused.
    pub fn queue(&mut self, mut frame: Buf) {
        if self.header == Header::Vnet {
            match frame.push_front(packet::VNET_LEN) {
                Ok(front) => front[..packet::VNET_LEN].fill(0),
                Err(_) => {
                    self.counters.refused += 1;
                    return;
                }
            }
        }
        self.queue.push_back(frame);
    }

    /// Sends what is queued. False if something had to stay: come back soon.
    pub fn flush(&mut self, batch: &mut Batch) -> bool {
        while !self.queue.is_empty() {
            match batch.send(self.fd.as_fd(), &self.peer, &self.queue) {
                Ok(sent) => {
                    self.queue.drain(..sent);
                    self.counters.sent += sent as u64;
                    self.trouble = None;
                }
                Err(error) if is_busy(&error) => {
                    self.counters.blocked += 1;
                    return false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.queue.pop_front();
                    self.counters.refused += 1;
                    self.trouble = Some(error.kind());
                }
            }
        }
        true
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Why nothing goes through at the moment, if so.
    pub fn trouble(&self) -> Option<io::ErrorKind> {
        self.trouble
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Somebody else may have removed it, which is as well.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The socket is fine and has no room.
fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// How much a socket may hold in each direction, in bytes. The kernel clamps it.
const SOCKET_BUFFER: libc::c_int = 1 << 20;

fn option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let len = size_of::<T>() as libc::socklen_t;
    // Safety: pointer and length describe `value`, which is borrowed for the call and only read.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn enlarge_buffers(fd: BorrowedFd<'_>) -> io::Result<()> {
    option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &SOCKET_BUFFER)?;
    option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &SOCKET_BUFFER)
}
