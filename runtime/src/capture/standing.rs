//! How far a container is that has itself captured: `capture.json` in its record, for `thaw explain`.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The application is not ready yet.
    Waiting,
    /// It is, and is being captured.
    Capturing,
    /// The snapshot is in the store.
    Published,
    /// There was no need, or it was somebody else's turn.
    Skipped,
    /// There is no snapshot.
    Failed,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Where it is.
    pub state: State,
    /// Stable code, listed in `docs/capture.md`.
    pub code: String,
    /// In words.
    pub detail: String,
    /// How it tells that it is ready.
    pub ready: String,
    /// The process that sees to it.
    pub pid: u32,
    /// When this was written, RFC 3339, UTC.
    pub at: String,
    /// The snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// How long the application stood still, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
}

impl Standing {
    pub(crate) fn new(ready: &str, state: State, code: &str, detail: impl Into<String>) -> Self {
        Self {
            state,
            code: code.to_owned(),
            detail: detail.into(),
            ready: ready.to_owned(),
            pid: std::process::id(),
            at: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            snapshot: None,
            frozen_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    /// Every code that the sources give out stands in the table.
    #[test]
    fn codes_are_documented() {
        let documented = include_str!("../../../docs/capture.md");
        let sources = [
            include_str!("../capture.rs"),
            include_str!("refuse.rs"),
            include_str!("when_ready.rs"),
        ];
        let codes = sources
            .iter()
            .flat_map(|source| source.lines())
            .filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\","));
        let missing: Vec<_> = codes
            .filter(|code| !documented.contains(&format!("`{code}`")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
