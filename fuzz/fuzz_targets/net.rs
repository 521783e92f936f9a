//! Frames on links with and without IP, with time passing between them.
#![no_main]

use ee::config::NodeConfig;
use fuzz::{CONFIG, pieces};
use libfuzzer_sys::fuzz_target;
use nodeos::buf::BufPool;
use nodeos::ip::{StreamEvent, StreamLimits};
use nodeos::link::LinkId;
use nodeos::net::Net;
use nodeos::platform::Instant;

fuzz_target!(|bytes: &[u8]| {
    let config = NodeConfig::parse(CONFIG).expect("a sound configuration");
    let pool = BufPool::new(64);
    let limits = StreamLimits { control: 2, sessions: 2, ..StreamLimits::default() };
    let mut net = Net::new(&config.links, pool.clone(), 7, limits).expect("sound links");
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
