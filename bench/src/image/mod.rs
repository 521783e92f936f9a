//! `bench image`: the bootable node in QEMU, and what a node costs: relay rate, boot stages, size, memory,
//! and how long a flow's code takes from hop to hop.
//!
//! Everything but the relay goes through the tools that people use: the image as `cargo xtask image` left it,
//! nodes as `bees lab` starts them.

pub mod boot;
pub mod lab;
pub mod machine;
pub mod relay;
pub mod size;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::relay::Figure;

/// What to measure, and with what.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    pub only: Vec<Part>,
    /// Payload sizes of the relay, in bytes
    #[arg(long, value_delimiter = ',', default_values_t = [0, 64, 512, 1400])]
    pub payload: Vec<usize>,
    /// Relays to compare
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = relay::Row::ALL)]
    pub rows: Vec<relay::Row>,
    /// Length of one trial of the relay, in seconds
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Repetitions; the median counts
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// The folder of the image, instead of target/image
    #[arg(long, value_name = "FOLDER")]
    pub image: Option<PathBuf>,
    /// The program bees, instead of the one beside this program
    #[arg(long, value_name = "FILE")]
    pub bees: Option<PathBuf>,
    /// The program bees-node, instead of the one beside this program
    #[arg(long, value_name = "FILE")]
    pub node: Option<PathBuf>,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Packets per second through the image
    Relay,
    /// From QEMU's start to a node that is ready
    Boot,
    /// The image's size by section and by crate
    Size,
    /// An idle node's memory, and the smallest machine that runs the demonstration
    Memory,
    /// How a flow's code comes to each hop
    Download,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Relay, Self::Boot, Self::Size, Self::Memory, Self::Download];
}

/// All figures; what was not measured is left out.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Packets per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<Vec<Figure>>,
    /// Boot stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<boot::Stages>,
    /// Sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<size::Sizes>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<lab::Memory>,
    /// Arrival of a flow at each node, in QEMU and in processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<Vec<lab::Hops>>,
    /// Parts that could not be measured, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

/// Measures. A part that fails does not keep the others from being reported.
pub fn run(options: &Options) -> Report {
    let mut report = Report::default();
    for &part in &options.only {
        if let Err(error) = measure(part, options, &mut report) {
            eprintln!("{part:?}: {error:#}");
            report.failed.push(format!("{part:?}: {error:#}"));
        }
    }
    report
}

fn measure(part: Part, options: &Options, report: &mut Report) -> Result<()> {
    let image = || Image::find(options.image.as_deref());
    let tools = || lab::Tools::find(options);
    match part {
        Part::Relay => report.relay = Some(relay::run(&image()?, options)?),
        Part::Boot => report.boot = Some(boot::run(&image()?, options.runs)?),
        Part::Size => report.size = Some(size::run(&image()?)?),
        Part::Memory => report.memory = Some(lab::memory(&tools()?, options.runs)?),
        Part::Download => report.download = Some(lab::download(&tools()?, options.runs)?),
    }
    Ok(())
}

/// The report as text.
pub fn text(report: &Report) -> String {
    let mut parts = Vec::new();
    if let Some(figures) = &report.relay {
        parts.push(format!("relay\n\n{}", relay::table(figures)));
    }
    if let Some(stages) = &report.boot {
        parts.push(format!("boot\n\n{}", boot::table(stages)));
    }
    if let Some(sizes) = &report.size {
        parts.push(format!("size\n\n{}", size::text(sizes)));
    }
    if let Some(memory) = &report.memory {
        parts.push(format!("memory\n\n{}", lab::memory_table(memory)));
    }
    if let Some(hops) = &report.download {
        parts.push(format!("download\n\n{}", lab::download_table(hops)));
    }
    parts.join("\n")
}

/// The bootable node's files.
#[derive(Debug, Clone)]
pub struct Image {
    /// For QEMU's `-kernel`.
    pub loader: PathBuf,
    /// The node, the first module.
    pub node: PathBuf,
    /// The linker's account of what is where, if the build left one.
    pub map: PathBuf,
}

impl Image {
    /// The image in `folder`, or where `cargo xtask image` leaves it.
    pub fn find(folder: Option<&Path>) -> Result<Self> {
        let folder = folder.map_or_else(|| project().join("target/image"), Path::to_path_buf);
        let file = |name: &str| folder.join(name);
        let image = Self { loader: file("loader.bin"), node: file("node"), map: file("node.map") };
        for needed in [&image.loader, &image.node] {
            let found = std::fs::metadata(needed);
            found.with_context(|| format!("{}: `cargo xtask image` makes it", needed.display()))?;
        }
        Ok(image)
    }
}

/// The project's folder.
pub fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}
