//! The description in a module's custom section.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::describe::{Description, MAX_LEN};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(description) = Description::decode(bytes) {
        assert!(bytes.len() <= MAX_LEN);
        assert_eq!(Description::decode(&description.encode()), Ok(description));
    }
});
