//! Frames on links with and without IP, with time passing between them.
#![no_main]

use fuzz::pieces;
use libfuzzer_sys::fuzz_target;
use nodeos::buf::BufPool;
use nodeos::config::{LinkAddress, LinkConfig};
use nodeos::ip::{StreamEvent, StreamLimits};
use nodeos::link::{LinkId, Mac};
use nodeos::net::Net;
use nodeos::platform::Instant;

/// Management, capsules only, IPv6, and DHCP.
fn links() -> [LinkConfig; 4] {
    let link = |n: u8, name, address: Option<&str>| {
        let fixed = |text: &str| LinkAddress::Static(text.parse().expect("an address"));
        LinkConfig { address: address.map(fixed), ..LinkConfig::new(name, Mac([2, 0, 0, 0, n, 1])) }
    };
    [
        LinkConfig { management: true, ..link(0x10, "mgmt", Some("10.255.0.2/16")) },
        link(0, "w0", None),
        link(0x11, "udp", Some("fd00::2/64")),
        LinkConfig { address: Some(LinkAddress::Dhcp), ..link(0x12, "dhcp", None) },
    ]
}

fuzz_target!(|bytes: &[u8]| {
    let pool = BufPool::new(64);
    let limits = StreamLimits { control: 2, sessions: 2, ..StreamLimits::default() };
    let mut net = Net::new(&links(), pool.clone(), 7, limits).expect("sound links");
    let mut now = Instant(0);
    for (number, piece) in pieces(bytes) {
        now = Instant(now.0 + (1 << (number >> 3)));
        if let Some(frame) = pool.copy_of(piece)
            && let Some(received) = net.frame(now, LinkId(u16::from(number & 3)), frame)
        {
            assert!(received.packet.len() <= piece.len());
        }
        net.poll(now);
        while let Some((stream, event)) = net.stream_event() {
            let mut out = [0; 100];
            match event {
                StreamEvent::Data => while net.read(now, stream, &mut out) > 0 {},
                StreamEvent::Finished => net.close(now, stream),
                StreamEvent::Open { .. } | StreamEvent::Closed => {
                    net.write(now, stream, b"hello");
                }
            }
        }
        for link in 0..net.links() {
            while net.transmit(now, LinkId(link as u16)).is_some() {}
        }
    }
    drop(net);
    assert_eq!(pool.lent(), 0);
});
