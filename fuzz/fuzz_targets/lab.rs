//! Lab files, and the nodes that are planned from them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sim::lab::{Keys, Lab};

fuzz_target!(|text: &str| {
    let Ok(lab) = Lab::parse(text) else { return };
    let again = Lab::parse(&lab.to_toml()).expect("what we write we read");
    assert_eq!(again, lab);
    let identities = (0..lab.nodes.len()).map(|n| [n as u8 + 1; 32]).collect();
    if let Ok(plan) = lab.plan(&Keys { admin: [9; 32], identities, ..Keys::default() }) {
        assert_eq!(plan.nodes.len(), lab.nodes.len());
        for node in &plan.nodes {
            let _ = ee::config::NodeConfig::parse(&node.config);
        }
    }
});
