//! `bees key new|show|export`.

use std::path::PathBuf;

use anyhow::Result;
use authagent::keys::PublicKey;
use serde_json::{Value, json};

use super::Access;
use crate::files;
use crate::keys::{KeyFile, Kind, PrivateKey, check_principal, load_public};
use crate::output::{Output, or_dash, pairs, progress};

/// Verbs of keys.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Make a private key; --principal says whose it is
    New {
        /// What kind of key
        #[arg(long = "type", value_enum, default_value = "ed25519", value_name = "TYPE")]
        kind: Kind,
        /// Size of an RSA key: 2048 to 4096
        #[arg(long, default_value_t = 3072)]
        bits: u32,
        /// Replace a key that is there already
        #[arg(long)]
        force: bool,
        /// Where to write it, in PKCS#8, for its owner only
        file: PathBuf,
    },
    /// Show what a key is, without its secret
    Show {
        /// A private or a public key
        file: PathBuf,
    },
    /// Write the public part of a key: what policies and other programs need
    Export {
        /// A private or a public key
        file: PathBuf,
        /// 64 hex digits instead of PEM, for an Ed25519 key
        #[arg(long)]
        hex: bool,
        /// Where to write it, instead of to stdout
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    match verb {
        Verb::New { kind, bits, force, file } => {
            let principal = access.principal().map(str::to_string);
            principal.as_deref().map_or(Ok(()), check_principal)?;
            let new = KeyFile { key: PrivateKey::generate(*kind, *bits)?, principal };
            new.save(file, *force)?;
            progress(format!("{}: the private key; keep it", file.display()));
            show(&new.key.public(), new.principal.as_deref(), output)
        }
        Verb::Show { file } => {
            let (key, principal) = load_public(file)?;
            show(&key, principal.as_deref(), output)
        }
        Verb::Export { file, hex, output: to } => {
            let key = load_public(file)?.0;
            let text = match (&key, hex) {
                (PublicKey::Ed25519(key), true) => format!("{key}\n"),
                (_, true) => {
                    return Err(crate::exit::failure(
                        crate::exit::Code::Usage,
                        "only an Ed25519 key has 64 hex digits; leave --hex out for PEM",
                    ));
                }
                (_, false) => key.to_pem(),
            };
            match to {
                Some(path) => files::write(path, text.as_bytes()),
                None if output.is_json() => output.value(&json!({ "key": text.trim_end() })),
                None => output.text(&text),
            }
        }
    }
}

fn show(key: &PublicKey, principal: Option<&str>, output: Output) -> Result<()> {
    if output.is_json() {
        return output.value(&key_value(key, principal));
    }
    output.text(&pairs([
        ("type", key.kind().to_string()),
        ("bits", key.bits().to_string()),
        ("fingerprint", key.fingerprint().to_string()),
        ("principal", or_dash(principal)),
    ]))
}

fn key_value(key: &PublicKey, principal: Option<&str>) -> Value {
    json!({
        "type": key.kind(), "bits": key.bits(), "fingerprint": key.fingerprint().to_string(),
        "principal": principal, "public": key.to_text().trim_end(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;

    #[test]
    fn a_key_is_made_shown_and_exported() {
        let scratch = Scratch::new("key-verbs");
        let (file, public) = (scratch.0.join("joe.key"), scratch.0.join("joe.pub"));
        let (access, output) = (Access::default(), Output::new(true));
        let new = |force| Verb::New { kind: Kind::Ed25519, bits: 0, force, file: file.clone() };
        run(&access, &new(false), output).unwrap();
        let key = load_public(&file).unwrap();
        assert!(run(&access, &new(false), output).unwrap_err().to_string().contains("--force"));
        assert_eq!(load_public(&file).unwrap(), key);
        let export = |hex| Verb::Export { file: file.clone(), hex, output: Some(public.clone()) };
        for hex in [false, true] {
            run(&access, &export(hex), output).unwrap();
            assert_eq!(load_public(&public).unwrap(), (key.0.clone(), None));
            assert!(!std::fs::read_to_string(&public).unwrap().contains("PRIVATE"));
        }
        run(&access, &Verb::Show { file: public }, output).unwrap();
        assert_eq!(key_value(&key.0, Some("joe"))["bits"], 256);
        run(&access, &new(true), output).unwrap();
        assert_ne!(load_public(&file).unwrap(), key);
    }
}
