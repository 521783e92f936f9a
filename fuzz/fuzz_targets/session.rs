//! The stream of a session: a line, then packets, cut anywhere.
#![no_main]

use fuzz::pieces;
use libfuzzer_sys::fuzz_target;
use wire::session::{MAX_LINE, MAX_PACKET, Reader, frame, parse_open};

fuzz_target!(|bytes: &[u8]| {
    let (mut reader, mut open) = (Reader::default(), false);
    for (_, piece) in pieces(bytes) {
        reader.push(piece);
        if !open {
            match reader.line() {
                Ok(Some(line)) => {
                    assert!(line.len() < MAX_LINE);
                    if let Ok(name) = parse_open(&line) {
                        assert!(!name.is_empty() && !name.contains(char::is_whitespace));
                    }
                    open = true;
                }
                Ok(None) => {
                    assert!(reader.buffered() < MAX_LINE);
                    continue;
                }
                Err(_) => return,
            }
        }
        loop {
            match reader.packet() {
                Ok(Some(packet)) => assert!(packet.len() <= MAX_PACKET && frame(&packet).is_some()),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(reader.buffered() < 2 + MAX_PACKET);
    }
});
