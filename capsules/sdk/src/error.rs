//! Why the node did nothing.

/// The errors of the guest interface (`docs/abi`, "Results"), in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Error {
    /// The handle names nothing (any more).
    BadHandle = 1,
    /// Pointer and length lie outside the memory, or the length is over 64 KiB.
    BadPointer = 2,
    /// An argument is out of its range.
    BadArgument = 3,
    /// The capsule object's limit for this operation is used up.
    Depleted = 4,
    /// The team's memory budget is used up.
    NoMemory = 5,
    /// The team's bandwidth on that link is used up for now.
    NoBandwidth = 6,
    /// A count is used up, or the bytes do not fit.
    NoRoom = 7,
    /// No such name, key or parameter.
    NotFound = 8,
    /// The capability lacks the right, or the flow lacks the privilege.
    NotPermitted = 9,
    /// The node cannot do it now; also every number of a later release.
    Unavailable = 10,
    /// The payload is over the neighbor's maximum, or the bytes are more than may be signed.
    TooLarge = 11,
    /// A signature, a tag or a proof is not what it should be.
    WrongProof = 12,
}

impl Error {
    /// The error of a result below 0.
    pub const fn of(result: i32) -> Self {
        match result {
            -1 => Self::BadHandle,
            -2 => Self::BadPointer,
            -3 => Self::BadArgument,
            -4 => Self::Depleted,
            -5 => Self::NoMemory,
            -6 => Self::NoBandwidth,
            -7 => Self::NoRoom,
            -8 => Self::NotFound,
            -9 => Self::NotPermitted,
            -11 => Self::TooLarge,
            -12 => Self::WrongProof,
            _ => Self::Unavailable,
        }
    }

    /// The name in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadHandle => "BAD_HANDLE",
            Self::BadPointer => "BAD_POINTER",
            Self::BadArgument => "BAD_ARGUMENT",
            Self::Depleted => "DEPLETED",
            Self::NoMemory => "NO_MEMORY",
            Self::NoBandwidth => "NO_BANDWIDTH",
            Self::NoRoom => "NO_ROOM",
            Self::NotFound => "NOT_FOUND",
            Self::NotPermitted => "NOT_PERMITTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::TooLarge => "TOO_LARGE",
            Self::WrongProof => "WRONG_PROOF",
        }
    }
}

/// A result as a value or an error.
pub(crate) fn check(result: i32) -> Result<u32, Error> {
    u32::try_from(result).map_err(|_| Error::of(result))
}

/// A result without a value.
pub(crate) fn done(result: i32) -> Result<(), Error> {
    check(result).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways() {
        for n in 1..=12 {
            assert_eq!(Error::of(-n) as i32, n);
        }
        assert_eq!(Error::of(-99), Error::Unavailable);
        assert_eq!(check(7), Ok(7));
        assert_eq!(check(-4), Err(Error::Depleted));
    }
}
