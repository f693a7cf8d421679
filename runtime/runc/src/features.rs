//! `runc features` and `runc --version`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{Runc, Streams, last_line};
use crate::error::RuncError;

impl Runc {
    /// What this runc can do, as the JSON of the OCI features document. runc 1.1 was the first to know it.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn features(&self) -> Result<Vec<u8>, RuncError> {
        let command = self.command("features");
        Ok(self
            .run("features", command, Streams::Capture, self.deadlines.other)
            .await?
            .stdout)
    }

    /// The first line that `runc --version` prints.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn version(&self) -> Result<String, RuncError> {
        let mut command = Command::new(&self.binary);
        command.arg("--version");
        let output = self
            .run("--version", command, Streams::Capture, self.deadlines.other)
            .await?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    }
}

/// [`Runc::features`] without a runtime, for a short-lived process that has no reaper.
///
/// # Errors
/// See [`RuncError`].
pub fn features_now(binary: &Path) -> Result<Vec<u8>, RuncError> {
    let output = Command::new(binary)
        .arg("features")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| RuncError::Spawn {
            verb: "features",
            binary: binary.to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(RuncError::Failed {
        verb: "features",
        status: output.status,
        detail: last_line(&output.stderr),
    })
}
