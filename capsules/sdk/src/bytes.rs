//! Small structures to bytes and back, little endian; no reader goes past the end.

/// A structure with a form in bytes, at most [`INBOX`](crate::INBOX) for use with capsules.
pub trait Pack: Sized {
    /// Writes it.
    fn pack(&self, to: &mut Writer<'_>);
    /// Reads it; `None` when the bytes are none of it.
    fn unpack(from: &mut Reader<'_>) -> Option<Self>;
}

/// What always has the same length.
pub trait Fixed: Pack {
    /// Its length, in bytes.
    const LEN: usize;
}

macro_rules! fixed {
    ($($t:ident)*) => {$(
        impl Pack for $t {
            fn pack(&self, to: &mut Writer<'_>) {
                to.put(&self.to_le_bytes());
            }

            fn unpack(from: &mut Reader<'_>) -> Option<Self> {
                from.array().map(Self::from_le_bytes)
            }
        }

        impl Fixed for $t {
            const LEN: usize = size_of::<$t>();
        }
    )*};
}
fixed!(u8 u16 u32 u64 i64);

impl Pack for bool {
    fn pack(&self, to: &mut Writer<'_>) {
        to.u8(u8::from(*self));
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        from.u8().filter(|b| *b < 2).map(|b| b == 1)
    }
}

impl Fixed for bool {
    const LEN: usize = 1;
}

impl<const N: usize> Pack for [u8; N] {
    fn pack(&self, to: &mut Writer<'_>) {
        to.put(self);
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        from.array()
    }
}

impl<const N: usize> Fixed for [u8; N] {
    const LEN: usize = N;
}

/// Declares a structure and its form in bytes, field after field, so that nobody counts offsets.
///
/// ```
/// bees_sdk::packed! {
///     /// A question: it begins with the byte 1.
///     pub struct Question: 1 {
///         /// Hops so far.
///         pub hops: u8,
///         /// Who asks.
///         pub asker: u64,
///     }
/// }
///
/// let question = Question { hops: 3, asker: 7 };
/// assert_eq!(Question::LEN, 10);
/// assert_eq!(Question::of(&question.bytes()), Some(question));
/// assert_eq!(Question::of(&[2; 10]), None);
/// ```
///
/// A field is a number, a `bool`, an array of bytes, or another such structure. The number behind the name may be left
/// out: it tells payloads apart, and is checked. The structure implements [`Fixed`](crate::bytes::Fixed), so that
/// [`Capsule::put`](crate::Capsule::put) and [`get`](crate::Capsule::get) take it.
#[macro_export]
macro_rules! packed {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(: $tag:literal)? {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $ty:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis struct $name { $($(#[$field_meta])* $field_vis $field: $ty),* }

        #[allow(dead_code, reason = "a protocol uses its part")]
        impl $name {
            /// Its length, in bytes.
            pub const LEN: usize = <Self as $crate::bytes::Fixed>::LEN;

            /// Its bytes.
            pub fn bytes(&self) -> [u8; Self::LEN] {
                let mut bytes = [0; Self::LEN];
                $crate::bytes::Pack::pack(self, &mut $crate::bytes::Writer::new(&mut bytes));
                bytes
            }

            /// Reads it from the front of a payload; `None` when the bytes are none of it.
            pub fn of(bytes: &[u8]) -> Option<Self> {
                $crate::bytes::Pack::unpack(&mut $crate::bytes::Reader::new(bytes))
            }
        }

        impl $crate::bytes::Pack for $name {
            fn pack(&self, to: &mut $crate::bytes::Writer<'_>) {
                $(to.u8($tag);)?
                $($crate::bytes::Pack::pack(&self.$field, to);)*
            }

            fn unpack(from: &mut $crate::bytes::Reader<'_>) -> Option<Self> {
                $(if from.u8()? != $tag {
                    return None;
                })?
                Some(Self { $($field: $crate::bytes::Pack::unpack(from)?),* })
            }
        }

        impl $crate::bytes::Fixed for $name {
            const LEN: usize = 0 $(+ [$tag].len())? $(+ <$ty as $crate::bytes::Fixed>::LEN)*;
        }
    };
}

/// Takes values from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

/// Puts values into a slice, and notes when they do not fit.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut [u8],
    len: usize,
    full: bool,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[b]| b)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length of one byte, then so many bytes, at most `max`.
    pub fn short(&mut self, max: usize) -> Option<&'a [u8]> {
        let len = usize::from(self.u8()?);
        if len > max { None } else { self.take(len) }
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Writer<'a> {
    /// Writes into `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, len: 0, full: false }
    }

    /// Bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.len..self.len + bytes.len()) {
            Some(to) => {
                to.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.full = true,
        }
    }

    /// One byte.
    pub fn u8(&mut self, n: u8) {
        self.put(&[n]);
    }

    /// Two bytes.
    pub fn u16(&mut self, n: u16) {
        self.put(&n.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, n: u32) {
        self.put(&n.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, n: u64) {
        self.put(&n.to_le_bytes());
    }

    /// A length of one byte, then the bytes, of which there are at most 255.
    pub fn short(&mut self, bytes: &[u8]) {
        self.full |= bytes.len() > 255;
        self.u8(bytes.len() as u8);
        self.put(bytes);
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What was written; `None` if something did not fit.
    pub fn finish(self) -> Option<&'a [u8]> {
        if self.full { None } else { Some(&self.bytes[..self.len]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut buffer = [0; 18];
        let mut w = Writer::new(&mut buffer);
        w.u8(1);
        w.u16(2);
        w.u32(3);
        w.u64(4);
        w.short(b"ab");
        let bytes = w.finish().unwrap();
        let mut r = Reader::new(bytes);
        assert_eq!((r.u8(), r.u16(), r.u32(), r.u64()), (Some(1), Some(2), Some(3), Some(4)));
        assert_eq!(r.clone().short(1), None);
        assert_eq!(r.short(2), Some(&b"ab"[..]));
        assert_eq!(r.u8(), None);
    }

    packed! {
        struct Inner { at: [u8; 3], big: i64 }
    }

    packed! {
        struct Outer: 9 { yes: bool, inner: Inner, last: u16 }
    }

    #[test]
    fn structures_are_as_long_as_their_fields() {
        let value = Outer { yes: true, inner: Inner { at: *b"abc", big: -2 }, last: 0x0201 };
        let bytes = value.bytes();
        assert_eq!((Outer::LEN, bytes.len()), (15, 15));
        assert_eq!(bytes, *b"\x09\x01abc\xfe\xff\xff\xff\xff\xff\xff\xff\x01\x02");
        assert_eq!(Outer::of(&bytes), Some(value));
        for wrong in [(0, 8), (1, 2)] {
            let mut bytes = bytes;
            bytes[wrong.0] = wrong.1;
            assert_eq!(Outer::of(&bytes), None);
        }
        (0..bytes.len()).for_each(|len| assert_eq!(Outer::of(&bytes[..len]), None));
    }

    #[test]
    fn a_full_writer_says_so() {
        let mut buffer = [0; 3];
        let mut w = Writer::new(&mut buffer);
        w.u32(1);
        w.u8(1);
        assert_eq!(w.finish(), None);
    }
}
