//! Labs: nodes and links between them, the same file for QEMU, hosted nodes and the simulator.
//!
//! [`Lab::parse`] reads a lab file (`docs/architecture.md` has its keys), the generators in [`Lab`] make
//! topologies of any size, and [`Lab::plan`] gives every node its addresses and its configuration.
//!
//! ```
//! let lab = sim::lab::Lab::line(3);
//! let identities = vec![[2; 32], [3; 32], [4; 32]];
//! let keys = sim::lab::Keys { admin: [1; 32], identities, ..Default::default() };
//! let plan = lab.plan(&keys).unwrap();
//! assert_eq!(plan.nodes[1].nics.len(), 3); // management, and a link on each side
//! ```

mod file;
mod plan;
mod share;
mod topology;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;

pub use plan::{End, GATEWAY, GATEWAY_MAC, Keys, LinkPlan, Nic, NodePlan, Plan, mac_text};

use nodeos::store::{MAX_DISK, MIN_DISK};
use wire::budget::Section;

use crate::medium::Shape;

/// The most nodes of a lab.
pub const MAX_NODES: usize = 4096;
/// The most links of a lab.
pub const MAX_LINKS: usize = 16_384;
/// The most lab links of one node; with the management link that makes the 64 that a node can have.
pub const MAX_NODE_LINKS: usize = 63;
/// The longest name of a lab, a node or a link, in characters; a node's own limit is 32, and the name of a
/// neighbor may get a number behind it.
pub const MAX_NAME: usize = 28;
/// The principal that every lab has: who deployed it.
pub const ADMIN: &str = "admin";
/// Largest frame payload of a link unless the lab says otherwise, in bytes.
pub const DEFAULT_MTU: u16 = 1500;
/// Memory of a QEMU node unless the lab says otherwise, in bytes.
pub const DEFAULT_MEMORY: u64 = 64 << 20;

/// Nodes and links between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// What holds for every node.
    pub defaults: Defaults,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The links.
    pub links: Vec<Link>,
    /// The principals whose keys come with the lab.
    pub principals: Vec<Principal>,
    /// What the demonstration injects.
    pub injects: Vec<Inject>,
}

/// What holds for every node.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Memory of a QEMU node, in bytes.
    pub memory: u64,
    /// The `[team]` section of every node's configuration.
    pub team: Section,
    /// Links are protected.
    pub protect: bool,
    /// A protocol server on this machine, which deployed nodes reach as the gateway's.
    pub server: Option<SocketAddr>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { memory: DEFAULT_MEMORY, team: Section::default(), protect: true, server: None }
    }
}

/// A node of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its memory if it is a QEMU node, in bytes, where it differs from [`Defaults::memory`].
    pub memory: Option<u64>,
    /// Bytes of its disk, if it has one.
    pub disk: Option<u64>,
    /// The policy of its Auth Agent, which then is `source-based`: the name of a file. Without one the
    /// agent is `everything`.
    pub policy: Option<String>,
    /// The flows that it fetches from [`Defaults::server`] when it starts: names, or hashes.
    pub start: Vec<String>,
}

/// A principal whose key comes with a lab, so that its policies can name it and its flows be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name, as tuples and policies have it.
    pub name: String,
    /// The kind of key that is made for it.
    pub kind: KeyKind,
    /// The file of a key that it has already; none is made then.
    pub key: Option<String>,
}

/// Kinds of principals' keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// Ed25519.
    #[default]
    Ed25519,
    /// RSA.
    Rsa,
}

/// A link of a lab.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Positions of the two nodes in [`Lab::nodes`].
    pub ends: [usize; 2],
    /// Its neighbors talk over UDP 3322 instead of directly over Ethernet.
    pub udp: bool,
    /// Largest frame payload, in bytes.
    pub mtu: u16,
    /// How each direction behaves.
    pub shape: Shape,
    /// Its ends prove who they are and seal what they send; where it says nothing, [`Defaults::protect`] does.
    pub protect: Option<bool>,
    /// Its ends know nothing of each other, but for their keys where it is protected: they find each other.
    pub discover: bool,
}

/// A protocol that the demonstration injects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inject {
    /// The protocol's name.
    pub protocol: String,
    /// Position of the node in [`Lab::nodes`].
    pub node: usize,
    /// Position in [`Lab::principals`] of who signs it, if somebody does.
    pub principal: Option<usize>,
    /// Privileges to ask for; one with a question mark behind it is optional.
    pub privileges: Vec<String>,
    /// The protocols that serve it, by interface; a companion's own as `OUTER/INNER`.
    pub companions: BTreeMap<String, String>,
    /// Settings other than the protocols' own, as `bees flow build --param` has them.
    pub params: BTreeMap<String, String>,
}

impl Lab {
    /// Reads a lab file. The operator erred where it is refused.
    pub fn parse(text: &str) -> Result<Self, LabError> {
        file::parse(text)
    }

    /// The lab as a file: parsing it gives this lab again.
    pub fn to_toml(&self) -> String {
        file::print(self)
    }

    /// Position of the node with this name.
    pub fn node(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|n| n.name == name)
    }

    /// Position of the link with this name.
    pub fn link(&self, name: &str) -> Option<usize> {
        self.links.iter().position(|l| l.name == name)
    }

    /// Whether a link is protected.
    pub fn protects(&self, link: &Link) -> bool {
        link.protect.unwrap_or(self.defaults.protect)
    }

    /// Gives every link the same shape.
    #[must_use]
    pub fn shaped(mut self, shape: Shape) -> Self {
        for link in &mut self.links {
            link.shape = shape;
        }
        self
    }

    /// Makes every node's addresses and configuration.
    pub fn plan(&self, keys: &Keys) -> Result<Plan, LabError> {
        self.check().map_err(|flaw| LabError::without_place(flaw.text))?;
        plan::plan(self, keys)
    }

    /// What the types alone do not ensure.
    fn check(&self) -> Result<(), Flaw> {
        check_name(&self.name, "lab").map_err(|t| Flaw::new(Place::Lab, t))?;
        if self.nodes.is_empty() || self.nodes.len() > MAX_NODES || self.links.len() > MAX_LINKS {
            let text = format!("a lab has 1 to {MAX_NODES} nodes and up to {MAX_LINKS} links");
            return Err(Flaw::new(Place::Lab, text));
        }
        let mut names = HashSet::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let fail = |text| Flaw::new(Place::Node(i), text);
            check_name(&node.name, "node").map_err(fail)?;
            if !names.insert(&node.name) {
                return Err(fail(format!("two nodes are named \"{}\"", node.name)));
            }
            if !node.start.is_empty() && self.defaults.server.is_none_or(|server| !server.ip().is_loopback())
            {
                return Err(fail(
                    "what it starts comes from the server of [defaults], on this machine".into(),
                ));
            }
            if node.disk.is_some_and(|bytes| !(MIN_DISK..=MAX_DISK).contains(&bytes)) {
                return Err(fail("a disk has 64K to 64M".into()));
            }
        }
        names.clear();
        let mut used = vec![0; self.nodes.len()];
        for (i, link) in self.links.iter().enumerate() {
            let fail = |text| Flaw::new(Place::Link(i), text);
            check_name(&link.name, "link").map_err(fail)?;
            if link.name == plan::MANAGEMENT || !names.insert(&link.name) {
                return Err(fail(format!("the name \"{}\" is taken by another link", link.name)));
            }
            self.check_link(link, &mut used).map_err(fail)?;
        }
        names.clear();
        for (i, principal) in self.principals.iter().enumerate() {
            let fail = |text| Flaw::new(Place::Principal(i), text);
            check_name(&principal.name, "principal").map_err(fail)?;
            if principal.name == ADMIN || !names.insert(&principal.name) {
                return Err(fail(format!("the name \"{}\" is taken by another principal", principal.name)));
            }
        }
        let stray = |inject: &Inject| {
            inject.node >= self.nodes.len() || inject.principal.is_some_and(|p| p >= self.principals.len())
        };
        match self.injects.iter().position(stray) {
            Some(i) => {
                let text = "an inject names a node or a principal that there is not".into();
                Err(Flaw::new(Place::Inject(i), text))
            }
            None => Ok(()),
        }
    }

    fn check_link(&self, link: &Link, used: &mut [usize]) -> Result<(), String> {
        let [a, b] = link.ends;
        if a == b {
            return Err("a link has two different ends".into());
        }
        for end in link.ends {
            let used = used.get_mut(end).ok_or("a link ends at a node that there is not")?;
            *used += 1;
            if *used > MAX_NODE_LINKS {
                let name = &self.nodes[end].name;
                return Err(format!("node \"{name}\" has more than {MAX_NODE_LINKS} links"));
            }
        }
        if link.udp && link.discover {
            return Err("adverts are for the stations of one link: udp needs its neighbors configured".into());
        }
        if !(576..=1500).contains(&link.mtu) {
            return Err(format!("an mtu of {} is not between 576 and 1500", link.mtu));
        }
        let shares = [link.shape.loss, link.shape.reorder, link.shape.duplicate];
        if shares.iter().any(|p| !(0.0..=1.0).contains(p)) {
            return Err("a share is between 0% and 100%".into());
        }
        Ok(())
    }
}

/// Names appear in paths, on command lines and in pictures.
fn check_name(name: &str, what: &str) -> Result<(), String> {
    let fine = (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fine {
        Ok(())
    } else {
        Err(format!("the name of a {what} is 1 to {MAX_NAME} letters, digits, \"-\", \"_\" or \".\""))
    }
}

/// What is wrong, and with which part of the lab.
struct Flaw {
    place: Place,
    text: String,
}

impl Flaw {
    fn new(place: Place, text: String) -> Self {
        Self { place, text }
    }
}

/// A part of a lab.
#[derive(Clone, Copy)]
enum Place {
    Lab,
    Node(usize),
    Link(usize),
    Principal(usize),
    Inject(usize),
}

/// The operator's lab cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabError {
    /// Line of the lab file, from 1; 0 for a lab that came from no file.
    pub line: usize,
    /// Column, in characters from 1; 0 for a lab that came from no file.
    pub column: usize,
    /// What is wrong.
    pub text: String,
}

impl LabError {
    fn without_place(text: String) -> Self {
        Self { line: 0, column: 0, text }
    }

    fn at(text: String, file: &str, offset: usize) -> Self {
        let before = file.get(..offset).unwrap_or(file);
        let line = 1 + before.matches('\n').count();
        let column = 1 + before.rsplit('\n').next().map_or(0, |l| l.chars().count());
        Self { line, column, text }
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for LabError {}
