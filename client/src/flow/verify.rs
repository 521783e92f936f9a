//! `bees flow verify`: what a node would find out about a flow tuple, part by part, without a node.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use authagent::agent::UnknownTime;
use authagent::keys::PublicKey;
use authagent::policy::Policy;
use serde_json::{Value, json};
use wire::id::{PartHash, md5};
use wire::tuple::{Credentials, Part, Protocol, Scheme, Tuple};
use wire::utc::Utc;

use super::{build, decode, dump, parts_folder, read};
use crate::exit::{Code, failure};
use crate::output::{Cell, Colour, Output, Table, hex};

/// Where and when a tuple is to be used.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    /// Seconds since 1970.
    pub now: u64,
    /// The node, if it matters.
    pub node: Option<&'a str>,
}

/// What a tuple is held against.
#[derive(Debug, Clone, Copy)]
pub enum Against<'a> {
    /// Only itself.
    Itself,
    /// A key that should have signed it.
    Key(&'a PublicKey),
    /// A node's policy.
    Policy(&'a Policy),
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// A node would refuse it.
    Bad,
    /// There was nothing to check it with.
    Open,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub part: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
}

impl Finding {
    fn new(part: impl Into<String>, verdict: Verdict, text: impl Into<String>) -> Self {
        Self { part: part.into(), verdict, text: text.into() }
    }

    fn of(part: impl Into<String>, result: Result<String, String>) -> Self {
        match result {
            Ok(text) => Self::new(part, Verdict::Good, text),
            Err(text) => Self::new(part, Verdict::Bad, text),
        }
    }
}

/// Checks the tuple in `file`: its encoding, its parts (in the folder beside it, or among `parts`), its
/// signature, and whether it may be used then and there.
pub fn verify(file: &Path, parts: &[PathBuf], against: Against<'_>, place: Use<'_>) -> Result<Vec<Finding>> {
    let now = place.now;
    let bytes = read(file)?;
    let tuple = match decode(&bytes) {
        Ok(tuple) => tuple,
        Err(e) => return Ok(vec![Finding::new("encoding", Verdict::Bad, e.to_string())]),
    };
    let mut findings = vec![Finding::new("encoding", Verdict::Good, format!("{} bytes", bytes.len()))];
    findings.extend(check_parts(&tuple, file, parts)?);
    findings.push(match against {
        Against::Itself => unproven(&tuple.credentials),
        Against::Key(key) => Finding::of("signature", signed_by(&tuple, std::slice::from_ref(key))),
        Against::Policy(policy) => Finding::of("signature", signed_for(&tuple, policy, now)),
    });
    let unknown_time = UnknownTime::default();
    let valid = unknown_time.check(&tuple.body.validity, Some(now)).map_err(|e| e.to_string());
    findings.push(Finding::of("validity", valid.map(|()| format!("at {}", Utc(now)))));
    findings.extend(tuple.body.nodes().map(|nodes| meant_for(&nodes, place.node)));
    if let Against::Policy(policy) = against {
        let grant = policy.judge(&tuple).map_err(|e| e.to_string());
        findings.push(Finding::of("policy", grant.map(|g| format!("grants {}", dump::grant_text(&g)))));
    }
    Ok(findings)
}

/// Prints what was found. An error if a node would refuse the flow.
pub fn report(findings: &[Finding], output: Output) -> Result<()> {
    let value = |f: &Finding| {
        let verdict = match f.verdict {
            Verdict::Good => "good",
            Verdict::Bad => "bad",
            Verdict::Open => "open",
        };
        json!({ "part": f.part, "verdict": verdict, "text": f.text })
    };
    output.show(|| findings.iter().map(value).collect::<Value>(), || table(findings))?;
    let bad: Vec<&str> =
        findings.iter().filter(|f| f.verdict == Verdict::Bad).map(|f| f.part.as_str()).collect();
    if bad.is_empty() {
        return Ok(());
    }
    Err(failure(Code::Failed, format!("the flow is not in order: {}", bad.join(", "))))
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&["PART", "RESULT", "WHAT"]);
    for f in findings {
        let (word, colour) = match f.verdict {
            Verdict::Good => ("good", Colour::Good),
            Verdict::Bad => ("BAD", Colour::Bad),
            Verdict::Open => ("open", Colour::Busy),
        };
        table.row([f.part.as_str().into(), Cell::coloured(word, colour), f.text.as_str().into()]);
    }
    table
}

/// Each module and data part against its file.
fn check_parts(tuple: &Tuple, file: &Path, given: &[PathBuf]) -> Result<Vec<Finding>> {
    let given: Vec<(&PathBuf, Vec<u8>)> =
        given.iter().map(|path| Ok((path, read(path)?))).collect::<Result<_>>()?;
    let mut findings = Vec::new();
    for protocol in &tuple.body.protocols {
        let module = (format!("module of {}", protocol.name), &protocol.code);
        let data = protocol.data.iter().map(|d| (format!("data {} of {}", d.name, protocol.name), &d.part));
        for (name, part) in std::iter::once(module).chain(data) {
            let beside = parts_folder(file).join(part.sha256.to_string());
            let chosen = given.iter().find(|(_, bytes)| PartHash::of(bytes) == part.sha256);
            let (path, bytes) = match chosen {
                Some((path, bytes)) => (path.as_path(), bytes.clone()),
                None => match fs::read(&beside) {
                    Ok(bytes) => (beside.as_path(), bytes),
                    Err(_) => {
                        let text = format!("no file has SHA-256 {}; name it with --part", part.sha256);
                        findings.push(Finding::new(name, Verdict::Open, text));
                        continue;
                    }
                },
            };
            let is_module = std::ptr::eq(part, &protocol.code);
            let wrong =
                difference(part, &bytes).or_else(|| is_module.then(|| declared(protocol, &bytes)).flatten());
            findings.push(Finding::of(
                name,
                match wrong {
                    None => Ok(format!("{} bytes, as the tuple says", bytes.len())),
                    Some(wrong) => Err(format!("{}: {wrong}", path.display())),
                },
            ));
        }
    }
    for (path, bytes) in &given {
        let hash = PartHash::of(bytes);
        if !tuple.parts().iter().any(|p| p.sha256 == hash) {
            let text = format!("its SHA-256 {hash} is that of no part of this flow");
            findings.push(Finding::new(path.display().to_string(), Verdict::Bad, text));
        }
    }
    Ok(findings)
}

/// What of a part is not as the tuple says.
fn difference(part: &Part, bytes: &[u8]) -> Option<String> {
    let hash = PartHash::of(bytes);
    if bytes.len() as u64 != u64::from(part.len) {
        return Some(format!("it has {} bytes, the tuple says {}", bytes.len(), part.len));
    }
    if hash != part.sha256 {
        return Some(format!("its SHA-256 is {hash}, the tuple says {}", part.sha256));
    }
    let found = md5(bytes);
    (found != part.md5).then(|| format!("its MD5 is {}, the tuple says {}", hex(&found), hex(&part.md5)))
}

/// What a module declares otherwise than the tuple.
fn declared(protocol: &Protocol, module: &[u8]) -> Option<String> {
    match build::describe(module) {
        Ok(description) => description.agrees(protocol).err().map(|e| e.to_string()),
        Err(e) => Some(e.to_string()),
    }
}

/// Whether the tuple is meant for this node.
fn meant_for(nodes: &[&str], node: Option<&str>) -> Finding {
    let text = format!("for no node but {}", nodes.join(" "));
    match node {
        None => Finding::new("nodes", Verdict::Open, format!("{text}; -n NAME checks one")),
        Some(node) if nodes.contains(&node) => Finding::new("nodes", Verdict::Good, text),
        Some(node) => Finding::new("nodes", Verdict::Bad, format!("{text}, and not for {node}")),
    }
}

fn unproven(credentials: &Credentials) -> Finding {
    match credentials {
        Credentials::None => Finding::new("signature", Verdict::Open, "nobody signed it"),
        Credentials::Signed { principal, .. } => {
            let text = format!("not checked; --policy FILE or --key FILE says what {principal}'s key is");
            Finding::new("signature", Verdict::Open, text)
        }
    }
}

/// Who signed, if one of `keys` did.
fn signed_by(tuple: &Tuple, keys: &[PublicKey]) -> Result<String, String> {
    let Credentials::Signed { principal, scheme, signature } = &tuple.credentials else {
        return Err("nobody signed it; `bees flow sign` does".into());
    };
    let of_scheme: Vec<&PublicKey> = keys.iter().filter(|k| k.scheme() == *scheme).collect();
    if of_scheme.is_empty() {
        return Err(format!("it is signed with {}, which is not the key's scheme", scheme_text(*scheme)));
    }
    let message = tuple.body.encode();
    let key = of_scheme.into_iter().find(|k| k.verify(*scheme, &message, signature).is_ok());
    let key = key.ok_or_else(|| {
        format!(
            "the key did not sign this body for {principal}: it was changed since, or somebody else signed"
        )
    })?;
    Ok(format!("of {principal}, {} {} {}", key.kind(), key.bits(), key.fingerprint()))
}

/// Who signed, if that is a principal of the policy with a key that it accepts.
fn signed_for(tuple: &Tuple, policy: &Policy, now: u64) -> Result<String, String> {
    let Credentials::Signed { principal, scheme, signature } = &tuple.credentials else {
        return if policy.unsigned.is_some() {
            Ok("nobody's, which the policy allows".into())
        } else {
            signed_by(tuple, &[])
        };
    };
    let known = policy.current(principal, Some(now)).map_err(|e| e.to_string())?;
    let text = signed_by(tuple, &known.keys)?;
    let message = tuple.body.encode();
    let mut signers = known.keys.iter().filter(|k| k.verify(*scheme, &message, signature).is_ok());
    signers.try_for_each(|key| policy.strong(key)).map_err(|e| e.to_string())?;
    Ok(text)
}

/// A scheme's name for people.
pub fn scheme_text(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Ed25519 => "Ed25519",
        Scheme::RsaPssSha256 => "RSA-PSS with SHA-256",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;
    use crate::flow::build::tests::bundle;
    use crate::keys::{Kind, PrivateKey};
    use wire::tuple::Validity;

    const NOW: u64 = 1000;

    const fn during(now: u64) -> Use<'static> {
        Use { now, node: None }
    }

    struct Case {
        scratch: Scratch,
        key: PrivateKey,
        file: PathBuf,
    }

    /// A flow that joe signed, valid until [`NOW`], in a file with its parts beside it.
    fn case(test: &str, kind: Kind) -> Case {
        let scratch = Scratch::new(test);
        let key = PrivateKey::generate(kind, 2048).unwrap();
        let mut bundle = bundle();
        bundle.sign("joe", &key, Validity { from: Some(10), until: Some(NOW) }).unwrap();
        let file = scratch.0.join("demo.tuple");
        bundle.save(&file).unwrap();
        Case { scratch, key, file }
    }

    fn policy(name: &str, key: &PublicKey, more: &str) -> Policy {
        let text = format!(
            "{more}\n[[principal]]\nname = \"{name}\"\nkeys = ['''\n{}''']\nuntil = 2000\n[principal.grant]\n",
            key.to_pem()
        );
        Policy::parse(&text).unwrap()
    }

    /// The parts that are not good, with what is said of them.
    fn wrong(findings: &[Finding]) -> Vec<(&str, &str)> {
        findings.iter().filter(|f| f.verdict == Verdict::Bad).map(|f| (&*f.part, &*f.text)).collect()
    }

    #[test]
    fn a_sound_flow_is_good_in_every_part() {
        for kind in [Kind::Ed25519, Kind::Rsa] {
            let c = case(&format!("verify-{kind:?}"), kind);
            let public = c.key.public();
            let policy = policy("joe", &public, "");
            for against in [Against::Key(&public), Against::Policy(&policy)] {
                let findings = verify(&c.file, &[], against, during(NOW)).unwrap();
                assert!(findings.iter().all(|f| f.verdict == Verdict::Good), "{findings:?}");
                assert!(report(&findings, Output::new(true)).is_ok());
            }
            let findings = verify(&c.file, &[], Against::Itself, during(NOW)).unwrap();
            let open: Vec<_> = findings.iter().filter(|f| f.verdict == Verdict::Open).collect();
            assert!(open.len() == 1 && open[0].text.contains("--policy FILE"), "{findings:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let c = case("verify-wrong", Kind::Rsa);
        let public = c.key.public();
        let check = |against, now| verify(&c.file, &[], against, during(now)).unwrap();
        for (now, text) in [(9, "valid only from"), (NOW + 1, "valid until")] {
            let findings = check(Against::Key(&public), now);
            assert!(matches!(wrong(&findings)[..], [("validity", t)] if t.contains(text)), "{findings:?}");
        }
        let other = PrivateKey::generate(Kind::Rsa, 2048).unwrap().public();
        let findings = check(Against::Key(&other), NOW);
        assert!(matches!(wrong(&findings)[..], [("signature", t)] if t.contains("did not sign")));
        let ed25519 = PrivateKey::generate(Kind::Ed25519, 0).unwrap().public();
        let findings = check(Against::Key(&ed25519), NOW);
        assert!(matches!(wrong(&findings)[..], [("signature", t)] if t.contains("not the key's scheme")));

        let strict = policy("joe", &public, "min_rsa_bits = 3072");
        let findings = check(Against::Policy(&strict), NOW);
        assert!(matches!(wrong(&findings)[..], [("signature", t)] if t.contains("2048")), "{findings:?}");
        let stranger = policy("eve", &public, "");
        let findings = check(Against::Policy(&stranger), NOW);
        let [("signature", text), ("policy", _)] = wrong(&findings)[..] else { panic!("{findings:?}") };
        assert!(text.contains("joe"), "{text}");
        let late = check(Against::Policy(&policy("joe", &public, "")), 3000);
        assert_eq!(wrong(&late).iter().map(|w| w.0).collect::<Vec<_>>(), ["signature", "validity"]);
        let error = report(&late, Output::new(true)).unwrap_err();
        assert_eq!(error.to_string(), "the flow is not in order: signature, validity");
    }

    #[test]
    fn a_tuple_is_for_the_nodes_that_it_names() {
        let verdict = |node| meant_for(&["a", "b"], node).verdict;
        assert_eq!([None, Some("b"), Some("c")].map(verdict), [Verdict::Open, Verdict::Good, Verdict::Bad]);
    }

    #[test]
    fn every_changed_byte_is_found() {
        let c = case("verify-bytes", Kind::Ed25519);
        let public = c.key.public();
        let good = fs::read(&c.file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&c.file, &bad).unwrap();
            let findings =
                verify(&c.file, &[], Against::Policy(&policy("joe", &public, "")), during(NOW)).unwrap();
            assert!(!wrong(&findings).is_empty(), "byte {at} of {}: {findings:?}", good.len());
        }
    }

    #[test]
    fn a_part_that_is_not_the_tuples_is_found() {
        let c = case("verify-parts", Kind::Ed25519);
        let public = c.key.public();
        let check = |parts: &[PathBuf]| verify(&c.file, parts, Against::Key(&public), during(NOW)).unwrap();
        let stray = c.scratch.0.join("stray");
        fs::write(&stray, "stray").unwrap();
        let findings = check(std::slice::from_ref(&stray));
        assert!(matches!(wrong(&findings)[..], [(_, t)] if t.contains("no part of this flow")));
        let folder = parts_folder(&c.file);
        let module = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(&module).unwrap();
        bytes[9] ^= 1;
        fs::write(&module, &bytes).unwrap();
        let findings = check(&[]);
        assert!(matches!(wrong(&findings)[..], [("module of demo", t)] if t.contains("SHA-256")));
        bytes.push(0);
        fs::write(&module, &bytes).unwrap();
        let findings = check(&[]);
        assert!(
            matches!(wrong(&findings)[..], [("module of demo", t)] if t.contains("bytes, the tuple says"))
        );
        fs::remove_file(&module).unwrap();
        let findings = check(&[]);
        assert!(findings.iter().any(|f| f.part == "module of demo" && f.verdict == Verdict::Open));
        assert!(wrong(&findings).is_empty());
    }
}
