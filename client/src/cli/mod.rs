//! The command line: `bees OBJECT VERB`, in the manner of bpftool and ip.

mod access;
mod blob;
mod channel;
mod flow;
pub(crate) mod health;
mod http;
mod key;
mod lab;
mod multicast;
mod policy;
mod protocol;
mod session;
mod show;
mod team;
mod telemetry;
mod top;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::exit::{self, HELP};
use crate::output::Output;

pub use access::Access;
pub use flow::{arrivals, flow_value};
pub use policy::parse_policy;

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
    /// The node itself, and its log
    #[command(subcommand)]
    Node(show::Node),
    /// Its links
    #[command(subcommand)]
    Link(show::Show),
    /// Its neighbors
    #[command(subcommand)]
    Neighbor(show::Neighbor),
    /// Where capsules arrive and leave, and what passes without the execution environment
    #[command(subcommand)]
    Channel(channel::Verb),
    /// Its teams: who uses how much
    #[command(subcommand)]
    Team(team::Verb),
    /// Watch its teams at work
    Top(top::Options),
    /// What flows keep on it, over its restarts, too
    #[command(subcommand)]
    Blob(blob::Verb),
    /// The modules in its code cache; a module on trial; and protocol servers, where flows are fetched
    #[command(subcommand)]
    Protocol(protocol::Verb),
    /// Who may do what on it
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Flows: build, sign, verify, dump, inject, replace, show, stop, revoke
    #[command(subcommand)]
    Flow(Box<flow::Verb>),
    /// Principals' keys: make, show, export
    #[command(subcommand)]
    Key(key::Verb),
    /// What the health agent's server knows: every node's sensors
    Health(health::Options),
    /// What happens to a capsule on its way to a node and back: times and queues of each hop
    Telemetry(telemetry::Options),
    /// HTTP through the network: a proxy for clients like curl, and the gateway to their servers
    #[command(subcommand)]
    Http(http::Verb),
    /// Groups: what one program says, to all that want it
    #[command(subcommand)]
    Multicast(multicast::Verb),
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
        Object::Node(show::Node::Show) => show::node(&access, output),
        Object::Node(show::Node::Log(options)) => show::log(&access, &options, output),
        Object::Link(_) => show::link(&access, output),
        Object::Neighbor(show::Neighbor::Show) => show::neighbor(&access, output),
        Object::Neighbor(show::Neighbor::Known) => show::known(&access, output),
        Object::Neighbor(show::Neighbor::Watch(how)) => show::watch(&access, how, output),
        Object::Channel(verb) => channel::run(&access, &verb, output),
        Object::Team(verb) => team::run(&access, &verb, output),
        Object::Top(options) => top::run(&access, &options, output),
        Object::Protocol(verb) => protocol::run(&access, &verb, output),
        Object::Blob(verb) => blob::run(&access, &verb, output),
        Object::Policy(verb) => policy::run(&access, &verb, output),
        Object::Flow(verb) => flow::run(&access, &verb, output),
        Object::Key(verb) => key::run(&access, &verb, output),
        Object::Health(options) => health::run(&access, &options, output),
        Object::Telemetry(options) => telemetry::run(&access, &options, output),
        Object::Http(verb) => http::run(&access, &verb, output),
        Object::Multicast(verb) => multicast::run(&access, &verb, output),
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
        for line in [
            "bees -n a -j node show",
            "bees node show -n a -j",
            "bees node log --audit --follow -n a",
            "bees neighbor watch -n a --interval 200ms --expiry 1s -j",
            "bees session -n a ping -- ping c count 3",
            "bees health -n a --serve",
            "bees telemetry -n a d --count 3 -j",
            "bees health -n a health --watch --interval 1s --sensor load -j",
            "bees multicast send -n a news --patience 30s -- hello there",
            "bees multicast join news sport/ x:00ff@5 -n b --count 3 --wait 20s",
            "bees http proxy -n a --listen 127.0.0.1:0 --origin http://example.org -j",
            "bees http gateway -n c --allow example.org --allow 127.0.0.1:8000",
            "bees key new --type rsa --bits 4096 --principal joe joe.key",
            "bees flow sign x.tuple --key joe.key --principal joe -o y.tuple --valid-from 5 --valid-until +7d",
            "bees flow build x.wasm --sign joe.key --principal joe --privilege sensors? --for-node b",
            "bees flow verify x.tuple --policy b.toml --at 2026-11-21",
            "bees policy load b.toml --node b",
            "bees protocol serve flows --listen 127.0.0.1:0 -j",
            "bees protocol list --from 10.0.0.1",
            "bees protocol fetch hello --from host:3325 --inject -n b",
            "bees session -n a --udp ping -- ping c",
            "bees blob remove 0a1b2c3d count -n b",
            "bees protocol show -n b",
            "bees protocol test hello.wasm lab.txt",
            "bees team budget ping -n b",
            "bees team limit ping memory=256k rate=10mbit event=1ms flows_total=3 -n b",
            "bees team kill ping -n b",
            "bees channel show -n b -j",
            "bees channel add a c 00112233445566778899aabbccddeeff -n b",
            "bees channel remove a ping --flow ping -n b",
            "bees top -n b --interval 500ms --count 3",
            "bees lab inspect --lab line3",
            "bees lab destroy line3 -j",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
        for line in [
            "bees node",
            "bees node hide",
            "bees neighbor watch --expiry 1s",
            "bees flow build",
            "bees lab deploy",
            "bees key new",
            "bees team limit ping",
            "bees protocol fetch hello",
            "bees team limit ping memory",
            "bees http gateway -n c",
            "bees flow sign x --valid-until now",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
