//! Standard streams: between what containerd names (FIFOs, files, a logging program) and what the container gets
//! (pipes or a pty, never the FIFO itself).
//!
//! A container that holds a FIFO of containerd cannot be checkpointed, so even a stream that nobody listens to is a
//! pipe here, which the shim empties. [`Prepared`] is the half before runc has run: every call of runc gets pipes of
//! its own, so that nothing that a failed restore has printed reaches the log of the container that is created after
//! it. [`Attached`] is the half after: the copying tasks, until the streams end.

mod binary;
mod console;
mod copy;
mod sink;
mod target;
mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use tokio::task::JoinHandle;

use binary::Logger;
use console::ConsoleSocket;
use copy::{copy, copy_stdin};
use sink::{Sink, Source};
pub use target::{Scheme, Spec};
use watch::Lines;
pub use watch::Watch;

/// How long the rest of the output may take when the process has ended; somebody else may hold the pipe open.
const DRAIN: Duration = Duration::from_secs(10);

/// Who the streams belong to, for the logging program and for the owner of the pipes.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Container id.
    pub id: String,
    /// containerd namespace.
    pub namespace: String,
    /// Owner of the pipes.
    pub uid: u32,
    /// Group of the pipes.
    pub gid: u32,
}

/// The shim's ends of the pipes that the latest runc call got.
#[derive(Debug, Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Streams before runc has run.
#[derive(Debug)]
pub struct Prepared {
    owner: Owner,
    stdin: Option<Source>,
    stdout: Sink,
    stderr: Sink,
    logger: Option<Logger>,
    console: Option<ConsoleSocket>,
    ends: Mutex<Ends>,
    watch: Option<Arc<Watch>>,
}

impl Prepared {
    /// Opens what `spec` names.
    ///
    /// # Errors
    /// What opening it answered; `Unsupported` for a scheme that is not known.
    pub async fn open(
        spec: &Spec,
        owner: Owner,
        spawner: &Arc<impl thaw_runc::Spawner + 'static>,
    ) -> io::Result<Self> {
        let mut logger = None;
        let (stdout, stderr) = match spec.scheme()? {
            // A pty has one output only. Go's client names a FIFO for the other one all the same, and does not make it.
            Scheme::Fifo if spec.terminal => (Sink::open(&spec.stdout_path())?, Sink::Nowhere),
            Scheme::Fifo => (Sink::open(&spec.stdout_path())?, Sink::open(&spec.stderr)?),
            Scheme::File(path) => {
                let file = Sink::create(&path)?;
                (file.try_clone()?, file)
            }
            Scheme::Binary(program) => {
                logger = Some(Logger::start(&program, &owner, spawner.as_ref()).await?);
                (Sink::Nowhere, Sink::Nowhere)
            }
        };
        let stdin = if spec.stdin.is_empty() {
            None
        } else {
            Some(Source::open(Path::new(&spec.stdin))?)
        };
        let console = if spec.terminal {
            Some(ConsoleSocket::bind()?)
        } else {
            None
        };
        Ok(Self {
            owner,
            stdin,
            stdout,
            stderr,
            logger,
            console,
            ends: Mutex::default(),
            watch: None,
        })
    }

    /// Has the output looked at on its way. To be called before runc gets its streams: a logging program otherwise
    /// reads the container's pipes itself.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = Some(Arc::new(watch));
    }

    /// Nobody wants to know any more.
    pub fn forget_watch(&mut self) {
        self.watch = None;
    }

    fn pipe(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        if self.owner.uid != 0 || self.owner.gid != 0 {
            let (uid, gid) = (Uid::from_raw(self.owner.uid), Gid::from_raw(self.owner.gid));
            fchown(&read, Some(uid), Some(gid))?;
        }
        Ok((read, write))
    }

    /// What runc gets; `logged` are the pipes that a logging program reads, if it is to have them.
    fn hand_over(&self, logged: Option<&Logger>) -> io::Result<[Stdio; 3]> {
        if self.console.is_some() {
            return Ok([Stdio::null(), Stdio::null(), Stdio::null()]);
        }
        let mut ends = Ends::default();
        let mut stdin = Stdio::null();
        if self.stdin.is_some() {
            let (read, write) = self.pipe()?;
            stdin = Stdio::from(read);
            ends.stdin = Some(write);
        }
        let (stdout, end) = self.output(logged.map(|logger| &logger.stdout))?;
        ends.stdout = end;
        let (stderr, end) = self.output(logged.map(|logger| &logger.stderr))?;
        ends.stderr = end;
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
        Ok([stdin, Stdio::from(stdout), Stdio::from(stderr)])
    }

    /// An end for runc, and the shim's end of the same pipe unless a logging program reads it.
    fn output(&self, logged: Option<&OwnedFd>) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        if let Some(pipe) = logged
            && self.watch.is_none()
        {
            return Ok((pipe.try_clone()?, None));
        }
        let (read, write) = self.pipe()?;
        Ok((write, Some(read)))
    }

    /// Begins copying; called once runc has created or restored the process.
    ///
    /// # Errors
    /// What receiving the pty answered.
    pub async fn attach(self) -> io::Result<Attached> {
        let mut attached = Attached::default();
        let ends = self.ends.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (input, output, error) = match self.console {
            None => (ends.stdin, ends.stdout, ends.stderr),
            Some(socket) => {
                let master = Arc::new(socket.receive().await?);
                attached.console = Some(Arc::clone(&master));
                (Some(master.try_clone()?), Some(master.try_clone()?), None)
            }
        };
        let (mut stdout, mut stderr) = (self.stdout, self.stderr);
        // From a pty, after a restore and where the shim looks at it, the output comes through the shim.
        if let Some(logger) = &self.logger {
            if output.is_some() {
                stdout = Sink::poll(logger.stdout.try_clone()?)?;
            }
            if error.is_some() {
                stderr = Sink::poll(logger.stderr.try_clone()?)?;
            }
        }
        if let (Some(source), Some(input)) = (self.stdin, input) {
            let (fifo, hold) = source.split();
            attached.hold = hold;
            attached.stdin = Some(tokio::spawn(copy_stdin(fifo, Sink::poll(input)?)));
        }
        for (from, to) in [(output, stdout), (error, stderr)] {
            if let Some(from) = from {
                let lines = self.watch.clone().map(Lines::new);
                attached.copies.push(tokio::spawn(copy(from, to, lines)));
            }
        }
        attached.logger = self.logger;
        Ok(attached)
    }
}

impl thaw_runtime::boot::Streams for Prepared {
    fn stdio(&self) -> io::Result<[Stdio; 3]> {
        self.hand_over(self.logger.as_ref())
    }

    /// Pipes of the shim's own also where a logging program would get its pipes: what a restore that fails leaves in
    /// them is thrown away. nerdctl's program believes that a container which speaks before it exists has ended.
    fn stdio_of_restore(&self) -> io::Result<[Stdio; 3]> {
        self.hand_over(None)
    }

    fn console_socket(&self) -> Option<&Path> {
        self.console.as_ref().map(ConsoleSocket::path)
    }
}

/// Streams of a process that runs.
#[derive(Debug, Default)]
pub struct Attached {
    copies: Vec<JoinHandle<()>>,
    stdin: Option<JoinHandle<()>>,
    /// Keeps standard input from ending while the client comes and goes.
    hold: Option<OwnedFd>,
    console: Option<Arc<OwnedFd>>,
    logger: Option<Logger>,
}

impl Attached {
    /// Lets standard input end as soon as the client has closed it.
    pub fn close_stdin(&mut self) {
        self.hold = None;
    }

    /// The pty, when there is one.
    #[must_use]
    pub fn console(&self) -> Option<Arc<OwnedFd>> {
        self.console.clone()
    }

    /// Waits for the rest of the output of a process that has ended, and closes everything.
    pub async fn finish(mut self) {
        if let Some(stdin) = self.stdin.take() {
            stdin.abort();
        }
        self.console = None;
        let drained = async {
            for copy in &mut self.copies {
                // It only fails when it panicked, and then there is nothing left to wait for.
                copy.await.ok();
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            self.copies.iter().for_each(JoinHandle::abort);
        }
        if let Some(logger) = self.logger.take() {
            logger.stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_terminal_needs_no_second_output() {
        let stdout = tempfile::NamedTempFile::new().unwrap();
        let spec = Spec {
            stdout: stdout.path().to_str().unwrap().to_owned(),
            stderr: "/nowhere/stderr".to_owned(),
            terminal: true,
            ..Spec::default()
        };
        let owner = Owner {
            id: "id".to_owned(),
            namespace: "test".to_owned(),
            uid: 0,
            gid: 0,
        };
        let spawner = Arc::new(thaw_runc::PlainSpawner);
        Prepared::open(&spec, owner.clone(), &spawner).await.unwrap();
        let piped = Spec {
            terminal: false,
            ..spec
        };
        Prepared::open(&piped, owner, &spawner).await.unwrap_err();
    }
}
