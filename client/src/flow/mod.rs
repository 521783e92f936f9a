//! Flow tuples: made from modules (Bees' FlowBuilder), signed, verified, printed (its FlowDumper), and kept
//! in files.

pub mod build;
pub mod dump;
pub mod inject;
pub mod replace;
pub mod sign;
pub mod verify;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use wire::id::{PartHash, TupleHash};
use wire::tuple::{Credentials, Tuple};

use crate::exit::{Code, failure};
use crate::files;

/// A flow that can be injected: its tuple, and the bytes of its parts.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The tuple.
    pub tuple: Tuple,
    /// The tuple's bytes.
    pub bytes: Vec<u8>,
    /// Modules and data parts by hash.
    pub parts: HashMap<PartHash, Vec<u8>>,
}

impl Bundle {
    /// The flow's name.
    pub fn hash(&self) -> TupleHash {
        TupleHash::of(&self.bytes)
    }

    /// Writes the tuple to `path`, and its parts into the folder `path`.parts, each named by its hash.
    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = parts_folder(path);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (hash, bytes) in &self.parts {
            files::write(&folder.join(hash.to_string()), bytes)?;
        }
        files::write(path, &self.bytes)
    }

    /// Reads a tuple's file and looks for its parts in the folder beside it and among `others`.
    pub fn load(path: &Path, others: &[PathBuf]) -> Result<Self> {
        let bytes = read(path)?;
        let tuple = decode(&bytes).with_context(|| path.display().to_string())?;
        let mut parts = HashMap::new();
        for file in others {
            let bytes = read(file)?;
            parts.insert(PartHash::of(&bytes), bytes);
        }
        for part in tuple.parts() {
            if parts.contains_key(&part.sha256) {
                continue;
            }
            let file = parts_folder(path).join(part.sha256.to_string());
            let bytes = fs::read(&file).map_err(|_| {
                let text = format!(
                    "the part {:.16} of {} is not in {}; name its file with --part",
                    part.sha256,
                    path.display(),
                    parts_folder(path).display()
                );
                failure(Code::Missing, text)
            })?;
            if !part.matches(&bytes) {
                let text = format!("{} is not the part that its name says; build again", file.display());
                return Err(failure(Code::Failed, text));
            }
            parts.insert(part.sha256, bytes);
        }
        Ok(Self { tuple, bytes, parts })
    }
}

/// Reads a tuple that the user named; who named its module hears how a tuple is made of it.
pub fn decode(bytes: &[u8]) -> Result<Tuple> {
    ensure!(
        !build::is_module(bytes),
        "a WebAssembly module, not a flow tuple; `bees flow build` makes one of it"
    );
    Ok(Tuple::decode(bytes)?)
}

/// The principal who answers for a tuple.
pub fn signer(tuple: &Tuple) -> Option<&str> {
    match &tuple.credentials {
        Credentials::None => None,
        Credentials::Signed { principal, .. } => Some(principal),
    }
}

/// Reads a file that the user named.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| failure(Code::Missing, format!("cannot read {}: {e}", path.display())))
}

pub(crate) fn parts_folder(path: &Path) -> PathBuf {
    path.with_added_extension("parts")
}
