//! Which node a command is for, and how to get in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use authagent::keys::Ed25519Key;

use crate::exit::{Code, failure};
use crate::keys::{KeyFile, PrivateKey, check_principal};
use crate::lab::state::{ADMIN, Folder};
use crate::remote::{Remote, Target};

/// A node of a lab by its name, or any node by its address and keys.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Access {
    /// The node, by its name in the lab
    #[arg(short, long, global = true, env = "BEES_NODE", help_heading = "Which node", value_name = "NAME")]
    pub node: Option<String>,
    /// The lab, where there are several: its name or its folder
    #[arg(long, global = true, env = "BEES_LAB", help_heading = "Which node", value_name = "LAB")]
    pub lab: Option<String>,
    /// Control server of a node outside of a lab
    #[arg(
        long,
        global = true,
        env = "BEES_ADDRESS",
        help_heading = "Which node",
        value_name = "HOST:PORT",
        hide_short_help = true
    )]
    address: Option<String>,
    /// Session server of that node, if it is not on the next port
    #[arg(
        long,
        global = true,
        env = "BEES_SESSION_ADDRESS",
        help_heading = "Which node",
        value_name = "HOST:PORT",
        hide_short_help = true
    )]
    session_address: Option<String>,
    /// File with the private key to log in or to sign with (PEM or hex)
    #[arg(long, global = true, env = "BEES_KEY", help_heading = "As whom", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The node's public identity key (hex); without it any node at that address is believed
    #[arg(
        long,
        global = true,
        env = "BEES_IDENTITY",
        help_heading = "Which node",
        value_name = "HEX",
        hide_short_help = true
    )]
    identity: Option<String>,
    /// As whom to log in or to sign; without it as the key's file says, or as the lab's administrator
    #[arg(long, global = true, env = "BEES_PRINCIPAL", help_heading = "As whom", value_name = "NAME")]
    principal: Option<String>,
    /// How long to wait for a node's answer, in seconds
    #[arg(
        long,
        global = true,
        default_value_t = 10.0,
        help_heading = "Which node",
        value_name = "SECONDS",
        hide_short_help = true
    )]
    timeout: f64,
}

impl Access {
    /// The lab's folder.
    pub fn folder(&self) -> Result<Folder> {
        Folder::find(self.lab.as_deref())
    }

    /// The node.
    pub fn target(&self) -> Result<Target> {
        match &self.address {
            Some(address) => self.outside(address),
            None => {
                let folder = self.folder()?;
                let state = folder.deployed()?;
                let names: Vec<&str> = state.nodes.iter().map(|n| n.name.as_str()).collect();
                let name = match (&self.node, &names[..]) {
                    (Some(name), _) => name,
                    (None, [only]) => *only,
                    (None, _) => {
                        let text = format!("which node? Say -n NAME: {}", names.join(" "));
                        return Err(failure(Code::Usage, text));
                    }
                };
                let (key, principal) = match self.signer()? {
                    Some(signer) => signer,
                    None => {
                        let principal = self.principal.as_deref().unwrap_or(ADMIN);
                        (folder.principal_key(principal)?, principal.to_string())
                    }
                };
                let target = folder.target(&state, name, self.timeout()?)?;
                Ok(Target { key, principal, ..target })
            }
        }
    }

    /// Logs in.
    pub fn login(&self) -> Result<Remote> {
        Remote::login(&self.target()?)
    }

    /// How long to wait for an answer.
    pub fn timeout(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.timeout)
            .map_err(|e| failure(Code::Usage, format!("--timeout {}: {e}", self.timeout)))
    }

    /// The key that `--key` names, and whose it is.
    fn signer(&self) -> Result<Option<(PrivateKey, String)>> {
        let Some(file) = &self.key else { return Ok(None) };
        let KeyFile { key, principal } = KeyFile::load(file)?;
        let principal = self.principal.clone().or(principal).unwrap_or_else(|| ADMIN.into());
        check_principal(&principal)?;
        Ok(Some((key, principal)))
    }

    /// Who signs a flow: the key in `file`, or in the file that `--key` names, or that of the lab's principal.
    pub fn flow_signer(&self, file: Option<&Path>) -> Result<(PrivateKey, String)> {
        let unknown = |what| failure(Code::Usage, format!("who signs? Say {what}"));
        let Some(file) = file.or(self.key.as_deref()) else {
            let principal = self.principal.as_deref().ok_or_else(|| unknown("--key FILE"))?;
            return Ok((self.folder()?.principal_key(principal)?, principal.to_string()));
        };
        let KeyFile { key, principal } = KeyFile::load(file)?;
        let principal = self.principal.clone().or(principal).ok_or_else(|| unknown("--principal NAME"))?;
        check_principal(&principal)?;
        Ok((key, principal))
    }

    /// The file that `--key` names.
    pub fn key_file(&self) -> Option<&Path> {
        self.key.as_deref()
    }

    /// The name that `--principal` gives.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    fn outside(&self, address: &str) -> Result<Target> {
        let missing = |what| failure(Code::Usage, format!("--address needs {what}"));
        let (key, principal) = self.signer()?.ok_or_else(|| missing("--key FILE"))?;
        let identity = self.identity.as_ref().map(|hex| hex.parse::<Ed25519Key>()).transpose();
        let identity = identity.map_err(|e| failure(Code::Usage, format!("--identity: {e}")))?;
        let session = match &self.session_address {
            Some(session) => session.clone(),
            None => next_port(address).ok_or_else(|| missing("a port: HOST:PORT"))?,
        };
        Ok(Target {
            name: self.node.clone().unwrap_or_else(|| address.into()),
            control: address.into(),
            session,
            identity,
            principal,
            key,
            timeout: self.timeout()?,
        })
    }
}

fn next_port(address: &str) -> Option<String> {
    let (host, port) = address.rsplit_once(':')?;
    Some(format!("{host}:{}", port.parse::<u16>().ok()?.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;

    #[test]
    fn a_node_outside_needs_a_key() {
        let scratch = Scratch::new("access");
        let file = scratch.0.join("key");
        let access = |key: Option<&PathBuf>, address: &str| Access {
            address: Some(address.into()),
            key: key.cloned(),
            timeout: 1.0,
            ..Access::default()
        };
        assert!(access(None, "h:1").target().unwrap_err().to_string().contains("--key FILE"));
        assert_eq!(crate::exit::code(&access(Some(&file), "h:1").target().unwrap_err()), Code::Missing);
        crate::files::write_secret(&file, "07".repeat(32).as_bytes()).unwrap();
        assert_eq!(access(Some(&file), "h:3322").target().unwrap().session, "h:3323");
        assert!(access(Some(&file), "h").target().is_err());
        let negative = Access { timeout: -1.0, ..access(Some(&file), "h:1") };
        assert_eq!(crate::exit::code(&negative.target().unwrap_err()), Code::Usage);
    }
}
