//! A terminal for clients that want one.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::pty::openpty;

use crate::wait::until;

/// A program on a pty of its own; killed when dropped.
#[derive(Debug)]
pub struct Console {
    child: Child,
    master: File,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Console {
    /// Starts a program on a new pty.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(words: &[&str]) -> Result<Self> {
        let (program, arguments) = words.split_first().context("no program")?;
        let pty = openpty(None, None)?;
        let slave = File::from(pty.slave);
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave);
        let child = command.spawn()?;
        drop(command);
        let master = File::from(pty.master);
        let mut reader = master.try_clone()?;
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            master,
            output,
            seen: String::new(),
        })
    }

    /// Types.
    ///
    /// # Errors
    /// What `write` answered.
    pub fn write(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Waits for a text on the screen, and answers everything seen so far.
    ///
    /// # Errors
    /// When it does not come in 10 s.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        let waited = until(
            &format!("{text:?} on the terminal"),
            Duration::from_secs(10),
            || {
                while let Ok(bytes) = self.output.try_recv() {
                    self.seen.push_str(&String::from_utf8_lossy(&bytes));
                }
                Ok(self.seen.contains(text).then(|| self.seen.clone()))
            },
        );
        waited.with_context(|| format!("on the terminal: {:?}", self.seen))
    }

    /// Waits for the program's end and answers its exit code.
    ///
    /// # Errors
    /// When it does not end in 10 s.
    pub fn wait(mut self) -> Result<i32> {
        let status = until("the program on the terminal", Duration::from_secs(10), || {
            Ok(self.child.try_wait()?)
        })?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
