//! `bench relay`: source, relay and sink in one run on the same devices.

pub mod frames;
pub mod native;
pub mod rows;
pub mod traffic;
pub mod trial;
mod world;

use anyhow::{Result, bail};
use host::link::{Batch, Link};
use nodeos::buf::BufPool;
use serde::Serialize;

use crate::flow::RelayFlow;
use crate::hop::Hop;
use crate::sys::{pin, processors};
use crate::table::{Align, Table, kilo, ratio};
use rows::{Row, build_peer, node_configuration};
use traffic::{Source, Waiting};
use trial::{Bench, Rates, Sink};
use world::{NEXT_MAC, RELAY_IN_MAC, SOURCE_MAC, World};

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Payload sizes in bytes
    #[arg(long, value_delimiter = ',', default_values_t = [0, 64, 512, 1400])]
    pub payload: Vec<usize>,
    /// Relays to compare
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::ALL)]
    pub rows: Vec<Row>,
    /// Length of one trial, in seconds
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Trials at saturation; the median counts
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Leave NAPI and GRO of the receiving devices off
    #[arg(long)]
    pub no_gro: bool,
}

/// The figures of one relay with one payload size.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The relay.
    pub relay: &'static str,
    /// Payload size in bytes.
    pub payload: usize,
    /// The highest rate at which nothing was lost, in packets per second.
    pub loss_free: f64,
    /// What came through when more was offered than could, in packets per second: the median.
    pub saturated: f64,
    /// What was offered then, in packets per second.
    pub offered: f64,
}

/// Measures and returns the figures.
pub fn run(options: &Options) -> Result<Vec<Figure>> {
    let cpus = processors()?;
    let [home, cpu, ..] = cpus[..] else {
        bail!("two processors are needed, one for source and one for relay")
    };
    if options.payload.iter().any(|&size| size > 1400) {
        bail!("payloads of more than 1400 bytes do not fit all relays' frames");
    }
    let folder = std::env::temp_dir().join(format!("bees-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = build_peer(&folder).and_then(|peer| {
        let world = World::new(!options.no_gro)?;
        pin(home)?;
        let mut figures = Vec::new();
        for &payload in &options.payload {
            for &row in &options.rows {
                let relay = row.start(&world, &peer, cpu, home)?;
                let rates = measure(&world, row, payload, options)?;
                drop(relay);
                let Rates { loss_free, saturated, offered } = rates;
                figures.push(Figure { relay: row.name(), payload, loss_free, saturated, offered });
            }
        }
        Ok(figures)
    });
    std::fs::remove_dir_all(&folder)?;
    result
}

fn measure(world: &World, row: Row, payload: usize, options: &Options) -> Result<Rates> {
    let flow = RelayFlow::new()?;
    let source = world.source.run(|| Ok(Link::packet("src0", SOURCE_MAC.0)?))?;
    let mut source = Source::new(source, Waiting::Spin);
    let mut sink = Counted { world, watched: None, pool: BufPool::new(256), batch: Batch::default() };
    let frame = |payload: &[u8]| row.frame(payload, &flow.id);
    let mut bench = Bench {
        name: row.name(),
        frame: &frame,
        payload_at: row.payload_at(),
        adds: row.adds(),
        payload,
        source: &mut source,
        sink: &mut sink,
    };
    let mut hop = match row {
        Row::Bees => Some(Hop::start(&hop_configuration(), &flow)?),
        Row::C | Row::Native => None,
    };
    bench.wait_until_it_relays(|source| hop.as_mut().map_or(Ok(()), |hop| hop.serve(source)))?;
    bench.check()?;
    let rates = bench.rates(options.seconds, options.runs)?;
    eprintln!(
        "{:20} {payload:5} bytes: {:8.1} kpps without loss, {:8.1} saturated ({:.1} offered)",
        row.name(),
        rates.loss_free / 1e3,
        rates.saturated / 1e3,
        rates.offered / 1e3
    );
    Ok(rates)
}

/// The sink's device counts; its frames are looked at only when contents are checked, because that takes
/// time on the relay's processor.
struct Counted<'a> {
    world: &'a World,
    watched: Option<Link>,
    pool: BufPool,
    batch: Batch,
}

impl Sink for Counted<'_> {
    fn drain(&mut self) -> Result<()> {
        Ok(())
    }

    fn arrived(&mut self) -> Result<u64> {
        self.world.arrived()
    }

    fn offered(&mut self) -> Result<Option<u64>> {
        self.world.offered().map(Some)
    }

    fn watch(&mut self, on: bool) -> Result<()> {
        let open = || self.world.sink.run(|| Ok(Link::packet("snk0", NEXT_MAC.0)?));
        self.watched = on.then(open).transpose()?;
        Ok(())
    }

    fn look(&mut self, frame: &mut dyn FnMut(&[u8])) -> Result<()> {
        if let Some(link) = &mut self.watched {
            link.receive(&mut self.batch, &self.pool, |buf| frame(&buf));
        }
        Ok(())
    }
}

fn hop_configuration() -> String {
    node_configuration("source", &[("out", SOURCE_MAC)], &[("relay", "out", RELAY_IN_MAC)])
}

/// The figures as text.
pub fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new(&[
        ("relay", Align::Left),
        ("payload", Align::Right),
        ("loss-free", Align::Right),
        ("saturated", Align::Right),
        ("to C", Align::Right),
        ("offered", Align::Right),
    ]);
    for f in figures {
        let c = figures.iter().find(|c| c.relay == Row::C.name() && c.payload == f.payload);
        table.row([
            f.relay.into(),
            format!("{} B", f.payload),
            kilo(f.loss_free),
            kilo(f.saturated),
            c.map_or(String::new(), |c| ratio(f.saturated / c.saturated)),
            kilo(f.offered),
        ]);
    }
    table
}
