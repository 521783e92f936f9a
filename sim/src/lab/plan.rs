//! Who has which address: every node's NICs, MAC and IP addresses, neighbors and configuration.
//!
//! | what                | value                                                                |
//! |---------------------|----------------------------------------------------------------------|
//! | node number N       | position in the lab, from 1                                          |
//! | NIC number L        | 0: management; then the node's lab links in the order of the file     |
//! | MAC address         | `02:00:00:NN:NN:LL`                                                   |
//! | management address  | `10.255.N.N/16`                                                       |
//! | UDP link number l   | `10.(1+l).0.1/24` and `.2`; from l = 254 on `10.1.1.1/24`, ...        |
//!
//! Data links have no address unless their neighbors talk over UDP.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use authagent::keys::SigningKey;
use nodeos::units::Rate;

use super::{DEFAULT_MTU, Lab, LabError};
use crate::medium::Shape;

/// Name of every node's first link.
pub(super) const MANAGEMENT: &str = "mgmt";
/// Address of a lab's wire process on the management network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 254);
/// Its MAC address.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0xff, 0xff, 0];

/// The keys of a lab, and what else stands in other files.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// The administrator's Ed25519 public key.
    pub admin: [u8; 32],
    /// Ed25519 secret seeds of the nodes' identities, in the order of the nodes.
    pub identities: Vec<[u8; 32]>,
    /// The text of each policy that a node has, by the name of its file.
    pub policies: HashMap<String, String>,
}

/// What a lab's nodes and links are called by their platforms.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The nodes, in the order of the lab.
    pub nodes: Vec<NodePlan>,
    /// The links, in the order of the lab.
    pub links: Vec<LinkPlan>,
}

/// One node.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Its memory if it is a QEMU node, in bytes.
    pub memory: u64,
    /// Bytes of its disk, if it has one.
    pub disk: Option<u64>,
    /// Its address on the management network, `/16`.
    pub management: Ipv4Addr,
    /// Its NICs; the first is the management link's.
    pub nics: Vec<Nic>,
    /// The configuration that boots it (TOML).
    pub config: String,
}

/// One NIC of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its name in the configuration: `mgmt` or the lab link's.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The lab link that it is on, and at which end (0 or 1); none for the management link.
    pub wire: Option<(usize, usize)>,
}

/// One link.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkPlan {
    /// Its name.
    pub name: String,
    /// Its ends.
    pub ends: [End; 2],
    /// Largest frame payload, in bytes.
    pub mtu: u16,
    /// How each direction behaves.
    pub shape: Shape,
}

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Position of the node.
    pub node: usize,
    /// Position among the node's NICs.
    pub nic: usize,
}

/// A MAC address as people write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub(super) fn plan(lab: &Lab, keys: &Keys) -> Result<Plan, LabError> {
    if keys.identities.len() != lab.nodes.len() {
        let text = format!("{} identities for {} nodes", keys.identities.len(), lab.nodes.len());
        return Err(LabError::without_place(text));
    }
    let mut nics: Vec<Vec<Nic>> = (0..lab.nodes.len()).map(|n| vec![nic(n, 0, MANAGEMENT, None)]).collect();
    let mut links = Vec::with_capacity(lab.links.len());
    for (l, link) in lab.links.iter().enumerate() {
        let mut ends = [End { node: 0, nic: 0 }; 2];
        for (end, &node) in link.ends.iter().enumerate() {
            ends[end] = End { node, nic: nics[node].len() };
            let made = nic(node, ends[end].nic, &link.name, Some((l, end)));
            nics[node].push(made);
        }
        links.push(LinkPlan { name: link.name.clone(), ends, mtu: link.mtu, shape: link.shape });
    }
    let nodes = (0..lab.nodes.len()).map(|n| node_plan(lab, keys, &links, &nics, n));
    Ok(Plan { nodes: nodes.collect::<Result<_, _>>()?, links })
}

fn nic(node: usize, number: usize, name: &str, wire: Option<(usize, usize)>) -> Nic {
    let [.., n1, n0] = (node as u32 + 1).to_be_bytes();
    // A node has at most 64 links.
    Nic { name: name.into(), mac: [2, 0, 0, n1, n0, number as u8], wire }
}

fn node_plan(
    lab: &Lab,
    keys: &Keys,
    links: &[LinkPlan],
    nics: &[Vec<Nic>],
    n: usize,
) -> Result<NodePlan, LabError> {
    let node = &lab.nodes[n];
    let agent = agent(node, keys)?;
    let [.., n1, n0] = (n as u32 + 1).to_be_bytes();
    let management = Ipv4Addr::new(10, 255, n1, n0);
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut line = |t: std::fmt::Arguments<'_>| writeln!(text, "{t}").unwrap_or_default();
    line(format_args!("[node]\nname = \"{}\"\nidentity = \"{}\"", node.name, hex(&keys.identities[n])));
    line(format_args!("{agent}\n\n[control]\nadmin = \"{}\"\nmetrics = true", hex(&keys.admin)));
    if !node.start.is_empty() {
        let start = toml::Value::from(node.start.clone());
        line(format_args!("\n[server]\naddress = \"{GATEWAY}:{}\"\nstart = {start}", wire::SERVER_PORT));
    }
    line(format_args!("\n[team]\n{}", super::file::team_lines(&lab.defaults.team)));
    line(format_args!("\n[[link]]\nname = \"{MANAGEMENT}\"\nmac = \"{}\"", mac_text(nics[n][0].mac)));
    line(format_args!("address = \"{management}/16\"\nmanagement = true"));
    let mut met: Vec<usize> = Vec::new();
    let (mut discovers, mut proves) = (false, true);
    for nic in &nics[n] {
        let Some((l, end)) = nic.wire else { continue };
        let link = &lab.links[l];
        line(format_args!("\n[[link]]\nname = \"{}\"\nmac = \"{}\"", nic.name, mac_text(nic.mac)));
        if link.mtu != DEFAULT_MTU {
            line(format_args!("mtu = {}", link.mtu));
        }
        if let Some(rate) = link.shape.rate {
            line(format_args!("rate = \"{}\"", Rate(rate)));
        }
        if link.udp {
            line(format_args!("address = \"{}/24\"", udp_address(l, end)));
        }
        if link.discover {
            line(format_args!("discover = true"));
            (discovers, proves) = (true, proves && lab.protects(link));
            continue;
        }
        let other = links[l].ends[1 - end];
        let name = &lab.nodes[other.node].name;
        // Over another link the same node is another neighbor, with a name of its own.
        met.push(other.node);
        let name = match met.iter().filter(|&&m| m == other.node).count() {
            1 => name.clone(),
            n => format!("{name}#{n}"),
        };
        line(format_args!("\n[[neighbor]]\nname = \"{name}\"\nlink = \"{}\"", nic.name));
        if link.udp {
            line(format_args!("udp = \"{}:{}\"", udp_address(l, 1 - end), wire::UDP_PORT));
        } else {
            line(format_args!("mac = \"{}\"", mac_text(nics[other.node][other.nic].mac)));
        }
        let key = SigningKey::from_seed(&keys.identities[other.node]).public();
        line(format_args!("key = \"{key}\""));
        if !lab.protects(link) {
            line(format_args!("protect = false"));
        }
    }
    if discovers && proves {
        // Neighbors of the configuration have their names already.
        let others = (0..lab.nodes.len()).filter(|other| *other != n && !met.contains(other));
        let known = others.map(|other| {
            let key = SigningKey::from_seed(&keys.identities[other]).public();
            format!("\"{}\" = \"{key}\"", lab.nodes[other].name)
        });
        line(format_args!(
            "\n[discovery]\nprotect = true\nkeys = {{ {} }}",
            known.collect::<Vec<_>>().join(", ")
        ));
    }
    let memory = node.memory.unwrap_or(lab.defaults.memory);
    let (name, disk) = (node.name.clone(), node.disk);
    Ok(NodePlan { name, memory, disk, management, nics: nics[n].clone(), config: text })
}

/// The lines of `[node]` about the Auth Agent.
fn agent(node: &super::Node, keys: &Keys) -> Result<String, LabError> {
    let Some(file) = &node.policy else { return Ok("agent = \"everything\"".into()) };
    let missing = || LabError::without_place(format!("the policy {file} of node {} is missing", node.name));
    let text = keys.policies.get(file).ok_or_else(missing)?;
    Ok(format!("agent = \"source-based\"\npolicy = {}", toml::Value::from(text.as_str())))
}

fn udp_address(link: usize, end: usize) -> Ipv4Addr {
    // A lab has fewer than 254 * 256 links.
    Ipv4Addr::new(10, 1 + (link % 254) as u8, (link / 254) as u8, 1 + end as u8)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn keys(n: usize) -> Keys {
        Keys { admin: [0xad; 32], identities: vec![[7; 32]; n], ..Keys::default() }
    }

    #[test]
    fn a_line_as_documented() {
        let plan = Lab::line(3).plan(&keys(3)).unwrap();
        let b = &plan.nodes[1];
        assert_eq!(b.management, Ipv4Addr::new(10, 255, 0, 2));
        assert_eq!(mac_text(b.nics[2].mac), "02:00:00:00:02:02");
        assert_eq!(b.nics[2].wire, Some((1, 0)));
        assert_eq!(plan.links[1].ends, [End { node: 1, nic: 2 }, End { node: 2, nic: 1 }]);
        let c: toml::Table = b.config.parse().unwrap();
        assert!(c["team"].as_table().unwrap().is_empty(), "what the file does not say is the node's default");
        assert_eq!(c["link"].as_array().unwrap().len(), 3);
        assert_eq!(c["neighbor"][1]["name"].as_str(), Some("n3"));
        assert_eq!(c["neighbor"][1]["link"].as_str(), Some("n2-n3"));
        assert_eq!(c["neighbor"][1]["mac"].as_str(), Some("02:00:00:00:03:01"));
        assert_eq!(c["control"]["admin"].as_str(), Some("ad".repeat(32).as_str()));
    }

    #[test]
    fn a_policy_comes_with_its_agent() {
        let mut lab = Lab::line(2);
        lab.nodes[1].policy = Some("b.toml".into());
        let without = lab.plan(&keys(2)).unwrap_err();
        assert_eq!(without.text, "the policy b.toml of node n2 is missing");
        let text = "# it's \\ '''quoted'''\n[unsigned]\nprivileges = [\"x\"]\n";
        let policies = [("b.toml".to_string(), text.to_string())].into();
        let plan = lab.plan(&Keys { policies, ..keys(2) }).unwrap();
        let config = |n: usize| plan.nodes[n].config.parse::<toml::Table>().unwrap();
        assert_eq!(config(0)["node"]["agent"].as_str(), Some("everything"));
        assert_eq!(config(1)["node"]["agent"].as_str(), Some("source-based"));
        assert_eq!(config(1)["node"]["policy"].as_str(), Some(text));
    }

    #[test]
    fn a_server_is_reached_through_the_gateway() {
        let mut lab = Lab::line(2);
        lab.nodes[1].start = vec!["hello".into(), "ping".into()];
        assert!(lab.plan(&keys(2)).is_err(), "there is no server");
        lab.defaults.server = Some(([127, 0, 0, 1], 4000).into());
        let plan = lab.plan(&keys(2)).unwrap();
        let config: toml::Table = plan.nodes[1].config.parse().unwrap();
        assert_eq!(config["server"]["address"].as_str(), Some("10.255.255.254:3325"));
        assert_eq!(config["server"]["start"].as_array().unwrap().len(), 2);
        assert!(!plan.nodes[0].config.contains("[server]"));
    }

    #[test]
    fn who_is_to_be_discovered_is_not_told_of() {
        let mut lab = Lab::line(3);
        lab.links.iter_mut().for_each(|link| link.discover = true);
        let mut own = keys(3);
        own.identities = vec![[1; 32], [2; 32], [3; 32]];
        let config = |lab: &Lab| lab.plan(&own).unwrap().nodes[1].config.parse::<toml::Table>().unwrap();
        let b = config(&lab);
        assert!(b.get("neighbor").is_none() && b["link"][1]["discover"].as_bool() == Some(true));
        assert_eq!(b["discovery"]["keys"].as_table().unwrap().keys().collect::<Vec<_>>(), ["n1", "n3"]);
        lab.defaults.protect = false;
        assert!(config(&lab).get("discovery").is_none());
    }

    #[test]
    fn udp_links_have_addresses() {
        let mut lab = Lab::line(3);
        lab.links[1].udp = true;
        let plan = lab.plan(&keys(3)).unwrap();
        let b: toml::Table = plan.nodes[1].config.parse().unwrap();
        assert!(b["link"][1].get("address").is_none());
        assert_eq!(b["link"][2]["address"].as_str(), Some("10.2.0.1/24"));
        assert_eq!(b["neighbor"][1]["udp"].as_str(), Some("10.2.0.2:3322"));
    }

    #[test]
    fn parallel_links_make_neighbors_of_different_names() {
        let mut lab = Lab::line(2);
        lab.connect(1, 0);
        let plan = lab.plan(&keys(2)).unwrap();
        let a: toml::Table = plan.nodes[0].config.parse().unwrap();
        let names: Vec<_> =
            a["neighbor"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["n2", "n2#2"]);
    }

    #[test]
    fn addresses_are_unique_in_large_labs() {
        let lab = Lab::random(600, 6, 1);
        let plan = lab.plan(&keys(600)).unwrap();
        let macs: HashSet<_> = plan.nodes.iter().flat_map(|n| n.nics.iter().map(|nic| nic.mac)).collect();
        assert_eq!(macs.len(), 600 + 2 * lab.links.len());
        assert!(!macs.contains(&GATEWAY_MAC));
        let addresses: HashSet<_> = plan.nodes.iter().map(|n| n.management).collect();
        assert_eq!(addresses.len(), 600);
        assert!(!addresses.contains(&GATEWAY));
    }

    #[test]
    fn keys_and_nodes_must_match() {
        assert!(Lab::line(3).plan(&keys(2)).is_err());
    }
}
