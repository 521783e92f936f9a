//! Many datagrams in one system call: recvmmsg(2) and sendmmsg(2) on packet buffers.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nodeos::buf::{BLOCK, Buf, BufPool, HEADROOM};

/// The most datagrams in one system call.
pub const BATCH: usize = 64;

/// Where a socket sends to.
pub(super) enum Peer {
    /// The socket is bound to one place.
    Fixed,
    /// This Unix socket, looked up for each datagram, so that it may come and go.
    Unix(libc::sockaddr_un, libc::socklen_t),
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fixed => "Fixed",
            Self::Unix(..) => "Unix",
        })
    }
}

/// What the system calls need, and the buffers to receive into; all links of a loop share one.
pub struct Batch {
    /// Buffers to receive into. Those in front have been used up by the last call.
    spare: Vec<Option<Buf>>,
    pieces: Box<[libc::iovec; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
}

// Safety: the pointers in `pieces` and `messages` are written anew before each system call and not
// followed otherwise, so that they may go to another thread with the rest.
unsafe impl Send for Batch {}

impl Default for Batch {
    fn default() -> Self {
        let piece = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // Safety: an mmsghdr is pointers and integers, for which zero is a value.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            spare: (0..BATCH).map(|_| None).collect(),
            pieces: Box::new([piece; BATCH]),
            messages: Box::new([message; BATCH]),
        }
    }
}

impl Batch {
    /// Gets buffers ready to receive into, with `before` bytes less headroom, and returns how many.
    pub(super) fn fill(&mut self, pool: &BufPool, before: usize) -> usize {
        for (i, slot) in self.spare.iter_mut().enumerate() {
            if slot.is_none() {
                *slot = pool.take();
            }
            let Some(buf) = slot else { return i };
            buf.reset(HEADROOM - before);
            // The block is longer than its headroom.
            let _ = buf.set_len(BLOCK - HEADROOM);
            self.pieces[i] = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        }
        BATCH
    }

    /// Receives up to `wanted` datagrams into the buffers that [`fill`](Self::fill) got ready. Each is
    /// handed on, with whether it fitted. Returns how many there were; an error counts as none, because
    /// what sockets report here (a port unreachable, a device down) passes.
    pub(super) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        wanted: usize,
        mut datagram: impl FnMut(Option<Buf>, bool),
    ) -> usize {
        for (message, piece) in self.messages.iter_mut().zip(self.pieces.iter_mut()).take(wanted) {
            // Safety: as in `default`.
            *message = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
        }
        // Safety: the first `wanted` messages point to as many pieces, and these to buffers in `spare`
        // that nothing else uses during the call; `fill` took address and length from the same slice, and
        // a buffer's memory stays where it is when the buffer is moved. No names, no control data.
        let n = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                wanted as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).unwrap_or(0);
        for (message, slot) in self.messages.iter().zip(&mut self.spare).take(n) {
            let fitted = message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            let mut buf = slot.take();
            let len = message.msg_len as usize;
            let whole = fitted && buf.as_mut().is_some_and(|b| b.set_len(len).is_ok());
            datagram(buf, whole);
        }
        n
    }

    /// Sends frames from the front of `frames`, up to a batch, and returns how many the socket took.
    pub(super) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        peer: &Peer,
        frames: &VecDeque<Buf>,
    ) -> io::Result<usize> {
        let (name, name_len) = match peer {
            Peer::Fixed => (ptr::null_mut(), 0),
            Peer::Unix(address, len) => (ptr::from_ref(address).cast_mut().cast(), *len),
        };
        let count = frames.len().min(BATCH);
        for (i, frame) in frames.iter().take(count).enumerate() {
            let piece = &mut self.pieces[i];
            *piece = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            let message = &mut self.messages[i];
            // Safety: as in `default`.
            *message = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = name;
            message.msg_hdr.msg_namelen = name_len;
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
        }
        // Safety: the first `count` messages point to as many pieces, these to frames that are borrowed
        // for the call, and to the address, also borrowed; the kernel only reads all of them.
        let n = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}
