//! Builds the kernel: fetches it from the crate registry, edits a copy, compiles it to a static
//! library and links that into one relocatable object that shows nothing but its entry and its
//! system calls (the kernel has its own `core` and `alloc`, which must not meet the node's).

#[path = "../../image/kernel/edits.rs"]
mod edits;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{fingerprint, output, run, write_if_changed};
use crate::toolchain::Toolchain;
use edits::{CRATE, EDITS, Edit};

const TARGET: &str = "x86_64-unknown-none";
const FEATURES: &str = "pci,acpi,fsgsbase,mmap";
/// `noalias` on mutable references miscompiles the kernel's scheduler.
const FLAGS: &[&str] = &["-Zmutable-noalias=no"];

/// Builds what has changed and returns the path of the object.
pub fn build(root: &Path, toolchain: &Toolchain, verbose: bool) -> Result<PathBuf> {
    let out = root.join("target/image");
    let object = out.join("hermit.o");
    let stamp = out.join("hermit.stamp");
    let added = fs::read(root.join("image/kernel/wait.rs"))?;
    let edits = fs::read(root.join("image/kernel/edits.rs"))?;
    let recipe = fs::read(root.join("xtask/src/kernel.rs"))?;
    let now = fingerprint(&[&added, &edits, &recipe, &toolchain.version]);
    if object.is_file() && fs::read_to_string(&stamp).is_ok_and(|old| old == now) {
        return Ok(object);
    }

    let copy = out.join("kernel");
    prepare(&source(toolchain, &out)?, &copy)?;
    write_if_changed(&copy.join("src/scheduler/wait.rs"), &added)?;
    let archive = compile(toolchain, &copy, verbose)?;
    isolate(toolchain, &archive, &object)?;
    fs::write(stamp, now)?;
    Ok(object)
}

/// The folder of the kernel's sources, which cargo fetches when they are not there yet.
fn source(toolchain: &Toolchain, out: &Path) -> Result<PathBuf> {
    let (name, version) = CRATE;
    let folder = out.join("kernel-fetch");
    let manifest = format!(
        "[package]\nname = \"kernel-fetch\"\nedition = \"2024\"\n\n[lib]\npath = \"lib.rs\"\n\n\
         [dependencies]\n{name} = {{ version = \"={version}\", default-features = false }}\n\n[workspace]\n"
    );
    write_if_changed(&folder.join("Cargo.toml"), manifest.as_bytes())?;
    write_if_changed(&folder.join("lib.rs"), b"")?;
    let mut fetch = toolchain.cargo(out, &[]);
    let fetch = fetch.args(["fetch", "--quiet", "--target", TARGET]).current_dir(&folder);
    run("fetch the kernel's sources", fetch)?;
    let mut metadata = toolchain.cargo(out, &[]);
    let metadata = output(
        metadata
            .args(["metadata", "--format-version=1", "--offline", "--filter-platform", TARGET])
            .current_dir(&folder),
    )?;
    // The one thing wanted from it is a path that ends like this.
    let end = format!("/{name}-{version}/Cargo.toml\"");
    let path = metadata
        .split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| rest.find(&end).map(|at| &rest[..at + end.len() - 1]))
        .find(|path| !path.contains('"'))
        .context("cargo does not say where it put the kernel's sources")?;
    Ok(Path::new(path).parent().expect("it has a file name").to_owned())
}

/// Copies the sources and edits the copy. Files that would not change keep their date.
fn prepare(source: &Path, copy: &Path) -> Result<()> {
    let mut files = Vec::new();
    list(source, &mut files)?;
    for edit in EDITS {
        ensure!(
            files.iter().any(|file| file.ends_with(edit.file)),
            "the kernel has no {} ({})",
            edit.file,
            edit.why
        );
    }
    for file in files {
        let name = file.strip_prefix(source).expect("it was listed below it");
        // Those two would choose another compiler and other tools.
        if name == Path::new("rust-toolchain.toml") || name.starts_with(".cargo") {
            continue;
        }
        let mut contents = fs::read(&file)?;
        for edit in EDITS.iter().filter(|edit| name == Path::new(edit.file)) {
            let text = String::from_utf8(contents).context(edit.file)?;
            contents = apply(edit, &text)?.into_bytes();
        }
        write_if_changed(&copy.join(name), &contents)?;
    }
    Ok(())
}

fn apply(edit: &Edit, text: &str) -> Result<String> {
    let found = text.matches(edit.find).count();
    ensure!(
        found == edit.count,
        "the kernel's {} is not as expected: found {found} times instead of {}:\n{}\n(needed because {})",
        edit.file,
        edit.count,
        edit.find,
        edit.why
    );
    Ok(text.replace(edit.find, edit.replace))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn compile(toolchain: &Toolchain, copy: &Path, verbose: bool) -> Result<PathBuf> {
    let target_dir = copy.with_file_name("kernel-build");
    let mut command = toolchain.cargo(&target_dir, FLAGS);
    command
        .current_dir(copy)
        .env("HERMIT_LOG_LEVEL_FILTER", "error")
        .env("NO_COLOR", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .args(["rustc", "--lib", "--crate-type=staticlib", "--release", "--locked"])
        .args(["--target", TARGET, "-Zbuild-std=core,alloc"])
        .args(["-Zbuild-std-features=compiler-builtins-mem"])
        .args(["--no-default-features", "--features", FEATURES]);
    if verbose {
        command.arg("--verbose");
    }
    // Its warnings are not ours to mend.
    command.args(["--", "--cap-lints=allow"]);
    run("compile the kernel (about a minute)", &mut command)?;
    let archive = target_dir.join(TARGET).join("release/libhermit.a");
    if !archive.is_file() {
        bail!("the kernel's build left no {}", archive.display());
    }
    Ok(archive)
}

fn isolate(toolchain: &Toolchain, archive: &Path, object: &Path) -> Result<()> {
    let whole = object.with_extension("whole.o");
    let mut link = Command::new(&toolchain.linker);
    link.args(["-r", "--whole-archive", "-o"]).arg(&whole).arg(archive);
    run("link the kernel into one object", &mut link)?;
    let mut hide = Command::new(&toolchain.objcopy);
    hide.args(["--wildcard", "--keep-global-symbol=sys_*", "--keep-global-symbol=_start"])
        .arg("--strip-debug")
        .arg(&whole)
        .arg(object);
    run("hide the kernel's symbols", &mut hide)?;
    fs::remove_file(whole)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDIT: Edit = Edit { file: "a.rs", why: "of a test", find: "old", replace: "new", count: 2 };

    #[test]
    fn an_edit_must_match_exactly() {
        assert_eq!(apply(&EDIT, "old, older").unwrap(), "new, newer");
        assert!(apply(&EDIT, "old").is_err());
        assert!(apply(&EDIT, "old old old").is_err());
    }

    #[test]
    fn every_edit_changes_something() {
        for edit in EDITS {
            assert_ne!(edit.find, edit.replace, "{}", edit.file);
            assert!(edit.count > 0 && !edit.why.is_empty());
        }
    }
}
