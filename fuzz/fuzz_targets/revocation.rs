//! Revocations that agents tell each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::revoke::Revocation;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(r) = Revocation::decode(bytes) {
        assert_eq!(Revocation::decode(&r.encode()), Ok(r));
    }
});
