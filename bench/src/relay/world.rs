//! The three places of a relay benchmark: source, relay and sink, each in a network namespace of its own,
//! joined by two veth pairs. All rows use the same devices with the same settings.
//!
//! ```text
//!    source ns            relay ns               sink ns
//!      src0 ───────── rly0      rly1 ───────── snk0
//! ```
//!
//! Nothing but the benchmark sends on them: no IPv6, and fixed entries instead of ARP. The relay's next hop
//! has a MAC address that is not that of `snk0`, so that the sink's kernel drops each frame as soon as the
//! device has counted it, whatever is in it: the sink costs all rows the same.

use std::process::Command;

use anyhow::{Context, Result, bail};
use nodeos::link::Mac;

use crate::sys::{Namespace, enable_gro};

/// MAC address of `src0`.
pub const SOURCE_MAC: Mac = Mac([2, 0xbe, 0xe5, 0, 1, 1]);
/// MAC address of `rly0`.
pub const RELAY_IN_MAC: Mac = Mac([2, 0xbe, 0xe5, 0, 2, 1]);
/// MAC address of `rly1`.
pub const RELAY_OUT_MAC: Mac = Mac([2, 0xbe, 0xe5, 0, 2, 2]);
/// MAC address of `snk0`.
const SINK_MAC: Mac = Mac([2, 0xbe, 0xe5, 0, 3, 1]);
/// MAC address of the relay's next hop.
pub const NEXT_MAC: Mac = Mac([2, 0xbe, 0xe5, 0, 4, 1]);

/// IP address of `src0`.
pub const SOURCE_IP: [u8; 4] = [10, 91, 1, 1];
/// IP address of `rly0`.
pub const RELAY_IP: [u8; 4] = [10, 91, 1, 2];
/// IP address of the relay's next hop.
pub const NEXT_IP: [u8; 4] = [10, 91, 2, 2];

/// The namespaces and devices. They go when it goes.
#[derive(Debug)]
pub struct World {
    /// Where the source is.
    pub source: Namespace,
    /// Where the relay is.
    pub relay: Namespace,
    /// Where the sink is.
    pub sink: Namespace,
}

impl World {
    /// Sets everything up. With `gro` the receiving ends take frames in batches. Needs root.
    pub fn new(gro: bool) -> Result<Self> {
        let world = Self { source: Namespace::new()?, relay: Namespace::new()?, sink: Namespace::new()? };
        for place in [&world.source, &world.relay, &world.sink] {
            place.run(no_ipv6)?;
        }
        world.relay.run(|| {
            pair("rly0", RELAY_IN_MAC, "src0", SOURCE_MAC, &world.source)?;
            pair("rly1", RELAY_OUT_MAC, "snk0", SINK_MAC, &world.sink)?;
            up("rly0")?;
            up("rly1")?;
            ip("address add 10.91.1.2/30 dev rly0")?;
            ip("address add 10.91.2.1/30 dev rly1")?;
            ip(&format!("neighbor add 10.91.2.2 lladdr {NEXT_MAC} dev rly1 nud permanent"))?;
            if gro { enable_gro("rly0") } else { Ok(()) }
        })?;
        world.source.run(|| up("src0"))?;
        world.sink.run(|| {
            up("snk0")?;
            if gro { enable_gro("snk0") } else { Ok(()) }
        })?;
        Ok(world)
    }

    /// Frames that arrived at the sink so far.
    pub fn arrived(&self) -> Result<u64> {
        self.sink.run(|| received("snk0"))
    }

    /// Frames that arrived at the relay so far.
    pub fn offered(&self) -> Result<u64> {
        self.relay.run(|| received("rly0"))
    }
}

fn pair(name: &str, mac: Mac, peer: &str, peer_mac: Mac, to: &Namespace) -> Result<()> {
    ip(&format!(
        "link add {name} address {mac} type veth \
         peer name {peer} address {peer_mac} netns {}",
        to.path()
    ))
}

fn up(device: &str) -> Result<()> {
    ip(&format!("link set dev {device} up"))
}

/// Devices made from now on in the calling thread's namespace do not announce themselves.
fn no_ipv6() -> Result<()> {
    match std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => Ok(result?),
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .context("cannot run the program ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// What a device of the calling thread's namespace has received, in frames.
fn received(device: &str) -> Result<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let counts = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let frames = counts.and_then(|counts| counts.split_whitespace().nth(1)?.parse().ok());
    frames.with_context(|| format!("no counters of {device}"))
}
