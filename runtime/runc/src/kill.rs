//! `runc kill`.

use crate::command::{Runc, Streams};
use crate::error::RuncError;

impl Runc {
    /// Sends signal number `signal` to init, or to every process when `all` is set. Any number that the kernel knows
    /// will do, real-time signals too.
    ///
    /// # Errors
    /// See [`RuncError`]; [`crate::Class::Ended`] when there is nobody left to hear it.
    pub async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<(), RuncError> {
        let mut command = self.command("kill");
        if all {
            command.arg("--all");
        }
        command.arg(id).arg(signal.to_string());
        self.run("kill", command, Streams::Capture, self.deadlines.other)
            .await
            .map(drop)
    }
}
