//! A node's configuration.
#![no_main]

use ee::config::NodeConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = NodeConfig::parse(text) {
        config.check().expect("what was parsed was checked");
    }
});
