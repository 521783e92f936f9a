//! `bees flow dump`: a flow tuple for people, with what follows from it: identifiers and worst cases.

use std::fmt::Write;

use serde_json::{Value, json};
use wire::budget::{Amount, Kind};
use wire::grant::{Grant, Neighbors};
use wire::id::{CapsuleId, TupleHash};
use wire::limits::{MAX_DEPTH, Operation, worst_case};
use wire::replace::Place;
use wire::tuple::{Budgets, Coupling, Credentials, Part, Protocol, Provider, Tuple};
use wire::utc::Utc;

use super::verify::scheme_text;
use crate::output::{bytes, hex, us};

/// The tuple whose encoding is `encoded` as a tree.
pub fn text(tuple: &Tuple, encoded: &[u8]) -> String {
    let hash = TupleHash::of(encoded);
    let mut tree = Tree::default();
    tree.line(0, format!("flow {hash}"));
    tree.line(1, format!("tuple {} bytes, format {}", encoded.len(), tuple.body.version));
    tree.line(1, format!("nonce {}", hex(&tuple.body.nonce)));
    if let Some(replaces) = tuple.body.replaces {
        tree.line(1, format!("replaces {replaces}"));
        tree.line(2, replacement(tuple));
    }
    let validity = tuple.body.validity;
    match (validity.from, validity.until) {
        (None, None) => tree.line(1, "valid at any time"),
        (from, until) => {
            let from = from.map_or("ever".into(), |t| Utc(t).to_string());
            let until = until.map_or("ever".into(), |t| Utc(t).to_string());
            tree.line(1, format!("valid from {from} until {until}"));
        }
    }
    if let Some(nodes) = tuple.body.nodes() {
        tree.line(1, format!("for no node but {}", nodes.join(" ")));
    }
    if !tuple.body.offers().is_empty() {
        tree.line(1, format!("serves other flows {}", tuple.body.offers().join(" ")));
    }
    tree.line(1, credentials(&tuple.credentials));
    tree.line(1, format!("asks for {}", request(tuple)));
    let mut protocols: Vec<_> = tuple.paths().into_iter().zip(&tuple.body.protocols).enumerate().collect();
    protocols.sort_by(|(_, (a, _)), (_, (b, _))| a.0.cmp(&b.0));
    for (at, (path, protocol)) in protocols {
        // As deep as it stands in the tree of companions.
        tree.base = path.0.len();
        tree.line(1, role(tuple, at));
        tree.protocol(tuple, protocol, &hash, at);
        tree.base = 0;
    }
    if tuple.body.protocols.len() > 1 {
        let all = tuple.body.protocols.iter().map(|p| worst(p).sends.into_iter().max().unwrap_or(0));
        let text = match all.fold(0, u64::saturating_add) {
            u64::MAX => "without bound".into(),
            n => format!("at most {n}"),
        };
        tree.line(1, format!("sends per event of all protocols together {text}"));
    }
    tree.out
}

/// How it takes over, and what lives on: types are numbered by protocol and type, for the old version's names are not
/// in the tuple.
fn replacement(tuple: &Tuple) -> String {
    let how = tuple.body.replacement().map(|(_, how)| how).unwrap_or_default();
    let state = if how.handover { "with its state" } else { "without its state" };
    let name = |(protocol, kind): Place| {
        let protocol = &tuple.body.protocols[usize::from(protocol)];
        format!("{}.{}", protocol.name, protocol.capsules[usize::from(kind)].name)
    };
    let types: Vec<_> = how.types.iter().map(|((p, k), new)| format!("{p}.{k} as {}", name(*new))).collect();
    match types.is_empty() {
        true => format!("{state}; no capsule type lives on"),
        false => format!("{state}; capsule types that live on: {}", types.join(", ")),
    }
}

/// What a protocol is to the flow.
fn role(tuple: &Tuple, at: usize) -> String {
    let name = &tuple.body.protocols[at].name;
    let serves = tuple
        .body
        .companions()
        .find(|(_, c)| matches!(c.provider, Provider::Tuple(child) if usize::from(child) == at));
    match serves {
        None => format!("protocol {name}"),
        Some((_, companion)) => format!("companion {name}, serves {}", companion.interface),
    }
}

/// The same for programs.
pub fn value(tuple: &Tuple, encoded: &[u8]) -> Value {
    let hash = TupleHash::of(encoded);
    let body = &tuple.body;
    let protocols = body.protocols.iter().enumerate().map(|(at, p)| protocol_value(tuple, p, &hash, at));
    json!({
        "hash": hash.to_string(), "len": encoded.len(), "version": body.version, "nonce": hex(&body.nonce),
        "replaces": body.replaces.map(|r| r.to_string()),
        "takeover": body.replacement().map(|(_, how)| json!({ "handover": how.handover, "types": how.types })),
        "valid_from": body.validity.from, "valid_until": body.validity.until, "nodes": body.nodes(),
        "offers": body.offers(),
        "signed": match &tuple.credentials {
            Credentials::None => Value::Null,
            Credentials::Signed { principal, scheme, signature } => json!({
                "principal": principal, "scheme": scheme_text(*scheme), "signature": hex(signature),
            }),
        },
        "privileges": body.request.privileges.iter()
            .map(|p| json!({ "name": p.name, "optional": p.optional })).collect::<Vec<_>>(),
        "budgets": budgets_value(&body.request.budgets),
        "protocols": protocols.collect::<Vec<_>>(),
    })
}

/// Budgets for programs, in bytes, microseconds, bytes per second or numbers; what is not named is null.
pub fn budgets_value(b: &Budgets) -> Value {
    Kind::ALL.into_iter().map(|kind| (kind.name().to_string(), json!(b.get(kind)))).collect()
}

/// Budgets for people: those that are named.
pub fn budgets_text(b: &Budgets) -> String {
    let named = b.named().map(|(kind, bound)| format!("{kind}={}", Amount(kind, bound)));
    named.collect::<Vec<_>>().join(" ")
}

/// A grant for people.
pub fn grant_text(g: &Grant) -> String {
    let mut parts = vec![match &g.neighbors {
        Neighbors::All => "all neighbors".to_string(),
        Neighbors::Only(names) => format!("neighbors {}", names.join(" ")),
        Neighbors::Except(names) => format!("neighbors except {}", names.join(" ")),
    }];
    parts.extend(Some(budgets_text(&g.budgets)).filter(|b| !b.is_empty()));
    parts.extend((!g.privileges.is_empty()).then(|| format!("privileges {}", g.privileges.join(" "))));
    parts.extend(g.max_emissions.map(|n| format!("at most {n} sends per event")));
    parts.extend(g.min_timer_us.map(|t| format!("timers from {}", us(t.into()))));
    parts.extend(g.max_timer_us.map(|t| format!("timers to {}", us(t))));
    parts.extend(
        (!g.clamps.is_empty()).then(|| format!("{} capsule types with lower limits", g.clamps.len())),
    );
    parts.join("; ")
}

/// A grant for programs.
pub fn grant_value(g: &Grant) -> Value {
    let clamps = g.clamps.iter().map(|c| {
        let upper: serde_json::Map<_, _> =
            Operation::ALL.iter().map(|&op| (op.name().to_string(), c.upper.get(op).into())).collect();
        json!({ "protocol": c.protocol, "kind": c.kind, "upper": upper })
    });
    let neighbors = match &g.neighbors {
        Neighbors::All => json!("all"),
        Neighbors::Only(names) => json!({ "only": names }),
        Neighbors::Except(names) => json!({ "except": names }),
    };
    json!({
        "budgets": budgets_value(&g.budgets), "neighbors": neighbors, "privileges": g.privileges,
        "clamps": clamps.collect::<Vec<_>>(), "cycle_depth": g.cycle_depth,
        "max_emissions": g.max_emissions, "min_timer_us": g.min_timer_us, "max_timer_us": g.max_timer_us,
    })
}

#[derive(Default)]
struct Tree {
    out: String,
    /// How deep the protocol stands that is shown.
    base: usize,
}

impl Tree {
    fn line(&mut self, depth: usize, text: impl AsRef<str>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{:1$}{2}", "", (self.base + depth) * 2, text.as_ref());
    }

    fn protocol(&mut self, tuple: &Tuple, protocol: &Protocol, hash: &TupleHash, at: usize) {
        self.line(2, format!("module {}", part(&protocol.code)));
        for data in &protocol.data {
            self.line(2, format!("data {} {}", data.name, part(&data.part)));
        }
        for param in &protocol.params {
            self.line(2, format!("param {} = {}", param.name, param_text(&param.value)));
        }
        self.line(2, if protocol.session { "programs may open sessions" } else { "no sessions" });
        let derived = worst(protocol);
        for (kind, capsule) in protocol.capsules.iter().enumerate() {
            self.line(2, format!("capsule {kind} {}", capsule.name));
            match identifier(tuple, hash, at, kind) {
                Some(id) => self.line(3, format!("identifier {id}")),
                None => self.line(3, "identifier follows from the coupling, on the node"),
            }
            self.line(3, format!("limits {}", capsule.limits));
            if !capsule.derives.is_empty() {
                let names: Vec<_> = capsule.derives.iter().map(|&d| kind_name(protocol, d)).collect();
                self.line(3, format!("derives into {}", names.join(" ")));
            }
            self.line(3, derived.text(kind));
        }
        let events = protocol.events;
        let all = [("boot", events.boot), ("timer", events.timer), ("session", events.session)];
        for (event, kind) in all.into_iter().filter_map(|(e, k)| k.map(|k| (e, k))) {
            self.line(2, format!("{event} brings a capsule {}", kind_name(protocol, kind)));
        }
        for (i, companion) in protocol.companions.iter().enumerate() {
            let provider = match &companion.provider {
                Provider::Tuple(n) => tuple
                    .body
                    .protocols
                    .get(usize::from(*n))
                    .map_or_else(|| format!("protocol {n}"), |p| p.name.clone()),
                Provider::System(name) => format!("the node's {name}"),
            };
            let coupling = coupling(companion.coupling);
            self.line(
                2,
                format!("companion {i} {} is {provider}, coupled with {coupling}", companion.interface),
            );
        }
    }
}

/// The largest numbers of send operations that one event can set off.
struct Worst {
    /// Whether the graph of derivations has a cycle, which must be granted.
    cyclic: bool,
    sends: Vec<u64>,
}

impl Worst {
    fn text(&self, kind: usize) -> String {
        let n = match self.sends.get(kind) {
            Some(&u64::MAX) | None => "without bound".into(),
            Some(n) => format!("at most {n}"),
        };
        let cycle = if self.cyclic {
            format!(" (derivations form a cycle; {MAX_DEPTH} steps)")
        } else {
            String::new()
        };
        format!("sends per event {n}{cycle}")
    }
}

fn worst(protocol: &Protocol) -> Worst {
    let types = protocol.derivations();
    match worst_case(&types, None) {
        Ok(sends) => Worst { cyclic: false, sends },
        Err(_) => {
            Worst { cyclic: true, sends: worst_case(&types, Some(MAX_DEPTH as u32)).unwrap_or_default() }
        }
    }
}

/// The identifier of a capsule type.
fn identifier(tuple: &Tuple, hash: &TupleHash, at: usize, kind: usize) -> Option<CapsuleId> {
    let path = tuple.paths().into_iter().nth(at)?;
    Some(tuple.capsule_id(hash, at, &path, u8::try_from(kind).ok()?))
}

fn protocol_value(tuple: &Tuple, protocol: &Protocol, hash: &TupleHash, at: usize) -> Value {
    let worst = worst(protocol);
    let capsules = protocol.capsules.iter().enumerate().map(|(kind, c)| {
        let limits: serde_json::Map<_, _> =
            Operation::ALL.iter().map(|&op| (op.name().to_string(), c.limits.get(op).into())).collect();
        json!({
            "name": c.name, "limits": limits, "derives": c.derives,
            "identifier": identifier(tuple, hash, at, kind).map(|id| id.to_string()),
            "worst_case_sends": worst.sends.get(kind), "cyclic": worst.cyclic,
        })
    });
    let part = |p: &Part| json!({ "len": p.len, "sha256": p.sha256.to_string(), "md5": hex(&p.md5) });
    json!({
        "name": protocol.name, "module": part(&protocol.code),
        "data": protocol.data.iter()
            .map(|d| json!({ "name": d.name, "part": part(&d.part) })).collect::<Vec<_>>(),
        "params": protocol.params.iter()
            .map(|p| json!({ "name": p.name, "value": hex(&p.value), "text": std::str::from_utf8(&p.value).ok() }))
            .collect::<Vec<_>>(),
        "session": protocol.session,
        "events": { "boot": protocol.events.boot, "timer": protocol.events.timer, "session": protocol.events.session },
        "capsules": capsules.collect::<Vec<_>>(),
        "companions": protocol.companions.iter().map(|c| json!({
            "interface": c.interface, "coupling": coupling(c.coupling),
            "provider": match &c.provider {
                Provider::Tuple(n) => json!(n),
                Provider::System(name) => json!(name),
            },
        })).collect::<Vec<_>>(),
    })
}

fn part(part: &Part) -> String {
    format!("{} ({} bytes) sha256 {} md5 {}", bytes(part.len.into()), part.len, part.sha256, hex(&part.md5))
}

fn param_text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => text.to_string(),
        _ => format!("0x{}", hex(value)),
    }
}

fn kind_name(protocol: &Protocol, kind: u8) -> &str {
    protocol.capsules.get(usize::from(kind)).map_or("?", |c| &c.name)
}

fn coupling(coupling: Coupling) -> &'static str {
    match coupling {
        Coupling::Capsules => "capsule types",
        Coupling::Parts => "parts",
        Coupling::Tuple => "the tuple",
    }
}

fn credentials(credentials: &Credentials) -> String {
    match credentials {
        Credentials::None => "nobody answers for it".into(),
        Credentials::Signed { principal, scheme, signature } => {
            let how = scheme_text(*scheme);
            format!("{principal} answers for it ({how}, {} bytes of signature)", signature.len())
        }
    }
}

fn request(tuple: &Tuple) -> String {
    let request = &tuple.body.request;
    let optional = |o: bool| if o { "?" } else { "" };
    let privileges = request.privileges.iter().map(|p| format!("{}{}", p.name, optional(p.optional)));
    let mut asked: Vec<String> = privileges.collect();
    asked.extend(Some(budgets_text(&request.budgets)).filter(|b| !b.is_empty()));
    if asked.is_empty() { "what the node gives by default".into() } else { asked.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::tuple::{Body, Extension, Param, Scheme, Validity};

    fn tuple() -> Tuple {
        let d = super::super::build::tests::description();
        let protocol = Protocol {
            capsules: d.capsules,
            events: d.events,
            session: true,
            params: vec![Param { name: "key".into(), value: vec![0, 255] }],
            ..Protocol::new(&d.name, Part::of(b"module").unwrap())
        };
        let body = Body {
            validity: Validity { from: None, until: Some(9) },
            extensions: vec![Extension::nodes(&["a", "b"]), Extension::offers(&["ops.clock"])],
            ..Body::new([7; 16], vec![protocol])
        };
        let signature = vec![1; 64];
        Tuple {
            body,
            credentials: Credentials::Signed { principal: "joe".into(), scheme: Scheme::Ed25519, signature },
        }
    }

    #[test]
    fn the_tree_has_limits_worst_cases_and_identifiers() {
        let (t, encoded) = (tuple(), tuple().encode());
        let hash = TupleHash::of(&encoded);
        let text = text(&t, &encoded);
        let id = CapsuleId::compute(&hash, &Default::default(), 1, &[]);
        for line in [
            format!("flow {hash}\n"),
            "\n    capsule 0 Query\n".into(),
            "\n      limits multicasts=1 derives=2\n".into(),
            "\n      derives into Answer\n".into(),
            "\n      sends per event at most 7\n".into(),
            format!("\n      identifier {id}\n"),
            "\n    param key = 0x00ff\n".into(),
            "\n    session brings a capsule Query\n".into(),
            "\n  valid from ever until 1970-01-01T00:00:09Z\n".into(),
            "\n  for no node but a b\n".into(),
            "\n  serves other flows ops.clock\n".into(),
            "\n  joe answers for it (Ed25519, 64 bytes of signature)\n".into(),
            "\n  asks for what the node gives by default\n".into(),
        ] {
            assert!(text.contains(&line), "{line:?} is not in\n{text}");
        }
        let value = value(&t, &encoded);
        assert_eq!(value["protocols"][0]["capsules"][0]["worst_case_sends"], 7);
        assert_eq!((&value["signed"]["principal"], &value["nodes"][1]), (&json!("joe"), &json!("b")));
        assert_eq!(value["protocols"][0]["capsules"][1]["identifier"], id.to_string());
    }

    #[test]
    fn companions_stand_below_whom_they_serve() {
        let mut t = tuple();
        for at in 1..3u8 {
            let mut companion = t.body.protocols[0].clone();
            (companion.name, companion.companions) = (format!("c{at}"), vec![]);
            t.body.protocols.push(companion);
            let (interface, provider) = (format!("i{at}"), Provider::Tuple(at));
            let companion = wire::tuple::Companion { interface, coupling: Coupling::Capsules, provider };
            t.body.protocols[usize::from(at) - 1].companions.push(companion);
        }
        let encoded = t.encode();
        let text = text(&t, &encoded);
        let id = t.capsule_id(&TupleHash::of(&encoded), 2, &wire::id::Path(vec![0, 0]), 1);
        for line in [
            "\n    companion c1, serves i1\n      module ",
            "\n      companion c2, serves i2\n        module ",
            "\n    companion 0 i1 is c1, coupled with capsule types\n",
            &format!("\n          identifier {id}\n"),
            "\n  sends per event of all protocols together at most 21\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_cycle_is_said_to_be_one() {
        let mut t = tuple();
        t.body.protocols[0].capsules[1].derives = vec![0];
        t.body.protocols[0].capsules[1].limits =
            t.body.protocols[0].capsules[1].limits.with(Operation::Derives, 1);
        assert!(text(&t, &t.encode()).contains("derivations form a cycle"));
    }
}
