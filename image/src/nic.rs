//! Virtio network cards, any number of them (virtio 1.2, section 5.1).
//!
//! A received frame reaches the core in the buffer into which the device wrote it, and goes out again
//! in the same buffer: nothing is copied. While a device holds a buffer, the card keeps it in a slot
//! where nobody can touch it. The receive ring is always full: a frame for which there is no fresh
//! buffer is dropped and its buffer goes back into the ring.

use nodeos::buf::{BLOCK, Buf, BufPool, HEADROOM};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};

use crate::hal::Machine;
use crate::pci::Device;

/// Frames in each ring.
const RING: usize = 256;
/// The virtio header in front of each frame (section 5.1.6).
const HEADER: usize = 12;

/// What a card has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames dropped because there was no buffer for the next one.
    pub received_dropped: u64,
    /// Frames handed to the device.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames refused because the ring was full.
    pub sent_refused: u64,
    /// Things the device did that it must not do.
    pub device_errors: u64,
}

/// One card.
pub struct Nic {
    raw: VirtIONetRaw<Machine, Quiet, RING>,
    receiving: [Option<Buf>; RING],
    sending: [Option<Buf>; RING],
    /// Buffers missing in the receive ring.
    missing: usize,
    pool: BufPool,
    statistics: Statistics,
    place: String,
}

/// Opens all cards, in the order of their places on the bus. Each takes its receive buffers from `pool`.
pub fn open_all(devices: Vec<Device>, pool: &BufPool) -> Result<Vec<Nic>, String> {
    devices
        .into_iter()
        .filter(|device| device.kind == DeviceType::Network)
        .map(|device| Nic::open(device, pool.clone()))
        .collect()
}

impl Nic {
    fn open(device: Device, pool: BufPool) -> Result<Self, String> {
        let place = device.place.to_string();
        let raw = VirtIONetRaw::new(Quiet(device.open()?))
            .map_err(|error| format!("network card {place}: {error}"))?;
        let mut nic = Self {
            raw,
            receiving: [const { None }; RING],
            sending: [const { None }; RING],
            missing: RING,
            pool,
            statistics: Statistics::default(),
            place,
        };
        nic.raw.disable_interrupts();
        nic.refill();
        if nic.missing == RING {
            return Err(format!("network card {}: no packet buffers", nic.place));
        }
        Ok(nic)
    }

    /// The card's Ethernet address.
    pub fn mac(&self) -> [u8; 6] {
        self.raw.mac_address()
    }

    /// Where the card is on the PCI bus.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What the card has done so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The next frame that has arrived, from its Ethernet header on, with [`HEADROOM`] in front.
    pub fn receive(&mut self) -> Option<Buf> {
        if self.missing > 0 {
            self.refill();
        }
        loop {
            let token = self.raw.poll_receive()?;
            let slot = self.receiving.get_mut(usize::from(token));
            let Some(mut buf) = slot.and_then(Option::take) else {
                self.statistics.device_errors += 1;
                return None;
            };
            // Safety: it is the buffer that was posted under this token, unmoved in memory.
            let Ok((_, length)) = (unsafe { self.raw.receive_complete(token, &mut buf) }) else {
                self.statistics.device_errors += 1;
                self.post(buf);
                continue;
            };
            let Some(fresh) = self.pool.take() else {
                self.statistics.received_dropped += 1;
                self.post(buf);
                continue;
            };
            self.post(fresh);
            if buf.set_len(HEADER + length).is_err() {
                self.statistics.device_errors += 1;
                continue;
            }
            buf.pull_front(HEADER);
            self.statistics.received += 1;
            self.statistics.received_bytes += length as u64;
            return Some(buf);
        }
    }

    /// Hands a frame to the device. Gives it back when the ring is full, or when it has not the few
    /// bytes of headroom for the device's header.
    pub fn transmit(&mut self, mut frame: Buf) -> Result<(), Buf> {
        let length = frame.len() as u64;
        let Ok(header) = frame.push_front(HEADER) else {
            self.statistics.sent_refused += 1;
            return Err(frame);
        };
        header.fill(0);
        // Safety: the frame moves into a slot, where nobody touches it until the device is done.
        let token = match unsafe { self.raw.transmit_begin(&frame) } {
            Ok(token) => token,
            Err(_) => {
                self.statistics.sent_refused += 1;
                frame.pull_front(HEADER);
                return Err(frame);
            }
        };
        self.sending[usize::from(token)] = Some(frame);
        self.statistics.sent += 1;
        self.statistics.sent_bytes += length;
        Ok(())
    }

    /// Frees the buffers of frames that have been sent. Returns how many.
    pub fn reap(&mut self) -> usize {
        let mut count = 0;
        while let Some(token) = self.raw.poll_transmit() {
            let slot = self.sending.get_mut(usize::from(token));
            let Some(frame) = slot.and_then(Option::take) else {
                self.statistics.device_errors += 1;
                break;
            };
            // Safety: it is the frame that was handed over under this token.
            if unsafe { self.raw.transmit_complete(token, &frame) }.is_err() {
                self.statistics.device_errors += 1;
            }
            count += 1;
        }
        count
    }

    /// A frame has arrived.
    pub fn pending(&self) -> bool {
        self.raw.poll_receive().is_some()
    }

    /// From now on the device interrupts when a frame arrives. Look at [`pending`](Self::pending)
    /// afterwards: it says nothing about frames that were there before.
    pub fn listen(&mut self) {
        self.raw.enable_interrupts();
        // The write must not be delayed beyond the look at the ring.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        // Takes back the interrupt line, so that the next frame raises it anew.
        let _ = self.raw.ack_interrupt();
    }

    /// From now on the device does not interrupt: somebody looks at the ring anyway.
    pub fn quiet(&mut self) {
        self.raw.disable_interrupts();
    }

    fn refill(&mut self) {
        while self.missing > 0 {
            let Some(buf) = self.pool.take() else { return };
            self.missing -= 1;
            self.post(buf);
        }
    }

    /// Gives a buffer to the device to receive into.
    fn post(&mut self, mut buf: Buf) {
        const START: usize = HEADROOM - HEADER;
        buf.reset(START);
        let whole = buf.set_len(BLOCK - START);
        debug_assert!(whole.is_ok(), "a block is that long");
        // Safety: the buffer moves into a slot, where nobody touches it until the device is done;
        // its memory does not move.
        match unsafe { self.raw.receive_begin(&mut buf) } {
            Ok(token) => self.receiving[usize::from(token)] = Some(buf),
            Err(_) => {
                self.missing += 1;
                self.statistics.device_errors += 1;
            }
        }
    }
}

/// A device without event indices: only with plain flags can `virtio-drivers` tell a device not to
/// interrupt, and see that the device does not want to be told of more work. Without indirect
/// descriptors there is nothing to allocate per frame.
pub struct Quiet(pub PciTransport);

const INDIRECT: u64 = 1 << 28;
const EVENT_INDEX: u64 = 1 << 29;

impl Transport for Quiet {
    fn read_device_features(&mut self) -> u64 {
        self.0.read_device_features() & !(INDIRECT | EVENT_INDEX)
    }
    fn device_type(&self) -> DeviceType {
        self.0.device_type()
    }
    fn write_driver_features(&mut self, features: u64) {
        self.0.write_driver_features(features);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.max_queue_size(queue)
    }
    fn notify(&mut self, queue: u16) {
        self.0.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        self.0.get_status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status);
    }
    fn set_guest_page_size(&mut self, size: u32) {
        self.0.set_guest_page_size(size);
    }
    fn requires_legacy_layout(&self) -> bool {
        self.0.requires_legacy_layout()
    }
    fn queue_set(&mut self, queue: u16, size: u32, table: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.0.queue_set(queue, size, table, driver, device);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.0.queue_unset(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.queue_used(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.0.ack_interrupt()
    }
    fn read_config_generation(&self) -> u32 {
        self.0.read_config_generation()
    }
    fn read_config_space<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: usize,
    ) -> Result<T, Error> {
        self.0.read_config_space(offset)
    }
    fn write_config_space<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<(), Error> {
        self.0.write_config_space(offset, value)
    }
}
