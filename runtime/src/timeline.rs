//! Where the time of a boot goes, and what becomes of it: the outcome in the making.

use std::time::Instant;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::boot::{Reason, Request};
use crate::outcome::{Bytes, Outcome, Result as Way, Stage};

/// The outcome of a boot that has not ended.
#[derive(Debug)]
pub(crate) struct Timeline {
    created: OffsetDateTime,
    stages: Vec<Stage>,
    reason: Option<(&'static str, String)>,
    /// Path of the key that was looked up.
    pub(crate) key: Option<String>,
    /// The snapshot that was chosen.
    pub(crate) snapshot: Option<String>,
    /// What was moved.
    pub(crate) bytes: Bytes,
}

/// A stage that has begun.
#[derive(Debug)]
pub(crate) struct Running {
    name: &'static str,
    since: Instant,
}

impl Timeline {
    pub(crate) fn start() -> Self {
        Self {
            created: OffsetDateTime::now_utc(),
            stages: Vec::new(),
            reason: None,
            key: None,
            snapshot: None,
            bytes: Bytes::default(),
        }
    }

    /// A stage begins.
    #[must_use]
    pub(crate) fn stage(&self, name: &'static str) -> Running {
        Running {
            name,
            since: Instant::now(),
        }
    }

    pub(crate) fn end(&mut self, stage: Running) {
        let ms = stage.since.elapsed().as_secs_f64() * 1e3;
        self.stages.push(Stage {
            name: stage.name.to_owned(),
            ms: (ms * 1e3).round() / 1e3,
        });
    }

    /// Runs one step as a stage.
    pub(crate) async fn time<T>(&mut self, name: &'static str, step: impl Future<Output = T>) -> T {
        let stage = self.stage(name);
        let done = step.await;
        self.end(stage);
        done
    }

    /// Why the container is not restored.
    pub(crate) fn reason(&mut self, reason: &Reason) {
        self.reason = Some((reason.code(), reason.words()));
    }

    pub(crate) fn finish(self, request: &Request, way: Way) -> Outcome {
        let (reason, detail) = match self.reason {
            Some((code, words)) => (code.to_owned(), words),
            None => ("restored".to_owned(), "restored from a snapshot".to_owned()),
        };
        Outcome {
            result: way,
            reason,
            detail,
            id: request.id.clone(),
            namespace: request.namespace.clone(),
            created: self.created.format(&Rfc3339).unwrap_or_default(),
            key: self.key,
            snapshot: self.snapshot,
            stages: self.stages,
            bytes: self.bytes,
        }
    }
}
