//! Processes that outlive the command that started them.
//!
//! A process is remembered by its number and the time of its start, so that a number that was given out
//! again never gets another's signal.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

/// A process of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its start, in clock ticks since the machine's.
    started: u64,
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub memory: u64,
    /// Time since its start.
    pub uptime: Duration,
    /// Processor time that it used.
    pub cpu: Duration,
}

/// The fields of `/proc/PID/stat` that are of use here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    started: u64,
    ticks: u64,
    pages: u64,
}

/// Ticks per second of `/proc`: fixed for all programs, whatever the kernel's own are.
const TICKS: u64 = 100;

impl Process {
    /// Starts `command` in a process group of its own, so that Ctrl-C here does not reach it, with `log`
    /// for what it prints.
    pub fn start(command: &mut Command, log: &Path) -> Result<(Self, Child)> {
        use std::os::unix::process::CommandExt;
        let file = fs::OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let pid = i32::try_from(child.id()).context("a process number out of range")?;
        // It is our child and not waited for, so that the number is still its own.
        let started = Stat::read(pid).map_or(0, |s| s.started);
        Ok((Self { pid, started }, child))
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        self.stat().is_some()
    }

    /// Ends it: first kindly, then by force.
    pub fn end(&self) {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.alive()) else { return };
        for (signal, patience) in
            [(Signal::TERM, Duration::from_secs(2)), (Signal::KILL, Duration::from_secs(5))]
        {
            // It may end by itself meanwhile.
            let _ = kill_process(pid, signal);
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                // Only succeeds for a child of ours, which would stay a zombie otherwise.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
                if !self.alive() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// What it uses; `None` if it does not run any more.
    pub fn usage(&self) -> Option<Usage> {
        let stat = self.stat()?;
        let up = fs::read_to_string("/proc/uptime").ok()?;
        let up = Duration::try_from_secs_f64(up.split(' ').next()?.parse().ok()?).ok()?;
        let ticks = |n: u64| Duration::from_millis(n * 1000 / TICKS);
        Some(Usage {
            memory: stat.pages * rustix::param::page_size() as u64,
            uptime: up.saturating_sub(ticks(stat.started)),
            cpu: ticks(stat.ticks),
        })
    }

    fn stat(&self) -> Option<Stat> {
        Stat::read(self.pid).filter(|s| s.started == self.started && !matches!(s.state, 'Z' | 'X'))
    }
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// See proc(5). The second field is the program's name in parentheses, which may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            started: number(22)?,
            ticks: number(14)? + number(15)?,
            pages: number(24)?,
        })
    }
}

/// Ends every process whose command line names the folder `marker`, except this one: what a deployment
/// left behind that was cut off before it could write down what it had started.
pub fn end_all_with(marker: &Path) -> io::Result<()> {
    end_pass(marker)?;
    // A process that is being started has no command line for a moment.
    std::thread::sleep(Duration::from_millis(10));
    while end_pass(marker)? > 0 {}
    Ok(())
}

/// The number of processes that were ended.
fn end_pass(marker: &Path) -> io::Result<usize> {
    let marker = marker.as_os_str().as_encoded_bytes();
    let mut ended = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let named = line.windows(marker.len().max(1)).any(|w| w == marker);
        if named
            && pid as u32 != std::process::id()
            && let Some(stat) = Stat::read(pid)
        {
            let process = Process { pid, started: stat.started };
            process.end();
            ended += usize::from(!process.alive());
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;

    #[test]
    fn a_name_in_parentheses_confuses_nobody() {
        let text = "17 (a) R 9 (b) S 1 17 17 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 12345 1000000 250 0";
        let stat = Stat { state: 'S', started: 12_345, ticks: 12, pages: 250 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("17 (a) S 1"), None);
    }

    #[test]
    fn a_process_starts_and_ends() {
        let scratch = Scratch::new("process");
        let log = scratch.0.join("log");
        let marker = scratch.0.join("marker");
        let mut command = Command::new("sh");
        // A shell that ignores SIGTERM, with the marker on its command line.
        command.args(["-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"]).arg(&marker);
        let (process, _child) = Process::start(&mut command, &log).unwrap();
        assert!(process.alive());
        while fs::read_to_string(&log).unwrap() != "up\n" {
            std::thread::sleep(Duration::from_millis(5));
        }
        let usage = process.usage().unwrap();
        assert!(usage.memory > 0 && usage.uptime < Duration::from_secs(60));
        let other = Process { started: process.started + 1, ..process };
        assert!(!other.alive());
        other.end();
        assert!(process.alive(), "the signal for another process did not reach this one");
        end_all_with(&marker).unwrap();
        assert!(!process.alive() && process.usage().is_none());
    }
}
