//! The ends that face containerd: where output goes, where input comes from.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use tokio::io::unix::AsyncFd;

/// Where output goes.
#[derive(Debug)]
pub(super) enum Sink {
    /// A FIFO, pipe or pty, which may be full for a while.
    Poll(AsyncFd<OwnedFd>),
    /// A regular file, which always takes what it is given.
    File(File),
    /// Nobody listens.
    Nowhere,
}

impl Sink {
    /// Opens an existing FIFO or file; an empty path is nowhere.
    ///
    /// A FIFO is opened for reading as well. So the open does not wait for a reader, and writing goes on (until the
    /// FIFO is full) when containerd restarts and there is none for a while.
    pub(super) fn open(path: &str) -> io::Result<Self> {
        if path.is_empty() {
            return Ok(Self::Nowhere);
        }
        let fifo = std::fs::metadata(path)?.file_type().is_fifo();
        let mut options = OpenOptions::new();
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        if fifo {
            return Self::poll(options.read(true).write(true).open(path)?.into());
        }
        let file = options.append(true).open(path)?;
        if file.metadata()?.is_file() {
            Ok(Self::File(file))
        } else {
            Self::poll(file.into())
        }
    }

    /// Opens a file to append to, and makes it and its directory if need be.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        Ok(Self::File(
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)?,
        ))
    }

    /// A descriptor that may be full for a while. One that cannot be polled (`/dev/null`) is treated as a file.
    pub(super) fn poll(fd: OwnedFd) -> io::Result<Self> {
        nonblocking(&fd)?;
        let spare = fd.try_clone()?;
        match crate::sys::watch(fd) {
            Ok(fd) => Ok(Self::Poll(fd)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Self::File(spare.into())),
            Err(error) => Err(error),
        }
    }

    /// One more handle to the same file; only for files.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::File(file) => Ok(Self::File(file.try_clone()?)),
            Self::Poll(fd) => Self::poll(fd.get_ref().try_clone()?),
            Self::Nowhere => Ok(Self::Nowhere),
        }
    }

    /// Writes what goes in without waiting and answers how much that was.
    pub(super) fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let written = match self {
                Self::Nowhere => return Ok(bytes.len()),
                Self::File(file) => file.write(&bytes[done..]),
                Self::Poll(fd) => nix::unistd::write(fd.get_ref(), &bytes[done..]).map_err(io::Error::from),
            };
            match written {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes everything, waiting when there is no room.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let done = self.write_some(bytes)?;
            bytes = &bytes[done..];
            if bytes.is_empty() {
                return Ok(());
            }
            if let Self::Poll(fd) = self {
                fd.writable().await?.clear_ready();
            }
        }
    }
}

/// Where input comes from.
#[derive(Debug)]
pub(super) struct Source {
    fifo: OwnedFd,
    hold: Option<OwnedFd>,
}

impl Source {
    /// Opens a FIFO or a file. A FIFO is also held open for writing, so that it does not end before the client says
    /// so.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.clone().read(true).open(path)?;
        let hold = if file.metadata()?.file_type().is_fifo() {
            Some(options.write(true).open(path)?.into())
        } else {
            None
        };
        Ok(Self {
            fifo: file.into(),
            hold,
        })
    }

    pub(super) fn split(self) -> (OwnedFd, Option<OwnedFd>) {
        (self.fifo, self.hold)
    }
}

pub(super) fn nonblocking(fd: impl AsFd) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
