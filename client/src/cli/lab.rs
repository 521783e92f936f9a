//! `bees lab deploy|destroy|inspect|inject|exec|graph|console|demo`.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use sim::lab::Lab;

use super::{Access, Cli};
use crate::exit::{Code, failure};
use crate::files;
use crate::lab::state::Folder;
use crate::lab::{demo, deploy, destroy, graph, guard, injects, inspect, wire};
use crate::output::Output;

/// Verbs of labs.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Start the nodes and links of a lab file, or what is missing of them
    Deploy {
        /// The lab file (emulab/*.toml; docs/architecture.md has its keys)
        file: PathBuf,
        #[command(flatten)]
        options: deploy::Options,
    },
    /// End all of a lab and remove its folder
    Destroy {
        /// The lab, where there are several
        #[arg(id = "which", value_name = "LAB")]
        lab: Option<String>,
    },
    /// Show nodes (process, address, state, memory) and links (frames, losses)
    Inspect {
        /// The lab, where there are several
        #[arg(id = "which", value_name = "LAB")]
        lab: Option<String>,
    },
    /// Inject what the lab file says
    Inject {
        /// The lab, where there are several
        #[arg(id = "which", value_name = "LAB")]
        lab: Option<String>,
        /// The folder with the protocols' modules, instead of the one that `cargo xtask capsules` fills
        #[arg(long, env = "BEES_CAPSULES", value_name = "FOLDER")]
        capsules: Option<PathBuf>,
    },
    /// Run another bees command for a node of the lab
    Exec {
        /// The node
        node: String,
        /// The command, without `bees`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Draw a lab
    Graph {
        /// A lab file; the deployed lab if not given
        file: Option<PathBuf>,
        /// The picture's language
        #[arg(long, value_enum, default_value = "text")]
        format: graph::Format,
    },
    /// Print a node's console
    Console {
        /// The node
        node: String,
        /// Go on showing new lines
        #[arg(short, long)]
        follow: bool,
    },
    /// Deploy a lab, inject its protocols, show how the code spread, ping the farthest node, destroy it
    Demo {
        /// The lab file
        #[arg(default_value = "emulab/line3.toml")]
        file: PathBuf,
        #[command(flatten)]
        options: demo::Options,
    },
    /// The process that carries a lab's links
    #[command(hide = true)]
    Wire {
        /// What it is told
        plan: PathBuf,
        /// The folder of its sockets, by which `destroy` finds it
        #[arg(long)]
        sockets: PathBuf,
    },
    /// The process that destroys a lab when its standard input ends
    #[command(hide = true)]
    Guard {
        /// The lab's name
        name: String,
    },
}

pub fn run(access: &Access, verb: Verb, json: bool, output: Output) -> Result<()> {
    let named = |lab: Option<String>| Folder::find(lab.as_deref().or(access.lab.as_deref()));
    match verb {
        Verb::Deploy { file, options } => {
            let (folder, _) = deploy::deploy(&file, &options)?;
            inspect::inspect(&folder, output)
        }
        Verb::Destroy { lab } => destroy::destroy(&named(lab)?),
        Verb::Inspect { lab } => inspect::inspect(&named(lab)?, output),
        Verb::Inject { lab, capsules } => injects::inject_all(named(lab)?, capsules.as_deref(), output),
        Verb::Exec { node, command } => {
            let words = command.iter().skip(usize::from(command[0] == "bees")).map(String::as_str);
            let mut cli = Cli::try_parse_from(["bees"].into_iter().chain(words)).unwrap_or_else(|e| e.exit());
            cli.access.node = Some(node);
            cli.access.lab = cli.access.lab.or_else(|| access.lab.clone());
            cli.json |= json;
            super::run(cli)
        }
        Verb::Graph { file, format } => {
            let file = match file {
                Some(file) => file,
                None => access.folder()?.path("lab.toml"),
            };
            let text = fs::read_to_string(&file)
                .map_err(|e| failure(Code::Missing, format!("cannot read {}: {e}", file.display())))?;
            let lab =
                Lab::parse(&text).map_err(|e| failure(Code::Usage, format!("{}: {e}", file.display())))?;
            output.text(&graph::draw(&lab, format))
        }
        Verb::Console { node, follow } => inspect::console(&access.folder()?, &node, follow, output),
        Verb::Demo { file, options } => demo::demo(&file, &options, output).map(|_| ()),
        Verb::Wire { plan, .. } => wire::process::run(&files::read_json(&plan)?),
        Verb::Guard { name } => guard::watch(&name),
    }
}
