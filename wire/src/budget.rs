//! Budgets of a flow by kind, under one name each wherever people or programs read them: in tuples and grants, in
//! policies and configurations, on the command line, in tables and metrics.
//!
//! [`Kind`] is the table of all kinds; [`Budgets`] are bounds on any of them. Their encoding names only what is
//! bounded, each kind once, in order. A [`Section`] is the same as a table of TOML.

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::units::{Rate, Size, Time, parse_rate, parse_size, parse_time};

/// How amounts of a kind are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes: `256k`.
    Bytes,
    /// Microseconds: `2ms`.
    Time,
    /// Bytes per second: `10mbit`.
    Rate,
    /// A number.
    Count,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal $field:ident: $type:ty, $unit:ident;)*) => {
        /// What a budget bounds. The order is that of the encodings.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        /// Bounds that a flow asks for or is granted; `None`: no bound is named. The greatest number is no bound
        /// either.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Budgets {
            $($(#[$doc])* pub $field: Option<$type>,)*
        }

        impl Kind {
            /// All of them, in order.
            pub const ALL: [Self; NAMES.len()] = [$(Self::$kind,)*];

            const fn row(self) -> (&'static str, Unit, u64) {
                match self {
                    $(Self::$kind => ($name, Unit::$unit, <$type>::MAX as u64),)*
                }
            }
        }

        impl Budgets {
            /// The bound on a kind.
            pub fn get(&self, kind: Kind) -> Option<u64> {
                match kind {
                    $(Kind::$kind => self.$field.map(u64::from),)*
                }
            }

            /// Sets the bound on a kind; it is no more than [`Kind::most`].
            pub fn set(&mut self, kind: Kind, bound: Option<u64>) {
                let bound = bound.map(|bound| bound.min(kind.most()));
                match kind {
                    $(Kind::$kind => self.$field = bound.map(|bound| bound as $type),)*
                }
            }
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

kinds! {
    /// All memory that is kept for the team, in bytes.
    Memory "memory" memory: u64, Bytes;
    /// The deadline of one event, in microseconds.
    Event "event" event_us: u32, Time;
    /// Rate on each link, in bytes per second.
    Rate "rate" rate: u64, Rate;
    /// Burst on each link, in bytes.
    Burst "burst" burst: u32, Bytes;
    /// Timers running at once.
    Timers "timers" timers: u16, Count;
    /// Soft-state entries.
    CacheEntries "cache_entries" cache_entries: u16, Count;
    /// Sessions open at once.
    Sessions "sessions" sessions: u16, Count;
    /// Compiled code, in bytes.
    Code "code" code: u64, Bytes;
    /// What one event may take in all with the privilege `background`, in microseconds.
    Background "background" background_us: u64, Time;
    /// Rate on all links together, in bytes per second.
    TotalRate "total_rate" total_rate: u64, Rate;
    /// Packets per second on all links together.
    Packets "packets" packets: u32, Count;
    /// Events that wait.
    Queue "queue" queue: u16, Count;
    /// Events ever handled.
    EventsTotal "events_total" events_total: u64, Count;
    /// Timers ever set.
    TimersTotal "timers_total" timers_total: u64, Count;
    /// Flows below it at once.
    Flows "flows" flows: u16, Count;
    /// Flows ever started below it.
    FlowsTotal "flows_total" flows_total: u64, Count;
    /// Bytes ever downloaded for it.
    Download "download" download: u64, Bytes;
    /// Time ever spent on compiling its code, in microseconds.
    Compile "compile" compile_us: u64, Time;
    /// Shares of processor time, relative to its brothers'.
    Shares "shares" shares: u32, Count;
}

impl Kind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// How its amounts are written.
    pub const fn unit(self) -> Unit {
        self.row().1
    }

    /// The greatest bound, which is none.
    pub const fn most(self) -> u64 {
        self.row().2
    }

    /// The kind of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Reads a bound on it as people write it.
    pub fn parse(self, text: &str) -> Option<u64> {
        let bound = match self.unit() {
            Unit::Bytes => parse_size(text).ok(),
            Unit::Time => parse_time(text).ok().and_then(micros),
            Unit::Rate => parse_rate(text).ok(),
            Unit::Count => text.parse().ok(),
        };
        bound.filter(|bound| *bound <= self.most())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An amount of a kind, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub Kind, pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.unit() {
            Unit::Bytes => Size(self.1).fmt(f),
            Unit::Time => Time(Duration::from_micros(self.1)).fmt(f),
            Unit::Rate => Rate(self.1).fmt(f),
            Unit::Count => self.1.fmt(f),
        }
    }
}

impl Budgets {
    /// What is bounded, in order.
    pub fn named(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().filter_map(|kind| Some((kind, self.get(kind)?)))
    }

    /// The lower of each two; what only one names counts.
    #[must_use]
    pub fn meet(mut self, other: &Self) -> Self {
        for (kind, bound) in other.named() {
            let own = self.get(kind).unwrap_or(bound);
            self.set(kind, Some(own.min(bound)));
        }
        self
    }
}

impl Serialize for Budgets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named: Vec<(Kind, u64)> = self.named().collect();
        named.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Budgets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named: Vec<(Kind, u64)> = Deserialize::deserialize(deserializer)?;
        let mut budgets = Self::default();
        let mut last = None;
        for (kind, bound) in named {
            if last >= Some(kind) || bound > kind.most() {
                return Err(D::Error::custom("budgets that are out of order, or too large"));
            }
            last = Some(kind);
            budgets.set(kind, Some(bound));
        }
        Ok(budgets)
    }
}

/// Budgets as a table of TOML: `memory = "1M"`, `timers = 8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Section(pub Budgets);

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (kind, bound) in self.0.named() {
            match kind.unit() {
                Unit::Count => map.serialize_entry(kind.name(), &bound)?,
                _ => map.serialize_entry(kind.name(), &format!("{}", Amount(kind, bound)))?,
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Table)
    }
}

struct Table;

impl<'de> Visitor<'de> for Table {
    type Value = Section;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of budgets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Section, A::Error> {
        let mut budgets = Budgets::default();
        while let Some(Key(kind)) = map.next_key()? {
            budgets.set(kind, Some(map.next_value_seed(Bound(kind))?));
        }
        Ok(Section(budgets))
    }
}

/// A kind by its name.
struct Key(Kind);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Kind::of(&name).map(Self).ok_or_else(|| D::Error::unknown_field(&name, NAMES))
    }
}

/// A bound on this kind.
struct Bound(Kind);

impl<'de> DeserializeSeed<'de> for Bound {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        let Self(kind) = self;
        let bound = match kind.unit() {
            Unit::Bytes => Some(Size::deserialize(deserializer)?.0),
            Unit::Time => micros(Time::deserialize(deserializer)?.0),
            Unit::Rate => Some(Rate::deserialize(deserializer)?.0),
            Unit::Count => Some(u64::deserialize(deserializer)?),
        };
        let fits = bound.filter(|bound| *bound <= kind.most());
        fits.ok_or_else(|| D::Error::custom(format!("{kind} is at most {}", Amount(kind, kind.most()))))
    }
}

fn micros(time: Duration) -> Option<u64> {
    u64::try_from(time.as_micros()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    pub fn budgets() -> impl Strategy<Value = Budgets> {
        let bound = || proptest::option::of(prop_oneof![any::<u64>(), 0u64..70_000]);
        proptest::collection::vec(bound(), Kind::ALL.len()).prop_map(|bounds| {
            let mut budgets = Budgets::default();
            Kind::ALL.into_iter().zip(bounds).for_each(|(kind, bound)| budgets.set(kind, bound));
            budgets
        })
    }

    proptest! {
        #[test]
        fn every_form_says_the_same(budgets in budgets()) {
            let bytes = postcard::to_allocvec(&budgets).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Budgets>(&bytes).unwrap(), budgets);
            for (kind, bound) in budgets.named() {
                prop_assert!(bound <= kind.most());
                // A rate of nothing has no form, and eight times the greatest no number of its own.
                if kind.unit() != Unit::Rate || (1..=u64::MAX / 8).contains(&bound) {
                    prop_assert_eq!(kind.parse(&Amount(kind, bound).to_string()), Some(bound));
                }
            }
        }

        #[test]
        fn any_bytes_are_one_encoding_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok((budgets, rest)) = postcard::take_from_bytes::<Budgets>(&bytes) {
                let again = postcard::to_allocvec(&budgets).unwrap();
                prop_assert!(again.len() <= bytes.len() - rest.len(), "varints may be longer than need be, no more");
            }
        }

        #[test]
        fn a_meeting_is_the_lower_of_each(a in budgets(), b in budgets()) {
            let both = a.meet(&b);
            for kind in Kind::ALL {
                let lower = [a.get(kind), b.get(kind)].into_iter().flatten().min();
                prop_assert_eq!(both.get(kind), lower);
            }
            prop_assert_eq!((both, b.meet(&b)), (b.meet(&a), b));
        }
    }

    #[test]
    fn kinds_have_fixed_numbers_and_names_of_their_own() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, Kind::of(kind.name())), (at, Some(kind)));
        }
        assert_eq!((Kind::Sessions as u8, Kind::Code as u8, Kind::Shares as u8), (6, 7, 18));
        assert_eq!(Kind::of("cache-entries"), None);
    }

    #[test]
    fn amounts_are_written_in_their_units_and_bounded() {
        for (kind, text, bound) in [
            (Kind::Memory, "1M", Some(1 << 20)),
            (Kind::Compile, "3s", Some(3_000_000)),
            (Kind::TotalRate, "8mbit", Some(1_000_000)),
            (Kind::Flows, "65535", Some(65535)),
            (Kind::Flows, "65536", None),
            (Kind::Event, "4295s", None),
            (Kind::Queue, "1k", None),
            (Kind::Shares, "-1", None),
        ] {
            assert_eq!(kind.parse(text), bound, "{kind} {text}");
        }
    }
}
