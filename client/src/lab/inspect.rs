//! `bees lab inspect` and `bees lab console`: what a lab's processes do.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::process::Usage;
use super::state::{Folder, NodeState, State};
use super::wire::Traffic;
use crate::files;
use crate::output::{Cell, Colour, Output, Table, bytes, or_dash, time, us};
use crate::remote::Remote;

/// How long a node may take to let us in before it counts as silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Ready,
    Silent,
    Ended,
}

/// Prints a lab's nodes and links.
pub fn inspect(folder: &Folder, output: Output) -> Result<()> {
    let state = folder.deployed()?;
    let seen: Vec<(Doing, Option<Usage>)> = std::thread::scope(|scope| {
        let look = |node: &NodeState| look(folder, &state, node);
        let threads: Vec<_> = state.nodes.iter().map(|n| scope.spawn(move || look(n))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or((Doing::Silent, None))).collect()
    });
    let traffic: Vec<Traffic> = files::read_json(&folder.path("links.json")).unwrap_or_default();
    if output.is_json() {
        return output.value(&value(folder, &state, &seen, &traffic));
    }
    let mut nodes = Table::new(&[
        "NODE", "STATE", ">PID", "ADDRESS", ">MEMORY", ">CPU", ">UPTIME", ">READY", ">CONTROL", ">SESSION",
        ">METRICS",
    ]);
    for (node, (doing, usage)) in state.nodes.iter().zip(&seen) {
        nodes.row([
            node.name.as_str().into(),
            doing.cell(),
            or_dash(node.process.map(|p| p.pid)).into(),
            node.address.to_string().into(),
            or_dash(usage.map(|u| bytes(u.memory))).into(),
            or_dash(usage.map(|u| time(u.cpu))).into(),
            or_dash(usage.map(|u| time(u.uptime))).into(),
            or_dash(node.ready_us.map(us)).into(),
            or_dash(node.ports.map(|p| p.control)).into(),
            or_dash(node.ports.map(|p| p.session)).into(),
            or_dash(node.ports.map(|p| p.metrics)).into(),
        ]);
    }
    let wire = match state.wire.and_then(|p| Some((p.pid, p.usage()?))) {
        Some((pid, usage)) => {
            format!("wire process {pid}, {}, {} of processor", bytes(usage.memory), time(usage.cpu))
        }
        None => "no wire process: deploy the lab again".into(),
    };
    let place = match state.accel {
        Some(accel) => format!("QEMU ({accel:?})").replace("Tcg", "tcg").replace("Kvm", "kvm"),
        None => "hosted".into(),
    };
    output.text(&format!("lab {} on {place}, ports on 127.0.0.1; {wire}\n\n", state.name))?;
    output.show(|| Value::Null, || nodes)?;
    output.text("\n")?;
    let mut links = Table::new(&["LINK", "DIRECTION", ">FRAMES", ">BYTES", ">LOST", ">DROPPED"]);
    for t in &traffic {
        let direction = format!("{} -> {}", t.from, t.to);
        let numbers = [t.frames, t.bytes, t.lost, t.dropped].map(|n| n.to_string().into());
        links.row([t.link.as_str().into(), direction.into()].into_iter().chain(numbers));
    }
    output.show(|| Value::Null, || links)
}

fn look(folder: &Folder, state: &State, node: &NodeState) -> (Doing, Option<Usage>) {
    let Some(usage) = node.process.and_then(|p| p.usage()) else { return (Doing::Ended, None) };
    let login = folder.target(state, &node.name, PATIENCE).and_then(|t| Remote::login_once(&t));
    (if login.is_ok() { Doing::Ready } else { Doing::Silent }, Some(usage))
}

fn value(folder: &Folder, state: &State, seen: &[(Doing, Option<Usage>)], traffic: &[Traffic]) -> Value {
    let nodes = state.nodes.iter().zip(seen).map(|(node, (doing, usage))| {
        json!({
            "name": node.name, "state": doing.name(), "pid": node.process.map(|p| p.pid), "address": node.address,
            "memory": usage.map(|u| u.memory), "cpu_us": usage.map(|u| u.cpu.as_micros() as u64),
            "uptime_us": usage.map(|u| u.uptime.as_micros() as u64), "ready_us": node.ready_us,
            "control": node.ports.map(|p| p.control), "session": node.ports.map(|p| p.session),
            "metrics": node.ports.map(|p| p.metrics),
            "identity": node.identity, "console": folder.console(&node.name),
        })
    });
    let wire = state.wire.map(|p| json!({ "pid": p.pid, "memory": p.usage().map(|u| u.memory) }));
    let links = traffic.iter().map(|t| {
        let mut value = json!(t);
        value["capture"] = json!(folder.capture(&t.link));
        value
    });
    json!({
        "name": state.name, "on": state.kind, "accel": state.accel, "wire": wire,
        "nodes": nodes.collect::<Vec<_>>(), "links": links.collect::<Vec<_>>(),
    })
}

impl Doing {
    fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Silent => "silent",
            Self::Ended => "ended",
        }
    }

    fn cell(self) -> Cell {
        let colour = match self {
            Self::Ready => Colour::Good,
            Self::Silent => Colour::Busy,
            Self::Ended => Colour::Bad,
        };
        Cell::coloured(self.name(), colour)
    }
}

/// Shows a growing log on stderr until it is dropped.
pub struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Shows the lines of `log`, each with `name` in front.
    pub fn start(log: PathBuf, name: &str) -> Result<Self> {
        let mut log =
            BufReader::new(File::open(&log).with_context(|| format!("cannot read {}", log.display()))?);
        let (stop, name) = (Arc::new(AtomicBool::new(false)), name.to_string());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut line = Vec::new();
            loop {
                let last = stopped.load(Ordering::Relaxed);
                while log.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) && line.ends_with(b"\n") {
                    let text = String::from_utf8_lossy(&line);
                    // There is nowhere to complain to.
                    let _ = writeln!(std::io::stderr(), "{name}| {}", text.trim_end());
                    line.clear();
                }
                if last {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic there has been reported.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Prints a node's console; with `follow` it never ends by itself.
pub fn console(folder: &Folder, node: &str, follow: bool, output: Output) -> Result<()> {
    let state = folder.deployed()?;
    folder.target(&state, node, PATIENCE)?;
    let path = folder.console(node);
    let mut file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut at = 0;
    loop {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        at += file.read_to_end(&mut bytes)? as u64;
        output.text(&String::from_utf8_lossy(&bytes))?;
        if !follow {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
