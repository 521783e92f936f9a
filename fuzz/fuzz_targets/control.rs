//! Messages of the control protocol, in both directions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::control::{Answer, Login, LoginAnswer, Request, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Some(m) = decode::<Request>(bytes) {
        assert_eq!(decode(&encode(&m)), Some(m));
    }
    if let Some(m) = decode::<Answer>(bytes) {
        assert_eq!(decode(&encode(&m)), Some(m));
    }
    if let Some(m) = decode::<Login>(bytes) {
        assert_eq!(decode(&encode(&m)), Some(m));
    }
    if let Some(m) = decode::<LoginAnswer>(bytes) {
        assert_eq!(decode(&encode(&m)), Some(m));
    }
});
