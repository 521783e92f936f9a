//! The static checks of a module before it is compiled.
#![no_main]

use ee::admit::{admit, bounds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match admit(bytes) {
        Ok(_) => assert!(bytes.len() as u64 <= bounds::MODULE),
        // A reason is for a log line.
        Err(refusal) => assert!(refusal.to_string().len() < 600),
    }
});
