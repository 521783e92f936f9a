//! `bench`: the benchmarks of the active node.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use ee::config::NodeConfig;
use host::link::Link;

use bench::instructions::budget::Budget;
use bench::instructions::relays::Kind;
use bench::{accounting, companions, fairness, image, instructions, isolation, relay, teams};

/// Benchmarks of the active node. docs/benchmarks.md explains the figures.
///
/// Figures go to standard output, progress to standard error.
#[derive(Parser)]
#[command(name = "bench", version, max_term_width = 100)]
struct Arguments {
    /// Print JSON
    #[arg(short, long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Packets per second of a C program, native NodeOS and Bees, in network namespaces (needs root)
    Relay(relay::Options),
    /// Instructions per capsule, and where they go (needs valgrind)
    Instructions(instructions::Options),
    /// The bootable node in QEMU: relay rate, boot stages, size, memory, download from hop to hop
    Image(image::Options),
    /// A thousand teams on one node: memory, time to make and kill one, cost of an event
    Teams(teams::Options),
    /// Processor time and bandwidth of teams that compete, against their shares
    Fairness(fairness::Options),
    /// What measuring and stopping guests costs: Fib, Sort, and the relay
    Accounting(accounting::Options),
    /// What a call from one protocol of a flow to another costs
    Companions(companions::Options),
    /// A node under attack against the same node at rest
    Isolation(isolation::Options),
    /// What is counted: relays capsules on links in memory
    #[command(hide = true)]
    Count {
        /// The relay
        kind: Kind,
        /// How many
        capsules: u64,
        /// Payload size in bytes
        payload: usize,
    },
    /// What is counted: events of many teams
    #[command(hide = true)]
    CountTeams {
        /// Of what
        load: teams::Load,
        /// How many teams
        teams: u16,
        /// How many events
        events: u64,
    },
    /// What is counted: a program that is looked at in some way
    #[command(hide = true)]
    CountProgram {
        /// How it is looked at
        way: accounting::Way,
        /// Which
        program: String,
        /// Its size
        size: i32,
        /// How often
        times: u32,
    },
    /// What is counted: calls within an event
    #[command(hide = true)]
    CountCalls {
        /// Of what
        callee: companions::Callee,
        /// How many
        calls: i32,
    },
    /// What is counted: what accounts for capsules
    #[command(hide = true)]
    CountAccounting {
        /// How many
        capsules: u64,
    },
    /// What is counted: a queue for capsules that nobody accounts for
    #[command(hide = true)]
    CountQueue {
        /// How many
        capsules: u64,
    },
    /// The NodeOS row's process: configuration on standard input
    #[command(hide = true)]
    ServeNative,
    /// The Bees row's process: configuration on standard input
    #[command(hide = true)]
    ServeBees,
    /// The process of a node that is attacked: configuration on standard input
    #[command(hide = true)]
    ServeIsolated {
        /// Where the sockets are
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Relay(options) => {
            let figures = relay::run(options)?;
            print(arguments.json, &figures, relay::table(&figures))
        }
        Command::Instructions(options) => {
            let costs = instructions::run(options)?;
            if options.update {
                Budget::of(&costs, options.payload).write()?;
            }
            print(arguments.json, &costs, instructions::report(&costs))
        }
        Command::Image(options) => {
            let report = image::run(options);
            print(arguments.json, &report, image::text(&report))?;
            if !report.failed.is_empty() {
                bail!("not everything could be measured");
            }
            Ok(())
        }
        Command::Isolation(options) => {
            let rows = isolation::run(options)?;
            if options.csv {
                print!("{}", isolation::csv(&rows));
                return Ok(());
            }
            print(arguments.json, &rows, isolation::table(&rows))
        }
        Command::Count { kind, capsules, payload } => instructions::relays::relay(*kind, *capsules, *payload),
        Command::Teams(options) => {
            let figures = teams::run(options)?;
            print(arguments.json, &figures, teams::report(&figures))
        }
        Command::Fairness(options) => {
            let parts = fairness::run(options)?;
            print(arguments.json, &parts, fairness::report(&parts))?;
            fairness::judge(&parts)
        }
        Command::Accounting(options) => {
            let figures = accounting::run(options)?;
            print(arguments.json, &figures, accounting::report(&figures))
        }
        Command::Companions(options) => {
            let costs = companions::run(options)?;
            print(arguments.json, &costs, companions::report(&costs))
        }
        Command::CountCalls { callee, calls } => companions::calls(*callee, *calls),
        Command::CountTeams { load, teams, events } => teams::load(*load, *teams, *events),
        Command::CountProgram { way, program, size, times } => {
            accounting::program(*way, program, *size, *times)
        }
        Command::CountAccounting { capsules } => accounting::capsules(*capsules),
        Command::CountQueue { capsules } => accounting::plain_queue(*capsules),
        Command::ServeNative => {
            let (config, links) = relay_links()?;
            relay::native::run(&config, links)
        }
        Command::ServeBees => {
            let (config, links) = relay_links()?;
            serve(&config, links)
        }
        Command::ServeIsolated { folder } => serve(&configuration()?, isolation::node::links(folder)?),
    }
}

fn print(json: bool, figures: &impl serde::Serialize, table: impl std::fmt::Display) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(figures)?);
    } else {
        print!("{table}");
    }
    Ok(())
}

/// Runs a node as `bees-node` does.
fn serve(config: &NodeConfig, links: Vec<Link>) -> Result<()> {
    let console = host::console::Console::new(None)?;
    let mut runner = match host::run::Runner::new(config, links, None, console) {
        Ok(runner) => runner,
        Err(error) => bail!("the node does not start: {error}"),
    };
    Ok(runner.run(&host::signals::Signals::take()?)?)
}

fn configuration() -> Result<NodeConfig> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(NodeConfig::parse(&text)?)
}

/// The configuration, and the relay's devices in its order.
fn relay_links() -> Result<(NodeConfig, Vec<Link>)> {
    let config = configuration()?;
    let open = |(link, device): (&nodeos::config::LinkConfig, &str)| {
        let mac = link.mac.with_context(|| format!("link {}: no mac", link.name))?;
        Link::packet(device, mac.0).with_context(|| device.to_string())
    };
    let links = config.links.iter().zip(["rly0", "rly1"]).map(open).collect::<Result<_>>()?;
    Ok((config, links))
}
