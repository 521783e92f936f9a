//! ANEP packets, their options, and capsules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::anep::Packet;
use wire::capsule::{Capsule, HEADER_LEN};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Packet::new_checked(bytes) {
        assert!(packet.header_len() <= packet.packet_len() && packet.packet_len() <= bytes.len());
        assert_eq!(packet.payload().len(), packet.packet_len() - packet.header_len());
        for option in packet.options().take_while(Result::is_ok).flatten() {
            assert!(option.value.len() <= packet.header_len());
        }
    }
    let Ok(capsule) = Capsule::parse(bytes) else { return };
    let payload = &bytes[capsule.payload_at..][..capsule.payload_len];
    let mut again = vec![0; HEADER_LEN];
    Capsule::emit_header(&mut again, &capsule.id, payload.len());
    again.extend(payload);
    let parsed = Capsule::parse(&again).expect("what we emit we read");
    assert_eq!((parsed.id, parsed.payload_at, parsed.payload_len), (capsule.id, HEADER_LEN, payload.len()));
});
