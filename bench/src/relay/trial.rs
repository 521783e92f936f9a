//! One relay under test: does it relay, and how fast.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::frames::payload;
use super::traffic::Source;

/// How long a relay may take until it relays: Bees fetches and compiles a flow first.
const START: Duration = Duration::from_secs(30);
/// Frames whose contents are checked before anything is measured.
const CHECKED: u64 = 200;
/// When no frame came for so long, none is on its way any more.
const QUIET: Duration = Duration::from_millis(60);
/// The search for the highest rate without loss ends when it is known so well.
const PRECISION: f64 = 0.02;
/// Trials of one rate: one hiccup of the machine must not count as the relay's loss.
const ATTEMPTS: usize = 3;

/// Where frames come out of the relay.
pub trait Sink {
    /// Takes in what waits, if this sink has to. Called often.
    fn drain(&mut self) -> Result<()>;
    /// Frames that came out so far.
    fn arrived(&mut self) -> Result<u64>;
    /// Frames that were offered to the relay so far, as the relay's device counts them.
    fn offered(&mut self) -> Result<Option<u64>>;
    /// From now on [`look`](Self::look) shows frames.
    fn watch(&mut self, on: bool) -> Result<()>;
    /// Shows what came since the last look.
    fn look(&mut self, frame: &mut dyn FnMut(&[u8])) -> Result<()>;
}

/// A relay with what surrounds it.
pub struct Bench<'a, S> {
    /// The relay's name.
    pub name: &'a str,
    /// Makes a frame for it of a payload.
    pub frame: &'a dyn Fn(&[u8]) -> Result<Vec<u8>>,
    /// Where the payload is in its frames.
    pub payload_at: usize,
    /// How much it adds to the counter in the payload.
    pub adds: u64,
    /// Payload size in bytes.
    pub payload: usize,
    /// Where frames come from.
    pub source: &'a mut Source,
    /// Where they go.
    pub sink: &'a mut S,
}

/// What a relay can do, in packets per second.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// The highest rate at which nothing was lost.
    pub loss_free: f64,
    /// What came through when more was offered than could.
    pub saturated: f64,
    /// What was offered then.
    pub offered: f64,
}

impl<S: Sink> Bench<'_, S> {
    /// Sends until something comes through. `meanwhile` is called between two frames.
    pub fn wait_until_it_relays(
        &mut self,
        mut meanwhile: impl FnMut(&mut Source) -> Result<()>,
    ) -> Result<()> {
        let frame = (self.frame)(&payload(self.payload, 0))?;
        let (start, before) = (Instant::now(), self.sink.arrived()?);
        while self.sink.arrived()? == before {
            ensure!(start.elapsed() < START, "{}: nothing comes through", self.name);
            self.source.send(&frame)?;
            let pause = Instant::now();
            while pause.elapsed() < Duration::from_millis(10) {
                meanwhile(self.source)?;
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        self.settle().map(|_| ())
    }

    /// Sends frames with different counters and looks at each that comes out.
    pub fn check(&mut self) -> Result<()> {
        self.sink.watch(true)?;
        let (name, at) = (self.name, self.payload_at);
        let mut came = 0;
        for counter in 0..CHECKED {
            self.source.send(&(self.frame)(&payload(self.payload, counter))?)?;
            let wanted = payload(self.payload, counter + self.adds);
            let start = Instant::now();
            while came == counter {
                ensure!(start.elapsed() < Duration::from_secs(1), "{name}: frame {counter} was lost");
                let mut wrong = false;
                self.sink.look(&mut |frame| {
                    came += 1;
                    wrong |= frame.get(at..at + wanted.len()) != Some(&wanted[..]);
                })?;
                ensure!(!wrong, "{name}: what came out is not what should");
            }
        }
        ensure!(came == CHECKED, "{name}: {came} frames came out, {CHECKED} went in");
        self.sink.watch(false)
    }

    /// Measures.
    pub fn rates(&mut self, seconds: f64, runs: usize) -> Result<Rates> {
        let time = Duration::from_secs_f64(seconds);
        let mut runs = (0..runs.max(1)).map(|_| self.saturate(time)).collect::<Result<Vec<_>>>()?;
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (saturated, offered) = runs[runs.len() / 2];
        Ok(Rates { loss_free: self.search(saturated, time)?, saturated, offered })
    }

    /// What comes through, and what was offered, when the source does its utmost.
    fn saturate(&mut self, time: Duration) -> Result<(f64, f64)> {
        let frame = (self.frame)(&payload(self.payload, 0))?;
        // The first moments fill queues; what was in them would come on top at the end.
        self.source.flood(&frame, time / 10, || self.sink.drain())?;
        let (arrived, offered, start) = (self.sink.arrived()?, self.sink.offered()?, Instant::now());
        let sent = self.source.flood(&frame, time, || self.sink.drain())?;
        let seconds = start.elapsed().as_secs_f64();
        let arrived = self.sink.arrived()? - arrived;
        let offered = match (offered, self.sink.offered()?) {
            (Some(before), Some(after)) => after - before,
            _ => sent.frames,
        };
        self.settle()?;
        Ok((arrived as f64 / seconds, offered as f64 / seconds))
    }

    /// The highest rate without loss, by bisection from a little above what came through at saturation.
    fn search(&mut self, saturated: f64, time: Duration) -> Result<f64> {
        let (mut good, mut bad) = (0.0, saturated * 1.2);
        while bad - good > PRECISION * bad && bad > 100.0 {
            let rate = (good + bad) / 2.0;
            if self.is_loss_free(rate, time)? { good = rate } else { bad = rate }
        }
        Ok(good)
    }

    fn is_loss_free(&mut self, rate: f64, time: Duration) -> Result<bool> {
        let frame = (self.frame)(&payload(self.payload, 0))?;
        for _ in 0..ATTEMPTS {
            let before = self.sink.arrived()?;
            let sent = self.source.pace(&frame, rate, time, || self.sink.drain())?;
            let kept_pace = sent.time.as_secs_f64() < 1.02 * time.as_secs_f64();
            if self.settle()? - before == sent.frames && kept_pace {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until nothing comes any more; returns what has arrived in all.
    fn settle(&mut self) -> Result<u64> {
        let mut arrived = self.sink.arrived()?;
        loop {
            let start = Instant::now();
            while start.elapsed() < QUIET {
                self.sink.drain()?;
                std::thread::sleep(Duration::from_millis(1));
            }
            let now = self.sink.arrived()?;
            if now == arrived {
                return Ok(arrived);
            }
            arrived = now;
        }
    }
}
