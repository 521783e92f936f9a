//! The flows of the benchmarks: module, tuple, identifier. The one that is relayed, and any other.

use anyhow::{Context, Result};
use wire::id::{CapsuleId, PartHash, Path, TupleHash};
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, CapsuleType, Credentials, Part, Protocol, Tuple};

/// The guest's text.
const MODULE: &str = include_str!("relay.wat");

/// A flow, ready to be injected.
#[derive(Debug, Clone)]
pub struct RelayFlow {
    /// The tuple's bytes.
    pub tuple: Vec<u8>,
    /// The module's bytes.
    pub module: Vec<u8>,
    /// The module's name.
    pub part: PartHash,
    /// The flow's name.
    pub hash: TupleHash,
    /// The identifier of its capsules.
    pub id: CapsuleId,
}

impl RelayFlow {
    /// Assembles the relay's module and writes its tuple.
    pub fn new() -> Result<Self> {
        Self::of("relay", MODULE, |body| body.nonce = *b"relay benchmark\0")
    }

    /// A flow of this guest, one of whose capsules may be sent once, unless `edit` changes that.
    pub fn of(name: &str, guest: &str, edit: impl FnOnce(&mut Body)) -> Result<Self> {
        let module = wat::parse_str(guest)?;
        let code = Part::of(&module).context("the module is too long")?;
        let relay = CapsuleType {
            name: "Relay".into(),
            limits: Limits::NONE.with(Operation::Sends, 1),
            derives: Vec::new(),
        };
        let protocol = Protocol { capsules: vec![relay], ..Protocol::new(name, code) };
        let mut body = Body::new([0; 16], vec![protocol]);
        edit(&mut body);
        let tuple = Tuple { body, credentials: Credentials::None };
        tuple.check()?;
        let tuple = tuple.encode();
        let hash = TupleHash::of(&tuple);
        let id = CapsuleId::compute(&hash, &Path::default(), 0, &[]);
        Ok(Self { tuple, module, part: code.sha256, hash, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_admitted() {
        ee::admit::admit(&RelayFlow::new().unwrap().module).unwrap();
    }
}
