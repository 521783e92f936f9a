//! A protocol's description and its bytes in the custom section `bees`: format 1, then what postcard makes
//! of `wire::describe::Description`, written while compiling.

/// The custom section's first byte.
pub const VERSION: u8 = 1;

/// What a protocol is. [`protocol!`](crate::protocol) makes it.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// Its capsule types; a type is named by its position.
    pub capsules: &'static [CapsuleType],
    /// The capsule types that events bring.
    pub events: Events,
    /// Whether programs can open a session.
    pub session: bool,
    /// Parameters and their default values.
    pub params: &'static [(&'static str, &'static str)],
    /// The interfaces that it needs companions for, and what these are coupled with.
    pub companions: &'static [(&'static str, Coupling)],
}

/// What enters the identifiers of a companion's capsules, beside the tuple's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Coupling {
    /// The capsule types of the protocol that it serves.
    Capsules = 0,
    /// That one's module and data parts.
    Parts = 1,
    /// Nothing.
    Tuple = 2,
    /// It is no protocol of the flow: another flow, or the node, serves the interface of this name.
    Independent = 3,
}

/// A capsule type.
#[derive(Debug, Clone, Copy)]
pub struct CapsuleType {
    /// Its name.
    pub name: &'static str,
    /// How often each operation may be done after an event.
    pub limits: Limits,
    /// Positions of the types that may be derived from it.
    pub derives: &'static [u8],
}

/// How often each operation may be done with one capsule object.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Back to where it came from.
    pub returns: u16,
    /// To one neighbor.
    pub sends: u16,
    /// To a neighborhood.
    pub multicasts: u16,
    /// Making another capsule from it.
    pub derives: u16,
}

impl Limits {
    /// Nothing may be done.
    pub const NONE: Self = Self { returns: 0, sends: 0, multicasts: 0, derives: 0 };

    /// In the order of the operations' numbers.
    pub const fn counts(&self) -> [u16; 4] {
        [self.returns, self.sends, self.multicasts, self.derives]
    }
}

/// The capsule types that events other than a capsule's arrival bring.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    /// When the flow starts.
    pub boot: Option<u8>,
    /// When a timer fires.
    pub timer: Option<u8>,
    /// When a program makes a request.
    pub session: Option<u8>,
}

impl Events {
    /// No event brings a capsule.
    pub const NONE: Self = Self { boot: None, timer: None, session: None };
}

impl Description {
    /// Length of the section, in bytes.
    pub const fn section_len(&self) -> usize {
        self.section().len
    }

    /// The section; `N` is [`section_len`](Self::section_len).
    pub const fn section_bytes<const N: usize>(&self) -> [u8; N] {
        let section = self.section();
        let mut bytes = [0; N];
        let mut i = 0;
        while i < N {
            bytes[i] = section.bytes[i];
            i += 1;
        }
        bytes
    }

    const fn section(&self) -> Section {
        let mut s = Section { bytes: [0; Section::MAX], len: 0 };
        s.byte(VERSION);
        s.text(self.name);
        s.varint(self.capsules.len());
        let mut i = 0;
        while i < self.capsules.len() {
            s.capsule_type(&self.capsules[i]);
            i += 1;
        }
        s.option(self.events.boot);
        s.option(self.events.timer);
        s.option(self.events.session);
        s.byte(self.session as u8);
        s.varint(self.params.len());
        let mut i = 0;
        while i < self.params.len() {
            s.text(self.params[i].0);
            s.text(self.params[i].1);
            i += 1;
        }
        s.varint(self.companions.len());
        let mut i = 0;
        while i < self.companions.len() {
            s.text(self.companions[i].0);
            match self.companions[i].1 {
                Coupling::Independent => {
                    s.all_of(&[Coupling::Tuple as u8, 1]);
                    s.text(self.companions[i].0);
                }
                // Served by a protocol of the tuple, whose place there the builder decides.
                coupling => s.all_of(&[coupling as u8, 0, 0]),
            }
            i += 1;
        }
        s
    }
}

/// A const writer of postcard: integers over 8 bits as LEB128, lengths before what has one.
struct Section {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Section {
    const MAX: usize = 2048;

    const fn byte(&mut self, b: u8) {
        self.bytes[self.len] = b;
        self.len += 1;
    }

    const fn varint(&mut self, mut n: usize) {
        while n >= 0x80 {
            self.byte(n as u8 | 0x80);
            n >>= 7;
        }
        self.byte(n as u8);
    }

    const fn all(&mut self, bytes: &[u8]) {
        self.varint(bytes.len());
        self.all_of(bytes);
    }

    const fn all_of(&mut self, bytes: &[u8]) {
        let mut i = 0;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    const fn text(&mut self, text: &str) {
        self.all(text.as_bytes());
    }

    const fn option(&mut self, value: Option<u8>) {
        match value {
            None => self.byte(0),
            Some(b) => {
                self.byte(1);
                self.byte(b);
            }
        }
    }

    const fn capsule_type(&mut self, t: &CapsuleType) {
        self.text(t.name);
        let counts = t.limits.counts();
        let mut i = 0;
        while i < counts.len() {
            self.varint(counts[i] as usize);
            i += 1;
        }
        self.all(t.derives);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::limits::Operation;

    const EXAMPLE: Description = Description {
        name: "example",
        capsules: &[
            CapsuleType {
                name: "Big",
                limits: Limits { returns: 1, sends: 127, multicasts: 128, derives: 65535 },
                derives: &[1, 0],
            },
            CapsuleType { name: "Small", limits: Limits::NONE, derives: &[] },
        ],
        events: Events { timer: Some(1), ..Events::NONE },
        session: true,
        params: &[("hops", "64"), ("empty", "")],
        companions: &[
            ("tree", Coupling::Parts),
            ("sink", Coupling::Tuple),
            ("bees.download", Coupling::Independent),
        ],
    };
    const LEN: usize = EXAMPLE.section_len();
    static SECTION: [u8; LEN] = EXAMPLE.section_bytes();

    #[test]
    fn wire_reads_it_and_writes_the_same() {
        let d = wire::describe::Description::decode(&SECTION).unwrap();
        assert_eq!(d.encode(), SECTION);
        assert_eq!(d.name, "example");
        assert_eq!(d.capsules[0].limits.get(Operation::Derives), 65535);
        assert_eq!(d.capsules[0].limits.get(Operation::Multicasts), 128);
        assert_eq!(d.capsules[0].derives, [1, 0]);
        assert_eq!(d.events.timer, Some(1));
        assert_eq!(d.params[0].value, b"64");
        assert!(d.session);
        let companions: Vec<_> =
            d.companions.iter().map(|c| (c.interface.as_str(), c.coupling, c.provider.clone())).collect();
        use wire::tuple::{Coupling, Provider};
        assert_eq!(
            companions,
            [
                ("tree", Coupling::Parts, Provider::Tuple(0)),
                ("sink", Coupling::Tuple, Provider::Tuple(0)),
                ("bees.download", Coupling::Tuple, Provider::System("bees.download".into())),
            ]
        );
    }
}
