//! Links and neighbors as the node's configuration (TOML) states them.
//!
//! Unknown keys are errors. What serde cannot see, such as a gateway outside the link's network, is found
//! by [`check`]. All errors here are the operator's.

use crate::channel::Address;
use crate::link::Mac;
use crate::units::{Rate, Time};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use smoltcp::wire::IpCidr;

/// The largest MTU that packet buffers have room for, with headers to spare.
pub const MAX_MTU: u16 = 1500;
/// The smallest MTU: what every IPv4 host accepts (RFC 791).
pub const MIN_MTU: u16 = 576;
/// The longest name of a link or neighbor, in bytes.
pub const MAX_NAME: usize = 32;

/// One `[[link]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Its name, unique in the node.
    pub name: String,
    /// The NIC's MAC address. Without one the platform puts in that of the next NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The node's IP address here; without one the link carries capsules over Ethernet only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<LinkAddress>,
    /// Where packets for other networks go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Whether the control and session servers listen here.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub management: bool,
    /// The largest frame payload, in bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Bound on what is sent, all teams together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Frames that wait to be sent.
    #[serde(default = "default_queue")]
    pub queue: u16,
    /// How the neighbors here are watched, unless theirs says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<LivenessConfig>,
    /// The node makes itself known here, and whoever does the same becomes its neighbor.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub discover: bool,
}

/// How a neighbor is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LivenessConfig {
    /// Time between two pokes.
    pub poke: Time,
    /// Silence after which it is dead.
    pub expire: Time,
}

impl LivenessConfig {
    /// The shortest time between two pokes.
    pub const LEAST: Duration = Duration::from_millis(10);
    /// The longest time until a death.
    pub const MOST: Duration = Duration::from_secs(3600);

    /// Whether these times make sense together, with pokes no more often than that.
    pub fn is_within(&self, least: Duration) -> bool {
        let (Time(poke), Time(expire)) = (self.poke, self.expire);
        poke >= least && expire <= Self::MOST && expire >= poke.saturating_mul(2)
    }

    /// The same with pokes no more often than that, and an expiry of two of them at least.
    #[must_use]
    pub fn no_more_often(self, least: Duration) -> Self {
        let poke = self.poke.0.max(least);
        Self { poke: Time(poke), expire: Time(self.expire.0.max(poke.saturating_mul(2))) }
    }
}

impl LinkConfig {
    /// A link with this name and address and defaults for the rest.
    pub fn new(name: &str, mac: Mac) -> Self {
        Self {
            name: name.into(),
            mac: Some(mac),
            address: None,
            gateway: None,
            management: false,
            mtu: default_mtu(),
            rate: None,
            queue: default_queue(),
            liveness: None,
            discover: false,
        }
    }
}

fn default_mtu() -> u16 {
    MAX_MTU
}

fn default_queue() -> u16 {
    256
}

/// A link's IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkAddress {
    /// Asked for by DHCP (IPv4).
    Dhcp,
    /// Fixed, with its prefix length.
    Static(IpCidr),
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp => f.write_str("dhcp"),
            Self::Static(cidr) => cidr.fmt(f),
        }
    }
}

impl Serialize for LinkAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LinkAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        if text == "dhcp" {
            return Ok(Self::Dhcp);
        }
        let expected = || {
            D::Error::custom("expected \"dhcp\" or an address with prefix length, such as \"10.1.0.1/24\"")
        };
        text.parse().map(Self::Static).map_err(|()| expected())
    }
}

/// One `[[neighbor]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NeighborText", into = "NeighborText")]
pub struct NeighborConfig {
    /// Its name, unique in the node.
    pub name: String,
    /// The name of the link that it is on.
    pub link: String,
    /// How to reach it there.
    pub address: Address,
    /// Its Ed25519 identity, 64 hexadecimal digits.
    pub key: Option<String>,
    /// Whether the link to it is protected.
    pub protect: Protect,
    /// How it is watched, where that differs from its link's.
    pub liveness: Option<LivenessConfig>,
}

/// Whether the link to a neighbor is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protect {
    /// If the neighbor's key is given and the node has an identity.
    #[default]
    WithKeys,
    /// `false`: never.
    Never,
    /// `"require"`: in any case; a configuration that lacks what it takes is refused.
    Require,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum ProtectText {
    Switch(bool),
    Word(String),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NeighborText {
    name: String,
    link: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    udp: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protect: Option<ProtectText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    liveness: Option<LivenessConfig>,
}

impl TryFrom<NeighborText> for NeighborConfig {
    type Error = ConfigError;
    fn try_from(text: NeighborText) -> Result<Self, ConfigError> {
        let address = match (text.mac, text.udp) {
            (Some(mac), None) => Address::Ethernet(mac),
            (None, Some(udp)) => Address::Udp(udp),
            _ => return Err(ConfigError(format!("neighbor {:?}: give either mac or udp", text.name))),
        };
        let protect = match text.protect {
            None => Protect::WithKeys,
            Some(ProtectText::Switch(false)) => Protect::Never,
            Some(ProtectText::Word(word)) if word == "require" => Protect::Require,
            Some(_) => {
                let what = "protect is false or \"require\"; it is on where key is given";
                return Err(ConfigError(format!("neighbor {:?}: {what}", text.name)));
            }
        };
        let liveness = text.liveness;
        Ok(Self { name: text.name, link: text.link, address, key: text.key, protect, liveness })
    }
}

impl From<NeighborConfig> for NeighborText {
    fn from(config: NeighborConfig) -> Self {
        let (mac, udp) = match config.address {
            Address::Ethernet(mac) => (Some(mac), None),
            Address::Udp(udp) => (None, Some(udp)),
        };
        let protect = match config.protect {
            Protect::WithKeys => None,
            Protect::Never => Some(ProtectText::Switch(false)),
            Protect::Require => Some(ProtectText::Word("require".to_string())),
        };
        let liveness = config.liveness;
        Self { name: config.name, link: config.link, mac, udp, key: config.key, protect, liveness }
    }
}

/// What is wrong with a configuration, and where. The operator erred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ConfigError {}

/// Checks links and neighbors for what each of them cannot show alone.
pub fn check(links: &[LinkConfig], neighbors: &[NeighborConfig]) -> Result<(), ConfigError> {
    for (n, link) in links.iter().enumerate() {
        let fail = |what: &str| Err(ConfigError(format!("link {:?}: {what}", link.name)));
        if let Err(e) = check_link(link) {
            return fail(&e);
        }
        let earlier = &links[..n];
        if earlier.iter().any(|other| other.name == link.name) {
            return fail("another link has the same name");
        }
        if link.mac.is_some() && earlier.iter().any(|other| other.mac == link.mac) {
            return fail("another link has the same mac");
        }
    }
    for (n, neighbor) in neighbors.iter().enumerate() {
        let fail = |what: &str| Err(ConfigError(format!("neighbor {:?}: {what}", neighbor.name)));
        let Some(link) = links.iter().find(|link| link.name == neighbor.link) else {
            return fail(&format!("there is no link {:?}", neighbor.link));
        };
        if let Err(e) = check_neighbor(neighbor, link) {
            return fail(&e);
        }
        let earlier = &neighbors[..n];
        if earlier.iter().any(|other| other.name == neighbor.name) {
            return fail("another neighbor has the same name");
        }
        if earlier.iter().any(|other| other.link == neighbor.link && other.address == neighbor.address) {
            return fail("another neighbor has the same address");
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty()
        || name.len() > MAX_NAME
        || name.contains(|c: char| c.is_control() || c.is_whitespace())
    {
        return Err(format!("a name has 1 to {MAX_NAME} bytes and no white space"));
    }
    Ok(())
}

fn check_link(link: &LinkConfig) -> Result<(), String> {
    check_name(&link.name)?;
    if link.mac.is_some_and(|mac| !mac.is_unicast()) {
        return Err("mac is not the address of one NIC".to_string());
    }
    if !(MIN_MTU..=MAX_MTU).contains(&link.mtu) {
        return Err(format!("mtu is not between {MIN_MTU} and {MAX_MTU}"));
    }
    if link.queue == 0 {
        return Err("queue must have room for one frame".to_string());
    }
    check_liveness(link.liveness)?;
    match (link.address, link.gateway) {
        (None, _) if link.management => Err("management needs an address".to_string()),
        (None, Some(_)) => Err("gateway needs an address".to_string()),
        (Some(LinkAddress::Dhcp), Some(_)) => Err("with DHCP the gateway comes from there".to_string()),
        (Some(LinkAddress::Static(cidr)), gateway) => check_address(cidr, gateway, link.mtu),
        _ => Ok(()),
    }
}

fn check_liveness(config: Option<LivenessConfig>) -> Result<(), String> {
    if config.is_none_or(|config| config.is_within(LivenessConfig::LEAST)) {
        return Ok(());
    }
    let (least, most) = (Time(LivenessConfig::LEAST), Time(LivenessConfig::MOST));
    Err(format!("liveness: poke is at least {least}, expire twice that at least and {most} at most"))
}

fn check_address(cidr: IpCidr, gateway: Option<IpAddr>, mtu: u16) -> Result<(), String> {
    if !is_host(cidr.address().into()) || cidr.prefix_len() == 0 {
        return Err("address is not that of a host with its network's prefix length".to_string());
    }
    if matches!(cidr, IpCidr::Ipv6(_)) && mtu < 1280 {
        return Err("IPv6 needs an mtu of at least 1280".to_string());
    }
    match gateway {
        Some(g) if !is_host(g) || !cidr.contains_addr(&g.into()) || cidr.address() == g.into() => {
            Err("gateway is not another host in the link's network".to_string())
        }
        _ => Ok(()),
    }
}

fn check_neighbor(neighbor: &NeighborConfig, link: &LinkConfig) -> Result<(), String> {
    check_name(&neighbor.name)?;
    if neighbor.name.starts_with('~') {
        return Err("names with ~ are those of discovered neighbors".to_string());
    }
    check_liveness(neighbor.liveness)?;
    match neighbor.address {
        Address::Ethernet(mac) if !mac.is_unicast() => Err("mac is not the address of one NIC".to_string()),
        Address::Ethernet(mac) if link.mac == Some(mac) => Err("mac is the link's own".to_string()),
        Address::Udp(udp) => check_udp(udp, link),
        Address::Ethernet(_) => Ok(()),
    }
}

fn check_udp(udp: SocketAddr, link: &LinkConfig) -> Result<(), String> {
    if !is_host(udp.ip()) || udp.port() == 0 {
        return Err("udp is not the address and port of a host".to_string());
    }
    match link.address {
        None => Err("its link has no IP address".to_string()),
        Some(LinkAddress::Dhcp) if udp.is_ipv6() => Err("its link has IPv4 only".to_string()),
        Some(LinkAddress::Static(own)) => {
            let ip = udp.ip().into();
            if matches!(own, IpCidr::Ipv4(_)) != udp.is_ipv4() {
                Err("its link has an address of the other IP version".to_string())
            } else if own.address() == ip {
                Err("udp is the link's own address".to_string())
            } else if !own.contains_addr(&ip) && link.gateway.is_none() {
                Err("it is in another network and its link has no gateway".to_string())
            } else {
                Ok(())
            }
        }
        Some(LinkAddress::Dhcp) => Ok(()),
    }
}

/// Whether an address can be one host's.
pub(crate) fn is_host(ip: IpAddr) -> bool {
    let group = ip.is_multicast() || ip.is_unspecified() || ip.is_loopback();
    !group && ip != IpAddr::V4(core::net::Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::Budget;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use wire::budget::Section;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        team: Section,
        #[serde(default)]
        link: Vec<LinkConfig>,
        #[serde(default)]
        neighbor: Vec<NeighborConfig>,
    }

    const EXAMPLE: &str = r#"
        [team]
        memory = "1M"
        event = "2ms"
        rate = "100mbit"
        burst = "32k"
        timers = 64
        cache_entries = 1024
        sessions = 8
        queue = 64

        [[link]]
        name = "mgmt"
        mac = "02:00:00:00:01:00"
        address = "10.255.0.1/16"
        gateway = "10.255.0.254"
        management = true

        [[link]]
        name = "ab"
        mac = "02:00:00:00:01:01"
        mtu = 1500
        rate = "100mbit"
        queue = 256
        liveness = { poke = "1s", expire = "5s" }

        [[link]]
        name = "isp"
        address = "dhcp"

        [[neighbor]]
        name = "b"
        link = "ab"
        mac = "02:00:00:00:02:01"

        [[neighbor]]
        name = "c"
        link = "mgmt"
        udp = "10.1.0.2:3322"
        key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        protect = "require"

        [[neighbor]]
        name = "d"
        link = "ab"
        mac = "02:00:00:00:02:02"
        protect = false
        liveness = { poke = "100ms", expire = "1s" }
    "#;

    #[test]
    fn the_documented_example() {
        let file: File = toml::from_str(EXAMPLE).unwrap();
        check(&file.link, &file.neighbor).unwrap();
        assert_eq!(Budget::DEFAULT.with(&file.team.0), Budget::DEFAULT);
        assert_eq!(file.link[1].rate, Some(Rate(12_500_000)));
        assert_eq!(file.link[2].address, Some(LinkAddress::Dhcp));
        assert_eq!(file.neighbor[0].address, Address::Ethernet(Mac([2, 0, 0, 0, 2, 1])));
        assert_eq!(file.neighbor[1].address, Address::Udp("10.1.0.2:3322".parse().unwrap()));
        let protect: Vec<_> = file.neighbor.iter().map(|n| n.protect).collect();
        assert_eq!(protect, [Protect::WithKeys, Protect::Require, Protect::Never]);
        let again: File = toml::from_str(&toml::to_string(&file).unwrap()).unwrap();
        assert_eq!((again.link, again.neighbor, again.team), (file.link, file.neighbor, file.team));
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_refused() {
        for text in [
            "[[link]]\nname = 'x'\nspeed = 3",
            "[[link]]\nmac = '02:00:00:00:01:00'",
            "[[link]]\nname = 'x'\nmac = '02:00:00:00:01'",
            "[[link]]\nname = 'x'\naddress = '10.0.0.1'",
            "[[link]]\nname = 'x'\nrate = 'fast'",
            "[[neighbor]]\nname = 'b'\nlink = 'x'",
            "[[neighbor]]\nname = 'b'\nlink = 'x'\nmac = '02:00:00:00:01:00'\nudp = '10.0.0.1:1'",
            "[[neighbor]]\nname = 'b'\nlink = 'x'\nip = '10.0.0.1'",
            "[[neighbor]]\nname = 'b'\nlink = 'x'\nmac = '02:00:00:00:01:00'\nprotect = true",
            "[[neighbor]]\nname = 'b'\nlink = 'x'\nmac = '02:00:00:00:01:00'\nprotect = 'maybe'",
            "[team]\nmemory = '1M'\ncolour = 'red'",
        ] {
            assert!(toml::from_str::<File>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let cases = [
            ("another link has the same name", "[[link]]\nname='x'\n[[link]]\nname='x'"),
            (
                "the same mac",
                "[[link]]\nname='x'\nmac='02:00:00:00:00:01'\n[[link]]\nname='y'\nmac='02:00:00:00:00:01'",
            ),
            ("mtu", "[[link]]\nname='x'\nmtu=9000"),
            ("queue", "[[link]]\nname='x'\nqueue=0"),
            ("management needs", "[[link]]\nname='x'\nmanagement=true"),
            ("not the address of one NIC", "[[link]]\nname='x'\nmac='ff:ff:ff:ff:ff:ff'"),
            ("gateway is not another", "[[link]]\nname='x'\naddress='10.0.0.1/24'\ngateway='10.0.1.1'"),
            ("not that of a host", "[[link]]\nname='x'\naddress='224.0.0.1/24'"),
            ("there is no link \"x\"", "[[neighbor]]\nname='b'\nlink='x'\nmac='02:00:00:00:00:01'"),
            ("no IP address", "[[link]]\nname='x'\n[[neighbor]]\nname='b'\nlink='x'\nudp='10.0.0.1:1'"),
            (
                "no gateway",
                "[[link]]\nname='x'\naddress='10.0.0.1/24'\n[[neighbor]]\nname='b'\nlink='x'\nudp='10.1.0.1:1'",
            ),
            ("liveness: poke", "[[link]]\nname='x'\nliveness={poke='1ms',expire='1s'}"),
            ("liveness: poke", "[[link]]\nname='x'\nliveness={poke='1s',expire='1s'}"),
            ("liveness: poke", "[[link]]\nname='x'\nliveness={poke='1s',expire='7200s'}"),
            ("discovered", "[[link]]\nname='x'\n[[neighbor]]\nname='~b'\nlink='x'\nmac='02:00:00:00:01:00'"),
            ("white space", "[[link]]\nname='x y'"),
        ];
        for (expected, text) in cases {
            let file: File = toml::from_str(text).unwrap();
            let error = check(&file.link, &file.neighbor).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(name in "\\PC{0,40}", address in "\\PC{0,30}", mtu in any::<u16>()) {
            let text = format!("[[link]]\nname={name:?}\naddress={address:?}\nmtu={mtu}");
            if let Ok(file) = toml::from_str::<File>(&text) {
                let _ = check(&file.link, &file.neighbor);
            }
        }
    }
}
