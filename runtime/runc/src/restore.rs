//! `runc restore`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::abort::kill_descendants;
use crate::checkpoint::CRIU_CONFIG_FILE;
use crate::command::{Runc, Streams};
use crate::create::read_pid;
use crate::error::RuncError;
use crate::sys::{die_with_parent, private_mounts};

/// How to restore a container.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The bundle directory.
    pub bundle: PathBuf,
    /// The images; only read.
    pub image_path: PathBuf,
    /// Where CRIU's log goes; must exist.
    pub work_path: PathBuf,
    /// Where runc writes the pid of init.
    pub pid_file: PathBuf,
    /// The socket on which runc hands over the pty.
    pub console_socket: Option<PathBuf>,
    /// The Linux security module and its label for the processes, as in `selinux:LABEL`, in place of the images'.
    pub lsm_profile: Option<String>,
    /// The label for mounts with a context, in place of the images'.
    pub lsm_mount_context: Option<String>,
    /// Restore established TCP connections.
    pub tcp_established: bool,
    /// Leave out the memory that the server at `lazy-pages.socket` in the work path fills in.
    pub lazy_pages: bool,
    /// Options that runc cannot pass, for this one call of CRIU.
    pub criu_config: PathBuf,
}

impl Runc {
    /// Restores the container in a mount namespace of runc's own and answers the pid of its init. CRIU's log is
    /// `restore.log` in the work path, see [`crate::first_criu_error`].
    ///
    /// # Errors
    /// See [`RuncError`]. At the deadline CRIU and what it had restored are killed, so that runc can clean up; then
    /// runc itself.
    pub async fn restore(
        &self,
        id: &str,
        options: &RestoreOptions,
        stdio: [Stdio; 3],
        deadline: Duration,
    ) -> Result<i32, RuncError> {
        let mut command = self.criu_command("restore");
        command.args(["--detach", "--file-locks", "--ext-unix-sk"]);
        command.arg("--image-path").arg(&options.image_path);
        command.arg("--work-path").arg(&options.work_path);
        command.arg("--bundle").arg(&options.bundle);
        command.arg("--pid-file").arg(&options.pid_file);
        if let Some(socket) = &options.console_socket {
            command.arg("--console-socket").arg(socket);
        }
        if let Some(profile) = &options.lsm_profile {
            command.arg("--lsm-profile").arg(profile);
        }
        if let Some(context) = &options.lsm_mount_context {
            command.arg("--lsm-mount-context").arg(context);
        }
        if options.tcp_established {
            command.arg("--tcp-established");
        }
        if options.lazy_pages {
            command.arg("--lazy-pages");
        }
        command.env(CRIU_CONFIG_FILE, &options.criu_config);
        private_mounts(die_with_parent(command.arg(id)));
        let abort = Some(kill_descendants as fn(_));
        self.run_with_abort("restore", command, Streams::Inherit(stdio), deadline, abort)
            .await?;
        read_pid("restore", &options.pid_file)
    }
}
