//! Destroys a lab when the command that needs it ends, however it ends.
//!
//! A process of its own reads from a pipe whose other end the command holds. When the command ends, by
//! Ctrl-C, by a signal, by a panic, the pipe closes and the lab is destroyed; unless the command said
//! before that all is well.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

use super::destroy::destroy;
use super::near;
use super::state::Folder;

/// What a command says to its guard when nothing is to be done.
const DONE: &[u8] = b"done\n";

/// The command's end.
pub struct Guard {
    pipe: ChildStdin,
    process: Child,
}

impl Guard {
    /// Starts a guard for the lab in `folder`, which need not be there yet.
    pub fn start(folder: &Folder) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let exe = std::env::current_exe().context("cannot find this program")?;
        let exe = if exe.file_name().is_some_and(|n| n == "bees") { exe } else { near("bees") };
        let mut process = Command::new(exe)
            .args(["lab", "guard", &folder.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the lab's guard")?;
        let pipe = process.stdin.take().context("the lab's guard has no input")?;
        Ok(Self { pipe, process })
    }

    /// The lab needs no guard any more.
    pub fn dismiss(mut self) -> Result<()> {
        self.pipe.write_all(DONE).context("the lab's guard is gone")?;
        drop(self.pipe);
        self.process.wait()?;
        Ok(())
    }
}

/// The guard's own work.
pub fn watch(name: &str) -> Result<()> {
    let mut said = Vec::new();
    std::io::stdin().read_to_end(&mut said)?;
    if said == DONE {
        return Ok(());
    }
    match Folder::find(Some(name)) {
        Ok(folder) => destroy(&folder),
        // It was never made, or is gone already.
        Err(_) => Ok(()),
    }
}
