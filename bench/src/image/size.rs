//! How big the image is, by section and by crate.
//!
//! The image is stripped, so that names come from the linker's map (`node.map`), which lists every function
//! and constant with its size. Anonymous constants belong to nobody there and are listed as such.

use std::collections::HashMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::Image;
use super::machine::size_of;
use crate::table::{Align, Table, bytes};

/// Crates that are listed.
const LISTED: usize = 25;

/// Bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// The loader's file.
    pub loader: u64,
    /// The node's file.
    pub node: u64,
    /// Sections in memory, biggest first.
    pub sections: Vec<(String, u64)>,
    /// Crates and the kernel, biggest first; empty without a map.
    pub crates: Vec<(String, u64)>,
}

/// Reads the image's files.
pub fn run(image: &Image) -> Result<Sizes> {
    let output = Command::new("readelf").args(["--sections", "--wide"]).arg(&image.node).output();
    let output = output.context("cannot run readelf (package binutils)")?;
    if !output.status.success() {
        bail!("readelf: {}", String::from_utf8_lossy(&output.stderr));
    }
    let sections = sections(&String::from_utf8_lossy(&output.stdout));
    let crates = match std::fs::read_to_string(&image.map) {
        Ok(map) => crates(&map),
        Err(error) => {
            eprintln!("{}: {error}: sizes by crate are left out", image.map.display());
            Vec::new()
        }
    };
    Ok(Sizes { loader: size_of(&image.loader)?, node: size_of(&image.node)?, sections, crates })
}

/// Reads readelf's table: `[ n] name type address offset size ...`; what occupies memory has flag A.
fn sections(table: &str) -> Vec<(String, u64)> {
    let section = |line: &str| {
        let (_, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
        let mut words = rest.split_whitespace();
        let name = words.next()?;
        let size = u64::from_str_radix(words.nth(3)?, 16).ok()?;
        let flags = words.nth(1)?;
        (flags.contains('A') && size > 0).then(|| (name.to_string(), size))
    };
    largest_first(table.lines().filter_map(section).collect())
}

/// Reads lld's map: columns VMA, LMA, size, alignment, then an output section, `file:(section)` or a symbol,
/// each deeper than the one before. Input sections are counted: with a section for each function and
/// constant they carry its name.
fn crates(map: &str) -> Vec<(String, u64)> {
    let mut sums: HashMap<String, u64> = HashMap::new();
    for line in map.lines() {
        let mut words = line.split_whitespace();
        let (Some(size), Some(place)) = (words.nth(2), words.nth(1)) else { continue };
        let Ok(size) = u64::from_str_radix(size, 16) else { continue };
        let Some((file, section)) = place.rsplit_once(":(") else { continue };
        let section = section.trim_end_matches(')');
        // What only occupies memory is not in the file.
        if size > 0 && !section.starts_with(".bss") && !section.starts_with(".debug") {
            *sums.entry(owner(file, section)).or_default() += size;
        }
    }
    largest_first(sums)
}

fn largest_first(sums: HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut list: Vec<_> = sums.into_iter().collect();
    list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    list
}

/// Whose an input section is.
fn owner(file: &str, section: &str) -> String {
    if file.ends_with("hermit.o") {
        return "the kernel".into();
    }
    match symbol(section).and_then(first_crate) {
        Some(name) => name,
        None if section.starts_with(".text") => "other functions".into(),
        None if section.starts_with(".eh_frame") => "unwinding tables".into(),
        None => "anonymous constants".into(),
    }
}

/// `.text.SYMBOL`, `.rodata.SYMBOL`, `.data.rel.ro.SYMBOL`: the mangled name.
fn symbol(section: &str) -> Option<&str> {
    let at = ["_ZN", "_R"].iter().filter_map(|start| section.find(start)).min()?;
    Some(&section[at..])
}

/// The crate whose code a mangled Rust name is: of a trait's implementation, the type's.
fn first_crate(symbol: &str) -> Option<String> {
    if let Some(rest) = symbol.strip_prefix("_ZN") {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let part = rest[digits..].get(..rest[..digits].parse().ok()?)?;
        // `_$LT$ee..node..Node$u20$as$u20$...`: the type comes first.
        let part = part.trim_start_matches('_').trim_start_matches("$LT$").trim_start_matches("$RF$");
        let end = part.find(['.', '$']).unwrap_or(part.len());
        return (end > 0).then(|| part[..end].to_string());
    }
    // v0: `C` [disambiguator `s` base-62 `_`] length name.
    let rest = &symbol[symbol.find('C')? + 1..];
    let rest = match rest.strip_prefix('s') {
        Some(disambiguated) => &disambiguated[disambiguated.find('_')? + 1..],
        None => rest,
    };
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let name = rest[digits..].trim_start_matches('_').get(..rest[..digits].parse().ok()?)?;
    Some(name.to_string())
}

/// The sizes as text.
pub fn text(sizes: &Sizes) -> String {
    let mut files = Table::new(&[("file", Align::Left), ("size", Align::Right)]);
    files.row(["loader.bin".into(), bytes(sizes.loader)]);
    files.row(["node".into(), bytes(sizes.node)]);
    let mut text = files.to_string();
    for (what, list) in [("section", &sizes.sections), ("crate", &sizes.crates)] {
        if list.is_empty() {
            continue;
        }
        let mut table = Table::new(&[(what, Align::Left), ("size", Align::Right)]);
        for (name, size) in list.iter().take(LISTED) {
            table.row([name.clone(), bytes(*size)]);
        }
        let rest: u64 = list.iter().skip(LISTED).map(|(_, size)| size).sum();
        if rest > 0 {
            table.row(["all others".into(), bytes(rest)]);
        }
        text += &format!("\n{table}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_in_memory_are_listed() {
        let table = "\
  [Nr] Name              Type            Address          Off    Size   ES Flg Lk Inf Al
  [ 0]                   NULL            0000000000000000 000000 000000 00      0   0  0
  [ 1] .rodata           PROGBITS        0000000000200000 001000 000100 00   A  0   0 16
  [ 2] .text             PROGBITS        0000000000201000 002000 001000 00  AX  0   0 16
  [ 3] .comment          PROGBITS        0000000000000000 003000 000013 01  MS  0   0  1
";
        assert_eq!(sections(table), [(".text".to_string(), 0x1000), (".rodata".to_string(), 0x100)]);
    }

    #[test]
    fn a_map_is_summed_by_crate() {
        let map = "\
             VMA              LMA     Size Align Out     In      Symbol
          201000           201000     1000    16 .text
          201000           201000      100    16         image.o:(.text._ZN2ee4node4Node5frame17h0123456789abcdefE)
          201000           201000      100     1                 ee::node::Node::frame
          201100           201100       40    16         image.o:(.text._ZN53_$LT$ee..log..Log$u20$as$u20$core..fmt..Debug$GT$3fmt17h0123456789abcdefE)
          201200           201200       20    16         image.o:(.text._RNvMNtCs1234_6nodeos3netNtB2_3Net4poll)
          201300           201300      200    16         hermit.o:(.text)
          202000           202000        8     8         image.o:(.rodata..Lanon.0)
          203000           203000     9999     8         image.o:(.bss._ZN2ee1XE)
";
        let expected = [("the kernel", 0x200), ("ee", 0x140), ("nodeos", 0x20), ("anonymous constants", 8)];
        assert_eq!(crates(map), expected.map(|(name, size)| (name.to_string(), size)));
    }
}
