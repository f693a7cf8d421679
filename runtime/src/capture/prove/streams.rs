//! Standard streams of a container that nobody listens to.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::boot::Streams;

/// What it prints is thrown away, since the donor has printed it or would; what it reads does not come.
#[derive(Debug)]
pub(super) struct Silent {
    stdin: bool,
    /// The other end of standard input, which must not end.
    held: Mutex<Option<OwnedFd>>,
}

impl Silent {
    pub(super) fn new(stdin: bool) -> Self {
        Self {
            stdin,
            held: Mutex::default(),
        }
    }
}

impl Streams for Silent {
    fn stdio(&self) -> io::Result<[Stdio; 3]> {
        let stdin = if self.stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(write);
            Stdio::from(read)
        } else {
            Stdio::null()
        };
        Ok([stdin, drained()?, drained()?])
    }

    fn console_socket(&self) -> Option<&Path> {
        None
    }
}

/// The thread ends with the last process that holds the pipe.
fn drained() -> io::Result<Stdio> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    thread::Builder::new()
        .name("drain".to_owned())
        .spawn(move || io::copy(&mut File::from(read), &mut io::sink()))?;
    Ok(Stdio::from(write))
}
