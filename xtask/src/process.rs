//! Running other programs: progress on stderr, errors that show the command.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Runs `command` with its output shown. `what` is printed first, the time it took behind it.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("xtask: {what}");
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        bail!("{what} failed ({status}): {}", show(command));
    }
    let seconds = start.elapsed().as_secs_f32();
    if seconds > 2.0 {
        eprintln!("xtask: {what}: done in {seconds:.0} s");
    }
    Ok(())
}

/// Runs `command` quietly and returns what it wrote to stdout.
pub fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("{} failed ({status}): {}", show(command), stderr.trim());
    }
    String::from_utf8(stdout).context("output is not UTF-8")
}

/// The path of the program `name`, if one is installed.
pub fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// A command as one would type it.
fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_owned()];
    words.extend(command.get_args().map(OsString::from));
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// Keeps other runs of this program out of `folder` until dropped.
pub fn lock(folder: &Path) -> Result<fs::File> {
    fs::create_dir_all(folder)?;
    let file = fs::File::create(folder.join(".lock"))?;
    if file.try_lock().is_err() {
        eprintln!("xtask: waiting for another build in {}", folder.display());
        file.lock()?;
    }
    Ok(file)
}

/// A number that changes when one of `inputs` does. Only good for noticing changes.
pub fn fingerprint(inputs: &[&dyn AsRef<[u8]>]) -> String {
    let mut hasher = DefaultHasher::new();
    for input in inputs {
        input.as_ref().hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Writes `contents` unless the file holds them already, so that its date changes only with them.
pub fn write_if_changed(path: &Path, contents: &[u8]) -> io::Result<bool> {
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, contents)?;
    Ok(true)
}
