//! Measures how fast the time-stamp counter runs, while the image is being loaded.
//!
//! The interval timer's channel 2 (Intel 8254; gate and output in port 0x61) counts down once from
//! 65535 at 1.193182 MHz, for 54.9 ms. Both ends of the measurement are taken several times, and the
//! reading that took the shortest counts: an emulator may have been interrupted in the others.

use crate::cpu::{in8, out8, tsc};

const TIMER_HZ: u64 = 1_193_182;
const CHANNEL2: u16 = 0x42;
const MODE: u16 = 0x43;
const GATE: u16 = 0x61;
/// Channel 2, low byte then high byte, mode 0 (interrupt on terminal count), binary.
const ONE_SHOT: u8 = 0b1011_0000;
const LATCH: u8 = 0b1000_0000;
/// At least this many timer ticks: 8 ms, so that one tick of doubt is 0.01 %.
const LEAST: u16 = 9546;
const TRIES: usize = 8;

/// A measurement under way.
pub struct Calibration(Sample);

struct Sample {
    tsc: u64,
    /// Timer ticks since the start.
    ticks: u16,
}

impl Calibration {
    /// Starts the timer.
    pub fn start() -> Self {
        out8(GATE, in8(GATE) & !0b11);
        out8(MODE, ONE_SHOT);
        out8(CHANNEL2, 0xff);
        out8(CHANNEL2, 0xff);
        out8(GATE, in8(GATE) & !0b10 | 0b01);
        Self(sample())
    }

    /// The frequency in kHz, or 0 when it cannot be measured (no such timer).
    pub fn finish(mut self) -> u32 {
        if expired() {
            // Loading took too long: measure again, with nothing else to do.
            self = Self::start();
        }
        let give_up = tsc() + 1_000_000_000;
        let end = loop {
            let end = sample();
            if end.ticks.wrapping_sub(self.0.ticks) >= LEAST {
                break end;
            }
            if expired() || tsc() > give_up {
                return 0;
            }
        };
        let ticks = u64::from(end.ticks - self.0.ticks);
        u32::try_from((end.tsc - self.0.tsc) * TIMER_HZ / (ticks * 1000)).unwrap_or(0)
    }
}

/// The timer has reached zero.
fn expired() -> bool {
    in8(GATE) & 0b10_0000 != 0
}

fn sample() -> Sample {
    let mut best = (u64::MAX, Sample { tsc: 0, ticks: 0 });
    for _ in 0..TRIES {
        let before = tsc();
        out8(MODE, LATCH);
        let after = tsc();
        let count = u16::from(in8(CHANNEL2)) | u16::from(in8(CHANNEL2)) << 8;
        if after - before < best.0 {
            let middle = before + (after - before) / 2;
            best = (after - before, Sample { tsc: middle, ticks: 0xffff - count });
        }
    }
    best.1
}
