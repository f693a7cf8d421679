//! Building a runc command and running it to its end.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::error::{RuncError, last_error_since, log_end};
use crate::spawn::{Exit, Spawner};
use crate::watch::criu_died;

/// The most that is read of what a runc command prints; `runc ps` of a big container is far below it.
const OUTPUT_LIMIT: u64 = 4 << 20;

/// How long output may still come after runc has ended: a hook that stays may hold the pipe open.
const LINGER: Duration = Duration::from_secs(1);

/// How long an aborted command may clean up before it is killed.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// One runc installation, as one containerd namespace uses it.
#[derive(Clone)]
pub struct Runc {
    /// The binary: a name to look up in `PATH`, or a path.
    pub binary: PathBuf,
    /// `--root`: where runc keeps its state.
    pub root: PathBuf,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// `--log`, in JSON; the detail of errors is read from it.
    pub log: Option<PathBuf>,
    /// The directory of the CRIU to use, put first in `PATH`; runc takes the first one there. `None`: as it is.
    pub criu_dir: Option<PathBuf>,
    /// How long each kind of call may take.
    pub deadlines: Deadlines,
    /// Starts the processes.
    pub spawner: Arc<dyn Spawner>,
}

/// How long runc calls may take before they are killed.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// `create`, `start` and `exec`, which run hooks of the user. The stock shim has no limit at all here; this one
    /// only keeps a hung hook from holding a container's lock for ever.
    pub hooks: Duration,
    /// Everything else.
    pub other: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            hooks: Duration::from_secs(600),
            other: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for Runc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runc")
            .field("binary", &self.binary)
            .field("root", &self.root)
            .field("systemd_cgroup", &self.systemd_cgroup)
            .finish_non_exhaustive()
    }
}

/// What the child gets as its standard streams.
#[derive(Debug)]
pub enum Streams {
    /// These, because the container inherits them.
    Inherit([Stdio; 3]),
    /// Nothing to read; what it prints is collected.
    Capture,
    /// This text to read; what it prints is collected.
    Feed(Vec<u8>),
}

/// What a runc command that succeeded has printed.
#[derive(Debug, Default)]
pub struct Output {
    /// Standard output; empty with [`Streams::Inherit`].
    pub stdout: Vec<u8>,
}

impl Runc {
    /// A driver for `binary` with its state below `root`.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, root: impl Into<PathBuf>, spawner: Arc<dyn Spawner>) -> Self {
        Self {
            binary: binary.into(),
            root: root.into(),
            systemd_cgroup: false,
            log: None,
            criu_dir: None,
            deadlines: Deadlines::default(),
            spawner,
        }
    }

    /// The command with runc's global arguments and the verb; the caller adds the rest.
    pub(crate) fn command(&self, verb: &str) -> Command {
        command(
            &self.binary,
            &self.root,
            self.systemd_cgroup,
            self.log.as_deref(),
            verb,
        )
    }

    /// As [`Runc::command`], for a verb that calls CRIU.
    pub(crate) fn criu_command(&self, verb: &str) -> Command {
        let mut command = self.command(verb);
        if let Some(first) = &self.criu_dir {
            let rest = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(first.clone()).chain(std::env::split_paths(&rest));
            // Only fails for a name with a colon, which no search path can hold; then it stays as it is.
            if let Ok(path) = std::env::join_paths(all) {
                command.env("PATH", path);
            }
        }
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// [`RuncError::Spawn`], [`RuncError::Deadline`] (the command is killed), [`RuncError::Failed`] with what runc said.
    pub(crate) async fn run(
        &self,
        verb: &'static str,
        command: Command,
        streams: Streams,
        deadline: Duration,
    ) -> Result<Output, RuncError> {
        self.run_with_abort(verb, command, streams, deadline, None).await
    }

    /// As [`Runc::run`]; at the deadline, or when its CRIU has died, `abort` is called with the pid first, and the
    /// command has [`ABORT_GRACE`] to clean up after itself.
    pub(crate) async fn run_with_abort(
        &self,
        verb: &'static str,
        mut command: Command,
        streams: Streams,
        deadline: Duration,
        abort: Option<fn(Pid)>,
    ) -> Result<Output, RuncError> {
        let log_start = self.log.as_deref().map_or(0, log_end);
        let spawn_error = |source| RuncError::Spawn {
            verb,
            binary: self.binary.clone(),
            source,
        };
        let feed = streams.apply(&mut command);
        let (child, exit) = self.spawner.spawn(&mut command).map_err(spawn_error)?;
        // The command still holds our copies of the child's ends of its pipes; a reader would never see their end.
        drop(command);
        let pid = Pid::from_raw(child.id().cast_signed());
        let ended = finish(child, feed, exit);
        tokio::pin!(ended);
        let finished = tokio::select! {
            biased;
            finished = &mut ended => Ok(finished),
            how = criu_died(pid), if abort.is_some() => Err(RuncError::CriuDied { verb, how }),
            () = tokio::time::sleep(deadline) => Err(RuncError::Deadline {
                verb,
                seconds: deadline.as_secs(),
            }),
        };
        let (out, err, status) = match finished {
            Ok(finished) => finished,
            Err(error) => {
                give_up(pid, abort, ended).await;
                return Err(error);
            }
        };
        let status: ExitStatus = status.map_err(|source| RuncError::Wait { verb, source })?;
        if status.success() {
            return Ok(Output { stdout: out });
        }
        let logged = self
            .log
            .as_deref()
            .and_then(|log| last_error_since(log, log_start));
        Err(RuncError::Failed {
            verb,
            status,
            detail: logged.unwrap_or_else(|| last_line(&err)),
        })
    }
}

/// Feeds a command and reads what it prints until it has ended: standard output, standard error, exit status.
pub(crate) async fn finish(
    mut child: Child,
    feed: Vec<u8>,
    mut exit: Exit,
) -> (Vec<u8>, Vec<u8>, io::Result<ExitStatus>) {
    let stdin = child.stdin.take();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let pump = async {
            tokio::join!(
                write_all(stdin, feed),
                collect(child.stdout.take(), &mut out),
                collect(child.stderr.take(), &mut err)
            );
        };
        tokio::pin!(pump);
        tokio::select! {
            status = &mut exit => {
                tokio::time::timeout(LINGER, pump).await.ok();
                status
            }
            () = &mut pump => exit.await,
        }
    };
    (out, err, status)
}

/// Ends a command that will not end by itself; `ended` is its end.
async fn give_up(pid: Pid, abort: Option<fn(Pid)>, ended: impl Future) {
    if let Some(abort) = abort {
        abort(pid);
        tokio::time::timeout(ABORT_GRACE, ended).await.ok();
        // What was born after the first call.
        abort(pid);
    }
    // Only fails when it has just ended by itself.
    kill(pid, Signal::SIGKILL).ok();
}

/// The command with runc's global arguments; shared with the calls that run without a reaper.
pub(crate) fn command(binary: &Path, root: &Path, systemd: bool, log: Option<&Path>, verb: &str) -> Command {
    let mut command = Command::new(binary);
    command.arg("--root").arg(root);
    if let Some(log) = log {
        command.arg("--log").arg(log).args(["--log-format", "json"]);
    }
    if systemd {
        command.arg("--systemd-cgroup");
    }
    // With it runc would take the container's readiness for that of the service that containerd is.
    command.arg(verb).env_remove("NOTIFY_SOCKET");
    command
}

impl Streams {
    fn apply(self, command: &mut Command) -> Vec<u8> {
        match self {
            Self::Inherit([stdin, stdout, stderr]) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                Vec::new()
            }
            Self::Capture => {
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                Vec::new()
            }
            Self::Feed(text) => {
                command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                text
            }
        }
    }
}

// A broken pipe only means that runc wants no more of it, or has no more to say: its exit status tells the rest.
async fn write_all(stdin: Option<std::process::ChildStdin>, text: Vec<u8>) {
    use tokio::io::AsyncWriteExt;
    if let Some(stdin) = stdin
        && let Ok(mut sender) = tokio::net::unix::pipe::Sender::from_owned_fd(stdin.into())
    {
        sender.write_all(&text).await.ok();
    }
}

async fn collect(pipe: Option<impl Into<std::os::fd::OwnedFd>>, text: &mut Vec<u8>) {
    if let Some(pipe) = pipe
        && let Ok(receiver) = Receiver::from_owned_fd(pipe.into())
    {
        receiver.take(OUTPUT_LIMIT).read_to_end(text).await.ok();
    }
}

/// The last non-empty line of what a command wrote to standard error.
pub(crate) fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}
