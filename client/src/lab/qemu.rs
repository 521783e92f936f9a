//! Nodes in QEMU: the command line that boots the image (`docs/boot.md`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use sim::lab::{NodePlan, mac_text};

use super::state::Accel;
use super::wire::Sockets;
use crate::exit::{Code, failure};

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// QEMU's exit status when the node ended well.
pub const EXIT_SUCCESS: i32 = 3;

/// The two files of the bootable node.
#[derive(Debug, Clone)]
pub struct Image {
    /// For `-kernel`.
    pub loader: PathBuf,
    /// The node, the first module.
    pub node: PathBuf,
}

impl Image {
    /// The image in `folder`, as `cargo xtask image` left it; and an emulator for it.
    pub fn find(folder: &Path) -> anyhow::Result<Self> {
        let image = Self { loader: folder.join("loader.bin"), node: folder.join("node") };
        for file in [&image.loader, &image.node] {
            if !file.is_file() {
                let text = format!("{} is missing; `cargo xtask image` builds it", file.display());
                return Err(failure(Code::Missing, text));
            }
        }
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|p| p.join(PROGRAM).is_file()));
        if !found {
            let text =
                format!("{PROGRAM} is missing; `cargo xtask setup` installs it, --on hosted does without");
            return Err(failure(Code::Missing, text));
        }
        Ok(image)
    }
}

/// The command that boots a node whose NICs have the given sockets.
pub fn command(
    image: &Image,
    accel: Accel,
    plan: &NodePlan,
    memory: u64,
    config: &Path,
    console: &Path,
    nics: &[Sockets],
) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["-name", &plan.name]).args(machine(accel, memory)).args(boot(image, config));
    command.arg("-serial").arg(join(&["file:".as_ref(), console.as_os_str()]));
    for (number, (nic, sockets)) in plan.nics.iter().zip(nics).enumerate() {
        let [local, remote] = [&sockets.node, &sockets.wire].map(|p| doubled(p));
        let id = format!("dgram,id=n{number},local.type=unix,local.path=");
        let backend =
            [id.as_ref(), local.as_os_str(), ",remote.type=unix,remote.path=".as_ref(), remote.as_os_str()];
        command.arg("-netdev").arg(join(&backend)).arg("-device").arg(format!(
            "virtio-net-pci,netdev=n{number},mac={},disable-legacy=on,romfile=",
            mac_text(nic.mac)
        ));
    }
    // Behind the network cards, which are counted in this order.
    command.args(["-device", "virtio-rng-pci,disable-legacy=on"]);
    command
}

/// A disk for the machine.
pub fn disk(file: &Path) -> Vec<OsString> {
    let drive = join(&["if=none,id=disk,format=raw,file=".as_ref(), doubled(file).as_os_str()]);
    vec!["-drive".into(), drive, "-device".into(), "virtio-blk-pci,drive=disk,disable-legacy=on".into()]
}

/// A machine with nothing in it but what the node uses.
pub fn machine(accel: Accel, memory: u64) -> Vec<String> {
    let (accel, cpu) = match accel {
        Accel::Tcg => ("tcg", "max"),
        Accel::Kvm => ("kvm", "host,arch-capabilities=off"),
    };
    let memory = format!("{}M", memory.div_ceil(1 << 20));
    let words =
        ["-machine", "pc", "-accel", accel, "-cpu", cpu, "-m", &memory, "-smp", "1", "-display", "none"];
    let more = ["-nodefaults", "-no-reboot", "-monitor", "none"];
    let exit = ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"];
    words.into_iter().chain(more).chain(exit).map(String::from).collect()
}

/// What the machine boots: loader, node, configuration.
pub fn boot(image: &Image, config: &Path) -> Vec<OsString> {
    let modules = join(&[doubled(&image.node).as_os_str(), ",".as_ref(), doubled(config).as_os_str()]);
    vec!["-kernel".into(), image.loader.clone().into(), "-initrd".into(), modules]
}

/// In QEMU's lists a comma in a path is written twice.
fn doubled(path: &Path) -> OsString {
    match path.to_str() {
        Some(text) => text.replace(',', ",,").into(),
        None => path.into(),
    }
}

fn join(parts: &[&std::ffi::OsStr]) -> OsString {
    parts.iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::lab::{Keys, Lab};

    #[test]
    fn the_command_has_a_nic_per_link() {
        let plan = Lab::line(2)
            .plan(&Keys { admin: [1; 32], identities: vec![[2; 32], [3; 32]], ..Keys::default() })
            .unwrap();
        let image = Image { loader: "image/loader.bin".into(), node: "image/a,node".into() };
        let sockets = [Sockets::new(Path::new("/r"), "m0"), Sockets::new(Path::new("/r"), "l0a")];
        let node = &plan.nodes[0];
        let config = Path::new("n.toml");
        let mut command = command(&image, Accel::Tcg, node, 64 << 20, config, Path::new("n.log"), &sockets);
        command.args(disk(Path::new("n,disk")));
        let line: Vec<_> = command.get_args().map(|a| a.to_str().unwrap()).collect();
        let line = line.join(" ");
        for part in [
            "-accel tcg -cpu max -m 64M",
            "-kernel image/loader.bin -initrd image/a,,node,n.toml",
            "-serial file:n.log",
            "-netdev dgram,id=n0,local.type=unix,local.path=/r/m0.n,remote.type=unix,remote.path=/r/m0.w",
            "local.path=/r/l0a.n",
            "-drive if=none,id=disk,format=raw,file=n,,disk -device virtio-blk-pci,drive=disk",
            &format!("netdev=n1,mac={},disable-legacy=on", mac_text(node.nics[1].mac)),
        ] {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
    }
}
