//! Hooks of the OCI runtime spec, run as runc runs them (libcontainer/configs/config.go): in the bundle, with the
//! container's state on standard input.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::command::{finish, last_line};
use crate::spawn::Spawner;

/// How long a hook may take that names no time itself; as long as runc calls that run hooks.
const DEADLINE: Duration = Duration::from_secs(600);

/// One hook of a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The program.
    pub path: PathBuf,
    /// Its arguments, the name first; none at all: the path is the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment; `None`: that of the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Seconds that it may take; `None`: no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// Why a hook has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// It can't be started.
    #[error("start the hook {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// What `fork` or `exec` answered.
        #[source]
        source: io::Error,
    },
    /// Its end could not be learned.
    #[error("wait for the hook {}", path.display())]
    Wait {
        /// The program.
        path: PathBuf,
        /// What `wait` answered.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("the hook {} did not end within {seconds} s", path.display())]
    Deadline {
        /// The program.
        path: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// It ended with an error.
    #[error("the hook {}: {status}: {said}", path.display())]
    Failed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last line that it wrote to standard error.
        said: String,
    },
}

impl Hook {
    /// Runs it to its end, with `state` (JSON) on its standard input.
    ///
    /// # Errors
    /// See [`HookError`]; at the deadline it is killed.
    pub async fn run(&self, bundle: &Path, state: &[u8], spawner: &dyn Spawner) -> Result<(), HookError> {
        let path = || self.path.clone();
        let spawned = spawner.spawn(&mut self.command(bundle));
        let (child, exit) = spawned.map_err(|source| HookError::Spawn { path: path(), source })?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let limit = self.timeout.map_or(DEADLINE, Duration::from_secs);
        let ended = tokio::time::timeout(limit, finish(child, state.to_vec(), exit));
        let Ok((_, said, status)) = ended.await else {
            // Only fails when it has just ended by itself.
            kill(pid, Signal::SIGKILL).ok();
            return Err(HookError::Deadline {
                path: path(),
                seconds: limit.as_secs(),
            });
        };
        let status = status.map_err(|source| HookError::Wait { path: path(), source })?;
        if status.success() {
            return Ok(());
        }
        Err(HookError::Failed {
            path: path(),
            status,
            said: last_line(&said),
        })
    }

    fn command(&self, bundle: &Path) -> Command {
        let mut command = Command::new(&self.path);
        if let Some((name, rest)) = self.args.split_first() {
            command.arg0(name).args(rest);
        }
        if let Some(env) = &self.env {
            command.env_clear();
            command.envs(env.iter().filter_map(|pair| pair.split_once('=')));
        }
        command
            .current_dir(bundle)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

#[cfg(test)]
mod tests {
    use crate::PlainSpawner;

    use super::*;

    fn shell(script: &str) -> Hook {
        serde_json::from_value(serde_json::json!({
            "path": "/bin/sh", "args": ["hook", "-c", script], "env": ["WORD=a=b"], "timeout": 1
        }))
        .unwrap()
    }

    async fn run(script: &str, bundle: &Path) -> Result<(), HookError> {
        shell(script).run(bundle, b"{}", &PlainSpawner).await
    }

    #[tokio::test]
    async fn it_gets_the_state_its_arguments_and_its_environment() {
        let bundle = tempfile::tempdir().unwrap();
        run("echo \"$0 $WORD $HOME $(cat)\" >seen", bundle.path())
            .await
            .unwrap();
        let seen = std::fs::read_to_string(bundle.path().join("seen")).unwrap();
        assert_eq!(seen, "hook a=b  {}\n");
    }

    #[tokio::test]
    async fn its_failure_tells_what_it_said() {
        let bundle = tempfile::tempdir().unwrap();
        let failed = run("echo one >&2; echo two >&2; exit 3", bundle.path()).await;
        assert!(
            matches!(&failed, Err(HookError::Failed { said, status, .. }) if said == "two" && status.code() == Some(3)),
            "{failed:?}"
        );
        let failed = run("sleep 30", bundle.path()).await;
        assert!(
            matches!(failed, Err(HookError::Deadline { seconds: 1, .. })),
            "{failed:?}"
        );
    }
}
