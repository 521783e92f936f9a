//! Writes the device tree in which the kernel looks for memory, ACPI and clock frequency
//! (Devicetree Specification 0.4, chapter 5).

use alloc::format;
use alloc::vec::Vec;

use crate::multiboot::Information;

const MAGIC: u32 = 0xd00d_feed;
const HEADER: u32 = 40;
/// An empty list of reserved memory.
const RESERVED: u32 = 16;
const VERSION: u32 = 17;
const COMPATIBLE: u32 = 16;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;

/// Builds the tree and leaves it in memory for good.
pub fn build(information: &Information, arguments: &str) -> &'static [u8] {
    let mut tree = Tree::default();
    tree.begin("");
    tree.property("compatible", b"hermit,multiboot\0");
    tree.property("#address-cells", &2u32.to_be_bytes());
    tree.property("#size-cells", &2u32.to_be_bytes());
    for range in &information.memory {
        tree.begin(&format!("memory@{:x}", range.start));
        tree.property("device_type", b"memory\0");
        tree.region(range.start, range.end - range.start);
        tree.end();
    }
    if let Some(rsdp) = information.rsdp {
        tree.begin(&format!("hermit,rsdp@{rsdp:x}"));
        tree.region(rsdp as u64, 1);
        tree.end();
    }
    tree.begin("chosen");
    tree.property("bootargs", format!("{arguments}\0").as_bytes());
    tree.end();
    tree.end();
    tree.finish().leak()
}

#[derive(Default)]
struct Tree {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Tree {
    fn word(&mut self, word: u32) {
        self.structure.extend_from_slice(&word.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.structure.extend_from_slice(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.bytes(format!("{name}\0").as_bytes());
    }

    fn end(&mut self) {
        self.word(END_NODE);
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        let offset = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        self.word(PROPERTY);
        self.word(value.len() as u32);
        self.word(offset);
        self.bytes(value);
    }

    fn region(&mut self, start: u64, size: u64) {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&start.to_be_bytes());
        value[8..].copy_from_slice(&size.to_be_bytes());
        self.property("reg", &value);
    }

    fn finish(mut self) -> Vec<u8> {
        self.word(END);
        let (structure, strings) = (self.structure.len() as u32, self.strings.len() as u32);
        let start = HEADER + RESERVED;
        let header = [
            MAGIC,
            start + structure + strings,
            start,
            start + structure,
            HEADER,
            VERSION,
            COMPATIBLE,
            0,
            strings,
            structure,
        ];
        let mut tree: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        tree.resize(start as usize, 0);
        tree.extend_from_slice(&self.structure);
        tree.extend_from_slice(&self.strings);
        tree
    }
}
