//! `bees flow build`: a flow tuple from a module that describes itself (`wire::describe`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use wasmparser::{Parser, Payload};
use wire::budget::{Amount, Kind, Unit};
use wire::describe::{Description, SECTION};
use wire::id::PartHash;
use wire::tuple::{
    Body, Budgets, Credentials, DataPart, Extension, MAX_PROTOCOLS, Param, Part, Privilege, Protocol,
    Provider, Request, Tuple, Validity,
};

use super::sign::parse_time;
use super::{Bundle, read};

/// What to build a flow from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// The protocol's module
    pub module: PathBuf,
    /// A setting of the protocol: text, or the contents of a file as NAME=@FILE; a companion's as INTERFACE/NAME=...
    #[arg(short, long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<Pair>,
    /// Bytes that the protocol can read under a name; a companion's as INTERFACE/NAME=FILE
    #[arg(long = "data", value_name = "NAME=FILE")]
    pub data: Vec<Pair>,
    /// A budget to ask for: memory=1M event=2ms rate=10mbit timers=8 flows=2 ... (docs/policy.md has all of them)
    #[arg(long = "budget", value_name = "NAME=VALUE", num_args = 1.., value_delimiter = ',')]
    pub budgets: Vec<Pair>,
    /// A privilege to ask for: sensors, node-key, blobs, flows, background, queues, offer, or the name of an interface
    /// of the node or of another flow; with a question mark behind it the flow also runs without
    #[arg(long = "privilege", value_name = "NAME[?]")]
    pub privileges: Vec<String>,
    /// The module that serves an interface; a companion's own companions as OUTER/INNER=MODULE
    #[arg(long = "companion", value_name = "INTERFACE=MODULE")]
    pub companions: Vec<Pair>,
    /// When the flow may be used
    #[command(flatten)]
    pub validity: Period,
    /// An interface that the protocol serves to other flows of its node, with the privilege "offer"
    #[arg(long = "offer", value_name = "INTERFACE")]
    pub offers: Vec<String>,
    /// A node that the flow is for, by its name; any node without one
    #[arg(long = "for-node", value_name = "NODE")]
    pub nodes: Vec<String>,
    /// The flow that this one takes over from, with nothing of it: `bees flow replace` hands its state over
    #[arg(long, value_name = "HASH", value_parser = |s: &str| s.parse::<wire::id::TupleHash>().map_err(|e| e.to_string()))]
    pub replaces: Option<wire::id::TupleHash>,
}

/// When a flow may be used.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Period {
    /// Not to be used before this time: 2026-11-21, 2026-11-21T15:04:05Z, +2h from now
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub valid_from: Option<u64>,
    /// Not to be used after this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub valid_until: Option<u64>,
}

impl From<Period> for Validity {
    fn from(period: Period) -> Self {
        Self { from: period.valid_from, until: period.valid_until }
    }
}

/// `NAME=VALUE` of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub(super) name: String,
    pub(super) value: String,
}

impl Pair {
    /// `name=value`.
    pub fn new(name: &str, value: &str) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl FromStr for Pair {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or("it must have the form NAME=VALUE")?;
        Ok(Self { name: name.into(), value: value.into() })
    }
}

/// Builds a flow; its nonce is random.
pub fn build(options: &Options) -> Result<Bundle> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).context("this machine gives no random numbers")?;
    let mut parts = HashMap::new();
    let mut protocols = vec![protocol(&options.module, "", options, &mut parts)?];
    let mut served = Vec::new();
    add_companions(0, "", options, &mut protocols, &mut parts, &mut served)?;
    if let Some(unused) = options.companions.iter().find(|given| !served.contains(&given.name)) {
        bail!("no protocol of the flow has a companion {}", unused.name);
    }
    let request =
        Request { privileges: privileges(&options.privileges), budgets: budgets(&options.budgets)? };
    let body = Body {
        request,
        validity: options.validity.into(),
        replaces: options.replaces,
        extensions: extensions(options),
        ..Body::new(nonce, protocols)
    };
    let tuple = Tuple { body, credentials: Credentials::None };
    let bytes = tuple.encode();
    // The same checks as a node's: what it would refuse is refused here.
    let tuple = Tuple::decode(&bytes)?;
    Ok(Bundle { tuple, bytes, parts })
}

fn extensions(options: &Options) -> Vec<Extension> {
    let nodes = (!options.nodes.is_empty()).then(|| Extension::nodes(&options.nodes));
    let offers = (!options.offers.is_empty()).then(|| Extension::offers(&options.offers));
    nodes.into_iter().chain(offers).collect()
}

/// Adds the protocols that serve the one at `parent`, and those that serve them; `path` leads there.
fn add_companions(
    parent: usize,
    path: &str,
    options: &Options,
    protocols: &mut Vec<Protocol>,
    parts: &mut HashMap<PartHash, Vec<u8>>,
    served: &mut Vec<String>,
) -> Result<()> {
    for at in 0..protocols[parent].companions.len() {
        let companion = &protocols[parent].companions[at];
        if matches!(companion.provider, Provider::System(_)) {
            continue;
        }
        let name = format!("{path}{}", companion.interface);
        let whose = &protocols[parent].name;
        let Some(pair) = options.companions.iter().find(|pair| pair.name == name) else {
            bail!("{whose} needs a companion: --companion {name}=MODULE");
        };
        ensure!(protocols.len() < MAX_PROTOCOLS, "a flow has at most {MAX_PROTOCOLS} protocols");
        let child = protocols.len();
        protocols.push(protocol(pair.value.as_ref(), &name, options, parts)?);
        protocols[parent].companions[at].provider = Provider::Tuple(child as u8);
        served.push(name.clone());
        add_companions(child, &format!("{name}/"), options, protocols, parts, served)?;
    }
    Ok(())
}

/// The protocol of a module; `path` leads there from the main protocol.
fn protocol(
    module: &Path,
    path: &str,
    options: &Options,
    parts: &mut HashMap<PartHash, Vec<u8>>,
) -> Result<Protocol> {
    let what = || module.display().to_string();
    let module = read(module)?;
    let description = describe(&module).with_context(what)?;
    let code = Part::of(&module).with_context(|| format!("{} is too large", what()))?;
    parts.insert(code.sha256, module);
    let own = |pairs| own(pairs, path, &options.companions);
    let data = own(&options.data).iter().map(|pair| data_part(pair, parts)).collect::<Result<_>>()?;
    Ok(Protocol {
        params: params(&description, &own(&options.params)).with_context(what)?,
        name: description.name,
        code,
        data,
        capsules: description.capsules,
        events: description.events,
        session: description.session,
        companions: description.companions,
    })
}

/// The pairs that are the protocol's at `path`, by their names there. What begins with no companion's path is the
/// main one's.
fn own(pairs: &[Pair], path: &str, companions: &[Pair]) -> Vec<Pair> {
    let of = |pair: &Pair| {
        let below = |c: &Pair| {
            Some((c.name.clone(), pair.name.strip_prefix(&c.name)?.strip_prefix('/')?.to_string()))
        };
        let longest = companions.iter().filter_map(below).max_by_key(|(whose, _)| whose.len());
        longest.unwrap_or_else(|| (String::new(), pair.name.clone()))
    };
    let named = pairs.iter().map(|pair| (of(pair), &pair.value));
    let own = named.filter(|((whose, _), _)| whose == path);
    own.map(|((_, name), value)| Pair { name, value: value.clone() }).collect()
}

/// Whether these bytes begin as a WebAssembly module does.
pub fn is_module(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm")
}

/// What a module says about itself.
pub fn describe(module: &[u8]) -> Result<Description> {
    ensure!(is_module(module), "not a WebAssembly module; `cargo xtask protocol build` makes one");
    let mut found = None;
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload.context("not a whole WebAssembly module")?
            && section.name() == SECTION
        {
            ensure!(found.is_none(), "the module has more than one section \"{SECTION}\"");
            found = Some(Description::decode(section.data())?);
        }
    }
    found.with_context(|| {
        format!("the module has no section \"{SECTION}\", so it is no protocol; capsules/template shows one")
    })
}

/// The module's parameters with the values given here.
fn params(description: &Description, given: &[Pair]) -> Result<Vec<Param>> {
    let mut params = description.params.clone();
    for pair in given {
        let value = match pair.value.strip_prefix('@') {
            Some(file) => read(file.as_ref())?,
            None => pair.value.clone().into_bytes(),
        };
        let Some(param) = params.iter_mut().find(|p| p.name == pair.name) else {
            let known: Vec<_> = params.iter().map(|p| p.name.as_str()).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(" ") };
            bail!("there is no parameter \"{}\"; there are: {known}", pair.name);
        };
        param.value = value;
    }
    Ok(params)
}

fn data_part(pair: &Pair, parts: &mut HashMap<PartHash, Vec<u8>>) -> Result<DataPart> {
    let bytes = read(pair.value.as_ref())?;
    let part = Part::of(&bytes).with_context(|| format!("{} is too large", pair.value))?;
    parts.insert(part.sha256, bytes);
    Ok(DataPart { name: pair.name.clone(), part })
}

fn privileges(names: &[String]) -> Vec<Privilege> {
    let privilege = |text: &String| match text.strip_suffix('?') {
        Some(name) => Privilege { name: name.into(), optional: true },
        None => Privilege { name: text.clone(), optional: false },
    };
    names.iter().map(privilege).collect()
}

/// The budgets that these pairs name.
pub fn budgets(pairs: &[Pair]) -> Result<Budgets> {
    let mut budgets = Budgets::default();
    for Pair { name, value } in pairs {
        let kind = Kind::of(name).with_context(|| {
            let known = Kind::ALL.map(Kind::name).join(" ");
            format!("there is no budget \"{name}\"; there are: {known}")
        })?;
        ensure!(budgets.get(kind).is_none(), "budget {kind} is given twice");
        let bound = kind.parse(value).with_context(|| {
            let most = if kind.most() == u64::MAX {
                String::new()
            } else {
                format!(" up to {}", Amount(kind, kind.most()))
            };
            format!(
                "budget {kind}={value}: expected {}{most}",
                match kind.unit() {
                    Unit::Bytes => "a size such as 32k",
                    Unit::Time => "a duration such as 2ms",
                    Unit::Rate => "a rate such as 10mbit",
                    Unit::Count => "a number",
                }
            )
        })?;
        budgets.set(kind, Some(bound));
    }
    Ok(budgets)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::files::tests::Scratch;
    use wire::limits::{Limits, Operation};
    use wire::tuple::{CapsuleType, Companion, Coupling, Events};

    pub fn description() -> Description {
        Description {
            name: "demo".into(),
            capsules: vec![
                CapsuleType {
                    name: "Query".into(),
                    limits: Limits::NONE.with(Operation::Multicasts, 1).with(Operation::Derives, 2),
                    derives: vec![1],
                },
                CapsuleType {
                    name: "Answer".into(),
                    limits: Limits::NONE.with(Operation::Sends, 3),
                    derives: vec![],
                },
            ],
            events: Events { boot: None, timer: None, session: Some(0) },
            session: true,
            params: vec![
                Param { name: "hops".into(), value: b"16".to_vec() },
                Param { name: "key".into(), value: vec![0, 255] },
            ],
            companions: vec![],
        }
    }

    /// An empty module with a custom section.
    pub fn module(section: &str, contents: &[u8]) -> Vec<u8> {
        let mut bytes = b"\0asm\x01\0\0\0\0".to_vec();
        let mut len = section.len() + 1 + contents.len();
        while len > 127 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        bytes.push(section.len() as u8);
        bytes.extend_from_slice(section.as_bytes());
        bytes.extend_from_slice(contents);
        bytes
    }

    /// A flow of the module above.
    pub fn bundle() -> Bundle {
        let scratch = Scratch::new(&format!("bundle-{:?}", std::thread::current().id()));
        let path = scratch.0.join("demo.wasm");
        std::fs::write(&path, module(SECTION, &description().encode())).unwrap();
        build(&Options { module: path, ..Options::default() }).unwrap()
    }

    fn pairs(texts: &[&str]) -> Vec<Pair> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn a_tuple_says_what_the_module_and_the_options_say() {
        let scratch = Scratch::new("build");
        let file = |name: &str, bytes: &[u8]| {
            let path = scratch.0.join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let module = module(SECTION, &description().encode());
        let text = file("text", b"some data");
        let options = Options {
            module: file("demo.wasm", &module),
            params: pairs(&["hops=4"]),
            data: pairs(&[&format!("table={}", text.display())]),
            budgets: pairs(&["memory=1M", "event=2ms", "rate=8mbit", "timers=3", "flows=2", "compile=3s"]),
            privileges: vec!["sensors?".into()],
            nodes: vec!["a".into(), "b".into()],
            offers: vec!["ops.clock".into()],
            ..Options::default()
        };
        let bundle = build(&options).unwrap();
        let main = bundle.tuple.main();
        assert_eq!(description().agrees(main), Ok(()));
        assert_eq!(main.params[0].value, b"4");
        assert!(main.code.matches(&module) && main.data[0].part.matches(b"some data"));
        let request = &bundle.tuple.body.request;
        assert_eq!(request.budgets.memory, Some(1 << 20));
        assert_eq!((request.budgets.event_us, request.budgets.rate), (Some(2000), Some(1_000_000)));
        assert_eq!((request.budgets.flows, request.budgets.compile_us), (Some(2), Some(3_000_000)));
        assert!(request.privileges[0].optional && request.privileges[0].name == "sensors");
        assert_eq!(bundle.tuple.body.nodes(), Some(vec!["a", "b"]));
        assert_eq!(bundle.tuple.body.offers(), ["ops.clock"]);
        assert_ne!(build(&options).unwrap().hash(), bundle.hash(), "the nonce is random");

        let path = scratch.0.join("demo.tuple");
        bundle.save(&path).unwrap();
        let loaded = Bundle::load(&path, &[]).unwrap();
        assert_eq!((loaded.hash(), loaded.parts.len()), (bundle.hash(), 2));
        let part = scratch.0.join("demo.tuple.parts").join(main.code.sha256.to_string());
        std::fs::write(&part, b"other").unwrap();
        assert!(Bundle::load(&path, &[]).is_err());
        std::fs::remove_file(&part).unwrap();
        let missing = Bundle::load(&path, &[]).unwrap_err();
        assert_eq!(crate::exit::code(&missing), crate::exit::Code::Missing);
        assert!(Bundle::load(&path, &[options.module]).is_ok());
    }

    /// Companions are found by their interfaces, and their own by paths of these.
    #[test]
    fn companions_are_named_by_their_interfaces() {
        let scratch = Scratch::new("companions");
        let needs = |interfaces: &[&str], session| {
            let provider = Provider::Tuple(0);
            let companion = |i: &&str| Companion {
                interface: i.to_string(),
                coupling: Coupling::Parts,
                provider: provider.clone(),
            };
            Description { companions: interfaces.iter().map(companion).collect(), session, ..description() }
        };
        let file = |name: &str, description: Description| {
            let path = scratch.0.join(name);
            std::fs::write(&path, module(SECTION, &description.encode())).unwrap();
            path
        };
        let main = file("main.wasm", needs(&["tree", "log"], true));
        let (tree, leaf) = (file("tree.wasm", needs(&["sink"], false)), file("leaf.wasm", needs(&[], false)));
        let given = |pairs: &[(&str, &PathBuf)]| -> Vec<Pair> {
            pairs.iter().map(|(name, file)| format!("{name}={}", file.display()).parse().unwrap()).collect()
        };
        let all = [("log", &leaf), ("tree", &tree), ("tree/sink", &leaf)];
        let options = Options {
            module: main,
            companions: given(&all),
            params: pairs(&["hops=1", "tree/hops=2", "tree/sink/hops=3"]),
            ..Options::default()
        };
        let body = build(&options).unwrap().tuple.body;
        let places: Vec<Vec<Provider>> = body
            .protocols
            .iter()
            .map(|p| p.companions.iter().map(|c| c.provider.clone()).collect())
            .collect();
        let at = |n| Provider::Tuple(n);
        assert_eq!(places, [vec![at(1), at(3)], vec![at(2)], vec![], vec![]]);
        let hops: Vec<_> = body.protocols.iter().map(|p| p.params[0].value.clone()).collect();
        assert_eq!(hops, [b"1".to_vec(), b"2".to_vec(), b"3".to_vec(), b"16".to_vec()]);
        let why = |companions: &[(&str, &PathBuf)], params: &[&str]| {
            let options = Options { companions: given(companions), params: pairs(params), ..options.clone() };
            format!("{:#}", build(&options).unwrap_err())
        };
        assert!(why(&all[..2], &[]).contains("--companion tree/sink=MODULE"));
        let more = [("log", &leaf), ("tree", &tree), ("tree/sink", &leaf), ("sink", &leaf)];
        assert!(why(&more, &[]).contains("no protocol of the flow has a companion sink"));
        assert!(why(&all, &["tree/colour=red"]).contains("no parameter \"colour\""));
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = params(&description(), &pairs(&["hop=4"])).unwrap_err();
        assert_eq!(unknown.to_string(), "there is no parameter \"hop\"; there are: hops key");
        assert!(describe(&module("other", b"")).unwrap_err().to_string().contains("no section"));
        let none = Description { params: vec![], ..description() };
        let unknown = params(&none, &pairs(&["hop=4"])).unwrap_err();
        assert_eq!(unknown.to_string(), "there is no parameter \"hop\"; there are: none");
        assert!(describe(b"\x7fELF").unwrap_err().to_string().contains("not a WebAssembly module"));
        let cut = describe(&module(SECTION, b"")[..12]).unwrap_err();
        assert_eq!(cut.to_string(), "not a whole WebAssembly module");
        assert!(describe(&module(SECTION, b"\x09")).unwrap_err().to_string().contains("format 9"));
        for (wrong, why) in [
            (&["memory=1q"][..], "budget memory=1q: expected a size such as 32k"),
            (&["flows=65536"], "budget flows=65536: expected a number up to 65535"),
            (&["speed=1"], "there is no budget \"speed\"; there are: memory event rate "),
            (&["timers=1", "timers=2"], "budget timers is given twice"),
        ] {
            let error = budgets(&pairs(wrong)).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
        assert!("hops".parse::<Pair>().is_err());
    }
}
