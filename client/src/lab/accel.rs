//! Whether QEMU can use KVM here.
//!
//! `/dev/kvm` may exist and be useless: on a virtual machine without nested virtualisation it runs kernel
//! code slower than translation does, or not at all. So the processor must say that it can, and a trial
//! must show it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::qemu::{self, Image};
use super::state::Accel;
use crate::files;

/// How long the trial may take.
const TRIAL: Duration = Duration::from_secs(4);

/// KVM where it works, else translation; and why. `folder` is for a file of the trial's.
pub fn choose(image: &Image, folder: &Path) -> (Accel, String) {
    match refusal(image, folder) {
        None => (Accel::Kvm, "KVM works here".into()),
        Some(why) => (Accel::Tcg, why),
    }
}

fn refusal(image: &Image, folder: &Path) -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !has_virtualisation(&info) {
        return Some("the processor offers no virtualisation".into());
    }
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Some("/dev/kvm is missing or not for us".into());
    }
    (!boots(image, folder)).then(|| "a trial boot under KVM failed".into())
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|f| f == "vmx" || f == "svm")
}

/// Boots the image with its shortest self-test, which ends by itself.
fn boots(image: &Image, folder: &Path) -> bool {
    let config = folder.join("trial.toml");
    if files::write(&config, b"selftest = \"hello\"\n").is_err() {
        return false;
    }
    let mut command = Command::new(qemu::PROGRAM);
    command.args(qemu::machine(Accel::Kvm, 64 << 20)).args(["-serial", "null"]);
    command.args(qemu::boot(image, &config));
    let started = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = child else { return false };
    while started.elapsed() < TRIAL {
        if let Ok(Some(status)) = child.try_wait() {
            return status.code() == Some(qemu::EXIT_SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // A hung machine has nothing to save.
    let _ = child.kill();
    let _ = child.wait();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flag_itself_counts() {
        assert!(has_virtualisation("processor : 0\nflags\t: fpu vmx sse\n"));
        assert!(has_virtualisation("flags : svm\n"));
        assert!(!has_virtualisation("model name : vmx\nflags : fpu vmx_true hypervisor\n"));
        assert!(!has_virtualisation(""));
    }
}
