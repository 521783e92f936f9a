//! The head of a request for metrics: what is read of it does not depend on what comes behind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::http::{MAX_HEAD, request};

fuzz_target!(|bytes: &[u8]| {
    let whole = request(bytes);
    if let Ok(Some(asked)) = whole {
        assert!(asked.path.starts_with('/') && !asked.path.contains([' ', '?', '\r', '\n']));
        assert!(!asked.method.is_empty());
    }
    let first = (0..=bytes.len().min(MAX_HEAD)).map(|n| request(&bytes[..n])).find(|r| *r != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole);
});
