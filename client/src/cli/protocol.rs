//! `bees protocol`: the modules of a node, a module on trial, and protocol servers.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use sim::trial::script::Script;
use wire::tuple::Credentials;

use super::{Access, show};
use crate::exit::{Code, failure};
use crate::flow::inject::inject;
use crate::flow::read;
use crate::output::{Output, Table, plain, progress};
use crate::protocols::{Fetcher, Shelf, serve};

/// What to do.
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
    /// Serve the flows of a folder, to nodes and to `bees protocol fetch`
    Serve {
        /// The folder: tuples (*.tuple) as `bees flow build` writes them, with their parts
        folder: PathBuf,
        /// Where to listen
        #[arg(long, value_name = "ADDRESS:PORT", default_value_t = format!("0.0.0.0:{}", wire::SERVER_PORT))]
        listen: String,
    },
    /// Show the flows of a protocol server
    List {
        /// The server
        #[arg(long, value_name = "HOST[:PORT]")]
        from: String,
    },
    /// Fetch a flow from a protocol server: a file, or straight into the node
    Fetch {
        /// The flow: the name of its protocol, its hash, or the hash's first digits
        flow: String,
        /// The server
        #[arg(long, value_name = "HOST[:PORT]")]
        from: String,
        /// The tuple's file; without it NAME.tuple
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Inject it, and write no file
        #[arg(long, conflicts_with = "output")]
        inject: bool,
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

/// How long a flow that was fetched may take until it runs.
const PATIENCE: Duration = Duration::from_secs(30);

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
        Verb::Serve { folder, listen } => serve_folder(folder, listen, output),
        Verb::List { from } => {
            let flows = Fetcher::connect(from, access.timeout()?)?.list()?;
            let value = || {
                flows.iter().map(|(hash, name)| json!({ "hash": hash.to_string(), "name": name })).collect()
            };
            output.show(value, || {
                let mut table = Table::new(&["FLOW", "NAME"]);
                for (hash, name) in &flows {
                    table.row([hash.to_string(), plain(name)].map(Into::into));
                }
                table
            })
        }
        Verb::Fetch { flow, from, output: file, inject } => {
            fetch(access, flow, from, file.as_deref(), *inject, output)
        }
    }
}

fn serve_folder(folder: &Path, listen: &str, output: Output) -> Result<()> {
    let shelf = Shelf::open(folder, &mut |line| progress(line))?;
    let listener = TcpListener::bind(listen)
        .map_err(|e| failure(Code::Unreachable, format!("cannot listen at {listen}: {e}")))?;
    let address = listener.local_addr().context("the listener has no address")?;
    progress(format!("{} flows of {}; Ctrl-C ends", shelf.len(), folder.display()));
    // The port may have been chosen by the system.
    match output.is_json() {
        true => output.value(&json!({ "address": address.to_string(), "flows": shelf.len() }))?,
        false => output.text(&format!("{address}\n"))?,
    }
    serve(&listener, shelf, |line| progress(plain(&line)))
}

fn fetch(
    access: &Access,
    flow: &str,
    from: &str,
    file: Option<&Path>,
    to_node: bool,
    output: Output,
) -> Result<()> {
    let bundle = Fetcher::connect(from, access.timeout()?)?.flow(flow)?;
    let (hash, name) = (bundle.hash(), &bundle.tuple.main().name);
    let signed = match &bundle.tuple.credentials {
        Credentials::None => "not signed".to_string(),
        Credentials::Signed { principal, .. } => format!("signed as {}", plain(principal)),
    };
    if to_node {
        progress(format!("{} {hash:.8}, {signed}: the node's Auth Agent judges it", plain(name)));
        inject(&mut access.login()?, &bundle, PATIENCE)?;
    } else {
        let own = file.is_none().then(|| file_name(name)).transpose()?;
        let file = file.or(own.as_deref()).expect("one of them is there");
        bundle.save(file)?;
        progress(format!(
            "{}: {} {hash:.8}, {signed}; `bees flow verify` checks by whom",
            file.display(),
            plain(name)
        ));
    }
    match output.is_json() {
        true => output.value(&json!({ "hash": hash.to_string(), "name": name })),
        false => output.text(&format!("{hash}\n")),
    }
}

/// A file in this folder for a flow whose name others chose.
fn file_name(name: &str) -> Result<PathBuf> {
    let harmless = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    match harmless {
        true => Ok(PathBuf::from(format!("{name}.tuple"))),
        false => Err(failure(Code::Usage, format!("{} is no name for a file; say -o FILE", plain(name)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_writes_nowhere_else() {
        assert_eq!(file_name("hello").unwrap(), Path::new("hello.tuple"));
        for name in ["", "../x", "/etc/x", ".x", "a b", "x\u{1b}[0m"] {
            assert!(file_name(name).is_err(), "{name:?}");
        }
    }
}
