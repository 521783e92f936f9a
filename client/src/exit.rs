//! Exit codes of `bees`, and the errors that carry them.

use std::fmt;

/// Why `bees` ends with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// A node or a protocol refused, or what was asked for failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// There is no such lab, node, file, flow.
    Missing = 3,
    /// A node cannot be reached, or did not let us in.
    Unreachable = 4,
    /// It took too long.
    TimedOut = 5,
}

/// What `bees --help` says about exit codes.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  a node or a protocol refused, or what was asked for failed
  2  the command line is wrong
  3  there is no such lab, node, flow or file
  4  a node cannot be reached, or did not let us in
  5  it took too long

Environment: BEES_LAB, BEES_NODE, BEES_ADDRESS, BEES_SESSION_ADDRESS, BEES_KEY, BEES_IDENTITY,
BEES_PRINCIPAL stand for the options of the same names; NO_COLOR turns colours off.";

/// An error with the code that `bees` ends with.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// An error that ends `bees` with `code`.
pub fn failure(code: Code, text: impl Into<String>) -> anyhow::Error {
    Failure { code, text: text.into() }.into()
}

/// The code for `error`: that of the first [`Failure`] among its causes, or [`Code::Failed`].
pub fn code(error: &anyhow::Error) -> Code {
    error.chain().find_map(|e| e.downcast_ref::<Failure>()).map_or(Code::Failed, |f| f.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_code_survives_context() {
        let error = Err::<(), _>(failure(Code::TimedOut, "slow")).context("while waiting").unwrap_err();
        assert_eq!(code(&error), Code::TimedOut);
        assert_eq!(code(&anyhow::anyhow!("other")), Code::Failed);
    }
}
