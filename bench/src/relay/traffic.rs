//! What the source offers: one frame, over and over, as fast as it can or at a given rate.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use host::link::{Batch, Link};
use nodeos::buf::BufPool;

/// How many frames the source hands over at a time when it keeps to a rate.
const BURST: u64 = 16;
/// How long a device may refuse to take frames before the source gives up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before a device that had no room is tried again.
const RETRY: Duration = Duration::from_micros(20);

/// A source of frames on one link.
pub struct Source {
    link: Link,
    waiting: Waiting,
    pool: BufPool,
    batch: Batch,
}

/// What the source does until the next frame is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It has a processor of its own, and looks at the clock again and again.
    Spin,
    /// It leaves the processor to the relay.
    Sleep,
}

/// What a trial sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// How long that took.
    pub time: Duration,
}

impl Source {
    /// A source that sends on `link`.
    pub fn new(link: Link, waiting: Waiting) -> Self {
        if waiting == Waiting::Sleep {
            host::wait::exact_timers();
        }
        Self { link, waiting, pool: BufPool::new(1024), batch: Batch::default() }
    }

    /// The link, and what is needed to use it for something else.
    pub fn parts(&mut self) -> (&mut Link, &BufPool, &mut Batch) {
        (&mut self.link, &self.pool, &mut self.batch)
    }

    /// Sends one frame.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.queue(frame)?;
        self.flush(&mut || Ok(()))
    }

    /// Sends `frame` as fast as the devices take it. `meanwhile` is called again and again.
    pub fn flood(
        &mut self,
        frame: &[u8],
        time: Duration,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Sent> {
        let start = Instant::now();
        let mut frames = 0;
        while start.elapsed() < time {
            while self.link.has_room() {
                self.queue(frame)?;
                frames += 1;
            }
            self.flush(&mut meanwhile)?;
            meanwhile()?;
        }
        Ok(Sent { frames, time: start.elapsed() })
    }

    /// Sends `frame` `rate` times a second, evenly but for small bursts.
    pub fn pace(
        &mut self,
        frame: &[u8],
        rate: f64,
        time: Duration,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Sent> {
        let total = (rate * time.as_secs_f64()) as u64;
        let burst = BURST.min((rate / 10_000.0) as u64).max(1);
        let start = Instant::now();
        let mut frames = 0;
        while frames < total {
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            if due < frames + burst {
                meanwhile()?;
                match self.waiting {
                    Waiting::Spin => std::hint::spin_loop(),
                    Waiting::Sleep => std::thread::sleep(RETRY),
                }
                continue;
            }
            for _ in 0..burst.min(total - frames) {
                self.queue(frame)?;
                frames += 1;
            }
            self.flush(&mut meanwhile)?;
            meanwhile()?;
        }
        Ok(Sent { frames, time: start.elapsed() })
    }

    fn queue(&mut self, frame: &[u8]) -> Result<()> {
        let Some(buf) = self.pool.copy_of(frame) else { bail!("the source has no packet buffer") };
        self.link.queue(buf);
        Ok(())
    }

    fn flush(&mut self, meanwhile: &mut impl FnMut() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        while !self.link.flush(&mut self.batch) {
            meanwhile()?;
            std::thread::sleep(RETRY);
            if start.elapsed() > PATIENCE {
                bail!("the source's device does not take frames any more");
            }
        }
        match self.link.trouble() {
            None => Ok(()),
            Some(kind) => bail!("the source's device refuses frames: {kind}"),
        }
    }
}
