//! Nothing but tests: `tests/modules.rs` holds the built modules against `docs/abi`, `tests/guests.rs` runs
//! them on nodes in memory.
