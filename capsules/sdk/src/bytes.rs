//! Small structures to bytes and back, little endian; no reader goes past the end.

/// A structure with a form in bytes, at most [`INBOX`](crate::INBOX) for use with capsules.
pub trait Pack: Sized {
    /// Writes it.
    fn pack(&self, to: &mut Writer<'_>);
    /// Reads it; `None` when the bytes are none of it.
    fn unpack(from: &mut Reader<'_>) -> Option<Self>;
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

    #[test]
    fn a_full_writer_says_so() {
        let mut buffer = [0; 3];
        let mut w = Writer::new(&mut buffer);
        w.u32(1);
        w.u8(1);
        assert_eq!(w.finish(), None);
    }
}
