//! `runc start`.

use crate::command::{Runc, Streams};
use crate::error::RuncError;

impl Runc {
    /// Lets the init of a created container run the user's program.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn start(&self, id: &str) -> Result<(), RuncError> {
        let mut command = self.command("start");
        command.arg(id);
        self.run("start", command, Streams::Capture, self.deadlines.hooks)
            .await
            .map(drop)
    }
}
