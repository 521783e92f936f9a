//! An Auth Agent's policy: what is wrong is pointed at inside the text.
#![no_main]

use authagent::policy::Policy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(e) = Policy::parse(text) {
        assert!((1..=text.split('\n').count()).contains(&e.line) && e.column > 0, "{e}");
    }
});
