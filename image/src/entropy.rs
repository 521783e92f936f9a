//! Random bytes fit for keys: a ChaCha20 generator, keyed by every source that the machine has.
//!
//! Sources are the processor's RDSEED or, without it, RDRAND, a virtio entropy device, and a seed in
//! the configuration. The processor's are believed only after a health test. With no source at all
//! every request fails (D7).

use std::arch::x86_64::{__cpuid, __cpuid_count, _rdrand64_step, _rdseed64_step};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nodeos::platform::{Entropy, EntropyError};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};

use crate::clock::{Clock, tsc};
use crate::hal::Machine;
use crate::pci::Device;

/// After so many bytes fresh ones are mixed in, where the processor has them.
const RESEED: usize = 64 << 10;
/// A request that the processor cannot answer now is repeated so often (Intel's DRNG guide, 5.2.1).
const RETRIES: u32 = 64;
/// Words drawn for the health test.
const SAMPLE: usize = 64;
/// How long the device may take.
const PATIENCE: Duration = Duration::from_millis(100);

/// The one feature asked of the device: modern virtio.
const VERSION_1: u64 = 1 << 32;

/// Where random bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The processor's noise source.
    Rdseed,
    /// The processor's generator.
    Rdrand,
    /// A virtio entropy device.
    Virtio,
    /// The configuration.
    Seed,
}

/// The node's random bytes.
pub struct Random {
    sources: Vec<Source>,
    generator: Mutex<Option<Generator>>,
}

struct Generator {
    key: ChaCha20Rng,
    processor: Option<Source>,
    since_reseed: usize,
}

impl Random {
    /// Collects from all sources there are. `seed` is the configured one.
    pub fn start(devices: &mut Vec<Device>, seed: Option<&[u8]>, clock: &Clock) -> Self {
        let mut sources = Vec::new();
        let mut pool = Sha256::new();
        // The time is no entropy, but tells two boots with the same seed apart.
        pool.update(tsc().to_le_bytes());
        pool.update(clock.now().wall.unwrap_or(0).to_le_bytes());

        let processor = [Source::Rdseed, Source::Rdrand]
            .into_iter()
            .find_map(|source| Some((source, draw(source).filter(|words| healthy(words))?)));
        if let Some((source, words)) = &processor {
            words.iter().for_each(|word| pool.update(word.to_le_bytes()));
            sources.push(*source);
        }
        while let Some(index) = devices.iter().position(|d| d.kind == DeviceType::EntropySource) {
            if let Some(bytes) = ask(devices.remove(index), clock) {
                pool.update(bytes);
                sources.push(Source::Virtio);
            }
        }
        if let Some(seed) = seed {
            pool.update(seed);
            sources.push(Source::Seed);
        }
        let generator = (!sources.is_empty()).then(|| Generator {
            key: ChaCha20Rng::from_seed(pool.finalize().into()),
            processor: processor.map(|(source, _)| source),
            since_reseed: 0,
        });
        Self { sources, generator: Mutex::new(generator) }
    }

    /// The sources that answered and are believed.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }
}

impl Entropy for Random {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        let mut generator = self.generator.lock().unwrap_or_else(PoisonError::into_inner);
        generator.as_mut().ok_or(EntropyError)?.fill(out);
        Ok(())
    }
}

impl Generator {
    fn fill(&mut self, out: &mut [u8]) {
        self.key.fill_bytes(out);
        // A new key each time, so that what was given out cannot be computed from what is left.
        let mut next = [0; 32];
        self.key.fill_bytes(&mut next);
        self.since_reseed += out.len();
        if self.since_reseed >= RESEED {
            self.since_reseed = 0;
            if let Some(words) = self.processor.and_then(draw) {
                let mut pool = Sha256::new();
                pool.update(next);
                words.iter().for_each(|word| pool.update(word.to_le_bytes()));
                next = pool.finalize().into();
            }
        }
        self.key = ChaCha20Rng::from_seed(next);
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Random({:?})", self.sources)
    }
}

/// Words from the processor, or `None` if it has no such instruction or does not answer.
fn draw(source: Source) -> Option<[u64; SAMPLE]> {
    // The instructions are part of the target, so `is_x86_feature_detected` would not ask the processor.
    let leaves = __cpuid(0).eax;
    let present = match source {
        Source::Rdseed => leaves >= 7 && __cpuid_count(7, 0).ebx & 1 << 18 != 0,
        Source::Rdrand => leaves >= 1 && __cpuid(1).ecx & 1 << 30 != 0,
        Source::Virtio | Source::Seed => false,
    };
    if !present {
        return None;
    }
    let mut words = [0; SAMPLE];
    for word in &mut words {
        // Safety: the processor says that it has the instruction.
        let mut step = || unsafe {
            match source {
                Source::Rdseed => _rdseed64_step(word),
                _ => _rdrand64_step(word),
            }
        };
        (0..RETRIES).find(|_| step() == 1)?;
    }
    Some(words)
}

/// Finds broken generators, as some processors had them: constant, repeating or biased. A good one
/// fails with a probability below 2^-40.
fn healthy(words: &[u64; SAMPLE]) -> bool {
    let repeats = (1..SAMPLE).any(|index| words[..index].contains(&words[index]));
    let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
    let bits = SAMPLE as u32 * 64;
    // 7.5 standard deviations of half the square root of the number of bits.
    let balanced = ones.abs_diff(bits / 2) < 240;
    let mut counts = [0u8; 256];
    words.iter().flat_map(|word| word.to_le_bytes()).for_each(|byte| counts[usize::from(byte)] += 1);
    let spread = counts.iter().all(|count| *count < 24);
    !repeats && balanced && spread
}

/// Bytes from a virtio entropy device (virtio 1.2, section 5.4), if it answers in time.
fn ask(device: Device, clock: &Clock) -> Option<[u8; 64]> {
    let mut transport = device.open().ok()?;
    let started = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(DeviceStatus::empty());
    transport.set_status(started);
    transport.write_driver_features(VERSION_1);
    transport.set_status(started | DeviceStatus::FEATURES_OK);
    let mut queue = VirtQueue::<Machine, 4>::new(&mut transport, 0, false, false).ok()?;
    transport.finish_init();
    queue.set_dev_notify(false);
    // The device may write to it as long as it is switched on.
    let bytes: &'static mut [u8; 64] = Box::leak(Box::new([0; 64]));
    // Safety: nothing else uses the bytes until the device is done; if it never is, they are leaked.
    let token = unsafe { queue.add(&[], &mut [&mut bytes[..]]) }.ok()?;
    transport.notify(0);
    let limit = clock.mono() + PATIENCE;
    while !queue.can_pop() {
        if clock.mono() > limit {
            std::mem::forget(queue);
            return None;
        }
        std::hint::spin_loop();
    }
    // Safety: the same buffer as above.
    let length = unsafe { queue.pop_used(token, &[], &mut [&mut bytes[..]]) }.ok()?;
    // Off, and its interrupt line low: others may share it.
    transport.ack_interrupt();
    transport.queue_unset(0);
    transport.set_status(DeviceStatus::empty());
    (length as usize == bytes.len()).then_some(*bytes)
}
