//! Frames on a network interface: an AF_PACKET socket (packet(7)).
//!
//! The node has a MAC address of its own on the interface: the device is told to let it through
//! (`PACKET_MR_UNICAST`; one that cannot filter goes promiscuous), and a socket filter keeps what is for
//! others from being copied. The host's own stack sees the same frames; give the interface no address
//! there.
//!
//! Frames of a stack on this machine (over veth, a bridge, a tap) have no checksum yet, because they never
//! met a device that would have put it in. The socket says so in a `virtio_net_hdr` in front of each
//! frame (`PACKET_VNET_HDR`), and [`finish`] puts the checksum in. It cannot cut segments: a sender on the same
//! machine that hands over TCP segments larger than the MTU, or a device that merges received ones, must
//! be told not to with `ethtool -K IFNAME tso off gso off gro off`. Such frames are counted as misfits.
//! Capsules between nodes are never merged.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nodeos::buf::Buf;

use super::batch::Peer;
use super::{Header, Link, enlarge_buffers, option};

/// Length of `struct virtio_net_hdr`, in bytes.
pub(super) const VNET_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: from `csum_start` on, a checksum is to be put in at `csum_offset`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`: the frame is one frame.
const GSO_NONE: u8 = 0;

mod field {
    use core::ops::Range;
    pub const FLAGS: usize = 0;
    pub const GSO_TYPE: usize = 1;
    pub const CSUM_START: Range<usize> = 6..8;
    pub const CSUM_OFFSET: Range<usize> = 8..10;
}

/// `PACKET_IGNORE_OUTGOING` of linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

impl Link {
    /// The node's link on interface `name`, where its address is `mac`. Needs CAP_NET_RAW.
    pub fn packet(name: &str, mac: [u8; 6]) -> io::Result<Self> {
        let index = index(name)?;
        // Nothing is received before the filter is in place.
        let fd = socket()?;
        enlarge_buffers(fd.as_fd())?;
        let on: libc::c_int = 1;
        option(fd.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &on)?;
        option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)?;
        let mut member = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_UNICAST as libc::c_ushort,
            mr_alen: 6,
            mr_address: [0; 8],
        };
        member.mr_address[..6].copy_from_slice(&mac);
        option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &member)?;
        filter(&fd, mac)?;
        bind(&fd, index, libc::ETH_P_ALL as u16)?;
        Ok(Self::new(fd, Peer::Fixed, Header::Vnet))
    }
}

/// The address that the interface itself has.
pub(super) fn hardware_address(name: &str) -> io::Result<[u8; 6]> {
    let fd = socket()?;
    bind(&fd, index(name)?, 0)?;
    // Safety: a sockaddr_ll is integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // Safety: pointer and length describe `address`, which is borrowed for the call.
    let result =
        unsafe { libc::getsockname(fd.as_raw_fd(), std::ptr::from_mut(&mut address).cast(), &mut len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let [a, b, c, d, e, f, ..] = address.sll_addr;
    match address.sll_halen {
        6 => Ok([a, b, c, d, e, f]),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "not an Ethernet interface")),
    }
}

/// A socket that receives nothing yet.
fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Safety: the call takes plain numbers and returns a new descriptor or -1.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // Safety: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn index(name: &str) -> io::Result<libc::c_int> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // Safety: the name ends with 0 and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Lets only frames for `mac` and for groups through.
fn filter(fd: &OwnedFd, mac: [u8; 6]) -> io::Result<()> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load_word = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let load_half = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    let load_byte = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let has_bit = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let ret = libc::BPF_RET | libc::BPF_K;
    let [m0, m1, m2, m3, m4, m5] = mac;
    let mut program = [
        op(load_byte, 0, 0, 0),
        op(has_bit, 4, 0, 1), // a group's address: take it
        op(load_word, 0, 0, 0),
        op(equal, 0, 3, u32::from_be_bytes([m0, m1, m2, m3])),
        op(load_half, 0, 0, 4),
        op(equal, 0, 1, u32::from(u16::from_be_bytes([m4, m5]))),
        op(ret, 0, 0, u32::MAX),
        op(ret, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // The kernel copies what the pointer inside shows; the array above lives until then.
    option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn bind(fd: &OwnedFd, index: libc::c_int, protocol: u16) -> io::Result<()> {
    // Safety: a sockaddr_ll is integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // Safety: pointer and length describe `address`, which is only read.
    let result = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the socket gave is not one whole frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit;

/// Takes the header off a received frame and puts in the checksum that it asks for.
pub(super) fn finish(buf: &mut Buf) -> Result<(), Misfit> {
    let mut header = [0; VNET_LEN];
    header.copy_from_slice(buf.get(..VNET_LEN).ok_or(Misfit)?);
    buf.pull_front(VNET_LEN);
    if header[field::GSO_TYPE] != GSO_NONE {
        return Err(Misfit);
    }
    if header[field::FLAGS] & NEEDS_CSUM != 0 {
        let number = |at: core::ops::Range<usize>| {
            usize::from(u16::from_ne_bytes([header[at.start], header[at.start + 1]]))
        };
        let (start, offset) = (number(field::CSUM_START), number(field::CSUM_OFFSET));
        let data = buf.get_mut(start..).ok_or(Misfit)?;
        if offset + 2 > data.len() {
            return Err(Misfit);
        }
        // The field holds the sum over the pseudo header already.
        let sum = checksum(data);
        data[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// The Internet checksum (RFC 1071). 0 is written as its other form, which UDP asks for and TCP allows.
fn checksum(data: &[u8]) -> u16 {
    let (pairs, rest) = data.as_chunks::<2>();
    let mut sum: u64 = pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum();
    if let [last] = rest {
        sum += u64::from(*last) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeos::buf::BufPool;

    fn received(header: [u8; VNET_LEN], frame: &[u8]) -> Result<Vec<u8>, Misfit> {
        let pool = BufPool::new(1);
        let mut buf = pool.copy_of(&header).unwrap();
        buf.extend_from_slice(frame).unwrap();
        finish(&mut buf).map(|()| buf.to_vec())
    }

    fn wants_sum(start: u16, offset: u16) -> [u8; VNET_LEN] {
        let mut h = [0; VNET_LEN];
        h[0] = NEEDS_CSUM;
        h[field::CSUM_START].copy_from_slice(&start.to_ne_bytes());
        h[field::CSUM_OFFSET].copy_from_slice(&offset.to_ne_bytes());
        h
    }

    #[test]
    fn the_checksum_is_put_in() {
        // The example of RFC 1071, section 3: the sum of these bytes is 0xddf2.
        let frame = [9, 9, 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0, 0];
        let sum = !0xddf2u16;
        let got = received(wants_sum(2, 8), &frame).unwrap();
        assert_eq!(got[..10], frame[..10]);
        assert_eq!(got[10..], sum.to_be_bytes());
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert_eq!(received([0; VNET_LEN], b"frame").unwrap(), b"frame");
        assert_eq!(received(wants_sum(6, 0), b"frame"), Err(Misfit));
        assert_eq!(received(wants_sum(0, 4), b"frame"), Err(Misfit));
        assert_eq!(received(wants_sum(u16::MAX, u16::MAX), b"frame"), Err(Misfit));
        let mut gso = [0; VNET_LEN];
        gso[field::GSO_TYPE] = 1;
        assert_eq!(received(gso, b"frame"), Err(Misfit));
        let pool = BufPool::new(1);
        assert_eq!(finish(&mut pool.copy_of(b"short").unwrap()), Err(Misfit));
    }
}
