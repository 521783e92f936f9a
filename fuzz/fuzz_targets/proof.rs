//! What a guest shows to open a sealed envelope.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::statement::{MAX_PROOF, Proof};

fuzz_target!(|bytes: &[u8]| {
    if let Some(proof) = Proof::decode(bytes) {
        assert!(bytes.len() <= MAX_PROOF);
        assert_eq!(proof.encode(), bytes);
    }
});
