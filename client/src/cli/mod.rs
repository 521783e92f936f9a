//! The command line: `bees OBJECT VERB`, in the manner of bpftool and ip.

mod access;
mod flow;
mod lab;
mod session;
mod show;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::exit::{self, HELP};
use crate::output::Output;

pub use access::Access;
pub use flow::{arrivals, flow_value};

/// Talks to active nodes: shows them, gives them protocols, runs labs of them
#[derive(Debug, Parser)]
#[command(name = "bees", version, after_help = HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    access: Access,
    /// Print JSON, for programs
    #[arg(short, long, global = true)]
    json: bool,
    #[command(subcommand)]
    object: Object,
}

#[derive(Debug, Subcommand)]
enum Object {
    /// The node itself
    #[command(subcommand)]
    Node(show::Show),
    /// Its links
    #[command(subcommand)]
    Link(show::Show),
    /// Its neighbors
    #[command(subcommand)]
    Neighbor(show::Show),
    /// Its teams: who uses how much
    #[command(subcommand)]
    Team(show::Show),
    /// The modules in its code cache
    #[command(subcommand)]
    Protocol(show::Show),
    /// Its log
    Log(show::Log),
    /// Flows: build, dump, inject, show, stop
    #[command(subcommand)]
    Flow(Box<flow::Verb>),
    /// Talk to a protocol: each line of input a packet, each packet a line of output
    Session(session::Options),
    /// Labs: several nodes on this machine
    #[command(subcommand)]
    Lab(Box<lab::Verb>),
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::output::progress(format!("bees: {error:#}"));
            ExitCode::from(exit::code(&error) as u8)
        }
    }
}

/// Does what a command line says.
pub fn run(cli: Cli) -> Result<()> {
    let Cli { access, json, object } = cli;
    let output = Output::new(json);
    match object {
        Object::Node(_) => show::node(&access, output),
        Object::Link(_) => show::link(&access, output),
        Object::Neighbor(_) => show::neighbor(&access, output),
        Object::Team(_) => show::team(&access, output),
        Object::Protocol(_) => show::protocol(&access, output),
        Object::Log(options) => show::log(&access, &options, output),
        Object::Flow(verb) => flow::run(&access, &verb, output),
        Object::Session(options) => session::run(&access, &options, output),
        Object::Lab(verb) => lab::run(&access, *verb, json, output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_and_behind() {
        for line in
            ["bees -n a -j node show", "bees node show -n a -j", "bees session -n a ping -- ping c count 3"]
        {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
        for line in ["bees node", "bees node hide", "bees flow build", "bees lab deploy"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
