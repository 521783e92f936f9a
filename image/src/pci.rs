//! Finds virtio devices on the PCI buses, through configuration mechanism 1 (ports 0xcf8 and 0xcfc).

use std::arch::asm;

use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    Command, ConfigurationAccess, DeviceFunction, HeaderType, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

use crate::hal::Machine;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// Where a bridge says which bus is behind it (bits 8-15).
const BRIDGE_BUSES: u8 = 0x18;

/// A virtio device that was found.
pub struct Device {
    /// What it is.
    pub kind: DeviceType,
    /// Where it is: bus, device, function.
    pub place: DeviceFunction,
    root: PciRoot<Ports>,
}

impl Device {
    /// Switches the device on and returns what drivers talk to.
    pub fn open(self) -> Result<PciTransport, String> {
        self.switch_on(Command::empty())
    }

    /// The same for a device that is to raise no interrupt line, which it may share with others.
    pub fn open_silently(self) -> Result<PciTransport, String> {
        self.switch_on(Command::INTERRUPT_DISABLE)
    }

    fn switch_on(mut self, interrupts: Command) -> Result<PciTransport, String> {
        let (_, command) = self.root.get_status_command(self.place);
        let command = command.difference(Command::INTERRUPT_DISABLE)
            | Command::MEMORY_SPACE
            | Command::BUS_MASTER
            | interrupts;
        self.root.set_command(self.place, command);
        PciTransport::new::<Machine, _>(&mut self.root, self.place)
            .map_err(|error| format!("PCI device {}: {error}", self.place))
    }
}

/// All virtio devices, ordered by bus, device and function.
pub fn devices() -> Vec<Device> {
    let mut found = Vec::new();
    let mut buses = vec![0];
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        let root = PciRoot::new(Ports);
        for (place, info) in root.enumerate_bus(bus) {
            if info.header_type == HeaderType::PciPciBridge {
                let behind = (Ports.read_word(place, BRIDGE_BUSES) >> 8) as u8;
                if behind != 0 && !buses.contains(&behind) {
                    buses.push(behind);
                }
            } else if let Some(kind) = virtio_device_type(&info) {
                let root = PciRoot::new(Ports);
                found.push(Device { kind, place, root });
            }
        }
    }
    found
}

/// Access to configuration space. Only the main thread uses it.
struct Ports;

impl ConfigurationAccess for Ports {
    fn read_word(&self, place: DeviceFunction, register: u8) -> u32 {
        out(ADDRESS, address(place, register));
        let value;
        // Safety: reading configuration space changes nothing.
        unsafe { asm!("in eax, dx", in("dx") DATA, out("eax") value, options(nomem, nostack)) };
        value
    }

    fn write_word(&mut self, place: DeviceFunction, register: u8, value: u32) {
        out(ADDRESS, address(place, register));
        out(DATA, value);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

fn address(place: DeviceFunction, register: u8) -> u32 {
    let DeviceFunction { bus, device, function } = place;
    1 << 31
        | u32::from(bus) << 16
        | u32::from(device) << 11
        | u32::from(function) << 8
        | u32::from(register & 0xfc)
}

fn out(port: u16, value: u32) {
    // Safety: the two ports belong to configuration space; its callers write valid registers.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) }
}
