//! `runc checkpoint`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use crate::command::{Runc, Streams};
use crate::error::RuncError;

/// The environment variable that names a configuration file for one CRIU call (CRIU's `config.c`). What runc sends
/// wins over it, so it can only add.
pub const CRIU_CONFIG_FILE: &str = "CRIU_CONFIG_FILE";

/// How to dump a container.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one flag of runc's command line"
)]
pub struct CheckpointOptions {
    /// Where the images go; must exist.
    pub image_path: PathBuf,
    /// Where CRIU's log and temporary files go; must exist.
    pub work_path: PathBuf,
    /// An earlier dump that this one builds on, relative to `image_path`.
    pub parent_path: Option<PathBuf>,
    /// Let the processes go on afterwards; otherwise they are killed.
    pub leave_running: bool,
    /// Keep established TCP connections in the images; otherwise they make the dump fail.
    pub tcp_established: bool,
    /// Leave connections alone that nobody has accepted yet; otherwise they make the dump fail.
    pub tcp_skip_in_flight: bool,
    /// Keep file locks; otherwise they make the dump fail.
    pub file_locks: bool,
    /// Allow datagram sockets whose peer is outside.
    pub ext_unix_sk: bool,
    /// The process is a shell job with a terminal of its own.
    pub shell_job: bool,
    /// Namespaces to leave empty, as in `network`.
    pub empty_ns: Vec<String>,
    /// `soft`, `full`, `strict` or `ignore`.
    pub cgroups_mode: Option<String>,
    /// Options that runc cannot pass, for this one call of CRIU.
    pub criu_config: Option<PathBuf>,
}

impl Runc {
    /// Dumps the container. CRIU's log is `dump.log` in the work path, see [`crate::first_criu_error`].
    ///
    /// # Errors
    /// See [`RuncError`]. The container runs on.
    pub async fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<(), RuncError> {
        let mut command = self.criu_command("checkpoint");
        command.arg("--image-path").arg(&options.image_path);
        command.arg("--work-path").arg(&options.work_path);
        if let Some(parent) = &options.parent_path {
            command.arg("--parent-path").arg(parent);
        }
        for (set, flag) in [
            (options.leave_running, "--leave-running"),
            (options.tcp_established, "--tcp-established"),
            (options.tcp_skip_in_flight, "--tcp-skip-in-flight"),
            (options.file_locks, "--file-locks"),
            (options.ext_unix_sk, "--ext-unix-sk"),
            (options.shell_job, "--shell-job"),
        ] {
            if set {
                command.arg(flag);
            }
        }
        for namespace in &options.empty_ns {
            command.arg("--empty-ns").arg(namespace);
        }
        if let Some(mode) = &options.cgroups_mode {
            command.arg("--manage-cgroups-mode").arg(mode);
        }
        if let Some(config) = &options.criu_config {
            command.env(CRIU_CONFIG_FILE, config);
        }
        // Ctrl-C at a terminal goes to its whole process group; CRIU must not stop half-way in the processes.
        command.process_group(0).arg(id);
        self.run("checkpoint", command, Streams::Capture, self.deadlines.hooks)
            .await
            .map(drop)
    }
}
