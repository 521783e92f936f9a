//! `bees lab inject`, and what else injects what a lab file says: flows of the protocols that `cargo xtask capsules`
//! built, with their companions, signed by the lab's principals.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use sim::lab::{Inject, Lab};
use wire::control::FlowInfo;

use super::built;
use super::state::{Folder, State};
use crate::exit::{Code, failure};
use crate::flow::build::{self, Pair};
use crate::flow::inject;
use crate::output::{Output, Table, progress};
use crate::remote::{Remote, Target};

/// How long a flow may take until it runs.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for a request to a node.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// A deployed lab, and the protocols to play on it.
pub(super) struct Stage {
    folder: Folder,
    pub state: State,
    modules: PathBuf,
}

/// Injects all that the file of a deployed lab says; `modules`: the folder of the protocols.
pub fn inject_all(folder: Folder, modules: Option<&Path>, output: Output) -> Result<()> {
    let (state, file) = (folder.deployed()?, folder.path("lab.toml"));
    let text = fs::read_to_string(&file)
        .map_err(|e| failure(Code::Missing, format!("cannot read {}: {e}", file.display())))?;
    let lab = Lab::parse(&text).map_err(|e| failure(Code::Usage, format!("{}: {e}", file.display())))?;
    let stage = Stage::new(folder, state, modules);
    let mut flows = Vec::new();
    for wanted in &lab.injects {
        let flow = stage.inject(&lab, wanted)?;
        progress(format!("{} {:.8} runs at {}", wanted.protocol, flow.hash, lab.nodes[wanted.node].name));
        flows.push((lab.nodes[wanted.node].name.as_str(), flow));
    }
    let value = |(node, flow): &(&str, FlowInfo)| json!({ "node": node, "name": flow.name, "hash": flow.hash.to_string() });
    output.show(
        || flows.iter().map(value).collect(),
        || {
            let mut table = Table::new(&["NODE", "FLOW", "NAME"]);
            for (node, flow) in &flows {
                table.row([node.to_string(), flow.hash.to_string(), flow.name.clone()].map(Into::into));
            }
            table
        },
    )
}

impl Stage {
    pub fn new(folder: Folder, state: State, modules: Option<&Path>) -> Self {
        let modules = modules.map_or_else(|| built("capsules", "hello.wasm"), Path::to_path_buf);
        Self { folder, state, modules }
    }

    pub fn target(&self, node: &str) -> Result<Target> {
        self.folder.target(&self.state, node, TIMEOUT)
    }

    /// Builds a flow, has it signed if the file says so, and injects it.
    pub fn inject(&self, lab: &Lab, wanted: &Inject) -> Result<FlowInfo> {
        let companion = |(interface, protocol): (&String, &String)| {
            Ok(Pair::new(interface, &self.module(protocol)?.display().to_string()))
        };
        let mut bundle = build::build(&build::Options {
            module: self.module(&wanted.protocol)?,
            privileges: wanted.privileges.clone(),
            companions: wanted.companions.iter().map(companion).collect::<Result<_>>()?,
            params: wanted.params.iter().map(|(name, value)| Pair::new(name, value)).collect(),
            ..Default::default()
        })?;
        if let Some(principal) = wanted.principal.map(|p| &lab.principals[p].name) {
            bundle.sign(principal, &self.folder.principal_key(principal)?, Default::default())?;
        }
        let node = &lab.nodes[wanted.node].name;
        inject::inject(&mut Remote::login(&self.target(node)?)?, &bundle, PATIENCE)
    }

    fn module(&self, protocol: &str) -> Result<PathBuf> {
        let module = self.modules.join(format!("{protocol}.wasm"));
        match module.is_file() {
            true => Ok(module),
            false => {
                let text = format!("{} is missing; `cargo xtask capsules` builds it", module.display());
                Err(failure(Code::Missing, text))
            }
        }
    }
}
