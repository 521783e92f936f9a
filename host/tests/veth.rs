//! Links on real network interfaces: a veth pair in a network namespace of the test's own.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use host::link::{Batch, Link, Spec};
use host::wait::Set;
use nodeos::buf::BufPool;

const NODE: [u8; 6] = [2, 0, 0, 0, 1, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 2, 1];

/// Puts the calling thread into a fresh namespace with the interfaces `left` and `right`, the first with
/// address 10.9.0.1 of the kernel's, and a permanent entry for a neighbor 10.9.0.2 behind it.
fn namespace() {
    // Safety: the call takes plain flags and concerns the calling thread, which owns nothing of the
    // old namespace yet.
    assert_eq!(
        unsafe { libc::unshare(libc::CLONE_NEWNET) },
        0,
        "unshare: {}",
        std::io::Error::last_os_error()
    );
    for command in [
        "link add left type veth peer name right",
        "addr add 10.9.0.1/24 dev left",
        "link set left up",
        "link set right up",
        "neigh add 10.9.0.2 lladdr 02:00:00:00:01:01 dev left nud permanent",
    ] {
        let done = Command::new("ip").args(command.split(' ')).status().expect("the program ip is there");
        assert!(done.success(), "ip {command}");
    }
    // The kernel drops what is sent before it has noticed that the cable is in.
    let is_up = || {
        let shown = Command::new("ip").args(["-o", "link", "show", "left"]).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).contains("state UP")
    };
    while !is_up() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Receives until `wanted` says that a frame is the one.
fn find(link: &mut Link, mut wanted: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let (pool, mut batch) = (BufPool::new(100), Batch::default());
    let mut set = Set::default();
    set.add(link);
    let start = Instant::now();
    let mut found = None;
    while found.is_none() {
        assert!(start.elapsed() < Duration::from_secs(10), "the frame does not come");
        set.wait(Some(Duration::from_secs(1))).unwrap();
        link.receive(&mut batch, &pool, |f| {
            if found.is_none() && wanted(&f) {
                found = Some(f.to_vec());
            }
        });
    }
    found.unwrap_or_default()
}

/// The Internet checksum over the pseudo header and the payload of an IPv4 packet without options; 0 if
/// the checksum inside is right.
fn transport_checksum(packet: &[u8]) -> u16 {
    let payload = &packet[20..];
    let mut bytes = packet[12..20].to_vec();
    bytes.extend_from_slice(&[0, packet[9]]);
    bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    bytes.extend_from_slice(payload);
    let sum = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
#[ignore = "needs root: makes network interfaces"]
fn frames_cross_and_only_the_nodes_own_come_in() {
    namespace();
    let mut node = Link::packet("right", NODE).unwrap();
    let mut other = Link::packet("left", OTHER).unwrap();
    let (pool, mut batch) = (BufPool::new(100), Batch::default());
    let frame = |to: [u8; 6], mark: u8| {
        let mut f = [to, OTHER].concat();
        f.extend_from_slice(&[0x88, 0xb5]);
        f.resize(60, mark);
        pool.copy_of(&f).unwrap()
    };
    other.queue(frame([2, 0, 0, 0, 9, 9], 1));
    other.queue(frame(NODE, 2));
    other.queue(frame([0xff; 6], 3));
    assert!(other.flush(&mut batch));
    let mut marks = Vec::new();
    find(&mut node, |f| {
        if f[12..14] == [0x88, 0xb5] {
            assert_eq!(f.len(), 60);
            marks.push(f[20]);
        }
        marks.len() == 2
    });
    assert_eq!(marks, [2, 3]);
    // What the node sends itself does not come back to it.
    node.queue(frame([0xff; 6], 4));
    assert!(node.flush(&mut batch));
    assert_eq!(find(&mut other, |f| f[12..14] == [0x88, 0xb5])[20], 4);
    node.receive(&mut batch, &pool, |f| assert_ne!(f[12..14], [0x88, 0xb5]));
}

#[test]
#[ignore = "needs root: makes network interfaces"]
fn the_kernels_packets_have_their_checksums() {
    namespace();
    let mut node = Link::packet("right", NODE).unwrap();
    let to = SocketAddr::from(([10, 9, 0, 2], 3322));
    let udp = UdpSocket::bind("10.9.0.1:0").unwrap();
    udp.send_to(b"an odd number of bytes.", to).unwrap();
    let frame = find(&mut node, |f| f[12..14] == [8, 0] && f[23] == 17 && f[36..38] == 3322u16.to_be_bytes());
    assert_eq!(transport_checksum(&frame[14..]), 0);
    // Nobody answers; the first segment is all that is wanted.
    TcpStream::connect_timeout(&to, Duration::from_millis(50)).unwrap_err();
    let frame = find(&mut node, |f| f[12..14] == [8, 0] && f[23] == 6);
    assert_eq!(transport_checksum(&frame[14..]), 0);
}

#[test]
#[ignore = "needs root: makes network interfaces"]
fn a_device_that_is_down_is_trouble_that_passes() {
    namespace();
    let mut node = Link::packet("right", NODE).unwrap();
    let (pool, mut batch) = (BufPool::new(100), Batch::default());
    let ip = |command: &str| assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success());
    ip("link set right down");
    node.queue(pool.copy_of(&[0; 60]).unwrap());
    assert!(node.flush(&mut batch));
    assert!(node.trouble().is_some());
    ip("link set right up");
    // Like the loop of a node, which finds the descriptor ready: reading takes the error off the socket.
    node.receive(&mut batch, &pool, |_| {});
    node.queue(pool.copy_of(&[0xff; 60]).unwrap());
    assert!(node.flush(&mut batch));
    assert_eq!(node.trouble(), None);
    assert!(Link::packet("nothing", NODE).is_err());
    let spec: Spec = "packet:right".parse().unwrap();
    ip("link set right address 02:00:00:00:07:07");
    assert_eq!(spec.hardware_address().unwrap(), Some([2, 0, 0, 0, 7, 7]));
}
