//! The relays on the image, over virtio cards.
//!
//! The cards' other ends are Unix datagram sockets of this program. They hold few frames and make the
//! sender wait instead of losing any, so that what is lost is lost in the machine. QEMU, source and sink
//! share the processors: the figures compare the two rows with each other, not with real devices.

use std::time::Duration;

use anyhow::Result;
use host::link::{Batch, Link, Received};
use nodeos::buf::BufPool;
use nodeos::link::Mac;

use super::machine::Machine;
use super::{Image, Options};
use crate::flow::RelayFlow;
use crate::hop::Hop;
use crate::relay::Figure;
use crate::relay::frames::{CAPSULE_PAYLOAD, capsule};
use crate::relay::rows::{HOSTED_EVENT, node_configuration};
use crate::relay::traffic::{Source, Waiting};
use crate::relay::trial::{Bench, Sink};
use crate::table::{Align, Table, kilo, ratio};

const SOURCE_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const IN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
const OUT_MAC: Mac = Mac([2, 0, 0, 0, 2, 2]);
const NEXT_MAC: Mac = Mac([2, 0, 0, 0, 3, 1]);
/// MiB of the machine.
const MEMORY: u32 = 128;
const PATIENCE: Duration = Duration::from_secs(60);

/// A relay on the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Row {
    /// NodeOS: in-channel to out-channel, native code.
    Native,
    /// The full node.
    Bees,
}

impl Row {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Bees];

    fn name(self) -> &'static str {
        match self {
            Self::Native => "NodeOS, native (image)",
            Self::Bees => "Bees (image)",
        }
    }

    fn configuration(self) -> String {
        let node = node_configuration(
            "relay",
            &[("in", IN_MAC), ("out", OUT_MAC)],
            &[("source", "in", SOURCE_MAC), ("next", "out", NEXT_MAC)],
        );
        match self {
            // A self-test of the platform: `docs/boot.md`.
            Self::Native => format!("selftest = \"relay-nodeos\"\nnext = \"{NEXT_MAC}\"\n"),
            // Under translation, and without a processor of its own, a guest gets what labs give it.
            Self::Bees => node.replace(HOSTED_EVENT, "50ms"),
        }
    }
}

/// Measures the rows.
pub fn run(image: &Image, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for &payload in &options.payload {
        for &row in &options.rows {
            figures.push(measure(image, row, payload, options)?);
        }
    }
    Ok(figures)
}

fn measure(image: &Image, row: Row, payload: usize, options: &Options) -> Result<Figure> {
    let flow = RelayFlow::new()?;
    let mut machine = Machine::start(image, &row.configuration(), MEMORY, &[IN_MAC, OUT_MAC])?;
    let mut source = Source::new(machine.link(0)?, Waiting::Sleep);
    let mut sink = Drained::new(machine.link(1)?);
    machine.wait_for("] ready", PATIENCE)?;
    let mut hop = match row {
        Row::Native => None,
        Row::Bees => {
            let link = [("out", SOURCE_MAC)];
            Some(Hop::start(&node_configuration("source", &link, &[("relay", "out", IN_MAC)]), &flow)?)
        }
    };
    let frame = |payload: &[u8]| capsule(payload, &flow.id, SOURCE_MAC, IN_MAC);
    let mut bench = Bench {
        name: row.name(),
        frame: &frame,
        payload_at: CAPSULE_PAYLOAD,
        adds: u64::from(row == Row::Bees),
        payload,
        source: &mut source,
        sink: &mut sink,
    };
    let started = bench
        .wait_until_it_relays(|source| hop.as_mut().map_or(Ok(()), |hop| hop.serve(source)))
        .and_then(|()| bench.check());
    if let Err(error) = started {
        return Err(error.context(machine.last_words()));
    }
    let rates = bench.rates(options.seconds, options.runs)?;
    eprintln!("{:24} {payload:5} bytes: {:8.1} kpps saturated", row.name(), rates.saturated / 1e3);
    let (loss_free, saturated, offered) = (rates.loss_free, rates.saturated, rates.offered);
    Ok(Figure { relay: row.name(), payload, loss_free, saturated, offered })
}

/// A sink that reads frames itself.
struct Drained {
    link: Link,
    pool: BufPool,
    batch: Batch,
    count: u64,
}

impl Drained {
    fn new(link: Link) -> Self {
        Self { link, pool: BufPool::new(256), batch: Batch::default(), count: 0 }
    }
}

impl Sink for Drained {
    fn drain(&mut self) -> Result<()> {
        self.look(&mut |_| ())
    }

    fn arrived(&mut self) -> Result<u64> {
        self.drain()?;
        Ok(self.count)
    }

    fn offered(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn watch(&mut self, _: bool) -> Result<()> {
        self.drain()
    }

    fn look(&mut self, frame: &mut dyn FnMut(&[u8])) -> Result<()> {
        let count = &mut self.count;
        let mut take = |buf: nodeos::buf::Buf| {
            *count += 1;
            frame(&buf);
        };
        while self.link.receive(&mut self.batch, &self.pool, &mut take) == Received::More {}
        Ok(())
    }
}

/// The figures as text.
pub fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new(&[
        ("relay", Align::Left),
        ("payload", Align::Right),
        ("loss-free", Align::Right),
        ("saturated", Align::Right),
        ("to NodeOS", Align::Right),
        ("offered", Align::Right),
    ]);
    for f in figures {
        let native = figures.iter().find(|n| n.relay == Row::Native.name() && n.payload == f.payload);
        table.row([
            f.relay.into(),
            format!("{} B", f.payload),
            kilo(f.loss_free),
            kilo(f.saturated),
            native.map_or(String::new(), |n| ratio(f.saturated / n.saturated)),
            kilo(f.offered),
        ]);
    }
    table
}
