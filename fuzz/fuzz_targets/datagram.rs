//! Datagrams of a session, from both sides.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::datagram::{FromNode, FromProgram, MAX_DATAGRAM, MIN_OPEN, Said, answer, open};

fuzz_target!(|bytes: &[u8]| {
    let said = match FromProgram::parse(bytes) {
        Ok(FromProgram::Open { flow, cookie }) => {
            assert!(bytes.len() >= MIN_OPEN && bytes.len() <= MAX_DATAGRAM && !flow.is_empty());
            assert_eq!(FromProgram::parse(&open(flow, cookie)), Ok(FromProgram::Open { flow, cookie }));
            None
        }
        Ok(FromProgram::Said(said)) => Some(said),
        Err(_) => None,
    };
    match (said, FromNode::parse(bytes)) {
        (Some(said), other) => {
            assert_eq!(said.encode(), bytes);
            assert_eq!(other, Ok(FromNode::Said(said)));
        }
        (None, other) => assert!(!matches!(other, Ok(FromNode::Said(Said::Alive(_))))),
    }
    if let Ok(text) = core::str::from_utf8(bytes) {
        assert!(answer(text).len() <= MIN_OPEN);
    }
});
