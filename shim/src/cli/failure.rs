//! How a verb fails, and the exit code that goes with it.

use std::fmt;
use std::io;

/// It did not work.
pub(super) const FAILED: u8 = 1;
/// The command line is wrong.
pub(super) const USAGE: u8 = 2;
/// There is no such snapshot or container.
pub(super) const NOT_FOUND: u8 = 3;
/// It is there, but can't be used with this container or on this node.
pub(super) const INCOMPATIBLE: u8 = 4;

/// An error for the person at the terminal, with the exit code.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    pub(super) fn not_found(message: String) -> Self {
        Self {
            code: NOT_FOUND,
            error: anyhow::Error::msg(message),
        }
    }

    pub(super) fn usage(message: String) -> Self {
        Self {
            code: USAGE,
            error: anyhow::Error::msg(message),
        }
    }

    pub(super) fn incompatible(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: INCOMPATIBLE,
            error: error.into(),
        }
    }

    pub(super) fn code(&self) -> u8 {
        self.code
    }

    /// Who read our output has had enough, as `head` does.
    pub(super) fn is_closed_pipe(&self) -> bool {
        self.error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: FAILED,
            error: error.into(),
        }
    }
}

/// The error and its causes, each once.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}
