//! Copying between descriptors, without holding any memory while nothing flows.
//!
//! `splice` would save the copy, but pages that are spliced into a FIFO take a whole slot each however small they
//! are: a container that writes short lines would fill a FIFO that nobody reads after sixteen of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use crate::sys::watch;

use super::sink::{Sink, nonblocking};
use super::watch::Lines;

/// What is read at once.
const CHUNK: usize = 16 << 10;

/// Copies until the source ends. A sink that breaks does not stop it: the container would block on a full pipe.
pub(super) async fn copy(from: OwnedFd, mut to: Sink, mut lines: Option<Lines>) {
    let Ok(from) = source(from) else { return };
    loop {
        match step(&from, &mut to, &mut lines).await {
            Ok(true) => {}
            Ok(false) | Err(Broken::Source) => return,
            Err(Broken::Sink(error)) => {
                log::warn!("output of the container is lost from here on: {error}");
                to = Sink::Nowhere;
            }
        }
    }
}

/// Copies until either side ends.
pub(super) async fn copy_stdin(from: OwnedFd, mut to: Sink) {
    let file = File::from(from);
    if file.metadata().is_ok_and(|meta| meta.is_file()) {
        // It cannot be polled, and need not be.
        copy_file(file, to).await;
    } else if let Ok(from) = source(file.into()) {
        while let Ok(true) = step(&from, &mut to, &mut None).await {}
    }
}

async fn copy_file(mut file: File, mut to: Sink) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = file.read(&mut chunk) {
        if to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

enum Broken {
    Source,
    Sink(io::Error),
}

fn source(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    nonblocking(&fd)?;
    watch(fd)
}

/// Waits for input and passes one chunk on; `false` at the end.
async fn step(from: &AsyncFd<OwnedFd>, to: &mut Sink, lines: &mut Option<Lines>) -> Result<bool, Broken> {
    let Ok(mut ready) = from.readable().await else {
        return Err(Broken::Source);
    };
    let rest = match pass(from.get_ref(), to, lines) {
        Ok(Passed::All) => return Ok(true),
        Ok(Passed::End) => return Ok(false),
        Ok(Passed::Nothing) => {
            ready.clear_ready();
            return Ok(true);
        }
        Ok(Passed::Some(rest)) => rest,
        Err(broken) => return Err(broken),
    };
    drop(ready);
    to.write_all(&rest).await.map_err(Broken::Sink)?;
    Ok(true)
}

enum Passed {
    All,
    Some(Vec<u8>),
    Nothing,
    End,
}

/// Not async, so that the chunk lives on the stack only for the length of this call.
fn pass(from: &OwnedFd, to: &mut Sink, lines: &mut Option<Lines>) -> Result<Passed, Broken> {
    let mut chunk = [0; CHUNK];
    match nix::unistd::read(from, &mut chunk) {
        Ok(0) => Ok(Passed::End),
        Ok(count) => {
            if lines.as_mut().is_some_and(|lines| !lines.feed(&chunk[..count])) {
                *lines = None;
            }
            let done = to.write_some(&chunk[..count]).map_err(Broken::Sink)?;
            Ok(if done == count {
                Passed::All
            } else {
                Passed::Some(chunk[done..count].to_vec())
            })
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Passed::Nothing),
        // A pty whose last user is gone answers EIO.
        Err(_) => Err(Broken::Source),
    }
}
