//! `runc exec`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::abort::kill_descendants;
use crate::command::{Runc, Streams};
use crate::create::read_pid;
use crate::error::RuncError;
use crate::sys::die_with_parent;

/// How to start one more process in a container.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    /// The OCI `Process`, as JSON.
    pub process: Vec<u8>,
    /// A file of our own for it, while runc runs.
    pub process_file: PathBuf,
    /// Where runc writes the pid.
    pub pid_file: PathBuf,
    /// The socket on which runc hands over the pty.
    pub console_socket: Option<PathBuf>,
}

impl Runc {
    /// Starts one more process in a running container and answers its pid.
    ///
    /// # Errors
    /// See [`RuncError`].
    pub async fn exec(&self, id: &str, options: &ExecOptions, stdio: [Stdio; 3]) -> Result<i32, RuncError> {
        let path = &options.process_file;
        std::fs::write(path, &options.process).map_err(|source| RuncError::File {
            verb: "exec",
            path: path.clone(),
            source,
        })?;
        let mut command = self.command("exec");
        command
            .arg("--process")
            .arg(path)
            .arg("--detach")
            .arg("--pid-file")
            .arg(&options.pid_file);
        if let Some(socket) = &options.console_socket {
            command.arg("--console-socket").arg(socket);
        }
        die_with_parent(command.arg(id));
        let ended = self
            .run("exec", command, Streams::Inherit(stdio), self.deadlines.hooks)
            .await;
        // A leftover is overwritten by the next exec of that name and goes with the bundle.
        std::fs::remove_file(path).ok();
        ended?;
        read_pid("exec", &options.pid_file)
    }

    /// Runs a program in a running container as its init was started (user, directory, environment), to its end. What
    /// it prints is thrown away.
    ///
    /// # Errors
    /// See [`RuncError`]; [`RuncError::Failed`] when it does not end with 0, [`RuncError::Deadline`] when it does not
    /// end within `limit`, after which it is killed.
    pub async fn exec_to_end(&self, id: &str, words: &[String], limit: Duration) -> Result<(), RuncError> {
        let mut command = self.command("exec");
        die_with_parent(command.arg(id).args(words));
        let stdio = [Stdio::null(), Stdio::null(), Stdio::null()];
        self.run_with_abort(
            "exec",
            command,
            Streams::Inherit(stdio),
            limit,
            Some(kill_descendants),
        )
        .await
        .map(drop)
    }

    /// Runs one more process in a running container and waits for its end, `deadline` at most; then it is killed.
    /// `process` is the OCI `Process` as JSON, `file` a place of our own for it. Its output is thrown away, but for
    /// the last line on standard error, which stands in the error.
    ///
    /// # Errors
    /// [`RuncError::Failed`] when it ends with another code than 0; see [`RuncError`] for the rest.
    pub async fn exec_process_to_end(
        &self,
        id: &str,
        process: Vec<u8>,
        file: PathBuf,
        deadline: Duration,
    ) -> Result<(), RuncError> {
        std::fs::write(&file, process).map_err(|source| RuncError::File {
            verb: "exec",
            path: file.clone(),
            source,
        })?;
        let mut command = self.command("exec");
        die_with_parent(command.arg("--process").arg(&file).arg(id));
        // The process is a child of runc's.
        let ended = self
            .run_with_abort(
                "exec",
                command,
                Streams::Capture,
                deadline,
                Some(kill_descendants),
            )
            .await;
        // A leftover is overwritten by the next one and goes with the directory.
        std::fs::remove_file(&file).ok();
        ended.map(drop)
    }
}
