//! The relays that are compared, each a process of its own in the relay's namespace.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nodeos::link::Mac;
use wire::id::CapsuleId;

use super::frames::{CAPSULE_PAYLOAD, UDP_PAYLOAD, capsule, udp};
use super::world::{NEXT_IP, NEXT_MAC, RELAY_IN_MAC, RELAY_OUT_MAC, SOURCE_MAC, World};
use crate::sys::pin;

/// A relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Row {
    /// The C program of `bench/peers`: one recvfrom and one sendto per packet, UDP.
    C,
    /// NodeOS: in-channel to out-channel, native code.
    Native,
    /// The full node: a guest rewrites a counter and looks its next hop up in soft state.
    Bees,
}

/// UDP port that the C program listens on.
const C_PORT: u16 = 3400;

impl Row {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::C, Self::Native, Self::Bees];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::C => "C, recvfrom/sendto",
            Self::Native => "NodeOS, native",
            Self::Bees => "Bees",
        }
    }

    /// A frame for this relay.
    pub fn frame(self, payload: &[u8], id: &CapsuleId) -> Result<Vec<u8>> {
        match self {
            Self::C => udp(payload, C_PORT),
            Self::Native | Self::Bees => capsule(payload, id, SOURCE_MAC, RELAY_IN_MAC),
        }
    }

    /// Where the payload is in its frames.
    pub fn payload_at(self) -> usize {
        match self {
            Self::C => UDP_PAYLOAD,
            Self::Native | Self::Bees => CAPSULE_PAYLOAD,
        }
    }

    /// How much it adds to the payload's counter.
    pub fn adds(self) -> u64 {
        u64::from(self == Self::Bees)
    }

    /// Starts it on processor `cpu`; the caller runs on `home`.
    pub fn start(self, world: &World, peer: &Path, cpu: usize, home: usize) -> Result<Relay> {
        let mut command = match self {
            Self::C => {
                let mut command = Command::new(peer);
                let [a, b, c, d] = NEXT_IP;
                command.args([C_PORT.to_string(), format!("{a}.{b}.{c}.{d}"), C_PORT.to_string()]);
                command
            }
            Self::Native => serve("serve-native")?,
            Self::Bees => serve("serve-bees")?,
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        pin(cpu)?;
        let child = world.relay.run(|| Ok(command.spawn()?));
        pin(home)?;
        let mut relay = Relay { child: child.with_context(|| format!("cannot start {}", self.name()))? };
        relay.configure()?;
        Ok(relay)
    }
}

fn serve(role: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(command)
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    child: Child,
}

impl Relay {
    /// Gives it its configuration and waits for its first line, which it prints when its sockets are open.
    fn configure(&mut self) -> Result<()> {
        if let Some(mut input) = self.child.stdin.take() {
            // The C program does not read it, which is no error.
            let _ = input.write_all(configuration().as_bytes());
        }
        let output = self.child.stdout.take().context("the relay has no output")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("the relay ended: {}", self.child.wait()?);
        }
        // What else it prints must go somewhere, or it would wait for us.
        std::thread::spawn(move || output.lines().for_each(drop));
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It has nothing to clean up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles the C program, as fast as the compiler makes it.
pub fn build_peer(folder: &Path) -> Result<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/relay.c");
    let program = folder.join("relay");
    let status = Command::new("cc")
        .args(["-O3", "-march=native", "-Wall", "-Wextra", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .context("cannot run the C compiler (cc)")?;
    if status.success() { Ok(program) } else { bail!("the C compiler failed on {source}") }
}

/// The deadline of an event where no emulator slows guests down.
pub const HOSTED_EVENT: &str = "2ms";

/// The relay node: every budget is finite, and none of them is what limits the rate.
fn configuration() -> String {
    node_configuration(
        "relay",
        &[("in", RELAY_IN_MAC), ("out", RELAY_OUT_MAC)],
        &[("source", "in", SOURCE_MAC), ("next", "out", NEXT_MAC)],
    )
}

/// A node's configuration with budgets that are finite and larger than what a benchmark needs. The deadline
/// of an event is that of hosted nodes.
pub fn node_configuration(name: &str, links: &[(&str, Mac)], neighbors: &[(&str, &str, Mac)]) -> String {
    let mut text = format!(
        "[node]\nname = \"{name}\"\nmemory = \"32M\"\nbuffers = 4096\n\n\
         [team]\nmemory = \"8M\"\nevent = \"{HOSTED_EVENT}\"\nrate = \"100gbit\"\nburst = \"16M\"\nqueue = 1024\n"
    );
    for (name, mac) in links {
        text += &format!("\n[[link]]\nname = \"{name}\"\nmac = \"{mac}\"\nqueue = 1024\n");
    }
    for (name, link, mac) in neighbors {
        text += &format!("\n[[neighbor]]\nname = \"{name}\"\nlink = \"{link}\"\nmac = \"{mac}\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relays_configuration_is_one() {
        ee::config::NodeConfig::parse(&configuration()).unwrap();
    }
}
