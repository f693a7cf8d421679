//! `runc pause` and `runc resume`.

use crate::command::{Runc, Streams};
use crate::error::RuncError;

impl Runc {
    /// Freezes every process of the container.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn pause(&self, id: &str) -> Result<(), RuncError> {
        self.freezer("pause", id).await
    }

    /// Lets a frozen container run on.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn resume(&self, id: &str) -> Result<(), RuncError> {
        self.freezer("resume", id).await
    }

    async fn freezer(&self, verb: &'static str, id: &str) -> Result<(), RuncError> {
        let mut command = self.command(verb);
        command.arg(id);
        self.run(verb, command, Streams::Capture, self.deadlines.other)
            .await
            .map(drop)
    }
}
