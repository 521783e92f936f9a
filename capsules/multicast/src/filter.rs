//! What somebody wants: payloads that begin so, or so, and how many of them in a second. Filters are merged on the way
//! to the source: what one of them lets through the merged one does, and nothing else while there is room for the terms.

/// Terms that a link's filter has room for.
pub const MAX_TERMS: usize = 12;
/// The longest prefix, in bytes.
pub const MAX_PREFIX: usize = 16;
/// Payloads in a second, at most; 0 means all of them.
pub const MAX_RATE: u32 = 10_000;

/// Payloads that begin with a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    prefix: [u8; MAX_PREFIX],
    len: u8,
    /// So many in a second; 0: all.
    pub rate: u16,
}

/// Payloads that one of the terms wants. Terms are in order, and none covers another.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    terms: [Term; MAX_TERMS],
    len: u8,
}

/// A filter at work: it knows what has passed.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    filter: Filter,
    /// For each term with a rate: when the next payload is due, in microseconds.
    due: [u64; MAX_TERMS],
}

/// What a gate says of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is wanted.
    Pass,
    /// It would be, but more were than the rate allows.
    Thinned,
    /// Nobody wants such.
    Unwanted,
}

const NO_TERM: Term = Term { prefix: [0; MAX_PREFIX], len: 0, rate: 0 };

impl Term {
    pub fn of(prefix: &[u8], rate: u16) -> Option<Self> {
        let mut term = Self { len: prefix.len() as u8, rate, ..NO_TERM };
        term.prefix.get_mut(..prefix.len())?.copy_from_slice(prefix);
        (u32::from(rate) <= MAX_RATE).then_some(term)
    }

    /// Every payload that begins so. The prefix is one of a term's.
    fn all(prefix: &[u8]) -> Self {
        Self::of(prefix, 0).unwrap_or(NO_TERM)
    }

    /// A term as programs write it: `TEXT` or `x:HEX`, and `@RATE` behind it.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let (text, rate) = match word.iter().position(|b| *b == b'@') {
            Some(at) => {
                let rate = bees_sdk::session::parse(&word[at + 1..])?;
                (&word[..at], (1..=MAX_RATE).contains(&rate).then_some(rate as u16)?)
            }
            None => (word, 0),
        };
        let Some(digits) = text.strip_prefix(b"x:") else { return Self::of(text, rate) };
        let mut prefix = [0; MAX_PREFIX];
        let bytes = prefix.get_mut(..digits.len() / 2).filter(|_| digits.len().is_multiple_of(2))?;
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Self::of(bytes, rate)
    }

    pub fn prefix(&self) -> &[u8] {
        &self.prefix[..usize::from(self.len)]
    }

    /// Whether all that `other` lets through passes here, too.
    fn covers(&self, other: &Self) -> bool {
        let rates = match (self.rate, other.rate) {
            (0, _) => true,
            // Of a longer prefix a rate would let too few through: others use it up.
            (mine, theirs) => self.len == other.len && theirs != 0 && theirs <= mine,
        };
        rates && other.prefix().starts_with(self.prefix())
    }

    fn common(&self, other: &Self) -> usize {
        self.prefix().iter().zip(other.prefix()).take_while(|(a, b)| a == b).count()
    }
}

impl Filter {
    /// Wants nothing.
    pub const NOTHING: Self = Self { terms: [NO_TERM; MAX_TERMS], len: 0 };

    pub fn terms(&self) -> &[Term] {
        &self.terms[..usize::from(self.len)]
    }

    pub fn is_nothing(&self) -> bool {
        self.len == 0
    }

    /// Whether a term adds nothing.
    pub fn covers(&self, term: &Term) -> bool {
        self.terms().iter().any(|t| t.covers(term))
    }

    /// Adds a term; `true`: there was no room, so that it wants more now than was asked for.
    pub fn add(&mut self, term: Term) -> bool {
        if self.covers(&term) {
            return false;
        }
        self.retain(|t| !term.covers(t));
        let len = usize::from(self.len);
        if len < MAX_TERMS {
            let at = self.terms().iter().position(|t| order(t) > order(&term)).unwrap_or(len);
            self.terms.copy_within(at..len, at + 1);
            self.terms[at] = term;
            self.len += 1;
            return false;
        }
        // In the order of prefixes those that have most in common stand beside each other.
        let nearest = self.terms().iter().max_by_key(|t| t.common(&term)).map_or(0, |t| t.common(&term));
        let beside = self.terms().windows(2).map(|pair| pair[0].common(&pair[1])).max().unwrap_or(0);
        let kept = Term::all(&term.prefix()[..nearest]);
        if nearest >= beside {
            self.add(kept);
        } else {
            let pair = self.terms().windows(2).find(|pair| pair[0].common(&pair[1]) == beside);
            let wider = pair.map(|pair| Term::all(&pair[0].prefix()[..beside]));
            wider.into_iter().for_each(|wider| {
                self.add(wider);
            });
            self.add(term);
        }
        true
    }

    /// Adds all terms of another; `true` as for [`Filter::add`].
    pub fn merge(&mut self, other: &Self) -> bool {
        other.terms().iter().fold(false, |widened, term| self.add(*term) | widened)
    }

    fn retain(&mut self, keep: impl Fn(&Term) -> bool) {
        let mut len = 0;
        for at in 0..usize::from(self.len) {
            if keep(&self.terms[at]) {
                self.terms[len] = self.terms[at];
                len += 1;
            }
        }
        self.len = len as u8;
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.terms() == other.terms()
    }
}

impl Eq for Filter {}

impl Gate {
    pub const CLOSED: Self = Self { filter: Filter::NOTHING, due: [0; MAX_TERMS] };

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Another filter; what passed because of terms that stay still counts.
    pub fn set(&mut self, filter: &Filter) {
        let mut due = [0; MAX_TERMS];
        for (to, term) in due.iter_mut().zip(filter.terms()) {
            let at = self.filter.terms().iter().position(|t| t == term);
            *to = at.map_or(0, |at| self.due[at]);
        }
        *self = Self { filter: *filter, due };
    }

    /// Whether a payload passes at `now`, in microseconds. Two may pass at once, then one in its time.
    pub fn pass(&mut self, payload: &[u8], now: u64) -> Verdict {
        let mut verdict = Verdict::Unwanted;
        for (term, due) in self.filter.terms().iter().zip(&mut self.due) {
            if !payload.starts_with(term.prefix()) {
                continue;
            }
            let Some(step) = 1_000_000u64.checked_div(term.rate.into()) else { return Verdict::Pass };
            if now + step >= *due {
                *due = now.max(*due) + step;
                verdict = Verdict::Pass;
            } else if verdict == Verdict::Unwanted {
                verdict = Verdict::Thinned;
            }
        }
        verdict
    }
}

fn order(term: &Term) -> (&[u8], u16) {
    (term.prefix(), term.rate)
}

fn digit(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bees_sdk::node::mix;

    use super::*;

    fn term(text: &str) -> Term {
        Term::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"))
    }

    fn filter(words: &[&str]) -> Filter {
        let mut filter = Filter::NOTHING;
        words.iter().for_each(|w| assert!(!filter.add(term(w)), "{w}"));
        filter
    }

    #[test]
    fn programs_write_terms() {
        assert_eq!(term("news/@5"), Term::of(b"news/", 5).unwrap());
        assert_eq!(term("x:00fF"), Term::of(&[0, 255], 0).unwrap());
        assert_eq!(term("@7"), Term::of(b"", 7).unwrap());
        for wrong in ["seventeen-letters", "a@", "a@0", "a@10001", "a@-1", "x:0", "x:zz"] {
            assert_eq!(Term::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_covered_is_not_said() {
        assert_eq!(filter(&["ab", "abc", "ab@3"]), filter(&["ab"]));
        assert_eq!(filter(&["ab@3", "ab@5"]), filter(&["ab@5"]));
        assert_eq!(filter(&["abc@3", "ab@5"]).terms().len(), 2);
        assert_eq!(filter(&["b", "a"]), filter(&["a", "b"]));
        assert_eq!(filter(&["b", "a", "x:"]).terms(), [term("x:")]);
    }

    /// Against the terms themselves: nothing that one of them wants is kept back, whatever had to be widened; and while
    /// there is room nothing else passes.
    #[test]
    fn a_merged_filter_wants_what_its_parts_want() {
        let mut random = 1;
        let mut draw = |n: u64| {
            random = mix(random);
            random % n
        };
        for _ in 0..3000 {
            let mut terms = vec![];
            for _ in 0..draw(30) {
                let prefix: Vec<u8> = (0..draw(5)).map(|_| b'a' + draw(3) as u8).collect();
                terms.push(Term::of(&prefix, draw(3) as u16).unwrap());
            }
            let (mut merged, mut widened) = (Filter::NOTHING, false);
            terms.iter().for_each(|t| widened |= merged.add(*t));
            assert!(merged.terms().is_sorted_by_key(order));
            for (at, t) in merged.terms().iter().enumerate() {
                let others = merged.terms().iter().enumerate().filter(|(other, _)| *other != at);
                assert!(others.into_iter().all(|(_, o)| !o.covers(t)), "{merged:?}");
            }
            assert!(terms.iter().all(|t| merged.covers(t)));
            for _ in 0..20 {
                let payload: Vec<u8> = (0..draw(7)).map(|_| b'a' + draw(3) as u8).collect();
                let wanted = terms.iter().any(|t| payload.starts_with(t.prefix()));
                let mut gate = Gate::CLOSED;
                gate.set(&merged);
                let passes = gate.pass(&payload, 0) == Verdict::Pass;
                assert!(passes == wanted || passes && widened, "{terms:?} {payload:?}");
            }
        }
    }

    #[test]
    fn rates_are_kept() {
        let mut gate = Gate::CLOSED;
        gate.set(&filter(&["a@10", "ab"]));
        let passed = |gate: &mut Gate, payload: &[u8], from: u64| {
            (0..1000).filter(|ms| gate.pass(payload, from + ms * 1000) == Verdict::Pass).count()
        };
        assert_eq!(passed(&mut gate, b"ab", 0), 1000);
        gate.set(&filter(&["a@10"]));
        assert!((10..=12).contains(&passed(&mut gate, b"ax", 5_000_000)));
        assert_eq!(gate.pass(b"ax", 5_999_500), Verdict::Thinned);
        assert_eq!(gate.pass(b"b", 5_999_500), Verdict::Unwanted);
        // Another term beside it is no way round the rate.
        gate.set(&filter(&["a@10", "c"]));
        assert_eq!(gate.pass(b"ax", 5_999_600), Verdict::Thinned);
    }
}
