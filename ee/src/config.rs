//! The node's configuration: a TOML file, or the boot module of an image.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use authagent::keys::{Ed25519Key, PublicKey, SigningKey};
use authagent::policy::Policy;
use nodeos::config::{LinkConfig, LivenessConfig, NeighborConfig};
use nodeos::units::{Size, Time};
use serde::{Deserialize, Serialize};
use wire::advert;
use wire::budget::{Budgets, Section};
use wire::id::TupleHash;
use wire::statement::EnvelopeId;
use wire::tuple::MAX_NAME;

use crate::blob::StoreConfig;
use crate::envelope::MAX_ENVELOPES;
pub use crate::node::fetch::ServerSection;
use crate::sensor;
pub use crate::system::discovery::DiscoverySection;
pub use crate::system::liveness::LivenessSection;

/// Everything that a node is told at start; `docs/architecture.md` has an example.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The node itself.
    pub node: NodeSection,
    /// Who may use the control protocol. Without it nobody may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlSection>,
    /// Defaults and upper bounds of a flow's team.
    #[serde(default)]
    pub team: Section,
    /// Flows that the operator trusts.
    #[serde(default)]
    pub system: SystemSection,
    /// Blobs.
    #[serde(default)]
    pub store: StoreConfig,
    /// Where flows are fetched from that are to run from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerSection>,
    /// The links, in the order of the NICs.
    #[serde(default, rename = "link")]
    pub links: Vec<LinkConfig>,
    /// The neighbors.
    #[serde(default, rename = "neighbor")]
    pub neighbors: Vec<NeighborConfig>,
    /// How the node makes itself known on links with `discover`, and whose keys it knows.
    #[serde(default, skip_serializing_if = "DiscoverySection::is_usual")]
    pub discovery: DiscoverySection,
    /// How flows and programs may have neighbors watched.
    #[serde(default, skip_serializing_if = "LivenessSection::is_usual")]
    pub liveness: LivenessSection,
    /// Cut-through channels.
    #[serde(default, rename = "channel", skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelConfig>,
    /// Readings that the operator gives beside those that the machine has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sensors: BTreeMap<String, i64>,
    /// Privileges in sealed envelopes, which the node itself cannot open.
    #[serde(default, rename = "envelope", skip_serializing_if = "Vec::is_empty")]
    pub envelopes: Vec<EnvelopeConfig>,
}

/// A `[[channel]]`: capsules that pass from one neighbor to another without the execution environment, all of them at the
/// expense of one team with the bounds of `[team]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    /// The neighbor that they come from.
    pub from: String,
    /// The neighbor that they go to.
    pub to: String,
    /// Their identifier, 32 hexadecimal digits.
    pub capsule: String,
}

impl ChannelConfig {
    pub(crate) fn fails(&self, why: &str) -> ConfigError {
        ConfigError(format!("channel from {:?} for {}: {why}", self.from, self.capsule))
    }
}

/// The `[system]` section: flows that the operator trusts as he does the node itself. They are those that these
/// principals signed; what a flow says of itself makes none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SystemSection {
    /// Principals of the policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    /// Whether their flows have budgets as all others have, and share `budget`. Without it they share what the
    /// root has, and asking for more than there is is no strike.
    pub accounted: bool,
    /// What they may use together; `shares` also without `accounted`.
    pub budget: Section,
}

/// An `[[envelope]]`: a privilege for whoever shows a proof by a key (`docs/abi/envelope.md`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeConfig {
    /// Its name, 32 hexadecimal digits.
    pub id: String,
    /// The privilege in it.
    pub privilege: String,
    /// The public key whose proof opens it: Ed25519 in 64 hexadecimal digits, or Ed25519 or RSA in PEM.
    pub key: String,
    /// The only flow that may open it: the hash of its tuple. Without it any flow that the key's owner
    /// signs for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
}

/// An envelope as the node keeps it.
pub(crate) struct Sealed {
    pub id: EnvelopeId,
    pub key: PublicKey,
    pub flow: Option<TupleHash>,
}

impl EnvelopeConfig {
    /// Reads what the format alone does not.
    pub(crate) fn sealed(&self) -> Result<Sealed, ConfigError> {
        let fail = |what: &str| ConfigError(format!("envelope {}: {what}", self.id));
        let digits: Option<Vec<u8>> =
            self.id.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let digits =
            digits.filter(|d| d.len() == 32).ok_or_else(|| fail("id must be 32 hexadecimal digits"))?;
        let id = std::array::from_fn(|at| digits[2 * at] << 4 | digits[2 * at + 1]);
        if !(1..=MAX_NAME).contains(&self.privilege.len()) {
            return Err(fail("privilege must be a name"));
        }
        let key = PublicKey::from_text(&self.key).map_err(|e| fail(&format!("key: {e}")))?;
        let flow = self.flow.as_ref().map(|f| f.parse().map_err(|_| fail("flow must be a tuple's hash")));
        Ok(Sealed { id, key, flow: flow.transpose()? })
    }
}

/// The `[node]` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// The node's name.
    pub name: String,
    /// Secret seed of its Ed25519 identity, 64 hexadecimal digits. Without it the one in its store holds, and
    /// if there is none the node makes one, if it has entropy, and keeps it there, if it has a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// A seed for machines without a source of random bytes, at least 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<String>,
    /// The Auth Agent.
    #[serde(default)]
    pub agent: AgentKind,
    /// The policy of the agent `source-based`: TOML, `docs/policy.md`. Without it nobody may do anything but
    /// the administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Bytes for all teams together.
    #[serde(default = "default_memory")]
    pub memory: Size,
    /// How many flows there may be.
    #[serde(default = "default_flows")]
    pub flows: u16,
    /// How many packet buffers there are.
    #[serde(default = "default_buffers")]
    pub buffers: u16,
}

/// The Auth Agents that are shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentKind {
    /// Lets everything in.
    #[default]
    Everything,
    /// Lets known principals' signed flows in, by a policy.
    SourceBased,
}

/// The `[control]` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlSection {
    /// The administrator's Ed25519 public key, 64 hexadecimal digits. The principal is named `admin`.
    pub admin: String,
    /// Whether whoever reaches the management address may read the node's metrics (`docs/metrics.md`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub metrics: bool,
}

/// The name of the administrator among principals.
pub const ADMIN: &str = "admin";

fn default_memory() -> Size {
    Size(16 << 20)
}

fn default_flows() -> u16 {
    64
}

fn default_buffers() -> u16 {
    2048
}

/// The operator's configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration: {}", self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Fewer packet buffers than this serve nobody.
const MIN_BUFFERS: u16 = 16;
const MAX_LINKS: usize = 64;
const MAX_NEIGHBORS: usize = 1024;

impl NodeConfig {
    /// Reads TOML text and checks it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| ConfigError(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The identity that the configuration gives, if it gives one.
    pub fn identity(&self) -> Result<Option<SigningKey>, ConfigError> {
        let parse =
            |hex: &String| SigningKey::from_hex(hex).map_err(|e| ConfigError(format!("node.identity: {e}")));
        self.node.identity.as_ref().map(parse).transpose()
    }

    /// The administrator's key, if there is one.
    pub fn admin(&self) -> Result<Option<Ed25519Key>, ConfigError> {
        let parse =
            |c: &ControlSection| c.admin.parse().map_err(|e| ConfigError(format!("control.admin: {e}")));
        self.control.as_ref().map(parse).transpose()
    }

    /// The agent's policy, if the agent has one.
    pub fn policy(&self) -> Result<Option<Policy>, ConfigError> {
        let text = self.node.policy.as_deref();
        match (self.node.agent, text) {
            (AgentKind::Everything, None) => Ok(None),
            (AgentKind::Everything, Some(_)) => {
                Err(ConfigError("node.policy: the agent everything has no policy".into()))
            }
            (AgentKind::SourceBased, text) => Policy::parse(text.unwrap_or(""))
                .map(Some)
                .map_err(|e| ConfigError(format!("node.policy: {e}"))),
        }
    }

    /// The nodes that are known by their keys, wherever they are discovered: what they are called here, and the keys.
    pub(crate) fn known_keys(&self) -> Result<Vec<(Arc<str>, Ed25519Key)>, ConfigError> {
        let DiscoverySection { keys, protect, .. } = &self.discovery;
        let own = self.identity()?.map(|own| own.public());
        if *protect && keys.is_empty() || !keys.is_empty() && own.is_none() {
            let what = "protect needs keys, and keys need node.identity";
            return Err(ConfigError(format!("discovery: {what}")));
        }
        let mut known: Vec<(Arc<str>, Ed25519Key)> = Vec::with_capacity(keys.len());
        for (name, key) in keys {
            let fail = |what: &dyn fmt::Display| Err(ConfigError(format!("discovery.keys.{name}: {what}")));
            let key = match key.parse::<Ed25519Key>() {
                Ok(key) => key,
                Err(error) => return fail(&error),
            };
            if !advert::is_name(name) || self.neighbors.iter().any(|neighbor| neighbor.name == *name) {
                return fail(&"not a name, or that of a neighbor");
            }
            if Some(key) == own || known.iter().any(|(_, other)| *other == key) {
                return fail(&"the key is another's, or the node's own");
            }
            known.push((name.as_str().into(), key));
        }
        Ok(known)
    }

    /// Checks what the format alone does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |text: String| Err(ConfigError(text));
        if self.node.name.is_empty()
            || self.node.name.len() > 32
            || !self.node.name.bytes().all(|b| b.is_ascii_graphic())
        {
            return fail("node.name must be 1 to 32 printable characters without blanks".into());
        }
        if self.links.len() > MAX_LINKS || self.neighbors.len() > MAX_NEIGHBORS {
            return fail(format!("at most {MAX_LINKS} links and {MAX_NEIGHBORS} neighbors"));
        }
        if self.node.buffers < MIN_BUFFERS {
            return fail(format!("node.buffers must be at least {MIN_BUFFERS}"));
        }
        if self.team.0.queue == Some(0) || self.team.0.event_us == Some(0) {
            return fail("team.queue and team.event must not be 0: no flow could start".into());
        }
        if !self.system.principals.is_empty() && self.node.agent != AgentKind::SourceBased {
            return fail("system.principals: only the agent source-based proves who signed a flow".into());
        }
        let but_shares = Section(Budgets { shares: None, ..self.system.budget.0 });
        if !self.system.accounted && but_shares != Section::default() {
            return fail("system.budget bounds nothing but shares unless system.accounted is true".into());
        }
        if self.store.blobs > StoreConfig::MAX_BLOBS {
            return fail(format!("store.blobs must be at most {}", StoreConfig::MAX_BLOBS));
        }
        nodeos::config::check(&self.links, &self.neighbors).map_err(|e| ConfigError(e.0))?;
        self.server.as_ref().map_or(Ok(()), ServerSection::check)?;
        self.identity()?;
        self.admin()?;
        self.policy()?;
        if let Some(name) = self.sensors.keys().find(|name| !sensor::is_name(name)) {
            return fail(format!("sensors.{name}: at most 64 printable characters without blanks"));
        }
        if self.envelopes.len() > MAX_ENVELOPES / 4 {
            return fail(format!("at most {} envelopes", MAX_ENVELOPES / 4));
        }
        let ids = self.envelopes.iter().map(|e| Ok(e.sealed()?.id)).collect::<Result<BTreeSet<_>, _>>()?;
        if ids.len() < self.envelopes.len() {
            return fail("two envelopes have the same id".into());
        }
        let Time(least) = self.liveness.least;
        if least < LivenessConfig::LEAST || least > LivenessConfig::MOST / 2 {
            return fail("liveness.least is 10ms at least and 1800s at most".into());
        }
        let [Time(interval), Time(expire)] = [self.discovery.interval, self.discovery.expire];
        if interval < advert::LEAST || expire > advert::MOST || expire < interval.saturating_mul(2) {
            let what = "interval is at least 100ms, expire twice that at least and 3600s at most";
            return fail(format!("discovery: {what}"));
        }
        self.known_keys()?;
        self.neighbors.iter().try_for_each(|n| crate::node::protect::wanted(self, n).map(drop))?;
        crate::node::channels::check(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [node]
        name = "a"
        identity = "0101010101010101010101010101010101010101010101010101010101010101"
        [[link]]
        name = "ab"
        mac = "02:00:00:00:01:01"
        [[neighbor]]
        name = "b"
        link = "ab"
        mac = "02:00:00:00:02:01"
    "#;

    #[test]
    fn a_small_configuration_is_enough() {
        let c = NodeConfig::parse(GOOD).unwrap();
        assert_eq!((c.node.memory, c.node.agent, c.links.len()), (Size(16 << 20), AgentKind::Everything, 1));
        let again = NodeConfig::parse(&toml::to_string(&c).unwrap()).unwrap();
        assert_eq!(again.neighbors[0].name, "b");
    }

    #[test]
    fn what_is_trusted_has_shares_without_an_account() {
        let head =
            "agent = \"source-based\"\n[system]\nprincipals = [\"ops\"]\nbudget = { shares = 7 }\n[[link]]";
        let c = NodeConfig::parse(&GOOD.replacen("[[link]]", head, 1)).unwrap();
        assert_eq!(c.system.budget.0.shares, Some(7));
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let error = |from: &str, to: &str| NodeConfig::parse(&GOOD.replace(from, to)).unwrap_err().0;
        assert!(error("mac = \"02:00:00:00:01:01\"", "mca = 1").contains("mca"));
        assert!(error("link = \"ab\"", "link = \"xy\"").contains("xy"));
        assert!(error("identity = \"01", "identity = \"zz").contains("identity"));
        let discovery = |lines: &str| format!("[discovery]\n{lines}\n[[link]]");
        let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert!(error("[[link]]", &discovery("interval = '50ms'")).contains("interval"));
        assert!(error("[[link]]", &discovery("expire = '1500ms'")).contains("interval"));
        assert!(error("[[link]]", &discovery("protect = true")).contains("needs keys"));
        for least in ["9ms", "1801s"] {
            let section = format!("[liveness]\nleast = '{least}'\n[[link]]");
            assert!(error("[[link]]", &section).contains("liveness.least"));
        }
        assert!(error("[[link]]", &discovery("keys = { c = '00' }")).contains("discovery.keys.c"));
        assert!(
            error("[[link]]", &discovery(&format!("keys = {{ b = '{key}' }}"))).contains("of a neighbor")
        );
        assert!(
            error("[[link]]", &discovery(&format!("keys = {{ c = '{key}', d = '{key}' }}")))
                .contains("another's")
        );
        assert!(error("name = \"a\"", "name = \"a b\"").contains("node.name"));
        assert!(error("name = \"a\"", "name = \"a\"\npolicy = ''").contains("has no policy"));
        let system = |lines: &str| format!("[system]\n{lines}\n[[link]]");
        assert!(error("[[link]]", &system("principals = ['ops']")).contains("proves who signed"));
        assert!(error("[[link]]", &system("budget = { memory = '1M' }")).contains("accounted"));
        assert!(error("[[link]]", &system("trusted = ['ops']")).contains("trusted"));
        let policy = "name = \"a\"\nagent = \"source-based\"\npolicy = '''\nx = 1'''";
        assert!(error("name = \"a\"", policy).contains("policy, line 1, column 1"));
    }
}
