//! What can go wrong with a store, told apart by what a caller does about it.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};
use thiserror::Error;

/// Why the store did not do what was asked. `attempt` says what that was ("read", "list" ...), `path` is relative
/// to the root of the store.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No connection, or it broke: stop asking for a while.
    #[error("could not reach the store to {attempt} {path}")]
    Unreachable {
        /// What was attempted.
        attempt: &'static str,
        /// The object.
        path: String,
        /// What the client library says.
        #[source]
        source: object_store::Error,
    },
    /// It took too long: stop asking for a while.
    #[error("the store did not {attempt} {path} within {limit:?}")]
    Timeout {
        /// What was attempted.
        attempt: &'static str,
        /// The object.
        path: String,
        /// The limit that passed.
        limit: Duration,
    },
    /// Credentials are missing, wrong or too weak: a person must act.
    #[error("the store does not allow to {attempt} {path}")]
    Denied {
        /// What was attempted.
        attempt: &'static str,
        /// The object.
        path: String,
        /// What the client library says.
        #[source]
        source: object_store::Error,
    },
    /// The store answered that it can't.
    #[error("the store failed to {attempt} {path}")]
    Failed {
        /// What was attempted.
        attempt: &'static str,
        /// The object.
        path: String,
        /// What the client library says.
        #[source]
        source: object_store::Error,
    },
    /// A file of a `file://` store can't be used.
    #[error("could not {attempt} {path} in the store's directory")]
    Directory {
        /// What was attempted.
        attempt: &'static str,
        /// The object.
        path: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The object is larger than it may be: treat it as broken.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The object.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The answer was shorter or longer than the range that was asked for.
    #[error("the store sent {got} bytes of {path} where {wanted} were asked for")]
    Corrupt {
        /// The object.
        path: String,
        /// Bytes that came (at most one piece more than wanted).
        got: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// The local file that should be sent can't be read, or changed while it was read.
    #[error("could not read the file to send as {path}")]
    Source {
        /// The object.
        path: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Sorts a client error by what a caller does about it.
    pub(crate) fn from_client(
        attempt: &'static str,
        path: &str,
        limit: Duration,
        source: object_store::Error,
    ) -> Self {
        use object_store::Error as E;
        let path = path.to_owned();
        match &source {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Denied {
                attempt,
                path,
                source,
            },
            _ => match transport_kind(&source) {
                Some(HttpErrorKind::Timeout) => Self::Timeout { attempt, path, limit },
                Some(HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Interrupted) => {
                    Self::Unreachable {
                        attempt,
                        path,
                        source,
                    }
                }
                _ => Self::Failed {
                    attempt,
                    path,
                    source,
                },
            },
        }
    }
}

/// How the connection failed, if it is the connection that failed.
pub(super) fn transport_kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(http) = current.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        cause = current.source();
    }
    None
}
