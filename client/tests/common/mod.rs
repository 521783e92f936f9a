//! A deployed lab, and the `bees` command for it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

pub const BEES: &str = env!("CARGO_BIN_EXE_bees");

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A lab in a folder of its own, taken down in any case.
pub struct Lab {
    /// The current folder of its commands.
    pub folder: PathBuf,
}

impl Lab {
    /// Deploys a lab of `emulab/`.
    pub fn deploy(file: &str, on: &str) -> Self {
        let lab = Self::prepare(&format!("{on}-{}", file.replace(['/', '.'], "-")));
        lab.bring_up(&root().join("emulab").join(file), on);
        lab
    }

    /// The same with unprotected links, whose captures can be read.
    pub fn deploy_readable(file: &str, on: &str) -> Self {
        let lab = Self::prepare(&format!("{on}-readable-{}", file.replace(['/', '.'], "-")));
        let text = fs::read_to_string(root().join("emulab").join(file)).unwrap();
        let readable = lab.folder.join(file);
        fs::write(&readable, text.replacen("[defaults]", "[defaults]\nprotect = false", 1)).unwrap();
        lab.bring_up(&readable, on);
        lab
    }

    /// A folder for a lab that is not deployed yet.
    pub fn prepare(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("bees-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    /// Deploys the lab of `file`.
    pub fn bring_up(&self, file: &Path, on: &str) {
        let image = root().join("target/image");
        let (image, file) = (image.to_str().unwrap(), file.to_str().unwrap());
        self.bees(&["lab", "deploy", file, "--on", on, "--image", image, "--patience", "120"]);
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(BEES).args(arguments).current_dir(&self.folder).output().unwrap()
    }

    /// Runs a command that must succeed; its output.
    #[track_caller]
    pub fn bees(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "bees {arguments:?}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.bees(&[&["-j"], arguments].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("bees -j {arguments:?}: {e}\n{text}"))
    }

    pub fn state(&self) -> PathBuf {
        let labs = fs::read_dir(self.folder.join(".lab")).unwrap();
        labs.map(|entry| entry.unwrap().path()).next().expect("a deployed lab has its folder")
    }
}

impl Lab {
    /// What the nodes have to say of a test that failed.
    fn tell_logs(&self) {
        let inspected = self.run(&["-j", "lab", "inspect"]).stdout;
        let lab: Value = serde_json::from_slice(&inspected).unwrap_or_default();
        for node in lab["nodes"].as_array().into_iter().flatten().flat_map(|node| node["name"].as_str()) {
            let log = self.run(&["-n", node, "node", "log"]).stdout;
            eprintln!("log of {node}:\n{}", String::from_utf8_lossy(&log));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_logs();
        }
        let destroyed = self.run(&["lab", "destroy"]);
        if destroyed.status.success() {
            let _ = fs::remove_dir_all(&self.folder);
        } else {
            eprintln!("the lab in {} could not be destroyed: {destroyed:?}", self.folder.display());
        }
    }
}
