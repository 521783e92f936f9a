//! Labs: several nodes on this machine, with links between them, from one file (`emulab/*.toml`).
//!
//! `deploy` makes keys and configurations, starts the wire process and the nodes, and waits until each
//! lets the administrator in. What runs is written down in the lab's folder ([`state`]); every other verb
//! reads it there. No daemon of its own looks after a lab, and nothing of it needs root.

pub mod accel;
pub mod demo;
pub mod deploy;
pub mod destroy;
pub mod graph;
pub mod guard;
pub mod injects;
pub mod inspect;
pub mod principals;
pub mod process;
pub mod qemu;
pub mod state;
pub mod wire;

use std::path::{Path, PathBuf};

/// The nearest `file` in the folders above this program, which is where a build leaves things: the
/// project's folder or its `target`. Without one, `file` in the current folder.
pub fn near(file: impl AsRef<Path>) -> PathBuf {
    let file = file.as_ref();
    let exe = std::env::current_exe().unwrap_or_default();
    let near = exe.ancestors().skip(1).map(|folder| folder.join(file)).find(|path| path.exists());
    near.unwrap_or_else(|| file.to_path_buf())
}

/// The folder that `cargo xtask` filled and that has `file` in it: `folder` in `target`.
pub fn built(folder: &str, file: &str) -> PathBuf {
    let file = near(Path::new(folder).join(file));
    let found = if file.exists() { file.parent() } else { None };
    found.map_or_else(|| near(Path::new("target").join(folder)), Path::to_path_buf)
}
