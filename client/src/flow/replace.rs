//! `bees flow replace`: the next version of a running flow, built so that it takes over from it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use wire::id::TupleHash;
use wire::replace::{MAX_LIVE_ON, Place, Replacement};
use wire::tuple::{Credentials, Extension, Provider, Tuple};

use super::build::{self, Options, Pair};
use super::{Bundle, signer};
use crate::exit::{code, failure};
use crate::output::plain;

/// How the next version is built, beside what every flow is built from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Manner {
    /// Without the old version's state: the new one starts anew, in its place
    #[arg(long)]
    pub fresh: bool,
    /// A capsule type that has another name in the new version; a companion's as INTERFACE/OLD=INTERFACE/NEW
    #[arg(long = "type", value_name = "OLD=NEW")]
    pub types: Vec<Pair>,
}

/// Builds a flow that takes over from `old`. Capsule types live on under their names, and what is not said (parameters,
/// budgets, privileges, nodes, interfaces that it serves) is as it was.
pub fn build(old: &Tuple, hash: TupleHash, options: &Options, manner: &Manner) -> Result<Bundle> {
    let Bundle { mut tuple, parts, .. } = build::build(&Options { replaces: Some(hash), ..options.clone() })?;
    let body = &mut tuple.body;
    if options.budgets.is_empty() {
        body.request.budgets = old.body.request.budgets;
    }
    if options.privileges.is_empty() {
        body.request.privileges = old.body.request.privileges.clone();
    }
    if let Some(nodes) = old.body.nodes().filter(|_| options.nodes.is_empty()) {
        body.extensions.push(Extension::nodes(&nodes));
    }
    if options.offers.is_empty() && !old.body.offers().is_empty() {
        body.extensions.push(Extension::offers(&old.body.offers()));
    }
    let given = |name: &str| options.params.iter().any(|pair| pair.name == name);
    let (main, before) = (&mut body.protocols[0], old.main());
    for param in main.params.iter_mut().filter(|param| !given(&param.name)) {
        if let Some(known) = before.params.iter().find(|known| known.name == param.name) {
            param.value = known.value.clone();
        }
    }
    let types = table(old, &tuple, &manner.types)?;
    let how = Replacement { handover: !manner.fresh, types };
    tuple.body.extensions.push(how.extension());
    tuple.body.extensions.sort_by_key(|extension| extension.tag);
    tuple.credentials = Credentials::None;
    let bytes = tuple.encode();
    let tuple = Tuple::decode(&bytes)?;
    Ok(Bundle { tuple, bytes, parts })
}

/// What to say of a flow that replaces another principal's: a node lets an operator do that, and nobody else. Where the new
/// version comes by itself the old one stays.
pub fn stays_behind(old: &Tuple, new: &Tuple) -> Option<String> {
    let whose =
        |tuple: &Tuple| signer(tuple).map_or("not signed".into(), |who| format!("signed by {}", plain(who)));
    (signer(old) != signer(new)).then(|| {
        let advice = match signer(old) {
            Some(_) => "sign with the same key (--sign KEY), or replace it at every node",
            None => "replace it at every node",
        };
        format!(
            "the old version is {}, the new one {}: nodes to which it comes by itself keep the old one; {advice}",
            whose(old),
            whose(new)
        )
    })
}

/// What can be done about a replacement that failed.
pub fn explain(error: anyhow::Error, manner: &Manner) -> anyhow::Error {
    let text = format!("{error:#}");
    if manner.fresh || !text.contains("did not hand over") {
        return error;
    }
    let advice = "the version that runs has no handover, or it failed; it goes on. --fresh puts the new one in its place \
                  without its state";
    failure(code(&error), format!("{text} ({advice})"))
}

/// What each capsule type of the old version is in the new one.
fn table(old: &Tuple, new: &Tuple, renamed: &[Pair]) -> Result<Vec<(Place, Place)>> {
    let (before, now) = (names(old), names(new));
    let mut others = BTreeMap::new();
    for Pair { name, value } in renamed {
        let place =
            *before.get(name).with_context(|| format!("the old version has no capsule type {name}"))?;
        let to = now.get(value).with_context(|| format!("the new version has no capsule type {value}"))?;
        others.insert(place, *to);
    }
    let lives_on =
        |(name, place): (&String, &Place)| Some((*place, *others.get(place).or_else(|| now.get(name))?));
    let mut types: Vec<(Place, Place)> = before.iter().filter_map(lives_on).collect();
    types.sort();
    ensure!(types.len() <= MAX_LIVE_ON, "at most {MAX_LIVE_ON} capsule types can live on");
    Ok(types)
}

/// The capsule types of all protocols, a companion's behind its interfaces: `OUTER/INNER/Type`.
pub fn names(tuple: &Tuple) -> BTreeMap<String, Place> {
    let protocols = &tuple.body.protocols;
    let mut paths = vec![String::new(); protocols.len()];
    for (at, companion) in tuple.body.companions() {
        if let Provider::Tuple(child) = companion.provider {
            paths[usize::from(child)] = format!("{}{}/", paths[at], companion.interface);
        }
    }
    let of = |(at, (path, protocol)): (u8, (&String, &wire::tuple::Protocol))| {
        let names = (0u8..).zip(&protocol.capsules);
        names.map(|(kind, c)| (format!("{path}{}", c.name), (at, kind))).collect::<Vec<_>>()
    };
    (0u8..).zip(paths.iter().zip(protocols)).flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Code;
    use crate::files::tests::Scratch;
    use crate::flow::build::tests::{description, module};
    use wire::describe::{Description, SECTION};
    use wire::tuple::{CapsuleType, Scheme};

    #[test]
    fn what_is_not_said_is_as_it_was() {
        let scratch = Scratch::new("replace");
        let file = |name: &str, description: &Description| {
            let path = scratch.0.join(name);
            std::fs::write(&path, module(SECTION, &description.encode())).unwrap();
            path
        };
        let pairs = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<Pair>>();
        let old = build::build(&Options {
            module: file("one.wasm", &description()),
            params: pairs(&["hops=4"]),
            budgets: pairs(&["memory=1M"]),
            privileges: vec!["sensors?".into()],
            nodes: vec!["a".into()],
            offers: vec!["ops.clock".into()],
            ..Options::default()
        })
        .unwrap();
        let named = |name: &str| CapsuleType { name: name.into(), ..description().capsules[1].clone() };
        let mut two = description();
        two.capsules = vec![named("Beat"), named("Answer"), named("Ask")];
        two.events.session = Some(0);
        let options = Options { module: file("two.wasm", &two), ..Options::default() };
        let new = build(&old.tuple, old.hash(), &options, &Manner::default()).unwrap();
        let body = &new.tuple.body;
        assert_eq!(body.request, old.tuple.body.request);
        assert_eq!((body.nodes(), &*new.tuple.main().params[0].value), (Some(vec!["a"]), &b"4"[..]));
        assert_eq!(body.offers(), ["ops.clock"]);
        let (hash, how) = body.replacement().unwrap();
        assert_eq!((hash, how.handover, &*how.types), (old.hash(), true, &[((0, 1), (0, 1))][..]));
        let manner = Manner { fresh: true, types: pairs(&["Query=Ask"]) };
        let new = build(&old.tuple, old.hash(), &options, &manner).unwrap();
        let (_, how) = new.tuple.body.replacement().unwrap();
        assert_eq!((how.handover, &*how.types), (false, &[((0, 0), (0, 2)), ((0, 1), (0, 1))][..]));
        for (wrong, why) in [("Nothing=Ask", "old version has no"), ("Query=Nothing", "new version has no")] {
            let manner = Manner { types: pairs(&[wrong]), ..Manner::default() };
            let error = build(&old.tuple, old.hash(), &options, &manner).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn who_replaces_another_principals_flow_is_told_where_it_stays() {
        let signed = |principal: &str| {
            let mut tuple = build::tests::bundle().tuple;
            tuple.credentials = Credentials::Signed {
                principal: principal.into(),
                scheme: Scheme::Ed25519,
                signature: vec![],
            };
            tuple
        };
        let (joe, eve) = (signed("joe"), signed("eve"));
        let nobody = Tuple { credentials: Credentials::None, ..joe.clone() };
        assert_eq!([stays_behind(&joe, &joe), stays_behind(&nobody, &nobody)], [None, None]);
        for (old, new, text) in [
            (&joe, &eve, "signed by joe, the new one signed by eve"),
            (&joe, &nobody, "signed by joe, the new one not signed"),
            (&nobody, &joe, "not signed, the new one signed by joe"),
        ] {
            let told = stays_behind(old, new).unwrap();
            assert!(told.contains(text) && told.contains("--sign") == (old != &nobody), "{told}");
        }
    }

    #[test]
    fn who_has_no_handover_is_told_of_fresh() {
        let error =
            || failure(Code::TimedOut, "flow 1 ended: guest: the flow did not hand over: guest refused");
        let explained = explain(error(), &Manner::default());
        assert!(explained.to_string().contains("--fresh"), "{explained}");
        assert_eq!(code(&explained), Code::TimedOut);
        let fresh = Manner { fresh: true, ..Manner::default() };
        assert!(!explain(error(), &fresh).to_string().contains("--fresh"));
        assert!(!explain(failure(Code::Failed, "other"), &Manner::default()).to_string().contains("--fresh"));
    }
}
