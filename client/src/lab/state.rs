//! A lab's folder `.lab/NAME`: what runs, where, and the keys to it.
//!
//! ```text
//! lab.toml          the lab file that was deployed
//! lab.json          what runs: [`State`]
//! lock              held by whoever changes the lab
//! admin.key         the administrator's secret key (hex)
//! principals/       private keys of the lab's principals: NAME.key
//! run               link to the folder of the sockets, whose paths must be short
//! wire.json         what the wire process was told; ports.json, links.json: what it says; wire.log
//! NODE.toml         a node's configuration, with its secret identity
//! NODE.key          its secret identity (hex); NODE.log: its console; NODE.disk: its disk, if it has one
//! LINK.pcap         what crossed a link
//! ```

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use authagent::keys::{Ed25519Key, SigningKey};
use serde::{Deserialize, Serialize};
/// As whom a lab's owner logs in.
pub use sim::lab::ADMIN;

use super::process::Process;
use super::wire::Ports;
use crate::exit::{Code, failure};
use crate::files;
use crate::keys::{KeyFile, PrivateKey};
use crate::remote::{Target, entropy};

/// The folder of all labs, in the current one.
pub const LABS: &str = ".lab";
/// The folder of the keys of the lab's other principals.
const PRINCIPALS: &str = "principals";

/// Where nodes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The bootable image in QEMU.
    Qemu,
    /// The same node as a Linux process.
    Hosted,
}

/// What makes QEMU fast, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Translation: works everywhere.
    Tcg,
    /// The processor's virtualisation.
    Kvm,
}

/// What runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The lab's name.
    pub name: String,
    /// Where its nodes run.
    pub kind: Kind,
    /// How QEMU runs, if it does.
    pub accel: Option<Accel>,
    /// The wire process.
    pub wire: Option<Process>,
    /// The nodes, in the order of the lab file.
    pub nodes: Vec<NodeState>,
}

/// A node of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Its management address.
    pub address: Ipv4Addr,
    /// Its memory, if it runs in QEMU, in bytes.
    pub memory: Option<u64>,
    /// Its public identity key (hex).
    pub identity: String,
    /// The ports on 127.0.0.1 that lead to it.
    pub ports: Option<Ports>,
    /// Its process.
    pub process: Option<Process>,
    /// How long it took from start to the first login, in microseconds.
    pub ready_us: Option<u64>,
}

/// A lab's folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of the lab called `name`.
    pub fn named(name: &str) -> Self {
        Self(Path::new(LABS).join(name))
    }

    /// The lab whose folder this is.
    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Self {
        Self(path.into())
    }

    /// The lab that `wanted` names: by its name or its folder. Without one, the only lab there is.
    pub fn find(wanted: Option<&str>) -> Result<Self> {
        Self::find_in(Path::new(LABS), wanted)
    }

    fn find_in(labs: &Path, wanted: Option<&str>) -> Result<Self> {
        let is_lab = |path: &Path| path.join("lock").exists();
        if let Some(wanted) = wanted {
            let found = [labs.join(wanted), PathBuf::from(wanted)].into_iter().find(|p| is_lab(p));
            return found.map(Self).ok_or_else(|| {
                failure(
                    Code::Missing,
                    format!("there is no lab {wanted} here; `bees lab deploy FILE` makes one"),
                )
            });
        }
        let entries = fs::read_dir(labs).map(|all| all.flatten().map(|e| e.path()).collect());
        let mut all: Vec<PathBuf> = entries.unwrap_or_default();
        all.retain(|p| is_lab(p));
        match &all[..] {
            [one] => Ok(Self(one.clone())),
            [] => Err(failure(Code::Missing, "there is no lab here; `bees lab deploy FILE` makes one")),
            _ => {
                let mut names: Vec<_> = all.iter().filter_map(|p| p.file_name()?.to_str()).collect();
                names.sort_unstable();
                let text = format!("there are several labs here; say --lab NAME: {}", names.join(" "));
                Err(failure(Code::Usage, text))
            }
        }
    }

    /// Makes the folder if it is not there and takes its lock, which holds until the file is dropped.
    pub fn lock(&self) -> Result<File> {
        let make = || -> std::io::Result<File> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
            fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.path("lock"))
        };
        let lock = make().with_context(|| format!("cannot make the lab's folder {}", self.0.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(fs::TryLockError::WouldBlock) => {
                bail!("another command is changing the lab {} right now", self.name())
            }
            Err(fs::TryLockError::Error(e)) => Err(e).context("cannot lock the lab"),
        }
    }

    /// The lab's name.
    pub fn name(&self) -> String {
        self.0.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// A file of the lab.
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.0.join(file)
    }

    /// A node's configuration.
    pub fn config(&self, node: &str) -> PathBuf {
        self.path(format!("{node}.toml"))
    }

    /// A node's console.
    pub fn console(&self, node: &str) -> PathBuf {
        self.path(format!("{node}.log"))
    }

    /// A node's disk.
    pub fn disk(&self, node: &str) -> PathBuf {
        self.path(format!("{node}.disk"))
    }

    /// A link's capture.
    pub fn capture(&self, link: &str) -> PathBuf {
        self.path(format!("{link}.pcap"))
    }

    /// What runs; `None` if nothing was deployed yet.
    pub fn state(&self) -> Result<Option<State>> {
        let path = self.path("lab.json");
        if path.exists() { files::read_json(&path).map(Some) } else { Ok(None) }
    }

    /// What runs; an error if nothing was deployed.
    pub fn deployed(&self) -> Result<State> {
        self.state()?
            .ok_or_else(|| failure(Code::Missing, format!("the lab {} is not deployed", self.name())))
    }

    /// Writes down what runs.
    pub fn save(&self, state: &State) -> Result<()> {
        files::write_json(&self.path("lab.json"), state)
    }

    /// The secret key in `file`; made if it is not there.
    pub fn key(&self, file: &str) -> Result<SigningKey> {
        let path = self.path(file);
        match fs::read_to_string(&path) {
            Ok(text) => SigningKey::from_hex(text.trim()).with_context(|| path.display().to_string()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let key = SigningKey::generate(&entropy).context("this machine gives no random numbers")?;
                files::write_secret(&path, format!("{}\n", key.to_hex().as_str()).as_bytes())?;
                Ok(key)
            }
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The file of a principal's key.
    pub fn principal_file(&self, principal: &str) -> PathBuf {
        match principal {
            ADMIN => self.path("admin.key"),
            other => self.path(PRINCIPALS).join(format!("{other}.key")),
        }
    }

    /// A principal's key.
    pub fn principal_key(&self, principal: &str) -> Result<PrivateKey> {
        let file = self.principal_file(principal);
        if principal != ADMIN && !file.exists() {
            let text = format!(
                "the lab {} has no key of {principal}; say --key FILE, or name the principal in the lab file",
                self.name()
            );
            return Err(failure(Code::Missing, text));
        }
        Ok(if principal == ADMIN { self.key("admin.key")?.into() } else { KeyFile::load(&file)?.key })
    }

    /// The folder of the lab's sockets; made if it is not there.
    ///
    /// A Unix socket's path has at most 107 bytes, so that the folder is not in the lab's own but in
    /// `$XDG_RUNTIME_DIR` or the folder of temporary files, for nobody but its owner.
    pub fn sockets(&self) -> Result<PathBuf> {
        if let Some(there) = self.existing_sockets().filter(|p| p.is_dir()) {
            return Ok(there);
        }
        let mut random = [0; 4];
        getrandom::fill(&mut random).context("this machine gives no random numbers")?;
        let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_dir());
        let base = base.unwrap_or_else(std::env::temp_dir);
        let folder = base.join(format!("bees-{}", crate::output::hex(&random)));
        if folder.as_os_str().len() > MAX_FOLDER {
            let text = format!(
                "{} is too long a path for sockets; set XDG_RUNTIME_DIR to a shorter one",
                base.display()
            );
            return Err(failure(Code::Usage, text));
        }
        let what = || format!("cannot make {}", folder.display());
        fs::DirBuilder::new().mode(0o700).create(&folder).with_context(what)?;
        files::remove_if_there(&self.path("run"))?;
        symlink(&folder, self.path("run")).with_context(what)?;
        Ok(folder)
    }

    /// The folder of the lab's sockets, if there ever was one.
    pub fn existing_sockets(&self) -> Option<PathBuf> {
        fs::read_link(self.path("run")).ok()
    }

    /// Removes everything of the lab.
    pub fn remove(&self) -> Result<()> {
        if let Some(sockets) = self.existing_sockets() {
            match fs::remove_dir_all(&sockets) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", sockets.display()));
                }
                _ => {}
            }
        }
        fs::remove_dir_all(&self.0).with_context(|| format!("cannot remove {}", self.0.display()))?;
        // Stays if there are other labs.
        let _ = self.0.parent().map(fs::remove_dir);
        Ok(())
    }

    /// How to reach the node called `name`.
    pub fn target(&self, state: &State, name: &str, timeout: Duration) -> Result<Target> {
        let node = state.nodes.iter().find(|n| n.name == name).ok_or_else(|| {
            let names: Vec<_> = state.nodes.iter().map(|n| n.name.as_str()).collect();
            let text = format!("the lab {} has no node {name}; it has: {}", state.name, names.join(" "));
            failure(Code::Missing, text)
        })?;
        let ports = node.ports.ok_or_else(|| {
            failure(Code::Missing, format!("node {name} was never started; deploy the lab again"))
        })?;
        Ok(Target {
            name: name.to_string(),
            control: format!("127.0.0.1:{}", ports.control),
            session: format!("127.0.0.1:{}", ports.session),
            identity: Some(node.identity.parse::<Ed25519Key>().context("lab.json is damaged")?),
            principal: ADMIN.into(),
            key: self.principal_key(ADMIN)?,
            timeout,
        })
    }
}

/// The longest folder of sockets: leaves room for their names.
const MAX_FOLDER: usize = 107 - 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;
    use std::os::unix::fs::PermissionsExt;

    fn folder(scratch: &Scratch, name: &str) -> Folder {
        let folder = Folder(scratch.0.join("labs").join(name));
        drop(folder.lock().unwrap());
        folder
    }

    #[test]
    fn the_only_lab_needs_no_name() {
        let scratch = Scratch::new("find");
        let labs = scratch.0.join("labs");
        let find = |wanted| Folder::find_in(&labs, wanted).map(|f| f.name());
        assert_eq!(crate::exit::code(&find(None).unwrap_err()), Code::Missing);
        folder(&scratch, "one");
        assert_eq!(find(None).unwrap(), "one");
        folder(&scratch, "two");
        assert_eq!(
            find(None).unwrap_err().to_string(),
            "there are several labs here; say --lab NAME: one two"
        );
        assert_eq!(find(Some("two")).unwrap(), "two");
        let path = labs.join("one");
        assert_eq!(find(path.to_str()).unwrap(), "one");
        assert_eq!(crate::exit::code(&find(Some("three")).unwrap_err()), Code::Missing);
    }

    #[test]
    fn one_command_at_a_time() {
        let scratch = Scratch::new("lock");
        let f = folder(&scratch, "x");
        let held = f.lock().unwrap();
        assert!(f.lock().unwrap_err().to_string().contains("another command"));
        drop(held);
        f.lock().unwrap();
    }

    #[test]
    fn keys_are_made_once_and_kept_private() {
        let scratch = Scratch::new("keys");
        let f = folder(&scratch, "x");
        let key = f.key("admin.key").unwrap();
        assert_eq!(f.key("admin.key").unwrap().public(), key.public());
        assert_ne!(f.key("a.key").unwrap().public(), key.public());
        let mode = fs::metadata(f.path("admin.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(f.path("admin.key"), "short").unwrap();
        assert!(f.key("admin.key").is_err());
    }

    #[test]
    fn sockets_have_short_paths_and_go_with_the_lab() {
        let scratch = Scratch::new("sockets");
        let f = folder(&scratch, "x");
        let sockets = f.sockets().unwrap();
        assert_eq!(f.sockets().unwrap(), sockets);
        assert!(sockets.join("longname.n").as_os_str().len() <= 107);
        assert_eq!(fs::metadata(&sockets).unwrap().permissions().mode() & 0o777, 0o700);
        f.remove().unwrap();
        assert!(!sockets.exists() && !f.path("").exists());
    }

    #[test]
    fn a_node_is_found_by_name() {
        let scratch = Scratch::new("target");
        let f = folder(&scratch, "x");
        let identity = f.key("a.key").unwrap().public();
        let node = NodeState {
            name: "a".into(),
            address: Ipv4Addr::new(10, 255, 0, 1),
            memory: None,
            identity: identity.to_string(),
            ports: Some(Ports { control: 1000, session: 1001, metrics: 1002 }),
            process: None,
            ready_us: None,
        };
        let state =
            State { name: "x".into(), kind: Kind::Hosted, accel: None, wire: None, nodes: vec![node] };
        assert!(f.state().unwrap().is_none());
        f.save(&state).unwrap();
        let state = f.deployed().unwrap();
        let target = f.target(&state, "a", Duration::from_secs(1)).unwrap();
        assert_eq!((target.control.as_str(), target.session.as_str()), ("127.0.0.1:1000", "127.0.0.1:1001"));
        assert!(target.identity == Some(identity));
        let error = f.target(&state, "z", Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.to_string(), "the lab x has no node z; it has: a");
    }
}
