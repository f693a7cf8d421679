//! Why a request is refused: a code of the protocol and a text for people.

use std::error::Error;

use thaw_runtime::words::chain;
use ttrpc::Code;

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What containerd and its clients decide by.
    pub code: Code,
    /// What they show.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NOT_FOUND, message)
    }

    pub(super) fn precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FAILED_PRECONDITION, message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::INVALID_ARGUMENT, message)
    }

    /// A failure of our own, with its causes.
    pub(super) fn failure(error: &dyn Error) -> Self {
        Self::new(Code::UNKNOWN, chain(error))
    }

    /// A failure of runc, in its own words, after the words that clients look for.
    pub(super) fn runc(prefix: &str, error: &thaw_runc::RuncError) -> Self {
        Self::new(Code::UNKNOWN, format!("{prefix}: {}", error.detail()))
    }
}

impl From<Refusal> for ttrpc::Error {
    fn from(refusal: Refusal) -> Self {
        Self::RpcStatus(ttrpc::get_status(refusal.code, refusal.message))
    }
}
