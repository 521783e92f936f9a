//! What the standard library does not offer: network namespaces, processor affinity, and one device
//! setting. The only `unsafe` of the benchmarks is here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::thread::{
    CpuSet, LinkNameSpaceType, UnshareFlags, move_into_link_name_space, sched_getaffinity, sched_setaffinity,
    unshare_unsafe,
};

/// A network namespace without a name: it is gone with the last process in it.
#[derive(Debug)]
pub struct Namespace {
    link: File,
}

impl Namespace {
    /// Makes a fresh one. Needs root (CAP_SYS_ADMIN).
    pub fn new() -> Result<Self> {
        let own = Self::own()?;
        // Safety: only the network namespace is left; this thread shares all descriptors as before.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
        let made = Self::own();
        own.enter()?;
        made
    }

    /// Calls `work` inside the namespace. Sockets made and processes started there stay there.
    pub fn run<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let own = Self::own()?;
        self.enter()?;
        let result = work();
        own.enter()?;
        result
    }

    fn own() -> Result<Self> {
        Ok(Self { link: File::open("/proc/thread-self/ns/net")? })
    }

    fn enter(&self) -> Result<()> {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.link.as_fd(), kind).context("cannot enter a network namespace")
    }

    /// A name for the namespace that programs started by this process understand.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.link.as_raw_fd())
    }
}

/// The processors that this process may use.
pub fn processors() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Keeps the calling thread, and the threads and processes that it starts from now on, on one processor.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on processor {cpu}"))
}

/// `ETHTOOL_SGRO` of linux/ethtool.h.
const SET_GRO: u32 = 0x2c;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Switches generic receive offload of a device on. For one end of a veth pair this also means that it takes
/// frames in polled batches (NAPI) instead of one by one.
pub fn enable_gro(device: &str) -> Result<()> {
    // Safety: plain numbers; the result is a new descriptor or -1.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // Safety: the descriptor was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut value = EthtoolValue { command: SET_GRO, data: 1 };
    // Safety: an ifreq is integers and a union of integers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        bail!("{device}: too long for a device's name");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // Safety: the request names a device by a string that ends with 0 and points to a live ethtool_value,
    // which is what SIOCETHTOOL reads and writes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) };
    if result < 0 {
        Err(io::Error::last_os_error()).with_context(|| format!("{device}: GRO"))
    } else {
        Ok(())
    }
}
