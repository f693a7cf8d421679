//! Where the time of a boot goes, and what becomes of it: the outcome in the making.

use std::path::Path;
use std::time::Instant;

use thaw_config::SelfCapture;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::boot::{Reason, Request};
use crate::outcome::{Bytes, Outcome, Result as Way, Stage};

/// The outcome of a boot that has not ended.
#[derive(Debug)]
pub(crate) struct Timeline {
    created: OffsetDateTime,
    stages: Vec<Stage>,
    /// The stage that runs now.
    running: Option<(&'static str, Instant)>,
    reason: Option<(&'static str, String)>,
    /// Path of the key that was looked up.
    pub(crate) key: Option<String>,
    /// The snapshot that was chosen.
    pub(crate) snapshot: Option<String>,
    /// What the container wants if it starts cold.
    pub(crate) capture: Option<SelfCapture>,
    /// What was moved.
    pub(crate) bytes: Bytes,
}

impl Timeline {
    pub(crate) fn start() -> Self {
        Self {
            created: OffsetDateTime::now_utc(),
            stages: Vec::new(),
            running: None,
            reason: None,
            key: None,
            snapshot: None,
            capture: None,
            bytes: Bytes::default(),
        }
    }

    /// A stage begins, which ends the one before. A stage that fails ends with the next one too, so that its time is
    /// not lost.
    pub(crate) fn stage(&mut self, name: &'static str) {
        self.end();
        self.running = Some((name, Instant::now()));
    }

    fn end(&mut self) {
        if let Some((name, since)) = self.running.take() {
            let ms = since.elapsed().as_secs_f64() * 1e3;
            self.stages.push(Stage {
                name: name.to_owned(),
                ms: (ms * 1e3).round() / 1e3,
            });
        }
    }

    /// Why the container is not restored.
    pub(crate) fn reason(&mut self, reason: &Reason) {
        self.reason = Some((reason.code(), reason.words()));
    }

    /// The client named what to restore.
    pub(crate) fn asked_for(&mut self, checkpoint: &Path) {
        let words = format!(
            "restored from the checkpoint {}, as the client asked",
            checkpoint.display()
        );
        self.reason = Some(("restored", words));
    }

    pub(crate) fn finish(mut self, request: &Request, way: Way) -> Outcome {
        self.end();
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
            on_restore: None,
        }
    }
}
