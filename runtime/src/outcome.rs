//! The record of one boot: result, stable reason code, timings per stage, bytes.
//!
//! One record feeds the log line, `thaw explain`, the bench and the tests. It is kept as JSON in
//! `/run/thaw/<namespace>/<id>/outcome.json` for as long as the container's bundle lives.

use serde::{Deserialize, Serialize};

/// How a container came up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Restored, or cold.
    pub result: Result,
    /// Stable code, listed in `docs/reasons.md`; `restored` for a restored container.
    pub reason: String,
    /// The deciding fact in words: what was attempted and the first cause of the failure.
    pub detail: String,
    /// Container id.
    pub id: String,
    /// containerd namespace.
    pub namespace: String,
    /// When Create began, RFC 3339, UTC.
    pub created: String,
    /// The key that was looked up, as its path in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The snapshot that was restored, or that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Stages in the order they ran, with milliseconds.
    pub stages: Vec<Stage>,
    /// Bytes moved.
    pub bytes: Bytes,
    /// What became of `thaw.dev/on-restore`, once it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_restore: Option<Announced>,
}

/// How the application was told of its restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Announced {
    /// The annotation's value.
    pub action: String,
    /// How it ended.
    pub result: Told,
    /// Why it failed.
    pub detail: String,
    /// Wall time in milliseconds.
    pub ms: f64,
}

/// How telling the application ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// The signal was sent, or the command ended with 0.
    Done,
    /// The command ended with another code, or could not be run.
    Failed,
    /// It was not over in time, and was killed.
    Timeout,
}

impl Announced {
    /// One line for the log.
    #[must_use]
    pub fn summary(&self) -> String {
        let result = match self.result {
            Told::Done => "done",
            Told::Failed => "failed",
            Told::Timeout => "timeout",
        };
        format!(
            "on-restore={result} action={:?} ms={} detail={:?}",
            self.action, self.ms, self.detail
        )
    }
}

/// The two ways up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Result {
    /// From a snapshot.
    Restored,
    /// The ordinary way.
    Cold,
}

/// One stage of a boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// `eligible`, `identify`, `lookup`, `host`, `fetch`, `verify`, `rewrite`, `rootfs`, `restore`, `limits`, `hooks`,
    /// `undo`,
    /// `create`.
    pub name: String,
    /// Wall time in milliseconds.
    pub ms: f64,
}

/// Bytes moved by one boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Read from the store (0 when the cache had everything).
    pub fetched: u64,
    /// Memory pages restored.
    pub pages: u64,
    /// Those of them that the page server has filled in; the others CRIU has.
    #[serde(default)]
    pub filled: u64,
    /// Root filesystem changes applied.
    pub rootfs: u64,
}

impl Outcome {
    /// One line for the log.
    #[must_use]
    pub fn summary(&self) -> String {
        let result = match self.result {
            Result::Restored => "restored",
            Result::Cold => "cold",
        };
        let stages: Vec<String> = self
            .stages
            .iter()
            .map(|stage| format!("{}_ms={:.1}", stage.name, stage.ms))
            .collect();
        let snapshot = self.snapshot.as_deref().unwrap_or("none");
        format!(
            "outcome={result} reason={} snapshot={snapshot} {} detail={:?}",
            self.reason,
            stages.join(" "),
            self.detail
        )
    }

    /// Where it belongs in the log: a failed try is something to look at, an ordinary cold start is not.
    #[must_use]
    pub fn level(&self) -> log::Level {
        if self.snapshot.is_some() && self.result == Result::Cold {
            log::Level::Warn
        } else {
            log::Level::Info
        }
    }
}
