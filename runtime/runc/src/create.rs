//! `runc create`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::command::{Runc, Streams};
use crate::error::RuncError;
use crate::sys::die_with_parent;

/// How to create a container.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The bundle directory.
    pub bundle: PathBuf,
    /// Where runc writes the pid of init.
    pub pid_file: PathBuf,
    /// The socket on which runc hands over the pty.
    pub console_socket: Option<PathBuf>,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
}

impl Runc {
    /// Creates the container and answers the pid of its init, which waits for [`Runc::start`].
    ///
    /// # Errors
    /// See [`RuncError`]; runc undoes what it had done.
    pub async fn create(
        &self,
        id: &str,
        options: &CreateOptions,
        stdio: [Stdio; 3],
    ) -> Result<i32, RuncError> {
        let mut command = self.command("create");
        command
            .arg("--bundle")
            .arg(&options.bundle)
            .arg("--pid-file")
            .arg(&options.pid_file);
        if let Some(socket) = &options.console_socket {
            command.arg("--console-socket").arg(socket);
        }
        if options.no_pivot {
            command.arg("--no-pivot");
        }
        if options.no_new_keyring {
            command.arg("--no-new-keyring");
        }
        die_with_parent(command.arg(id));
        self.run("create", command, Streams::Inherit(stdio), self.deadlines.hooks)
            .await?;
        read_pid("create", &options.pid_file)
    }
}

/// Reads a pid file that runc has written.
pub(crate) fn read_pid(verb: &'static str, path: &Path) -> Result<i32, RuncError> {
    let text = std::fs::read_to_string(path).map_err(|source| RuncError::File {
        verb,
        path: path.to_owned(),
        source,
    })?;
    match text.trim().parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(RuncError::Pid { verb, text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_a_positive_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("init.pid");
        std::fs::write(&file, "42\n").unwrap();
        assert_eq!(read_pid("create", &file).unwrap(), 42);
        for bad in ["", "-1", "0", "x"] {
            std::fs::write(&file, bad).unwrap();
            assert!(
                matches!(read_pid("create", &file), Err(RuncError::Pid { .. })),
                "{bad:?}"
            );
        }
    }
}
