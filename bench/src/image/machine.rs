//! A node in QEMU (`docs/boot.md`) whose network cards end in this program, as Unix datagram sockets.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use host::link::Link;
use nodeos::link::Mac;

use super::Image;

const PROGRAM: &str = "qemu-system-x86_64";

/// A folder for sockets and configurations that goes with its owner.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A fresh folder.
    pub fn new(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("bees-bench-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's own cleaning of temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    started: Instant,
    console: Receiver<(Instant, String)>,
    said: Vec<String>,
    folder: Scratch,
}

impl Machine {
    /// Boots the image with a configuration, memory in MiB, and one card for each address.
    pub fn start(image: &Image, configuration: &str, memory: u32, cards: &[Mac]) -> Result<Self> {
        let folder = Scratch::new("qemu")?;
        let file = folder.file("node.toml");
        fs::write(&file, configuration)?;
        let mut command = Command::new(PROGRAM);
        command
            .args(["-accel", "tcg", "-cpu", "max", "-M", "pc", "-m", &memory.to_string()])
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .arg("-kernel")
            .arg(&image.loader)
            .arg("-initrd")
            .arg(format!("{},{}", image.node.display(), file.display()));
        for (number, mac) in cards.iter().enumerate() {
            let (own, other) = (folder.file(&format!("q{number}")), folder.file(&format!("b{number}")));
            command.arg("-netdev").arg(format!(
                "dgram,id=n{number},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                own.display(),
                other.display()
            ));
            let device = format!("virtio-net-pci,disable-legacy=on,romfile=,netdev=n{number},mac={mac}");
            command.arg("-device").arg(device);
        }
        command.args(["-device", "virtio-rng-pci,disable-legacy=on"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot run {PROGRAM}"))?;
        let output = child.stdout.take().context("QEMU has no output")?;
        let (lines, console) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if lines.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, started, console, said: Vec::new(), folder })
    }

    /// This program's end of a card.
    pub fn link(&self, number: usize) -> Result<Link> {
        let path = |end: char| self.folder.file(&format!("{end}{number}"));
        Ok(Link::unix(&path('b'), &path('q'))?)
    }

    /// Waits for a line of the console that contains `text`; returns it, and how long after QEMU's start it
    /// came.
    pub fn wait_for(&mut self, text: &str, patience: Duration) -> Result<(Duration, String)> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.console.recv_timeout(left) {
                Ok((at, line)) => {
                    if line.contains(text) {
                        return Ok((at.duration_since(self.started), line));
                    }
                    self.said.push(line);
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the image does not say {text:?}:\n{}", self.last_words())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the image ended:\n{}", self.last_words()),
            }
        }
    }

    /// What it said last.
    pub fn last_words(&mut self) -> String {
        self.said.extend(self.console.try_iter().map(|(_, line)| line));
        let skip = self.said.len().saturating_sub(10);
        self.said[skip..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The machine has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file's size in bytes.
pub fn size_of(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file).with_context(|| file.display().to_string())?.len())
}
