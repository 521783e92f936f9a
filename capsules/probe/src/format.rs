//! What questions and reports look like; numbers are little endian.
//!
//! ```text
//! question: 1, hops of the sender, hop limit, 0, origin (8), search (4), round (2), sensors: text with blanks between
//! report:   2, hops, origin (8), search (4), name: a length byte and at most 32 bytes, sensors?: 0 or 1,
//!           and for each sensor asked for: 1 and its value (8), or 0
//! ```
//!
//! A node's number is the hash of its name. Reports say the values in the order of the question, whose text
//! they do not repeat.

use bees_sdk::bytes::{Reader, Writer};
use bees_sdk::session::Words;

/// The longest name of a node, in bytes.
pub const MAX_NAME: usize = 32;
/// Sensors that one question asks for.
pub const MAX_SENSORS: usize = 4;
/// The longest text of a question, in bytes.
pub const MAX_TEXT: usize = 160;
/// The longest report, in bytes.
pub const MAX_REPORT: usize = 16 + MAX_NAME + 9 * MAX_SENSORS;

/// A round's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// Hops from who asks to who sent this.
    pub hops: u8,
    /// Nodes at this many hops pass it on to nobody.
    pub limit: u8,
    /// The number of the node that asks.
    pub origin: u64,
    /// Which of its searches.
    pub search: u32,
    /// Which round of it.
    pub round: u16,
    /// The names of sensors.
    pub text: &'a [u8],
}

impl<'a> Question<'a> {
    /// The longest question, in bytes.
    pub const MAX: usize = 18 + MAX_TEXT;
    /// Where the hops stand.
    pub const HOPS: usize = 1;

    /// Reads a question; `None` when it is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let (kind, hops, limit, _) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
        let (origin, search, round) = (r.u64()?, r.u32()?, r.u16()?);
        let text = r.rest();
        let fits = kind == 1 && hops < limit && limit < u8::MAX && text.len() <= MAX_TEXT;
        fits.then_some(Self { hops, limit, origin, search, round, text })
    }

    /// Its bytes.
    pub fn pack<'b>(&self, buffer: &'b mut [u8; Question::MAX]) -> &'b [u8] {
        let mut w = Writer::new(buffer);
        w.put(&[1, self.hops, self.limit, 0]);
        w.u64(self.origin);
        w.u32(self.search);
        w.u16(self.round);
        w.put(self.text);
        w.finish().unwrap_or(&[])
    }

    /// The names.
    pub fn sensors(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        Words::of(self.text).take(MAX_SENSORS)
    }

    /// Tells the questions of one node apart.
    pub fn number(&self) -> u64 {
        u64::from(self.search) << 16 | u64::from(self.round)
    }
}

/// One node's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report<'a> {
    /// Hops from who asked.
    pub hops: u8,
    /// Who asked.
    pub origin: u64,
    /// Which search.
    pub search: u32,
    /// The node's name.
    pub name: &'a [u8],
    /// The values; `None` from a node that is a mere router.
    pub values: Option<[Option<i64>; MAX_SENSORS]>,
}

impl<'a> Report<'a> {
    /// Reads a report; `None` when it is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let (kind, hops, origin, search) = (r.u8()?, r.u8()?, r.u64()?, r.u32()?);
        let name = r.short(MAX_NAME)?;
        let values = match r.u8()? {
            0 => None,
            _ => {
                let mut values = [None; MAX_SENSORS];
                for value in &mut values {
                    if r.u8().is_some_and(|known| known == 1) {
                        *value = Some(r.u64()? as i64);
                    }
                }
                Some(values)
            }
        };
        (kind == 2 && !name.is_empty()).then_some(Self { hops, origin, search, name, values })
    }
}

/// A report's bytes.
pub fn pack_report<'b>(
    question: &Question<'_>,
    name: &[u8],
    values: Option<impl Iterator<Item = Option<i64>>>,
    buffer: &'b mut [u8; MAX_REPORT],
) -> &'b [u8] {
    let mut w = Writer::new(buffer);
    w.put(&[2, question.hops]);
    w.u64(question.origin);
    w.u32(question.search);
    w.short(name);
    w.put(&[u8::from(values.is_some())]);
    for value in values.into_iter().flatten() {
        w.put(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            w.u64(value as u64);
        }
    }
    w.finish().unwrap_or(&[])
}
