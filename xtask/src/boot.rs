//! `cargo xtask boot`: boots the image under QEMU and runs its self-tests (`docs/boot.md`): faults must end
//! the machine with an error and say where, everything else must pass, an idle node must be idle, and
//! no frame may be lost.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::image::{self, Image};
use crate::root;

/// Boot the image under QEMU and run its self-tests
#[derive(clap::Args)]
pub struct Options {
    /// Only these tests
    names: Vec<String>,
    /// Guest memory in MiB
    #[arg(long, default_value_t = 64)]
    memory: u32,
    /// QEMU's accelerator
    #[arg(long, default_value = "tcg")]
    accel: String,
    /// QEMU's machine
    #[arg(long, default_value = "pc")]
    machine: String,
    /// Take the image that is there as it is
    #[arg(long)]
    no_build: bool,
    /// Show what the machine prints
    #[arg(short, long)]
    verbose: bool,
}

/// QEMU's exit status when the node ended well, or with an error.
const WELL: i32 = 3;
const BADLY: i32 = 1;
/// An idle node may use this much of a processor, in per cent.
const IDLE_LIMIT: f64 = 3.0;
/// From QEMU's start to "ready".
const READY_LIMIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// Tests that must end the machine, and what it must say.
const FAULTS: &[(&str, &str)] = &[
    ("null-write", "null pointer: address 0x8"),
    ("wild-read", "page fault: address 0x123456789000"),
    ("text-write", "page fault"),
    ("constant-write", "page fault"),
    ("heap-execute", "INSTRUCTION_FETCH"),
    ("stack-execute", "INSTRUCTION_FETCH"),
    ("loader-execute", "INSTRUCTION_FETCH"),
    ("guest-code-write", "page fault"),
    ("stack-overflow", "stack overflow"),
    ("stack-overflow-thread", "stack overflow"),
    ("stack-overflow-fiber", "page fault"),
    ("panic", "[thread main] panicked at"),
    ("panic-thread", "[thread victim] panicked at"),
    ("abort", "exit status -1"),
    ("undefined-instruction", "Invalid Opcode"),
    ("out-of-memory", "memory allocation of"),
];

/// Tests that must pass.
const PASSES: &[&str] =
    &["hello", "entropy", "clock", "allocate", "priority", "preempt", "watchdog", "wasm", "fiber"];

/// Builds the image and runs the tests.
/// Every self-test under translation.
pub fn run_all() -> Result<()> {
    let (accel, machine) = ("tcg".to_string(), "pc".to_string());
    run_command(&Options { names: vec![], memory: 64, accel, machine, no_build: false, verbose: false })
}

pub fn run_command(options: &Options) -> Result<()> {
    let image = if options.no_build { Image::existing()? } else { image::build(false)? };
    let bench = Bench::new(&image, options)?;
    let mut failed = 0;
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|n| n == name);
    let mut report = |name: &str, result: Result<String>| match result {
        Ok(note) => println!("{name:<24} ok      {note}"),
        Err(error) => {
            failed += 1;
            println!("{name:<24} FAILED  {error:#}");
        }
    };
    for (name, says) in FAULTS.iter().filter(|(name, _)| wanted(name)) {
        report(name, bench.fault(name, says));
    }
    for name in PASSES.iter().filter(|name| wanted(name)) {
        report(name, bench.pass(name));
    }
    if wanted("idle") {
        report("idle", bench.idle());
    }
    for name in ["relay", "relay-busy"].into_iter().filter(|name| wanted(name)) {
        report(name, bench.relay(name));
    }
    ensure!(failed == 0, "{failed} boot tests failed");
    Ok(())
}

struct Bench<'a> {
    image: &'a Image,
    options: &'a Options,
    folder: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(image: &'a Image, options: &'a Options) -> Result<Self> {
        let folder = root().join("target/image/boot-tests");
        fs::create_dir_all(&folder)?;
        Ok(Self { image, options, folder })
    }

    /// Starts a machine that runs the self-test `name`, with `cards` network cards.
    fn start(&self, name: &str, cards: usize) -> Result<Machine> {
        let configuration = self.folder.join(format!("{name}.toml"));
        // The relay ends when it is told to; idle and clock take their time.
        let seconds = if cards > 2 { 120 } else { 6 };
        fs::write(&configuration, format!("selftest = \"{name}\"\nseconds = {seconds}\n"))?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", &self.options.accel, "-cpu", "max", "-M", &self.options.machine])
            .args(["-m", &self.options.memory.to_string()])
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .arg("-kernel")
            .arg(&self.image.loader)
            .arg("-initrd")
            .arg(format!("{},{}", self.image.node.display(), configuration.display()))
            .args(["-device", "virtio-rng-pci,disable-legacy=on"]);
        let mut wires = Vec::new();
        for card in 0..cards {
            let ends = ["node", "host"].map(|end| self.folder.join(format!("{name}-{card}-{end}")));
            for end in &ends {
                let _ = fs::remove_file(end);
            }
            let [node, host] = ends;
            let wire = UnixDatagram::bind(&host).with_context(|| host.display().to_string())?;
            wire.set_read_timeout(Some(Duration::from_secs(2)))?;
            command
                .arg("-netdev")
                .arg(format!(
                    "dgram,id=n{card},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    node.display(),
                    host.display()
                ))
                .arg("-device")
                .arg(format!(
                    "virtio-net-pci,disable-legacy=on,netdev=n{card},mac=02:00:00:00:00:{card:02x}"
                ));
            wires.push((wire, node));
        }
        let output = fs::File::create(self.folder.join(format!("{name}.log")))?;
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start QEMU; run: cargo xtask setup")?;
        Ok(Machine {
            child,
            wires,
            log: self.folder.join(format!("{name}.log")),
            started,
            verbose: self.options.verbose,
        })
    }

    fn fault(&self, name: &str, says: &str) -> Result<String> {
        let (status, output) = self.start(name, 0)?.end()?;
        ensure!(status == BADLY, "exit status {status} instead of {BADLY}:\n{output}");
        let line = output.lines().find(|line| line.contains(says));
        let line = line.with_context(|| format!("did not say \"{says}\":\n{output}"))?;
        Ok(line.chars().take(90).collect())
    }

    fn pass(&self, name: &str) -> Result<String> {
        let (status, output) = self.start(name, 0)?.end()?;
        ensure!(status == WELL, "exit status {status} instead of {WELL}:\n{output}");
        let lines = output.lines().rev().find(|line| !line.contains("selftest") && line.starts_with('['));
        Ok(lines.unwrap_or_default().to_owned())
    }

    fn idle(&self) -> Result<String> {
        let mut machine = self.start("idle", 2)?;
        let ready = machine.ready()?;
        sleep(Duration::from_secs(1));
        let before = machine.processor_time()?;
        sleep(Duration::from_secs(4));
        let used = (machine.processor_time()? - before) / 4.0 * 100.0;
        let memory = machine.resident_memory()?;
        let (status, output) = machine.end()?;
        ensure!(status == WELL, "exit status {status}:\n{output}");
        ensure!(used <= IDLE_LIMIT, "used {used:.1} % of a processor");
        ensure!(ready <= READY_LIMIT, "ready after {ready:?} only");
        Ok(format!("ready after {ready:.2?}, {used:.1} % of a processor, {memory} KiB resident"))
    }

    /// Sends frames through all pairs of six cards, both ways, and wants every one back.
    fn relay(&self, name: &str) -> Result<String> {
        const CARDS: usize = 6;
        const FRAMES: u32 = 5_000;
        const WINDOW: u32 = 32;
        let mut machine = self.start(name, CARDS)?;
        machine.ready()?;
        let mut rates = Vec::new();
        for from in 0..CARDS {
            let to = from ^ 1;
            let began = Instant::now();
            let (mut sent, mut received) = (0, 0);
            while received < FRAMES {
                while sent < FRAMES && sent - received < WINDOW {
                    machine.send(from, &frame(from, sent, 0x88b5))?;
                    sent += 1;
                }
                let back = machine
                    .receive(to)
                    .with_context(|| format!("card {from}: {received} of {sent} frames came back"))?;
                ensure!(back == frame(from, received, 0x88b5), "card {from}: frame {received} is another");
                received += 1;
            }
            rates.push(f64::from(FRAMES) / began.elapsed().as_secs_f64());
        }
        machine.send(0, &frame(0, 0, 0x88b6))?;
        let (status, output) = machine.end()?;
        ensure!(status == WELL, "exit status {status}:\n{output}");
        let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(format!("{} frames, none lost, at least {slowest:.0} a second", FRAMES * CARDS as u32))
    }
}

/// A frame whose contents depend on all its arguments, of changing length.
fn frame(card: usize, number: u32, kind: u16) -> Vec<u8> {
    let mut frame = vec![card as u8; 60 + number as usize * 37 % 1455];
    frame[..6].fill(0x02);
    frame[12..14].copy_from_slice(&kind.to_be_bytes());
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// A machine that runs; ended when dropped.
struct Machine {
    child: Child,
    wires: Vec<(UnixDatagram, PathBuf)>,
    log: PathBuf,
    started: Instant,
    verbose: bool,
}

impl Machine {
    fn output(&self) -> Result<String> {
        let mut bytes = Vec::new();
        fs::File::open(&self.log)?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits for the line that ends in "ready"; how long that took since QEMU's start.
    fn ready(&mut self) -> Result<Duration> {
        loop {
            let output = self.output()?;
            if output.lines().any(|line| line.ends_with("ready")) {
                return Ok(self.started.elapsed());
            }
            if self.child.try_wait()?.is_some() || self.started.elapsed() > PATIENCE {
                bail!("never ready:\n{output}");
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end: QEMU's exit status and what the machine printed.
    fn end(mut self) -> Result<(i32, String)> {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if began.elapsed() > PATIENCE {
                bail!("hangs:\n{}", self.output()?);
            }
            sleep(Duration::from_millis(5));
        };
        let output = self.output()?;
        if self.verbose {
            eprint!("{output}");
        }
        Ok((status.code().unwrap_or(-1), output))
    }

    fn send(&self, card: usize, frame: &[u8]) -> Result<()> {
        let (wire, node) = &self.wires[card];
        wire.send_to(frame, node)?;
        Ok(())
    }

    fn receive(&self, card: usize) -> Result<Vec<u8>> {
        let mut frame = vec![0; 2048];
        let length = self.wires[card].0.recv(&mut frame)?;
        frame.truncate(length);
        Ok(frame)
    }

    /// Seconds of processor time that QEMU has used (proc(5), fields 14 and 15; 100 ticks a second).
    fn processor_time(&self) -> Result<f64> {
        let line = fs::read_to_string(self.proc("stat"))?;
        let fields = line.rsplit_once(')').context("a process's name is in brackets")?.1;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        Ok(ticks.sum::<Result<u64, _>>()? as f64 / 100.0)
    }

    /// KiB of memory that QEMU takes.
    fn resident_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("the kernel says how much")?.parse()?)
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(file)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for (_, node) in &self.wires {
            let _ = fs::remove_file(node);
        }
    }
}
