//! The guest interface as it is (`docs/abi`), with slices for pointers and lengths. Results below 0 are
//! errors. Outside WebAssembly the same functions reach the node in memory of [`testing`](crate::testing).

#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(target_arch = "wasm32")]
mod wasm;

#[cfg(not(target_arch = "wasm32"))]
pub use native::*;
#[cfg(target_arch = "wasm32")]
pub use wasm::*;
