//! `runc state`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::command::{Runc, Streams};
use crate::error::RuncError;

/// What runc knows of a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Container id.
    pub id: String,
    /// The pid of init; 0 when it has ended.
    #[serde(default)]
    pub pid: i32,
    /// Where in its life it is.
    pub status: Status,
    /// The bundle it was created from.
    pub bundle: PathBuf,
}

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being created.
    Creating,
    /// Waits for start.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Has ended.
    Stopped,
}

impl Runc {
    /// Asks runc for the state of a container.
    ///
    /// # Errors
    /// See [`RuncError`]; [`crate::Class::Unknown`] when runc does not know it.
    pub async fn state(&self, id: &str) -> Result<State, RuncError> {
        let mut command = self.command("state");
        command.arg(id);
        let output = self
            .run("state", command, Streams::Capture, self.deadlines.other)
            .await?;
        serde_json::from_slice(&output.stdout).map_err(|source| RuncError::Json {
            verb: "state",
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runc_prints_this() {
        let text = r#"{"ociVersion":"1.2.0","id":"a","pid":7,"status":"paused","bundle":"/b","rootfs":"/r",
            "created":"2026-01-01T00:00:00Z","owner":""}"#;
        let state: State = serde_json::from_str(text).unwrap();
        assert_eq!((state.pid, state.status), (7, Status::Paused));
    }
}
