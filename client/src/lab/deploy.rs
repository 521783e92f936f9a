//! `bees lab deploy`: from a lab file to nodes that let the administrator in.
//!
//! What runs is written down before and after each step, so that `destroy` finds all of it whenever a
//! deployment ends early. A second deployment of the same file starts what is missing.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use authagent::keys::SigningKey;
use sim::lab::{GATEWAY, GATEWAY_MAC, Keys, Lab, NodePlan, Plan};

use super::process::Process;
use super::qemu::{self, Image};
use super::state::{Accel, Folder, Kind, NodeState, State};
use super::wire::{Ports, Sockets, WireEnd, WireLink, WireNode, WirePlan};
use super::{accel, built, near, principals};
use crate::exit::{Code, failure};
use crate::files;
use crate::output::{progress, time};
use crate::remote::{Remote, Target};

/// How to deploy a lab.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the nodes run
    #[arg(long = "on", value_enum, default_value = "qemu", value_name = "PLACE")]
    pub kind: Kind,
    /// What QEMU runs on; chosen by trial if not given
    #[arg(long, value_parser = parse_accel, default_value = "auto", value_name = "tcg|kvm|auto")]
    pub accel: AccelChoice,
    /// Memory of each QEMU node, instead of what the lab file says (for instance 128M)
    #[arg(long, value_parser = parse_memory, value_name = "SIZE")]
    pub memory: Option<u64>,
    /// Show this node's console meanwhile
    #[arg(long, value_name = "NODE")]
    pub console: Option<String>,
    /// The folder of the bootable image, instead of target/image
    #[arg(long, env = "BEES_IMAGE", value_name = "FOLDER")]
    pub image: Option<PathBuf>,
    /// The program of hosted nodes, instead of the bees-node beside this one
    #[arg(long, env = "BEES_NODE_PROGRAM", value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// How long the nodes may take until they are ready, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub patience: u64,
}

/// What `--accel` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelChoice {
    /// Whatever works best.
    Auto,
    /// This.
    Only(Accel),
}

fn parse_accel(text: &str) -> Result<AccelChoice, &'static str> {
    match text {
        "auto" => Ok(AccelChoice::Auto),
        "tcg" => Ok(AccelChoice::Only(Accel::Tcg)),
        "kvm" => Ok(AccelChoice::Only(Accel::Kvm)),
        _ => Err("it must be tcg, kvm or auto"),
    }
}

fn parse_memory(text: &str) -> Result<u64, String> {
    nodeos::units::parse_size(text).map_err(|e| e.to_string())
}

/// Deploys the lab of `file` into the current folder's `.lab`.
pub fn deploy(file: &Path, options: &Options) -> Result<(Folder, State)> {
    let text = fs::read_to_string(file)
        .map_err(|e| failure(Code::Missing, format!("cannot read {}: {e}", file.display())))?;
    let lab = Lab::parse(&text).map_err(|e| failure(Code::Usage, format!("{}: {e}", file.display())))?;
    let folder = Folder::named(&lab.name);
    let _lock = folder.lock()?;
    let beside = file.parent().unwrap_or(Path::new(""));
    let mut deployment = Deployment::prepare(&folder, &text, beside, lab, options)?;
    let result = deployment.bring_up(options);
    // What was started is written down whether or not all of it came up.
    folder.save(&deployment.state)?;
    result?;
    let state = deployment.state;
    Ok((folder, state))
}

/// A lab between its file and its processes.
struct Deployment<'a> {
    folder: &'a Folder,
    state: State,
    plan: Plan,
    sockets: PathBuf,
    backend: Backend,
    server: Option<std::net::SocketAddr>,
}

/// The deadline of an event on a node under translation.
const TRANSLATED_EVENT_US: u32 = 50_000;

/// What nodes are made of.
enum Backend {
    Qemu { image: Image, accel: Accel },
    Hosted { program: PathBuf },
}

impl<'a> Deployment<'a> {
    /// Makes keys, configurations and folders, or finds those of the first deployment.
    fn prepare(
        folder: &'a Folder,
        text: &str,
        beside: &Path,
        mut lab: Lab,
        options: &Options,
    ) -> Result<Self> {
        let before = folder.state()?;
        if before.is_some() {
            let same = fs::read_to_string(folder.path("lab.toml")).is_ok_and(|t| t == text);
            let same_kind = before.as_ref().is_none_or(|s| s.kind == options.kind);
            if !same || !same_kind {
                let what = if same { "in another place" } else { "from another file" };
                let text = format!(
                    "the lab {0} is deployed already, {what}; `bees lab destroy {0}` first",
                    lab.name
                );
                return Err(failure(Code::Failed, text));
            }
        }
        let kept = before.as_ref().and_then(|s| s.accel);
        let backend = Backend::find(options, kept, folder)?;
        backend.allow_for_translation(&mut lab);
        let identities = lab.nodes.iter().map(|n| folder.key(&format!("{}.key", n.name)));
        let identities = identities.collect::<Result<Vec<SigningKey>>>()?;
        principals::make_keys(folder, &lab, beside)?;
        let keys = Keys {
            policies: principals::policies(folder, &lab, beside)?,
            admin: folder.key("admin.key")?.public().to_bytes(),
            identities: identities.iter().map(seed).collect::<Result<_>>()?,
        };
        let plan = lab.plan(&keys).map_err(|e| failure(Code::Usage, e.to_string()))?;
        for node in &plan.nodes {
            files::write_secret(&folder.config(&node.name), node.config.as_bytes())?;
        }
        files::write(&folder.path("lab.toml"), text.as_bytes())?;
        let sockets = folder.sockets()?;
        let state = before.unwrap_or_else(|| {
            let nodes = plan.nodes.iter().zip(&identities).map(|(node, key)| NodeState {
                name: node.name.clone(),
                address: node.management,
                memory: backend.memory(node, options),
                identity: key.public().to_string(),
                ports: None,
                process: None,
                ready_us: None,
            });
            State {
                name: lab.name.clone(),
                kind: options.kind,
                accel: backend.accel(),
                wire: None,
                nodes: nodes.collect(),
            }
        });
        folder.save(&state)?;
        Ok(Self { folder, state, plan, sockets, backend, server: lab.defaults.server })
    }

    fn bring_up(&mut self, options: &Options) -> Result<()> {
        self.start_wire()?;
        let mut started = HashMap::new();
        for at in 0..self.plan.nodes.len() {
            if self.state.nodes[at].process.is_some_and(|p| p.alive()) {
                continue;
            }
            started.insert(at, (self.start_node(at)?, Instant::now()));
            self.folder.save(&self.state)?;
        }
        if started.is_empty() {
            progress(format!("lab {}: everything is up already", self.state.name));
            return Ok(());
        }
        let _console = match &options.console {
            Some(node) => {
                self.folder.target(&self.state, node, Duration::ZERO)?;
                Some(super::inspect::Follower::start(self.folder.console(node), node)?)
            }
            None => None,
        };
        self.wait_ready(started, Duration::from_secs(options.patience))
    }

    fn start_wire(&mut self) -> Result<()> {
        if self.state.wire.is_some_and(|p| p.alive()) {
            return Ok(());
        }
        let plan = self.wire_plan();
        let file = self.folder.path("wire.json");
        files::write_json(&file, &plan)?;
        files::remove_if_there(&plan.ports)?;
        let exe = std::env::current_exe().context("cannot find this program")?;
        let exe = if exe.file_name().is_some_and(|n| n == "bees") { exe } else { near("bees") };
        let log = self.folder.path("wire.log");
        let mut command = Command::new(exe);
        command.args(["lab", "wire"]).arg(&file).arg("--sockets").arg(&self.sockets);
        let (process, mut child) = Process::start(&mut command, &log)?;
        self.state.wire = Some(process);
        self.folder.save(&self.state)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !plan.ports.exists() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let text = format!("the lab's wire process did not come up: {}", last_lines(&log, 3));
                return Err(failure(Code::Failed, text));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let ports: Vec<Ports> = files::read_json(&plan.ports)?;
        for (node, ports) in self.state.nodes.iter_mut().zip(ports) {
            node.ports = Some(ports);
        }
        self.folder.save(&self.state)
    }

    fn wire_plan(&self) -> WirePlan {
        let folder = fs::canonicalize(self.folder.path("")).unwrap_or_else(|_| self.folder.path(""));
        let node_name = |at: usize| self.plan.nodes[at].name.clone();
        let link = |(number, link): (usize, &sim::lab::LinkPlan)| {
            let end = |at: usize| WireEnd {
                node: node_name(link.ends[at].node),
                sockets: self.nic_sockets(Some((number, at)), link.ends[at].node),
            };
            WireLink {
                name: link.name.clone(),
                ends: [end(0), end(1)],
                shape: (&link.shape).into(),
                capture: folder.join(format!("{}.pcap", link.name)),
            }
        };
        let node = |(number, node): (usize, &NodePlan)| WireNode {
            name: node.name.clone(),
            sockets: self.nic_sockets(None, number),
            mac: node.nics[0].mac,
            address: node.management,
        };
        WirePlan {
            // A lab's name gives its losses: the same lab loses the same frames.
            seed: u64::from_be_bytes(wire_hash(&self.state.name)),
            links: self.plan.links.iter().enumerate().map(link).collect(),
            nodes: self.plan.nodes.iter().enumerate().map(node).collect(),
            gateway: GATEWAY,
            gateway_mac: GATEWAY_MAC,
            server: self.server,
            ports: folder.join("ports.json"),
            counters: folder.join("links.json"),
        }
    }

    /// The sockets of a NIC: at an end of a lab link, or the management NIC of a node.
    fn nic_sockets(&self, wire: Option<(usize, usize)>, node: usize) -> Sockets {
        let name = match wire {
            Some((link, end)) => format!("l{link}{}", ["a", "b"][end]),
            None => format!("m{node}"),
        };
        Sockets::new(&self.sockets, &name)
    }

    fn start_node(&mut self, at: usize) -> Result<Child> {
        let plan = &self.plan.nodes[at];
        let nics: Vec<Sockets> = plan.nics.iter().map(|nic| self.nic_sockets(nic.wire, at)).collect();
        let (config, console) = (self.folder.config(&plan.name), self.folder.console(&plan.name));
        files::write(&console, b"")?;
        let disk = plan.disk.map(|bytes| self.disk(&plan.name, bytes)).transpose()?;
        let (mut command, log) = match &self.backend {
            Backend::Qemu { image, accel } => {
                let memory = self.state.nodes[at].memory.unwrap_or(plan.memory);
                let mut command = qemu::command(image, *accel, plan, memory, &config, &console, &nics);
                command.args(disk.iter().flat_map(|disk| qemu::disk(disk)));
                // What QEMU itself has to say is not the node's.
                (command, self.folder.path(format!("{}.qemu.log", plan.name)))
            }
            Backend::Hosted { program } => {
                let mut command = Command::new(program);
                command.arg("--config").arg(&config);
                if let Some(disk) = &disk {
                    command.arg("--disk").arg(disk);
                }
                for Sockets { wire, node } in &nics {
                    let mut spec = std::ffi::OsString::from("unix:");
                    spec.push(node);
                    spec.push(",");
                    spec.push(wire);
                    command.arg("--link").arg(spec);
                }
                (command, console)
            }
        };
        let (process, child) = Process::start(&mut command, &log)?;
        let node = &mut self.state.nodes[at];
        node.process = Some(process);
        node.ready_us = None;
        Ok(child)
    }

    /// The file of a node's disk: zeros, or what the node left there when it was deployed before.
    fn disk(&self, node: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.folder.disk(node);
        if !path.exists() {
            // It may come to hold the node's secret identity.
            files::write_secret(&path, b"")?;
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            file.set_len(bytes).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(path)
    }

    /// Waits until every started node lets us in, all at once.
    fn wait_ready(&mut self, started: HashMap<usize, (Child, Instant)>, patience: Duration) -> Result<()> {
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (at, (child, since)) in started {
                let name = self.state.nodes[at].name.clone();
                let target = self.folder.target(&self.state, &name, Duration::from_secs(5));
                let results = &results;
                let console = self.folder.console(&name);
                scope.spawn(move || {
                    let ready = target.and_then(|t| wait_for(&t, child, since, patience, &console));
                    if let Ok(took) = &ready {
                        progress(format!("node {name} is ready after {}", time(*took)));
                    }
                    results.lock().expect("no thread panics with it").push((at, ready));
                });
            }
        });
        let mut first_error = None;
        for (at, ready) in results.into_inner().expect("no thread panics with it") {
            match ready {
                Ok(took) => self.state.nodes[at].ready_us = Some(took.as_micros() as u64),
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl Backend {
    /// Under translation the first run of guest code costs milliseconds, because QEMU translates it then,
    /// and the virtual processor shares the real ones: where the lab file says nothing, events get more
    /// time than usual.
    fn allow_for_translation(&self, lab: &mut Lab) {
        if matches!(self, Self::Qemu { accel: Accel::Tcg, .. }) {
            lab.defaults.team.0.event_us.get_or_insert(TRANSLATED_EVENT_US);
        }
    }

    fn find(options: &Options, kept: Option<Accel>, lab: &Folder) -> Result<Self> {
        match options.kind {
            Kind::Hosted => {
                let program = options.program.clone().unwrap_or_else(|| near("bees-node"));
                if !program.is_file() {
                    let text = "the program bees-node is missing; `cargo build` builds it";
                    return Err(failure(Code::Missing, text));
                }
                Ok(Self::Hosted { program })
            }
            Kind::Qemu => {
                let folder = options.image.clone().unwrap_or_else(|| built("image", "loader.bin"));
                let image = Image::find(&folder)?;
                let accel = match (options.accel, kept) {
                    (AccelChoice::Only(accel), _) | (AccelChoice::Auto, Some(accel)) => accel,
                    (AccelChoice::Auto, None) => {
                        let (accel, why) = accel::choose(&image, &lab.path(""));
                        progress(
                            format!("QEMU runs on {accel:?}: {why}").to_lowercase().replace("qemu", "QEMU"),
                        );
                        accel
                    }
                };
                Ok(Self::Qemu { image, accel })
            }
        }
    }

    fn accel(&self) -> Option<Accel> {
        match self {
            Self::Qemu { accel, .. } => Some(*accel),
            Self::Hosted { .. } => None,
        }
    }

    fn memory(&self, node: &NodePlan, options: &Options) -> Option<u64> {
        matches!(self, Self::Qemu { .. }).then(|| options.memory.unwrap_or(node.memory))
    }
}

/// Tries to log in until the node lets us, or ends.
fn wait_for(
    target: &Target,
    mut child: Child,
    since: Instant,
    patience: Duration,
    console: &Path,
) -> Result<Duration> {
    loop {
        let error = match Remote::login_once(target) {
            Ok(_) => return Ok(since.elapsed()),
            Err(e) => e,
        };
        if let Some(status) = child.try_wait()? {
            let text = format!("node {} ended ({status}): {}", target.name, last_lines(console, 5));
            return Err(failure(Code::Failed, text));
        }
        if since.elapsed() > patience {
            let text = format!(
                "node {} is not ready after {}: {error}; its console: {}",
                target.name,
                time(since.elapsed()),
                last_lines(console, 5)
            );
            return Err(failure(Code::TimedOut, text));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The end of a log, for an error message.
fn last_lines(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    match &all[all.len().saturating_sub(lines)..] {
        [] => format!("{} is empty", path.display()),
        end => format!("\n  {}", end.join("\n  ")),
    }
}

fn seed(key: &SigningKey) -> Result<[u8; 32]> {
    let hex: wire::id::PartHash = key.to_hex().as_str().parse().context("a key has 64 digits")?;
    Ok(hex.0)
}

fn wire_hash(name: &str) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = wire::id::sha256(name.as_bytes());
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;

    #[test]
    fn an_error_shows_the_end_of_the_log() {
        let scratch = Scratch::new("last_lines");
        let log = scratch.0.join("log");
        assert!(last_lines(&log, 2).ends_with("is empty"));
        fs::write(&log, "one\ntwo\n\nthree\n").unwrap();
        assert_eq!(last_lines(&log, 2), "\n  two\n  three");
    }

    #[test]
    fn a_seed_is_the_key() {
        let key = SigningKey::from_seed(&[7; 32]);
        assert_eq!(seed(&key).unwrap(), [7; 32]);
    }

    #[test]
    fn a_lab_is_refused_by_name_and_line() {
        let scratch = Scratch::new("refused");
        let file = scratch.0.join("lab.toml");
        fs::write(&file, "name = \"x\"\nspeed = 3\n").unwrap();
        let options = Options {
            kind: Kind::Hosted,
            accel: AccelChoice::Auto,
            memory: None,
            console: None,
            image: None,
            program: None,
            patience: 1,
        };
        let error = deploy(&file, &options).unwrap_err();
        assert_eq!(crate::exit::code(&error), Code::Usage);
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
