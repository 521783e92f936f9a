//! The built modules.

use std::path::Path;

/// The built module of a protocol. Without it a test ends with a word about it, in CI with a failure.
pub fn module(name: &str) -> Option<Vec<u8>> {
    let folder = std::env::var_os("BEES_CAPSULES").unwrap_or_else(|| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/wasm32-unknown-unknown/release").into()
    });
    match std::fs::read(Path::new(&folder).join(name).with_extension("wasm")) {
        Ok(bytes) => Some(bytes),
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "{name}.wasm was not built: {why}");
            eprintln!("skipped: {name}.wasm was not built (cargo xtask capsules)");
            None
        }
    }
}
