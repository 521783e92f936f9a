//! The wire process of a lab: every lab link, and the way from this machine to the nodes.
//!
//! For each link it owns two Unix datagram sockets, one per end; a datagram is a frame, which is what
//! QEMU's `-netdev dgram` and `bees-node --link unix:` speak. [`sim::medium`] says what rate, delay and
//! loss make of a frame, [`flight`] holds it until it arrives, and what arrives is written to the link's
//! capture. [`gateway`] carries TCP from ports on 127.0.0.1 to the nodes' management addresses, and from nodes to a
//! protocol server on this machine. Nothing
//! of it needs root. [`process`] is the loop around them; it sleeps when nothing is on the way.

pub mod flight;
pub mod gateway;
pub mod process;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the wire process is told: `wire.json` in the lab's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WirePlan {
    /// What losses and sequence numbers follow from.
    pub seed: u64,
    /// The lab links.
    pub links: Vec<WireLink>,
    /// The nodes' management links.
    pub nodes: Vec<WireNode>,
    /// The gateway's address on the management network.
    pub gateway: Ipv4Addr,
    /// And its MAC address.
    pub gateway_mac: [u8; 6],
    /// A protocol server on this machine, which nodes reach at the gateway's address.
    #[serde(default)]
    pub server: Option<SocketAddr>,
    /// Where to write the ports, once they are open.
    pub ports: PathBuf,
    /// Where to write the links' counters.
    pub counters: PathBuf,
}

/// A lab link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireLink {
    /// Its name.
    pub name: String,
    /// Its two ends.
    pub ends: [WireEnd; 2],
    /// How it treats frames.
    pub shape: WireShape,
    /// Where its capture goes.
    pub capture: PathBuf,
}

/// One end of a link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireEnd {
    /// The node there.
    pub node: String,
    /// The sockets.
    pub sockets: Sockets,
}

/// The two Unix datagram sockets between the wire process and a node's NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// The wire process's.
    pub wire: PathBuf,
    /// The node's.
    pub node: PathBuf,
}

impl Sockets {
    /// The sockets of the NIC called `name`, in `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        Self { wire: folder.join(format!("{name}.w")), node: folder.join(format!("{name}.n")) }
    }
}

/// A node as the management network sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireNode {
    /// Its name.
    pub name: String,
    /// The sockets of its management NIC.
    pub sockets: Sockets,
    /// That NIC's MAC address.
    pub mac: [u8; 6],
    /// The node's management address.
    pub address: Ipv4Addr,
}

/// [`sim::medium::Shape`] as it stands in `wire.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WireShape {
    rate: Option<u64>,
    delay_us: u64,
    jitter_us: u64,
    loss: f64,
    reorder: f64,
    duplicate: f64,
    queue: u64,
}

impl From<&sim::medium::Shape> for WireShape {
    fn from(shape: &sim::medium::Shape) -> Self {
        Self {
            rate: shape.rate,
            delay_us: shape.delay.as_micros() as u64,
            jitter_us: shape.jitter.as_micros() as u64,
            loss: shape.loss,
            reorder: shape.reorder,
            duplicate: shape.duplicate,
            queue: shape.queue,
        }
    }
}

impl From<WireShape> for sim::medium::Shape {
    fn from(shape: WireShape) -> Self {
        Self {
            rate: shape.rate,
            delay: Duration::from_micros(shape.delay_us),
            jitter: Duration::from_micros(shape.jitter_us),
            loss: shape.loss,
            reorder: shape.reorder,
            duplicate: shape.duplicate,
            queue: shape.queue,
        }
    }
}

/// The ports on 127.0.0.1 that lead to a node's services: what the wire process answers in
/// [`WirePlan::ports`], in the order of the plan's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The control protocol.
    pub control: u16,
    /// Protocol sessions, over TCP and by UDP.
    pub session: u16,
    /// Metrics over HTTP.
    pub metrics: u16,
}

/// What one direction of a link carried: an entry of [`WirePlan::counters`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The link.
    pub link: String,
    /// The node that sent.
    pub from: String,
    /// The node that received.
    pub to: String,
    /// Frames delivered.
    pub frames: u64,
    /// Bytes delivered.
    pub bytes: u64,
    /// Frames lost on purpose.
    pub lost: u64,
    /// Frames dropped because a queue or the receiver was full, or the receiver was not there.
    pub dropped: u64,
}
