//! `runc ps`.

use crate::command::{Runc, Streams};
use crate::error::RuncError;

impl Runc {
    /// The pids of all processes in the container's cgroup, as the host counts them.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn ps(&self, id: &str) -> Result<Vec<i32>, RuncError> {
        let mut command = self.command("ps");
        command.args(["--format", "json", id]);
        let output = self
            .run("ps", command, Streams::Capture, self.deadlines.other)
            .await?;
        // runc prints `null` for a container without processes.
        serde_json::from_slice::<Option<Vec<i32>>>(&output.stdout)
            .map(Option::unwrap_or_default)
            .map_err(|source| RuncError::Json { verb: "ps", source })
    }
}
