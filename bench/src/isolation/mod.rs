//! `bench isolation`: a node under attack against the same node at rest.
//!
//! One node stands in the middle of a line; this program is its neighbors a and c, a third neighbor d, and
//! whoever comes over the management link. Phases at rest and under attack take turns, so that what the
//! machine does besides meets both. docs/benchmarks.md explains the table.

pub mod attack;
pub mod desk;
pub mod flows;
pub mod node;
pub mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::image::Image;
use crate::sys::{pin, processors};
use crate::table::{Align, Table, kilo, median, ratio};
use attack::Name;
use node::Place;
use world::{Pace, Phase, World};

/// What to attack, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The node as a Linux process (the default)
    #[arg(long)]
    pub hosted: bool,
    /// The image in QEMU, by translation
    #[arg(long)]
    pub image: bool,
    /// The folder of the image, instead of target/image
    #[arg(long, value_name = "FOLDER")]
    pub image_folder: Option<PathBuf>,
    /// Attacks
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Name::ALL)]
    pub only: Vec<Name>,
    /// Length of a phase, in seconds
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Phases of each kind
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// How long an event of a guest may take, in microseconds; 2000, on the image 50000
    #[arg(long)]
    pub event: Option<u64>,
    /// Pings, and relayed capsules beside them, per second; 1000, on the image 300
    #[arg(long)]
    pub rate: Option<f64>,
    /// Print comma-separated values
    #[arg(long)]
    pub csv: bool,
}

/// One attack.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Where the node ran.
    pub place: &'static str,
    /// The attack.
    pub attack: &'static str,
    /// Victims' capsules sent and lost, at rest.
    pub rest_loss: (u64, u64),
    /// And under attack.
    pub loss: (u64, u64),
    /// Median time that the node has a ping, at rest, in microseconds.
    pub rest_p50: f64,
    /// And under attack.
    pub p50: f64,
    /// The 99th percentile, at rest.
    pub rest_p99: f64,
    /// And under attack.
    pub p99: f64,
    /// What it may be: at rest, an event, and the longest host call.
    pub bound: f64,
    /// The median round trip over a line whose links take a millisecond in each direction, to that at rest.
    pub trip: f64,
    /// The 99th percentile of the time that the measuring program itself needed for a turn, at rest, and under attack.
    pub turns: (f64, f64),
    /// Capsules relayed per second under attack, to those at rest.
    pub relay: f64,
    /// Per second, at rest.
    pub rest_rate: f64,
    /// What the node counted meanwhile.
    pub counted: Vec<(String, u64)>,
}

/// Microseconds that a ping and its answer are on the links of `emulab/line3.toml`.
const LINKS: f64 = 4000.0;
/// Time for what an attack leaves behind to go, and for one to begin.
const SETTLE: Duration = Duration::from_millis(250);

/// Measures all that the options say. An attack under which the measurement fails has no row, and is told.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut places = Vec::new();
    if options.hosted || !options.image {
        places.push(Place::Hosted);
    }
    if options.image {
        places.push(Place::Image(Image::find(options.image_folder.as_deref())?));
    }
    let processors = processors()?;
    let (first, last) = processors.first().zip(processors.last()).context("there is no processor")?;
    pin(*last)?;
    host::wait::exact_timers();
    let mut rows = Vec::new();
    for place in &places {
        for &name in &options.only {
            let row = row(place, name, options, (*first, *last));
            let row = row.with_context(|| format!("{} ({})", name.text(), place.name()))?;
            eprintln!(
                "{} {}: lost {} of {} (at rest {} of {}), p50 {:.0} -> {:.0}, p99 {:.0} -> {:.0} us (bound {:.0}), relay {:.2}",
                row.place,
                row.attack,
                row.loss.1,
                row.loss.0,
                row.rest_loss.1,
                row.rest_loss.0,
                row.rest_p50,
                row.p50,
                row.rest_p99,
                row.p99,
                row.bound,
                row.relay
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn row(place: &Place, name: Name, options: &Options, (cpu, home): (usize, usize)) -> Result<Row> {
    let event = options.event.map_or(place.event(), Duration::from_micros);
    let usual = if matches!(place, Place::Hosted) { 1000.0 } else { 300.0 };
    let phase = Duration::from_secs_f64(options.seconds);
    let pace = Pace { phase, rate: options.rate.unwrap_or(usual) };
    let mut world = World::start(place, event, cpu, home)?;
    let result = phases(&mut world, name, event, options.runs.max(1), &pace);
    result.with_context(|| world.last_words()).map(|measured| {
        let Measured { rest, under, longest, counted } = measured;
        let middle = |phases: &[Phase], of: fn(&Phase) -> f64| median(phases.iter().map(of).collect());
        let sum = |phases: &[Phase]| phases.iter().fold((0, 0), |(s, l), p| (s + p.sent, l + p.lost));
        let (p50, p99) =
            (|p: &Phase| percentile(&p.transits, 0.5), |p: &Phase| percentile(&p.transits, 0.99));
        let turn = |p: &Phase| percentile(&p.turns, 0.99);
        let trip = |phases: &[Phase]| LINKS + 2.0 * middle(phases, p50);
        let rest_p99 = middle(&rest, p99);
        let rest_rate = middle(&rest, |p| p.rate);
        Row {
            place: place.name(),
            attack: name.text(),
            rest_loss: sum(&rest),
            loss: sum(&under),
            rest_p50: middle(&rest, p50),
            p50: middle(&under, p50),
            rest_p99,
            p99: middle(&under, p99),
            bound: rest_p99 + (event + longest).as_secs_f64() * 1e6,
            trip: trip(&under) / trip(&rest),
            turns: (middle(&rest, turn), middle(&under, turn)),
            relay: middle(&under, |p| p.rate) / rest_rate,
            rest_rate,
            counted,
        }
    })
}

struct Measured {
    rest: Vec<Phase>,
    under: Vec<Phase>,
    longest: Duration,
    counted: Vec<(String, u64)>,
}

fn phases(world: &mut World, name: Name, event: Duration, runs: usize, pace: &Pace) -> Result<Measured> {
    let mut attack = name.attack(event.as_micros() as u64)?;
    // The first capsules are not like the others: caches are cold.
    world.measure(&Pace { phase: SETTLE, ..*pace }, None)?;
    let longest = world.longest_call()?;
    let (mut rest, mut under) = (Vec::new(), Vec::new());
    let before = world.counters()?;
    for _ in 0..runs {
        rest.push(world.measure(pace, None)?);
        attack.begin(world)?;
        world.pass(SETTLE, Some(&mut *attack))?;
        under.push(world.measure(pace, Some(&mut *attack))?);
        attack.end(world)?;
        world.calm()?;
        world.pass(SETTLE, None)?;
    }
    let after = world.counters()?;
    let grown = after.into_iter().filter_map(|(name, value)| {
        let old = before.iter().find(|(n, _)| *n == name).map_or(0, |(_, value)| *value);
        Some((name, value.checked_sub(old).filter(|n| *n > 0)?))
    });
    let counted = grown.filter(|(name, _)| !ORDINARY.contains(&name.as_str())).collect();
    Ok(Measured { rest, under, longest, counted })
}

/// What a node counts when nothing is wrong.
const ORDINARY: [&str; 3] = ["capsules_received", "capsules_sent", "system_capsules_sent"];

/// Of values in order of size.
fn percentile(values: &[f64], part: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The rows as text.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("node", Align::Left),
        ("attack", Align::Left),
        ("lost", Align::Right),
        ("p50 us", Align::Right),
        ("ratio", Align::Right),
        ("trip", Align::Right),
        ("p99 us", Align::Right),
        ("bound", Align::Right),
        ("relay", Align::Right),
        ("turn p99 us", Align::Right),
        ("what the node counted", Align::Left),
    ]);
    for row in rows {
        let counted = row.counted.iter().map(|(name, value)| format!("{name} {value}"));
        table.row([
            row.place.into(),
            row.attack.into(),
            format!("{}/{} -> {}/{}", row.rest_loss.1, row.rest_loss.0, row.loss.1, row.loss.0),
            format!("{:.0} -> {:.0}", row.rest_p50, row.p50),
            ratio(row.p50 / row.rest_p50),
            ratio(row.trip),
            format!("{:.0} -> {:.0}", row.rest_p99, row.p99),
            format!("{:.0}", row.bound),
            format!("{} of {}", ratio(row.relay), kilo(row.rest_rate)),
            format!("{:.0} -> {:.0}", row.turns.0, row.turns.1),
            counted.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

/// The rows as comma-separated values.
pub fn csv(rows: &[Row]) -> String {
    let mut text = String::from(
        "node,attack,rest_sent,rest_lost,sent,lost,rest_p50_us,p50_us,trip_ratio,rest_p99_us,p99_us,bound_us,\
         rest_turn_p99_us,turn_p99_us,rest_relay_per_s,relay_ratio,counted\n",
    );
    for r in rows {
        let counted: Vec<String> = r.counted.iter().map(|(name, value)| format!("{name}={value}")).collect();
        text += &format!(
            "{},{},{},{},{},{},{:.1},{:.1},{:.3},{:.1},{:.1},{:.1},{:.1},{:.1},{:.0},{:.3},{}\n",
            r.place,
            r.attack,
            r.rest_loss.0,
            r.rest_loss.1,
            r.loss.0,
            r.loss.1,
            r.rest_p50,
            r.p50,
            r.trip,
            r.rest_p99,
            r.p99,
            r.bound,
            r.turns.0,
            r.turns.1,
            r.rest_rate,
            r.relay,
            counted.join(" ")
        );
    }
    text
}
