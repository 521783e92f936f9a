//! The principals of a lab: their keys, and the policies that name them.
//!
//! A lab file can be given to others and its keys cannot. So a policy of a lab names a principal's key as
//! `"@NAME"`, and what stands for it is the key that the deployment made or found.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use sim::lab::{KeyKind, Lab};

use super::state::Folder;
use crate::cli::parse_policy;
use crate::exit::{Code, failure};
use crate::files;
use crate::flow::read;
use crate::keys::{KeyFile, Kind, PrivateKey, load_public};

/// Size of an RSA key that is made for a lab.
const RSA_BITS: u32 = 3072;
/// What begins a principal's name in the place of its key.
const STANDS_FOR: &str = "\"@";

/// Makes the keys of the lab's principals that are not there; `beside` is the folder of the lab file.
pub fn make_keys(folder: &Folder, lab: &Lab, beside: &Path) -> Result<()> {
    for principal in &lab.principals {
        let file = folder.principal_file(&principal.name);
        let parent = file.parent().context("a key's file is in a folder")?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        match &principal.key {
            Some(key) => {
                let key = beside.join(key);
                let key = fs::canonicalize(&key)
                    .map_err(|e| failure(Code::Missing, format!("cannot read {}: {e}", key.display())))?;
                files::remove_if_there(&file)?;
                symlink(key, &file).with_context(|| format!("cannot make {}", file.display()))?;
            }
            None if file.exists() => {}
            None => {
                let kind = match principal.kind {
                    KeyKind::Ed25519 => Kind::Ed25519,
                    KeyKind::Rsa => Kind::Rsa,
                };
                let key = PrivateKey::generate(kind, RSA_BITS)?;
                KeyFile { key, principal: Some(principal.name.clone()) }.save(&file, false)?;
            }
        }
    }
    Ok(())
}

/// The text of each policy in the lab, by the name of its file.
pub fn policies(folder: &Folder, lab: &Lab, beside: &Path) -> Result<HashMap<String, String>> {
    let mut policies = HashMap::new();
    for name in lab.nodes.iter().filter_map(|n| n.policy.as_ref()) {
        if !policies.contains_key(name) {
            let file = beside.join(name);
            let text = String::from_utf8(read(&file)?)
                .map_err(|_| failure(Code::Failed, format!("{} is no text", file.display())))?;
            let text = fill(&file, &text, folder)?;
            parse_policy(&file, &text)?;
            policies.insert(name.clone(), text);
        }
    }
    Ok(policies)
}

/// Whether a policy's text names principals of a lab in place of their keys.
pub fn names_principals(text: &str) -> bool {
    text.contains(STANDS_FOR)
}

/// A policy's text with the keys of the lab's principals in it; `file` is where it stands.
pub fn fill(file: &Path, text: &str, folder: &Folder) -> Result<String> {
    let mut parts = text.split(STANDS_FOR);
    let mut filled = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (name, rest) = part
            .split_once('"')
            .ok_or_else(|| failure(Code::Failed, format!("{}: \"@ has no end", file.display())))?;
        let key = folder.principal_file(name);
        if !key.exists() {
            let text = format!(
                "{}: @{name} is no principal of the lab {}; [[principal]] in the lab file makes it one",
                file.display(),
                folder.name()
            );
            return Err(failure(Code::Missing, text));
        }
        // What JSON quotes, TOML reads.
        filled += &serde_json::to_string(&load_public(&key)?.0.to_text())?;
        filled += rest;
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;
    use authagent::policy::Policy;

    #[test]
    fn a_policy_names_the_keys_that_the_lab_made() {
        let scratch = Scratch::new("lab-principals");
        let folder = Folder::at(&scratch.0.join("lab"));
        drop(folder.lock().unwrap());
        let theirs = KeyFile { key: PrivateKey::generate(Kind::Ed25519, 0).unwrap(), principal: None };
        theirs.save(&scratch.0.join("eve.key"), false).unwrap();
        let lab = "name = \"x\"\n[[node]]\nname = \"a\"\npolicy = \"a.toml\"\n[[node]]\nname = \"b\"\n\
                   policy = \"a.toml\"\n[[principal]]\nname = \"joe\"\ntype = \"rsa\"\n\
                   [[principal]]\nname = \"eve\"\nkey = \"eve.key\"\n";
        let lab = Lab::parse(lab).unwrap();
        make_keys(&folder, &lab, &scratch.0).unwrap();
        let joe = folder.principal_key("joe").unwrap().public();
        make_keys(&folder, &lab, &scratch.0).unwrap();
        assert_eq!(folder.principal_key("joe").unwrap().public(), joe, "a key is made once");
        assert_eq!(folder.principal_key("eve").unwrap().public(), theirs.key.public());
        let missing = folder.principal_key("jim").unwrap_err();
        assert_eq!(crate::exit::code(&missing), Code::Missing);

        let policy = |name: &str| {
            let text = format!("[[principal]]\nname = \"{name}\"\nkeys = [\"@{name}\", \"@eve\"]\n");
            fs::write(scratch.0.join("a.toml"), text).unwrap();
            policies(&folder, &lab, &scratch.0)
        };
        let texts = policy("joe").unwrap();
        let read = Policy::parse(&texts["a.toml"]).unwrap();
        assert_eq!(read.principal("joe").unwrap().keys, [joe, theirs.key.public()]);
        assert!(policy("jim").unwrap_err().to_string().contains("@jim is no principal of the lab"));
        fs::write(scratch.0.join("a.toml"), "x = 1").unwrap();
        let error = policies(&folder, &lab, &scratch.0).unwrap_err().to_string();
        assert!(error.contains("a.toml:1:1: "), "{error}");
    }
}
