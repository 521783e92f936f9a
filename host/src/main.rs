//! `bees-node`: the active node as a Linux process.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser;
use ee::blob::SharedDisk;
use ee::config::NodeConfig;
use host::console::Console;
use host::disk::FileDisk;
use host::entropy::Kernel;
use host::link::{Link, Spec};
use host::run::Runner;
use host::signals::Signals;
use nodeos::link::Mac;
use nodeos::platform::Entropy;

/// The active node as a Linux process.
///
/// Log lines go to standard output. SIGTERM and SIGINT end the node.
#[derive(Parser)]
#[command(name = "bees-node", version, max_term_width = 100)]
struct Arguments {
    /// The node's configuration (TOML); - reads standard input
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What a link is made of; one for each link of the configuration, in its order:
    /// unix:LOCAL,REMOTE (datagram sockets), udp:LOCAL,REMOTE (ADDRESS:PORT each), or packet:IFNAME (a
    /// network interface, with CAP_NET_RAW)
    #[arg(long = "link", value_name = "SPEC")]
    links: Vec<Spec>,
    /// Keep blobs, and an identity that the configuration does not give, in this file of 64 KiB to 64 MiB
    /// (truncate -s 1M FILE makes one), or on this block device
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// Append log lines to this file, too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    exit_on_panic();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bees-node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let signals = Signals::take()?;
    let mut config = read(&arguments.config)?;
    let links = open(&mut config, &arguments.links)?;
    let console = Console::new(arguments.log.as_deref())
        .map_err(|e| format!("{}: {e}", arguments.log.as_deref().unwrap_or(Path::new("")).display()))?;
    Runner::new(&config, links, disk(arguments.disk.as_deref())?, console)?.run(&signals)?;
    Ok(())
}

fn read(path: &Path) -> Result<NodeConfig, Box<dyn Error>> {
    let mut text = String::new();
    let done = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    done.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(NodeConfig::parse(&text)?)
}

fn disk(path: Option<&Path>) -> Result<Option<SharedDisk>, Box<dyn Error>> {
    let Some(path) = path else { return Ok(None) };
    let disk = FileDisk::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Some(Arc::new(Mutex::new(disk))))
}

/// Opens the links; those whose address the configuration leaves open get their device's, or a random one.
fn open(config: &mut NodeConfig, specs: &[Spec]) -> Result<Vec<Link>, Box<dyn Error>> {
    if specs.len() != config.links.len() {
        let text = format!(
            "the configuration has {} links, --link is given {} times",
            config.links.len(),
            specs.len()
        );
        return Err(text.into());
    }
    let mut links = Vec::new();
    for (link, spec) in config.links.iter_mut().zip(specs) {
        let fail = |e: std::io::Error| format!("link {} ({spec}): {e}", link.name);
        let mac = match link.mac {
            Some(Mac(mac)) => mac,
            None => match spec.hardware_address().map_err(fail)? {
                Some(mac) => mac,
                None => random_address()?,
            },
        };
        links.push(spec.open(mac).map_err(fail)?);
        link.mac = Some(Mac(mac));
    }
    Ok(links)
}

/// A locally administered address of one station.
fn random_address() -> Result<[u8; 6], Box<dyn Error>> {
    let mut mac = [2, 0, 0, 0, 0, 0];
    Kernel.fill(&mut mac[1..])?;
    Ok(mac)
}

/// A panic on any thread ends the process: a node without its worker or its watchdog is none.
fn exit_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::exit(101);
    }));
}
