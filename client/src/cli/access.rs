//! Which node a command is for, and how to get in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use authagent::keys::{Ed25519Key, SigningKey};

use crate::exit::{Code, failure};
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
    #[arg(long, global = true, env = "BEES_ADDRESS", help_heading = "Which node", value_name = "HOST:PORT")]
    address: Option<String>,
    /// Session server of that node, if it is not on the next port
    #[arg(
        long,
        global = true,
        env = "BEES_SESSION_ADDRESS",
        help_heading = "Which node",
        value_name = "HOST:PORT"
    )]
    session_address: Option<String>,
    /// File with the secret key to log in with (hex)
    #[arg(long, global = true, env = "BEES_KEY", help_heading = "Which node", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The node's public identity key (hex); without it any node at that address is believed
    #[arg(long, global = true, env = "BEES_IDENTITY", help_heading = "Which node", value_name = "HEX")]
    identity: Option<String>,
    /// As whom to log in
    #[arg(long, global = true, env = "BEES_PRINCIPAL", default_value = ADMIN, help_heading = "Which node", value_name = "NAME")]
    principal: String,
    /// How long to wait for a node's answer, in seconds
    #[arg(long, global = true, default_value_t = 10.0, help_heading = "Which node", value_name = "SECONDS")]
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
                let mut target = folder.target(&state, name, self.timeout()?)?;
                if let Some(file) = &self.key {
                    target.key = read_key(file)?;
                }
                target.principal.clone_from(&self.principal);
                Ok(target)
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

    fn outside(&self, address: &str) -> Result<Target> {
        let missing = |what| failure(Code::Usage, format!("--address needs {what}"));
        let file = self.key.as_ref().ok_or_else(|| missing("--key FILE"))?;
        let key = read_key(file)?;
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
            principal: self.principal.clone(),
            key,
            timeout: self.timeout()?,
        })
    }
}

fn read_key(file: &Path) -> Result<SigningKey> {
    let text = fs::read_to_string(file)
        .map_err(|e| failure(Code::Missing, format!("cannot read {}: {e}", file.display())))?;
    SigningKey::from_hex(text.trim()).with_context(|| file.display().to_string())
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
