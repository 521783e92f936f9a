//! `bees lab destroy`: ends every process of a lab and removes what it left, also half-made.

use anyhow::{Context, Result};

use super::process::{Process, end_all_with};
use super::state::Folder;
use crate::output::progress;

/// Destroys the lab in `folder`.
pub fn destroy(folder: &Folder) -> Result<()> {
    let _lock = folder.lock()?;
    // A damaged state is no reason to let the lab run.
    let state = folder.state().unwrap_or_default();
    let processes: Vec<Process> =
        state.iter().flat_map(|s| s.nodes.iter().filter_map(|n| n.process).chain(s.wire)).collect();
    std::thread::scope(|scope| {
        for process in &processes {
            scope.spawn(move || process.end());
        }
    });
    if let Some(sockets) = folder.existing_sockets() {
        end_all_with(&sockets).context("cannot look for processes")?;
    }
    let name = folder.name();
    folder.remove()?;
    progress(format!("lab {name} is gone"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;
    use std::process::Command;

    #[test]
    fn a_half_started_lab_goes_altogether() {
        let scratch = Scratch::new("destroy");
        // A folder given by its path is taken as it is.
        let path = scratch.0.join("x");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("lock"), "").unwrap();
        std::fs::write(path.join("lab.json"), "{ damaged").unwrap();
        let folder = Folder::find(path.to_str()).unwrap();
        let sockets = folder.sockets().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60; :"]).arg(sockets.join("m0.n"));
        let (process, _child) = Process::start(&mut command, &scratch.0.join("log")).unwrap();
        destroy(&folder).unwrap();
        assert!(!process.alive(), "the process still runs");
        assert!(!sockets.exists() && !path.exists(), "folders are left");
    }
}
