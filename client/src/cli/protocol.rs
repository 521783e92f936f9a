//! `bees protocol show|test`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;
use sim::trial::script::Script;

use super::{Access, show};
use crate::flow::read;
use crate::output::Output;

/// Verbs of protocols.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show the modules in the node's code cache
    Show,
    /// Try a module on simulated nodes: a script says what programs say to it and hear
    #[command(after_help = HELP)]
    Test {
        /// The protocol's module
        module: PathBuf,
        /// The script, a line for each step; lab.txt beside the module without it
        script: Option<PathBuf>,
    },
}

const HELP: &str = "\
A script's lines:
  lab line 3          first: the lab, a line, ring or star of so many nodes, n1, n2, ...; the flow is injected at n1
  n1 < good morning   a program at n1 opens a session, if it has none, and says the text, if there is some
  n2 > good           the program at n2 waits for a line with this text, at most ten seconds of virtual time
  loss 0.1            from now on each link loses a tenth of its frames
  wait 2              two seconds pass
  # a comment";

pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    match verb {
        Verb::Show => show::protocol(access, output),
        Verb::Test { module, script } => {
            let script = script.clone().unwrap_or_else(|| module.with_file_name("lab.txt"));
            let text = String::from_utf8(read(&script)?).context("the script is no text")?;
            let at = || script.display().to_string();
            let steps = Script::parse(&text).with_context(at)?.run(&read(module)?).with_context(at)?;
            if output.is_json() {
                return output.value(&json!({ "module": module, "script": script, "steps": steps }));
            }
            output.text(&format!("{}: {steps} steps as {} says\n", module.display(), script.display()))
        }
    }
}
