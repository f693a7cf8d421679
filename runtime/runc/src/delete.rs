//! `runc delete`.

use std::path::Path;
use std::process::Stdio;

use crate::command::{Runc, Streams, command, last_line};
use crate::error::{Class, RuncError};

impl Runc {
    /// Forgets a stopped container, or kills and forgets it when `force` is set. That runc does not know it is no
    /// error.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn delete(&self, id: &str, force: bool) -> Result<(), RuncError> {
        let mut command = self.command("delete");
        if force {
            command.arg("--force");
        }
        command.arg(id);
        match self
            .run("delete", command, Streams::Capture, self.deadlines.other)
            .await
        {
            Err(error) if error.class() == Class::Unknown => Ok(()),
            other => other.map(drop),
        }
    }
}

/// `runc delete --force` without a runtime, for a short-lived process that has no reaper.
///
/// # Errors
/// See [`RuncError`]; that runc does not know the container is no error.
pub fn delete_now(binary: &Path, root: &Path, id: &str) -> Result<(), RuncError> {
    let output = command(binary, root, false, None, "delete")
        .args(["--force", id])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| RuncError::Spawn {
            verb: "delete",
            binary: binary.to_owned(),
            source,
        })?;
    let error = RuncError::Failed {
        verb: "delete",
        status: output.status,
        detail: last_line(&output.stderr),
    };
    if output.status.success() || error.class() == Class::Unknown {
        Ok(())
    } else {
        Err(error)
    }
}
