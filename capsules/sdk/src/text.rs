//! Lines of text without `core::fmt`, which would be most of a small module.

/// A line of at most `N` bytes; what does not fit is cut.
#[derive(Debug, Clone)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

/// What can be a piece of a line.
pub trait Show {
    /// Appends it with `push`.
    fn show(&self, push: &mut dyn FnMut(&[u8]));
}

/// A number of thousandths, shown with three decimals.
#[derive(Debug, Clone, Copy)]
pub struct Thousandths(pub u64);

impl<const N: usize> Text<N> {
    /// An empty line.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: impl Show) {
        piece.show(&mut |bytes| {
            for (to, from) in self.bytes[self.len..].iter_mut().zip(bytes) {
                *to = *from;
                self.len += 1;
            }
        });
    }

    /// The line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl Show for &str {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        push(self.as_bytes());
    }
}

/// Bytes that may come from anywhere: what is not graphic ASCII becomes `?`.
impl Show for &[u8] {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        for &b in *self {
            push(&[if b.is_ascii_graphic() { b } else { b'?' }]);
        }
    }
}

/// A name from anywhere as one word of a line that a program reads, so that it can be told what the name was: what is not graphic ASCII,
/// and `%`, becomes `%` and two hexadecimal digits; so does the name `-`, which often stands for nothing. `%` alone is the empty name.
#[derive(Debug, Clone, Copy)]
pub struct Word<'a>(pub &'a [u8]);

impl Show for Word<'_> {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        if self.0.is_empty() {
            push(b"%");
        }
        let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
        for &b in self.0 {
            match b.is_ascii_graphic() && b != b'%' && self.0 != b"-" {
                true => push(&[b]),
                false => push(&[b'%', digit(b >> 4), digit(b & 15)]),
            }
        }
    }
}

impl<const N: usize> Show for &[u8; N] {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        self.as_slice().show(push);
    }
}

impl Show for u64 {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut n = *self;
        loop {
            at -= 1;
            digits[at] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        push(&digits[at..]);
    }
}

macro_rules! show_as_u64 {
    ($($t:ty)*) => {$(
        impl Show for $t {
            fn show(&self, push: &mut dyn FnMut(&[u8])) {
                (*self as u64).show(push);
            }
        }
    )*};
}
show_as_u64!(u8 u16 u32 usize);

impl Show for i64 {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        if *self < 0 {
            push(b"-");
        }
        self.unsigned_abs().show(push);
    }
}

/// Also numbers as they stand in the source: `text!("hops ", 3)`.
impl Show for i32 {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        i64::from(*self).show(push);
    }
}

impl Show for Thousandths {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        (self.0 / 1000).show(push);
        let rest = self.0 % 1000;
        let digit = |n: u64| b'0' + (n % 10) as u8;
        push(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    }
}

impl Show for crate::Error {
    fn show(&self, push: &mut dyn FnMut(&[u8])) {
        self.name().show(push);
    }
}

/// How urgent a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// The protocol cannot do what it is for.
    Error = 0,
    /// Something is not as it should be.
    Warn = 1,
    /// Worth a line.
    Info = 2,
    /// For whoever writes the protocol.
    Debug = 3,
}

/// Writes to the node's log. A line that the node cannot take is lost.
pub fn log(level: Level, line: &[u8]) {
    crate::sys::log(level as i32, line);
}

/// Makes a [`Text`] of at most 256 bytes out of pieces: `text!("hops ", hops, " via ", name)`.
#[macro_export]
macro_rules! text {
    ($($piece:expr),* $(,)?) => {{
        let mut line = $crate::Text::<256>::new();
        $(line.push($piece);)*
        line
    }};
}

/// Writes a line to the node's log: `log!(Info, "heard ", name)`.
#[macro_export]
macro_rules! log {
    ($level:ident, $($piece:expr),* $(,)?) => {
        $crate::text::log($crate::text::Level::$level, $crate::text!($($piece),*).as_bytes())
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_a_line() {
        let line = text!("a ", 0u8, " ", 12345u32, " ", Thousandths(1_020_034), " ", &b"x\ny"[..]);
        assert_eq!(line.as_bytes(), b"a 0 12345 1020.034 x?y");
        let words = text!(Word(b"a-b"), " ", Word(b"a b%\xff"), " ", Word(b"-"), " ", Word(b""));
        assert_eq!(words.as_bytes(), b"a-b a%20b%25%ff %2d %");
        let line = text!(b"a b", -3, " ", i64::MIN, 7i64);
        assert_eq!(line.as_bytes(), b"a?b-3 -92233720368547758087");
        let mut short = Text::<3>::new();
        short.push("abcdef");
        assert_eq!(short.as_bytes(), b"abc");
    }
}
