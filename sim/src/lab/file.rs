//! The lab file: TOML in, TOML out.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use nodeos::units::{Rate, Size, Time};
use serde::Deserialize;
use toml::Spanned;
use wire::budget::Section;

use super::share::Share;
use super::{DEFAULT_MEMORY, DEFAULT_MTU};
use super::{Defaults, Flaw, Inject, KeyKind, Lab, LabError, Link, Node, Place, Principal};
use crate::medium::{DEFAULT_QUEUE, Shape};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    #[serde(default)]
    defaults: FileDefaults,
    #[serde(default)]
    node: Vec<FileNode>,
    #[serde(default)]
    link: Vec<FileLink>,
    #[serde(default)]
    principal: Vec<FilePrincipal>,
    #[serde(default)]
    inject: Vec<FileInject>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FileDefaults {
    memory: Option<Size>,
    team: Section,
    protect: Option<bool>,
    server: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileNode {
    name: Spanned<String>,
    #[serde(default)]
    memory: Option<Size>,
    #[serde(default)]
    disk: Option<Size>,
    #[serde(default)]
    agent: Option<Spanned<FileAgent>>,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    start: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileAgent {
    Everything,
    SourceBased,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePrincipal {
    name: Spanned<String>,
    #[serde(default, rename = "type")]
    kind: KeyKind,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLink {
    #[serde(default)]
    name: Option<Spanned<String>>,
    ends: [Spanned<String>; 2],
    #[serde(default)]
    udp: bool,
    #[serde(default)]
    mtu: Option<u16>,
    #[serde(default)]
    rate: Option<Rate>,
    #[serde(default)]
    delay: Option<Time>,
    #[serde(default)]
    jitter: Option<Time>,
    #[serde(default)]
    loss: Option<Share>,
    #[serde(default)]
    reorder: Option<Share>,
    #[serde(default)]
    duplicate: Option<Share>,
    #[serde(default)]
    queue: Option<Size>,
    #[serde(default)]
    protect: Option<bool>,
    #[serde(default)]
    discover: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileInject {
    protocol: String,
    node: Spanned<String>,
    #[serde(default)]
    principal: Option<Spanned<String>>,
    #[serde(default)]
    privileges: Vec<String>,
    #[serde(default)]
    companions: BTreeMap<String, String>,
    #[serde(default)]
    params: BTreeMap<String, String>,
}

/// Reads a lab file.
pub(super) fn parse(text: &str) -> Result<Lab, LabError> {
    let file: File = toml::from_str(text).map_err(|e| {
        let offset = e.span().map_or(0, |s| s.start);
        LabError::at(e.message().to_string(), text, offset)
    })?;
    let places = Places::of(&file);
    let lab = file.into_lab(text)?;
    lab.check().map_err(|Flaw { place, text: what }| LabError::at(what, text, places.offset(place)))?;
    Ok(lab)
}

impl File {
    fn into_lab(self, text: &str) -> Result<Lab, LabError> {
        let nodes =
            self.node.into_iter().map(|n| n.into_node(text)).collect::<Result<Vec<Node>, LabError>>()?;
        // Of two nodes with one name either will do: the check that follows refuses them.
        let by_name: HashMap<&str, usize> =
            nodes.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
        let find = |name: &Spanned<String>| {
            let missing =
                || LabError::at(format!("no node is named \"{}\"", name.as_ref()), text, name.span().start);
            by_name.get(name.as_ref().as_str()).copied().ok_or_else(missing)
        };
        let links = self
            .link
            .into_iter()
            .map(|l| {
                let ends = [find(&l.ends[0])?, find(&l.ends[1])?];
                Ok(l.into_link(ends))
            })
            .collect::<Result<_, LabError>>()?;
        let principals: Vec<Principal> = self
            .principal
            .into_iter()
            .map(|p| Principal { name: p.name.into_inner(), kind: p.kind, key: p.key })
            .collect();
        let signer = |name: &Spanned<String>| {
            let missing = || {
                let what = format!("no principal is named \"{}\"", name.as_ref());
                LabError::at(what, text, name.span().start)
            };
            principals.iter().position(|p| p.name == *name.as_ref()).ok_or_else(missing)
        };
        let injects = self
            .inject
            .into_iter()
            .map(|i| {
                let principal = i.principal.as_ref().map(signer).transpose()?;
                let FileInject { protocol, node, privileges, companions, params, .. } = i;
                Ok(Inject { protocol, node: find(&node)?, principal, privileges, companions, params })
            })
            .collect::<Result<_, LabError>>()?;
        let defaults = Defaults {
            memory: self.defaults.memory.map_or(DEFAULT_MEMORY, |m| m.0),
            team: self.defaults.team,
            protect: self.defaults.protect.unwrap_or(true),
            server: self.defaults.server,
        };
        Ok(Lab { name: self.name.into_inner(), defaults, nodes, links, principals, injects })
    }
}

impl FileNode {
    fn into_node(self, text: &str) -> Result<Node, LabError> {
        let flaw = match (self.agent.as_ref().map(Spanned::as_ref), &self.policy) {
            (Some(FileAgent::SourceBased), None) => {
                Some("the agent source-based needs a policy: policy = \"FILE\"")
            }
            (Some(FileAgent::Everything), Some(_)) => Some("the agent everything follows no policy"),
            _ => None,
        };
        if let (Some(flaw), Some(agent)) = (flaw, &self.agent) {
            return Err(LabError::at(flaw.into(), text, agent.span().start));
        }
        let (memory, disk) = (self.memory.map(|m| m.0), self.disk.map(|d| d.0));
        let FileNode { name, policy, start, .. } = self;
        Ok(Node { name: name.into_inner(), memory, disk, policy, start })
    }
}

impl FileLink {
    fn into_link(self, ends: [usize; 2]) -> Link {
        let shape = Shape {
            rate: self.rate.map(|r| r.0),
            delay: self.delay.map_or(Duration::ZERO, |t| t.0),
            jitter: self.jitter.map_or(Duration::ZERO, |t| t.0),
            loss: self.loss.map_or(0.0, |p| p.0),
            reorder: self.reorder.map_or(0.0, |p| p.0),
            duplicate: self.duplicate.map_or(0.0, |p| p.0),
            queue: self.queue.map_or(DEFAULT_QUEUE, |s| s.0),
        };
        let mtu = self.mtu.unwrap_or(DEFAULT_MTU);
        let name = match &self.name {
            Some(name) => name.get_ref().clone(),
            None => self.ends.each_ref().map(|end| end.get_ref().as_str()).join("-"),
        };
        let Self { udp, protect, discover, .. } = self;
        Link { name, ends, udp, mtu, shape, protect, discover }
    }
}

/// Where in the file the parts of the lab stand.
struct Places {
    lab: Range<usize>,
    nodes: Vec<Range<usize>>,
    links: Vec<Range<usize>>,
    principals: Vec<Range<usize>>,
    injects: Vec<Range<usize>>,
}

impl Places {
    fn of(file: &File) -> Self {
        Self {
            lab: file.name.span(),
            nodes: file.node.iter().map(|n| n.name.span()).collect(),
            links: file.link.iter().map(|l| l.name.as_ref().unwrap_or(&l.ends[0]).span()).collect(),
            principals: file.principal.iter().map(|p| p.name.span()).collect(),
            injects: file.inject.iter().map(|i| i.node.span()).collect(),
        }
    }

    fn offset(&self, place: Place) -> usize {
        let range = match place {
            Place::Lab => &self.lab,
            Place::Node(i) => &self.nodes[i],
            Place::Link(i) => &self.links[i],
            Place::Principal(i) => &self.principals[i],
            Place::Inject(i) => &self.injects[i],
        };
        range.start
    }
}

/// Writes a lab file. What has its default value is left out.
pub(super) fn print(lab: &Lab) -> String {
    let mut out = String::new();
    let quoted = |text: &str| toml::Value::from(text).to_string();
    // Writing to a string does not fail.
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").unwrap_or_default();
    line(format_args!("name = {}", quoted(&lab.name)));
    line(format_args!("\n[defaults]\nmemory = \"{}\"", Size(lab.defaults.memory)));
    if !lab.defaults.protect {
        line(format_args!("protect = false"));
    }
    if let Some(server) = lab.defaults.server {
        line(format_args!("server = \"{server}\""));
    }
    if lab.defaults.team != Section::default() {
        line(format_args!("\n[defaults.team]\n{}", team_lines(&lab.defaults.team)));
    }
    for node in &lab.nodes {
        line(format_args!("\n[[node]]\nname = {}", quoted(&node.name)));
        if let Some(memory) = node.memory {
            line(format_args!("memory = \"{}\"", Size(memory)));
        }
        if let Some(disk) = node.disk {
            line(format_args!("disk = \"{}\"", Size(disk)));
        }
        if let Some(policy) = &node.policy {
            line(format_args!("agent = \"source-based\"\npolicy = {}", quoted(policy)));
        }
        if !node.start.is_empty() {
            let names: Vec<String> = node.start.iter().map(|flow| quoted(flow)).collect();
            line(format_args!("start = [{}]", names.join(", ")));
        }
    }
    for link in &lab.links {
        let [a, b] = link.ends.map(|end| quoted(&lab.nodes[end].name));
        line(format_args!("\n[[link]]\nname = {}\nends = [{a}, {b}]", quoted(&link.name)));
        if link.udp {
            line(format_args!("udp = true"));
        }
        if link.mtu != DEFAULT_MTU {
            line(format_args!("mtu = {}", link.mtu));
        }
        if let Some(protect) = link.protect {
            line(format_args!("protect = {protect}"));
        }
        if link.discover {
            line(format_args!("discover = true"));
        }
        print_shape(&link.shape, &mut line);
    }
    for principal in &lab.principals {
        line(format_args!("\n[[principal]]\nname = {}", quoted(&principal.name)));
        if principal.kind == KeyKind::Rsa {
            line(format_args!("type = \"rsa\""));
        }
        if let Some(key) = &principal.key {
            line(format_args!("key = {}", quoted(key)));
        }
    }
    for inject in &lab.injects {
        let node = quoted(&lab.nodes[inject.node].name);
        line(format_args!("\n[[inject]]\nprotocol = {}\nnode = {node}", quoted(&inject.protocol)));
        if let Some(principal) = inject.principal {
            line(format_args!("principal = {}", quoted(&lab.principals[principal].name)));
        }
        if !inject.privileges.is_empty() {
            let names: Vec<String> = inject.privileges.iter().map(|p| quoted(p)).collect();
            line(format_args!("privileges = [{}]", names.join(", ")));
        }
        for (key, table) in [("companions", &inject.companions), ("params", &inject.params)] {
            let pairs: Vec<String> =
                table.iter().map(|(n, v)| format!("{} = {}", quoted(n), quoted(v))).collect();
            if !pairs.is_empty() {
                line(format_args!("{key} = {{ {} }}", pairs.join(", ")));
            }
        }
    }
    out
}

/// A `[team]` section without its heading.
pub(super) fn team_lines(team: &Section) -> String {
    let text = toml::to_string(team).expect("sizes, rates and numbers have a form in TOML");
    text.trim_end().to_string()
}

fn print_shape(shape: &Shape, line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    if let Some(rate) = shape.rate {
        line(format_args!("rate = \"{}\"", Rate(rate)));
    }
    for (key, time) in [("delay", shape.delay), ("jitter", shape.jitter)] {
        if !time.is_zero() {
            line(format_args!("{key} = \"{}\"", Time(time)));
        }
    }
    for (key, share) in [("loss", shape.loss), ("reorder", shape.reorder), ("duplicate", shape.duplicate)] {
        if share != 0.0 {
            line(format_args!("{key} = \"{}\"", Share(share)));
        }
    }
    if shape.queue != DEFAULT_QUEUE {
        line(format_args!("queue = \"{}\"", Size(shape.queue)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE3: &str = r#"name = "line3"

[defaults]
memory = "48M"

[defaults.team]
memory = "2M"

[[node]]
name = "a"
[[node]]
name = "b"
memory = "96M"
[[node]]
name = "c"

[[link]]
name = "ab"
ends = ["a", "b"]
rate = "100mbit"
delay = "1ms"
loss = "0.5%"
[[link]]
name = "bc"
ends = ["b", "c"]
udp = true

[[inject]]
protocol = "hello"
node = "a"
"#;

    fn error(from: &str, to: &str) -> (usize, usize, String) {
        assert!(LINE3.contains(from));
        let e = Lab::parse(&LINE3.replacen(from, to, 1)).unwrap_err();
        (e.line, e.column, e.text)
    }

    #[test]
    fn the_documented_file_is_read() {
        let lab = Lab::parse(LINE3).unwrap();
        assert_eq!((lab.nodes.len(), lab.links.len(), lab.node("c")), (3, 2, Some(2)));
        assert_eq!((lab.defaults.memory, lab.nodes[1].memory), (48 << 20, Some(96 << 20)));
        let ab = &lab.links[0];
        assert_eq!((ab.ends, ab.udp, ab.mtu), ([0, 1], false, 1500));
        assert_eq!((ab.shape.rate, ab.shape.delay), (Some(12_500_000), Duration::from_millis(1)));
        assert_eq!((ab.shape.loss, ab.shape.queue), (0.005, DEFAULT_QUEUE));
        assert!(lab.links[1].udp);
        let inject = Inject {
            protocol: "hello".into(),
            node: 0,
            principal: None,
            privileges: vec![],
            companions: BTreeMap::new(),
            params: BTreeMap::new(),
        };
        assert_eq!(lab.injects, [inject]);
        let team = lab.defaults.team.0;
        assert_eq!((team.memory, team.timers), (Some(2 << 20), None));
        // A link without a name is named after its ends; of two such links one needs a name.
        let unnamed = LINE3.replace("name = \"ab\"\n", "");
        assert_eq!(Lab::parse(&unnamed).unwrap().links[0].name, "a-b");
        let twice = format!("{unnamed}[[link]]\nends = [\"a\", \"b\"]\n");
        let error = Lab::parse(&twice).unwrap_err();
        assert_eq!((error.line, error.text.contains("\"a-b\" is taken")), (twice.lines().count(), true));
        assert_eq!(Lab::parse(&lab.to_toml()).unwrap(), lab);
    }

    #[test]
    fn policies_and_principals_are_read() {
        let text = LINE3.replacen(
            "name = \"b\"",
            "name = \"b\"\nagent = \"source-based\"\npolicy = \"b.toml\"",
            1,
        ) + "principal = \"joe\"\nprivileges = [\"sensors?\"]\n\
               [[principal]]\nname = \"joe\"\ntype = \"rsa\"\n[[principal]]\nname = \"eve\"\nkey = \"eve.key\"\n";
        let lab = Lab::parse(&text).unwrap();
        assert_eq!((&lab.nodes[0].policy, lab.nodes[1].policy.as_deref()), (&None, Some("b.toml")));
        assert_eq!(
            (lab.principals[0].kind, lab.principals[1].key.as_deref()),
            (KeyKind::Rsa, Some("eve.key"))
        );
        assert_eq!(
            (lab.injects[0].principal, lab.injects[0].privileges.join(" ")),
            (Some(0), "sensors?".into())
        );
        assert_eq!(Lab::parse(&lab.to_toml()).unwrap(), lab);
        for (from, to, line, what) in [
            ("principal = \"joe\"", "principal = \"jim\"", 33, "no principal is named"),
            ("name = \"eve\"", "name = \"joe\"", 39, "taken by another"),
            ("name = \"eve\"", "name = \"admin\"", 39, "taken by another"),
            ("name = \"eve\"", "name = \"../eve\"", 39, "letters, digits"),
            ("\"rsa\"", "\"dsa\"", 37, "dsa"),
            ("\"source-based\"", "\"everything\"", 13, "follows no policy"),
            ("policy = \"b.toml\"", "", 13, "needs a policy"),
        ] {
            assert!(text.contains(from), "{from}");
            let e = Lab::parse(&text.replacen(from, to, 1)).unwrap_err();
            assert!(e.line == line && e.text.contains(what), "{from} -> {to}: {e}");
        }
    }

    #[test]
    fn what_a_node_starts_comes_from_a_server_of_this_machine() {
        let text = LINE3
            .replacen("memory = \"48M\"", "memory = \"48M\"\nserver = \"127.0.0.1:3325\"", 1)
            .replacen("name = \"b\"", "name = \"b\"\nstart = [\"hello\"]", 1);
        let lab = Lab::parse(&text).unwrap();
        assert_eq!((lab.nodes[1].start.join(" "), lab.nodes[0].start.len()), ("hello".into(), 0));
        assert_eq!(Lab::parse(&lab.to_toml()).unwrap(), lab);
        for other in ["\"192.0.2.1:3325\"", "\"127.0.0.1\""] {
            assert!(Lab::parse(&text.replacen("\"127.0.0.1:3325\"", other, 1)).is_err(), "{other}");
        }
        assert!(Lab::parse(&text.replacen("server = \"127.0.0.1:3325\"", "", 1)).is_err());
    }

    #[test]
    fn what_is_injected_has_companions_and_settings() {
        let text = LINE3.to_string()
            + "companions = { pathfinder = \"way\", \"pathfinder/clock\" = \"clock\" }\nparams = { poll-frequency = \"1000\" }\n";
        let lab = Lab::parse(&text).unwrap();
        let inject = &lab.injects[0];
        assert_eq!(inject.companions.get("pathfinder").map(String::as_str), Some("way"));
        assert_eq!((inject.companions.len(), inject.params["poll-frequency"].as_str()), (2, "1000"));
        assert_eq!(Lab::parse(&lab.to_toml()).unwrap(), lab);
        let e = Lab::parse(&text.replace("\"1000\"", "1000")).unwrap_err();
        assert!(e.line == 32 && e.text.contains("string"), "{e}");
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let place = |from, to| {
            let (line, column, _) = error(from, to);
            (line, column)
        };
        assert_eq!(error("\"b\", \"c\"", "\"b\", \"d\""), (25, 14, "no node is named \"d\"".into()));
        assert_eq!(place("memory = \"2M\"", "memory = \"2 cups\""), (7, 10));
        let (line, _, text) = error("rate = \"100mbit\"", "speed = 3");
        assert!(line == 20 && text.contains("speed"), "{line}: {text}");
        let (line, column, text) = error("100mbit", "100 furlongs");
        assert!((line, column) == (20, 8) && text.contains("furlongs"), "{line},{column}: {text}");
        assert_eq!(place("name = \"line3\"", "name = \"line 3\""), (1, 8));
        assert_eq!(place("name = \"c\"", "name = \"c\"\n[[node]]\nname = \"a\""), (17, 8));
        assert_eq!(place("name = \"bc\"", "name = \"ab\""), (24, 8));
        assert_eq!(place("name = \"bc\"", "name = \"mgmt\""), (24, 8));
        let (line, _, text) = error("memory = \"96M\"", "disk = \"1k\"");
        assert!(line == 12 && text.contains("64K"), "{line}: {text}");
        assert_eq!(place("\"a\", \"b\"", "\"a\", \"a\""), (18, 8));
        assert_eq!(place("0.5%", "101%"), (22, 8));
        assert_eq!(place("udp = true", "mtu = 9000"), (24, 8));
        assert_eq!(place("udp = true", "udp = true\ndiscover = true"), (24, 8));
        assert_eq!(place("node = \"a\"", "node = \"z\""), (30, 8));
        assert!(Lab::parse("name = \"x\"").unwrap_err().text.contains("nodes"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = Lab::parse(&text);
        }

        #[test]
        fn a_damaged_file_is_read_or_refused(at in 0usize..400, with in any::<char>()) {
            let mut text: Vec<char> = LINE3.chars().collect();
            let at = at % text.len();
            text[at] = with;
            let text: String = text.into_iter().collect();
            if let Err(e) = Lab::parse(&text) {
                prop_assert!(e.line >= 1 && e.line <= 1 + text.matches('\n').count(), "{}", e);
            }
        }

        #[test]
        fn printing_and_reading_give_the_same_lab(
            rate in proptest::option::of(1u64..1_000_000_000), delay in 0u64..10_000_000, jitter in 0u64..5000,
            loss in 0u32..=1000, queue in 0u64..10_000_000, memory in 1u64..1 << 32, udp in any::<bool>(),
            protect in any::<bool>(), one in proptest::option::of(any::<bool>()), discover in any::<bool>(),
        ) {
            let mut lab = Lab::ring(4);
            lab.defaults.memory = memory;
            lab.nodes[1].disk = Some(65_536 + memory % 1024);
            (lab.links[2].udp, lab.links[2].discover) = (udp, discover && !udp);
            (lab.defaults.protect, lab.links[2].protect) = (protect, one);
            lab.links[1].shape = Shape {
                rate, delay: Duration::from_micros(delay), jitter: Duration::from_micros(jitter),
                loss: f64::from(loss) / 1000.0, queue, ..Shape::default()
            };
            prop_assert_eq!(Lab::parse(&lab.to_toml()).unwrap(), lab);
        }
    }
}
