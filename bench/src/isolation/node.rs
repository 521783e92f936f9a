//! The node under test: a Linux process or the image in QEMU, on a processor of its own.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use authagent::keys::SigningKey;
use host::link::Link;
use nodeos::link::Mac;

use crate::image::Image;
use crate::image::machine::{Machine, Scratch};
use crate::sys::pin;

/// Seeds of the administrator's key and of the node's identity.
pub const ADMIN_SEED: [u8; 32] = [0xad; 32];
const IDENTITY: [u8; 32] = [0x1d; 32];
/// The node's cards: management, and one towards each of a, c and d.
pub const CARDS: [Mac; 4] = [mac(2, 0), mac(2, 1), mac(2, 2), mac(2, 3)];
/// The other ends of the last three.
pub const PEERS: [Mac; 3] = [mac(1, 1), mac(3, 1), mac(4, 1)];
/// The node's management address.
pub const ADDRESS: [u8; 4] = [10, 255, 0, 2];
/// MiB of the machine.
const MEMORY: u32 = 128;
const PATIENCE: Duration = Duration::from_secs(60);

const fn mac(node: u8, nic: u8) -> Mac {
    Mac([2, 0, 0, 0, node, nic])
}

/// Where the node runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// A Linux process.
    Hosted,
    /// QEMU, by translation.
    Image(Image),
}

impl Place {
    /// What tables call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hosted => "hosted",
            Self::Image(_) => "image",
        }
    }

    /// How long an event of a guest may take there, unless the command line says otherwise: what nodes and
    /// labs have without being told.
    pub fn event(&self) -> Duration {
        Duration::from_millis(match self {
            Self::Hosted => 2,
            Self::Image(_) => 50,
        })
    }
}

/// A running node; it ends with this.
pub struct Node {
    running: Running,
}

enum Running {
    Hosted { child: Child, folder: Scratch },
    Image(Box<Machine>),
}

impl Node {
    /// Starts it on processor `cpu`; the caller runs on `home`.
    pub fn start(place: &Place, event: Duration, cpu: usize, home: usize) -> Result<Self> {
        let configuration = configuration(event);
        pin(cpu)?;
        let running = match place {
            Place::Hosted => hosted(&configuration),
            Place::Image(image) => {
                Machine::start(image, &configuration, MEMORY, &CARDS).map(|m| Running::Image(Box::new(m)))
            }
        };
        pin(home)?;
        Ok(Self { running: running? })
    }

    /// This program's end of a card.
    pub fn link(&self, number: usize) -> Result<Link> {
        match &self.running {
            Running::Hosted { folder, .. } => {
                Ok(Link::unix(&end(folder, 'b', number), &end(folder, 'q', number))?)
            }
            Running::Image(machine) => machine.link(number),
        }
    }

    /// Waits until a machine is up; a process is reached when it listens.
    pub fn wait(&mut self) -> Result<()> {
        match &mut self.running {
            Running::Hosted { .. } => Ok(()),
            Running::Image(machine) => machine.wait_for("] ready", PATIENCE).map(drop),
        }
    }

    /// What it said last.
    pub fn last_words(&mut self) -> String {
        match &mut self.running {
            Running::Hosted { folder, .. } => {
                let text = std::fs::read_to_string(folder.file("console")).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                lines[lines.len().saturating_sub(10)..].join("\n")
            }
            Running::Image(machine) => machine.last_words(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Running::Hosted { child, .. } = &mut self.running {
            // It has nothing to save.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn end(folder: &Scratch, which: char, number: usize) -> std::path::PathBuf {
    folder.file(&format!("{which}{number}"))
}

fn hosted(configuration: &str) -> Result<Running> {
    let folder = Scratch::new("isolation")?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("serve-isolated")
        .arg(folder.file(""))
        .stdin(Stdio::piped())
        .stdout(File::create(folder.file("console"))?)
        .spawn()
        .context("cannot start the node")?;
    child.stdin.take().context("the node has no input")?.write_all(configuration.as_bytes())?;
    Ok(Running::Hosted { child, folder })
}

/// The node's own ends of its links, in its process.
pub fn links(folder: &Path) -> Result<Vec<Link>> {
    let path = |which: char, number: usize| folder.join(format!("{which}{number}"));
    let open = |number| Link::unix(&path('q', number), &path('b', number));
    (0..CARDS.len()).map(|number| Ok(open(number)?)).collect()
}

/// What a node has without being told, but for the links, which are in the clear: the ends send raw frames.
fn configuration(event: Duration) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let admin = SigningKey::from_seed(&ADMIN_SEED).public();
    let [a, b, c, d] = ADDRESS;
    let mut text = format!(
        "[node]\nname = \"b\"\nidentity = \"{}\"\n\n[control]\nadmin = \"{admin}\"\n\n\
         [team]\nevent = \"{}us\"\n\n\
         [[link]]\nname = \"mgmt\"\nmac = \"{}\"\naddress = \"{a}.{b}.{c}.{d}/16\"\nmanagement = true\n",
        hex(&IDENTITY),
        event.as_micros(),
        CARDS[0]
    );
    for ((name, own), peer) in ["a", "c", "d"].iter().zip(&CARDS[1..]).zip(&PEERS) {
        text += &format!("\n[[link]]\nname = \"{name}\"\nmac = \"{own}\"\n");
        text += &format!("\n[[neighbor]]\nname = \"{name}\"\nlink = \"{name}\"\nmac = \"{peer}\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one() {
        ee::config::NodeConfig::parse(&configuration(Duration::from_millis(2))).unwrap();
    }
}
