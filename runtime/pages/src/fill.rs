//! Copying, on several threads: each takes the next piece that nobody has taken.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use thaw_criu::memory::Run;

use crate::uffd::Uffd;
use crate::{FillError, Memory};

/// The most that is copied at once, in bytes: what a thread may still do after it was told to stop.
const PIECE: u64 = 1 << 20;

/// How long to wait for a range that CRIU has not registered yet: nothing tells when it does.
const NOT_YET: Duration = Duration::from_micros(200);

/// What the threads have in common.
#[derive(Debug)]
pub(crate) struct Fill<'a> {
    memory: &'a Memory,
    uffd: &'a Uffd,
    pieces: Vec<Run>,
    next: AtomicUsize,
    /// Pages that were brought because somebody waited for them.
    served: Mutex<BTreeSet<u64>>,
    /// CRIU has registered all that it will.
    pub(crate) registered: AtomicBool,
    /// What is left undone stays so.
    pub(crate) stopped: AtomicBool,
}

impl<'a> Fill<'a> {
    pub(crate) fn new(memory: &'a Memory, uffd: &'a Uffd) -> Self {
        Self {
            memory,
            uffd,
            pieces: memory.runs.iter().flat_map(|run| pieces(*run)).collect(),
            next: AtomicUsize::new(0),
            served: Mutex::default(),
            registered: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// Copies until there is nothing left, or until another thread has failed.
    pub(crate) fn work(&self) -> Result<(), FillError> {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.copy(*piece)
                .inspect_err(|_error| self.stopped.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    }

    /// Copies all of a run that is not there yet.
    fn copy(&self, run: Run) -> Result<(), FillError> {
        let mut done = 0;
        while done < run.length {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(FillError::Stopped);
            }
            let registered = self.registered.load(Ordering::Acquire);
            let address = run.address + done;
            let part = run.offset + done..run.offset + run.length;
            match self.uffd.copy(address, &self.memory.pages, &part) {
                Ok(copied) => done += copied,
                // What else is there is not out of the page file: a huge page that CRIU has got for its neighbour, say.
                Err(Errno::EEXIST) if self.was_served(address) => done += self.memory.page,
                Err(Errno::EAGAIN) => thread::yield_now(),
                Err(Errno::ENOENT) if !registered => thread::sleep(NOT_YET),
                Err(source) => return Err(FillError::Copy { address, source }),
            }
        }
        Ok(())
    }

    /// Brings the page that the process waits for: out of the page file, or of zeros where it holds none.
    pub(crate) fn serve(&self, fault: u64) -> Result<(), FillError> {
        let page = self.memory.page;
        let address = fault - fault % page;
        let answer = match self.holds(address) {
            Some(run) => {
                // Before it is there, so that no thread finds it there and does not know why.
                self.served().insert(address);
                let offset = run.offset + (address - run.address);
                let copied = self
                    .uffd
                    .copy(address, &self.memory.pages, &(offset..offset + page));
                copied.map(drop)
            }
            None => self.uffd.zero(address, page),
        };
        let done = match answer {
            // A thread was quicker, and may have woken it before it slept; or the kernel wants to be asked again.
            Err(Errno::EEXIST | Errno::EAGAIN) => self.uffd.wake(address, page),
            answer => answer,
        };
        done.map_err(|source| FillError::Copy { address, source })
    }

    fn was_served(&self, address: u64) -> bool {
        self.served().contains(&address)
    }

    fn served(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        // Nothing that can panic happens under it.
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run that this page is in.
    fn holds(&self, address: u64) -> Option<Run> {
        let runs = &self.memory.runs;
        let behind = runs.partition_point(|run| run.address <= address);
        let run = runs[..behind].last()?;
        (address - run.address < run.length).then_some(*run)
    }
}

/// A run in pieces of at most [`PIECE`].
fn pieces(run: Run) -> impl Iterator<Item = Run> {
    (0..run.length).step_by(PIECE as usize).map(move |done| Run {
        address: run.address + done,
        length: PIECE.min(run.length - done),
        offset: run.offset + done,
    })
}
