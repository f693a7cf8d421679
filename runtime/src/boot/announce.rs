//! `thaw.dev/on-restore`: telling the application that it lives on, once it runs.
//!
//! Nothing here can undo the start: what goes wrong is logged and stands in the record.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thaw_config::OnRestore;
use thaw_runc::{Runc, RuncError};

use crate::key::Bundle;
use crate::outcome::{Announced, Told};
use crate::record::Record;
use crate::words::chain;

/// The most that is kept of what a command said.
const DETAIL_LIMIT: usize = 500;

/// What a restored container asked to be told with.
#[derive(Debug, Clone)]
pub struct Announce {
    action: OnRestore,
    /// The OCI process of the container, for a command in it.
    process: Value,
    deadline: Duration,
}

impl Announce {
    pub(super) fn new(action: OnRestore, bundle: &Bundle, deadline: Duration) -> Self {
        let process = bundle.json.get("process").cloned().unwrap_or_default();
        Self {
            action,
            process,
            deadline,
        }
    }

    /// Does it, in the running container `id`, and writes down how that went.
    pub async fn run(self, runc: &Runc, id: &str, record: &Record) {
        let began = Instant::now();
        let done = match &self.action {
            OnRestore::Signal(signal) => {
                let sent = runc.kill(id, *signal, false);
                tokio::time::timeout(self.deadline, sent).await
            }
            OnRestore::Exec(words) => {
                let file = record.directory().join("on-restore.process.json");
                Ok(self.exec(runc, id, words, file).await)
            }
        };
        let (result, detail) = match done {
            Ok(Ok(())) => (Told::Done, String::new()),
            Err(_elapsed) => (Told::Timeout, String::new()),
            Ok(Err(error @ RuncError::Deadline { .. })) => (Told::Timeout, chain(&error)),
            Ok(Err(error)) => (Told::Failed, chain(&error)),
        };
        let announced = Announced {
            action: self.action.to_string(),
            result,
            detail: detail.chars().take(DETAIL_LIMIT).collect(),
            ms: (began.elapsed().as_secs_f64() * 1e3).round(),
        };
        let level = match result {
            Told::Done => log::Level::Info,
            Told::Failed | Told::Timeout => log::Level::Warn,
        };
        log::log!(level, "{id}: {}", announced.summary());
        let kept = record.amend(|outcome| outcome.on_restore = Some(announced));
        if let Err(error) = kept {
            log::warn!("write down what became of on-restore for {id}: {error}");
        }
    }

    /// As a `runc exec` of the user's would run, with the environment of the new spec.
    async fn exec(&self, runc: &Runc, id: &str, words: &[String], file: PathBuf) -> Result<(), RuncError> {
        let mut process = self.process.clone();
        if let Some(process) = process.as_object_mut() {
            process.insert("args".to_owned(), json!(words));
            process.insert("terminal".to_owned(), json!(false));
            process.remove("consoleSize");
        }
        runc.exec_process_to_end(id, process.to_string().into_bytes(), file, self.deadline)
            .await
    }
}

impl Record {
    /// Changes the outcome that is written down; nothing happens when the container is gone.
    fn amend(&self, change: impl FnOnce(&mut crate::outcome::Outcome)) -> io::Result<()> {
        let Some(mut outcome) = self.outcome().map_err(io::Error::other)? else {
            return Ok(());
        };
        change(&mut outcome);
        self.put("outcome.json", &outcome)
    }
}
