//! `runc update`.

use crate::command::{Runc, Streams};
use crate::error::RuncError;

impl Runc {
    /// Changes the limits of a container to `resources`, an OCI `LinuxResources` as JSON.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn update(&self, id: &str, resources: Vec<u8>) -> Result<(), RuncError> {
        let mut command = self.command("update");
        command.args(["--resources=-", id]);
        self.run("update", command, Streams::Feed(resources), self.deadlines.other)
            .await
            .map(drop)
    }
}
