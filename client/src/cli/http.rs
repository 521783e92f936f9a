//! `bees http proxy|gateway`: HTTP through the network (`capsules/http`).

use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use serde_json::json;

use super::Access;
use crate::exit::{Code, failure};
use crate::http::{Hosts, Proxy, Terms, serve};
use crate::output::{Output, progress};
use crate::session::Session;

/// An end of it.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Serve clients like curl; what they ask for comes through the network
    Proxy {
        /// The flow: its name, its hash, or the hash's first digits
        #[arg(long, default_value = "http")]
        flow: String,
        /// Where clients connect; port 0: any free one
        #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
        /// The server whose objects are meant where a client names none, so that no proxy has to be set
        #[arg(long, value_name = "URL")]
        origin: Option<String>,
    },
    /// Be the gateway: fetch what is asked for from its servers
    Gateway {
        /// The flow: its name, its hash, or the hash's first digits
        #[arg(long, default_value = "http")]
        flow: String,
        /// A server that may be asked: HOST, HOST:PORT, or * for all of them. This machine asks: name no host that only it
        /// should reach
        #[arg(long, required = true, value_name = "HOST")]
        allow: Vec<String>,
    },
}

pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    let target = access.target()?;
    match verb {
        Verb::Proxy { flow, listen, origin } => {
            let cannot = |e| failure(Code::Failed, format!("cannot listen at {listen}: {e}"));
            let listener = TcpListener::bind(listen).map_err(cannot)?;
            let at = listener.local_addr().map_err(cannot)?;
            match output.is_json() {
                true => output.value(&json!({ "proxy": at.to_string() }))?,
                false => output.text(&format!("http://{at}\n"))?,
            }
            progress(format!("curl -x http://{at} URL; objects come from node {}", target.name));
            let (flow, origin) = (flow.clone(), origin.clone());
            let terms = Terms { address: target.session, flow, timeout: target.timeout, origin };
            Proxy::new(listener, terms).run()
        }
        Verb::Gateway { flow, allow } => {
            let session = Session::open(&target.session, flow, target.timeout)?;
            serve(session, &Hosts::new(allow), target.timeout)
        }
    }
}
