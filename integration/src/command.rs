//! Running programs, with a limit on how long.

use std::io::{Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::until;

/// No call of the tests takes longer unless something hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// What was run, for messages.
    pub line: String,
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Its standard output.
    ///
    /// # Errors
    /// When its exit code was not 0.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!(
                "{} answered {}: {}{}",
                self.line,
                self.code,
                self.stderr,
                self.stdout
            );
        }
        Ok(self.stdout)
    }
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    line: String,
    readers: Vec<thread::JoinHandle<String>>,
}

impl Background {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// What `kill` answered.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// What `write` answered.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin.take();
    }

    /// Has it not ended yet?
    ///
    /// # Errors
    /// What `wait` answered.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end, `limit` at most.
    ///
    /// # Errors
    /// When it does not end; it is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Ran> {
        self.close_stdin();
        let line = self.line.clone();
        let status = until(&format!("the end of {line}"), limit, || {
            Ok(self.child.try_wait()?)
        })?;
        let mut texts = self
            .readers
            .drain(..)
            .map(|reader| reader.join().unwrap_or_default());
        let (stdout, stderr) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        let code = status.code().unwrap_or_else(|| {
            128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_default()
        });
        Ok(Ran {
            line,
            code,
            stdout,
            stderr,
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// Starts a program with pipes.
///
/// # Errors
/// When it can't be started.
pub fn spawn(words: &[&str]) -> Result<Background> {
    let line = words.join(" ");
    let (program, arguments) = words.split_first().context("no program")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {line}"))?;
    let out = child.stdout.take().map(read_all);
    let err = child.stderr.take().map(read_all);
    Ok(Background {
        child,
        line,
        readers: out.into_iter().chain(err).collect(),
    })
}

fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs a program to its end.
///
/// # Errors
/// When it can't be started or takes more than a minute; a bad exit code is no error.
pub fn run(words: &[&str]) -> Result<Ran> {
    run_within(LIMIT, words)
}

/// As [`run`] with a limit.
///
/// # Errors
/// As [`run`].
pub fn run_within(limit: Duration, words: &[&str]) -> Result<Ran> {
    spawn(words)?.wait(limit)
}

/// Runs a program that has to succeed, and answers its standard output.
///
/// # Errors
/// As [`run`], and when its exit code is not 0.
pub fn ok(words: &[&str]) -> Result<String> {
    run(words)?.ok()
}
