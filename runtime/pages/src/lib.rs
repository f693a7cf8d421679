//! The page server: fills in the memory that CRIU leaves out of a restore.
//!
//! CRIU itself fills memory with `preadv`: one thread, a page fault for every page. A userfaultfd takes whole runs, on
//! several threads, at a fraction of that. So the restore is told to leave out what may be filled in later
//! (`--lazy-pages`), and this server fills it in at once, while CRIU does the rest. A container runs only after its
//! last page is in place: nothing ever waits for this server but CRIU, and when the server is gone, what it has left
//! undone has never run.
//!
//! The protocol is that of CRIU's own daemon (`criu/uffd.c`): CRIU connects to `lazy-pages.socket` in its work
//! directory, sends the pid of the process (inside the container) and its userfaultfd, and, when all is restored, a
//! word. Nothing is answered.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use thaw_criu::memory::Run;

mod fill;
mod protocol;
mod serve;
#[cfg(test)]
mod tests;
mod uffd;

pub use uffd::available;

/// The name that CRIU looks for in its work directory (`criu/uffd.c: prepare_sock_addr`).
pub const SOCKET: &str = "lazy-pages.socket";

/// More threads only wait for each other (the kernel locks the mapping), and take what other restores need.
const MOST_WORKERS: usize = 2;

/// What goes where.
#[derive(Debug)]
pub struct Memory {
    pid: i32,
    page: u64,
    runs: Vec<Run>,
    pages: MmapRaw,
}

/// Why memory can't be filled in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// The page file can't be mapped.
    #[error("map the page file {}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// Runs overlap, are not in order or of whole pages, or lie outside of the page file.
    #[error("run {0} of the memory does not fit the page file")]
    Run(usize),
    /// CRIU can't be talked to.
    #[error("talk to CRIU")]
    Socket(#[source] io::Error),
    /// CRIU has ended before it was done.
    #[error("CRIU ended before all memory was filled in")]
    Gone,
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
    /// CRIU restores another process than the images say.
    #[error("CRIU restores process {0}, which is not in the images")]
    Process(i32),
    /// The process does something that none does which is being restored.
    #[error("the process that is restored changes its memory (event {0:#x})")]
    Event(u8),
    /// The userfaultfd can't be waited for, or read.
    #[error("wait for the process that is restored")]
    Wait(#[source] io::Error),
    /// The kernel does not take a page.
    #[error("fill in the memory at {address:#x}")]
    Copy {
        /// The first byte that it did not take.
        address: u64,
        /// What it answered.
        #[source]
        source: Errno,
    },
}

impl Memory {
    /// All of it, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.length).sum()
    }

    /// Of one process with this `pid` inside the container: `runs` of the page file at `path`, in ascending order.
    ///
    /// # Errors
    /// The file can't be mapped, or is too short.
    pub fn open(pid: i32, path: &Path, runs: Vec<Run>, page: u64) -> Result<Self, FillError> {
        // The file is never changed where it lies. Should it be, then the copy fails: it is the kernel that reads it.
        let map = File::open(path).and_then(|file| MmapOptions::new().map_raw_read_only(&file));
        let pages = map.map_err(|source| FillError::Map {
            path: path.to_owned(),
            source,
        })?;
        let mut free_from = 0;
        for (index, run) in runs.iter().enumerate() {
            let aligned = [run.address, run.length, run.offset]
                .iter()
                .all(|value| value.is_multiple_of(page));
            let inside = run
                .offset
                .checked_add(run.length)
                .is_some_and(|end| end <= pages.len() as u64);
            let end = run.address.checked_add(run.length);
            match end {
                Some(end) if aligned && inside && run.address >= free_from => free_from = end,
                _ => return Err(FillError::Run(index)),
            }
        }
        Ok(Self {
            pid,
            page,
            runs,
            pages,
        })
    }
}

/// A socket where CRIU looks for it in its work directory `work`.
///
/// # Errors
/// [`FillError::Socket`].
pub fn listen(work: &Path) -> Result<UnixListener, FillError> {
    // By a descriptor: the address of a socket holds 107 bytes, and the directory's path has a container's id in it.
    let open = File::open(work).and_then(|directory| {
        let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        UnixListener::bind(path)
    });
    open.map_err(FillError::Socket)
}

/// Waits for CRIU at `listener`, and fills in all of the memory. Returns when that is done and CRIU has said that it is
/// done too; then the userfaultfd is closed, and the memory is like any other.
///
/// It blocks. The other end of `stop` can be closed at any time, which ends it at once; there is no other limit.
///
/// # Errors
/// See [`FillError`]. The memory is not all there, and the process must not run: what is missing would read as zeros.
pub fn fill_in(listener: &UnixListener, memory: &Memory, stop: &io::PipeReader) -> Result<(), FillError> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    serve::run(listener, memory, stop, cores.min(MOST_WORKERS))
}
