//! Memory that the page server fills in while CRIU restores the rest; see [`thaw_pages`] and `docs/memory.md`.

use std::fs;
use std::io::{self, PipeWriter};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use thaw_config::NodeConfig;
use thaw_criu::{Images, memory};
use thaw_pages::{FillError, Memory, available, fill_in, listen};
use thaw_store::Entry;
use tokio::task::JoinHandle;

use super::Reason;
use crate::quarantine::Blame;

/// Below this CRIU is as quick by itself, in bytes.
const LEAST: u64 = 16 << 20;

/// The most that CRIU may map as if it could be written to, in bytes; see [`LeftOut::counted`](memory::LeftOut).
const MOST_COUNTED: u64 = 1 << 30;

/// Where the kernel says for which mappings it takes huge pages (Linux, `admin-guide/mm/transhuge.rst`).
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";

/// `2` where the kernel counts all that is mapped, also what nobody touches (Linux, `mm/overcommit-accounting.rst`).
const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";

/// How long a page server that was told to stop may take: it may wait for a disk.
const LINGER: Duration = Duration::from_secs(2);

/// What the page server is to fill in; `None` where CRIU does better without it, or can't do with it.
pub(super) fn plan(
    config: &NodeConfig,
    images: &Images,
    entry: &Entry,
    page: u64,
) -> Result<Option<Arc<Memory>>, Reason> {
    if !config.page_server || !available() || huge_pages_everywhere() || counts_everything() {
        return Ok(None);
    }
    let left_out = memory::left_out(images, page).map_err(Reason::Pagemap)?;
    let worth_it = left_out.filter(|found| found.bytes() >= LEAST && found.counted <= MOST_COUNTED);
    let Some(left_out) = worth_it else {
        return Ok(None);
    };
    let files = entry.pages();
    let Some((_, file)) = files.iter().find(|(name, _)| *name == left_out.pages) else {
        return Err(Reason::PageFiles);
    };
    let opened = Memory::open(left_out.pid, file, left_out.runs, page);
    Ok(Some(Arc::new(opened.map_err(Reason::Memory)?)))
}

/// Whether the kernel may give CRIU a huge page for one page that it reads itself: all around it would be zeros then,
/// where nothing can be filled in any more.
fn huge_pages_everywhere() -> bool {
    let sizes = fs::read_dir(HUGE_PAGES).into_iter().flatten().flatten();
    let switches = sizes
        .map(|entry| entry.path().join("enabled"))
        .chain([Path::new(HUGE_PAGES).join("enabled")]);
    switches
        .filter_map(|switch| fs::read_to_string(switch).ok())
        .any(|chosen| chosen.contains("[always]"))
}

fn counts_everything() -> bool {
    fs::read_to_string(OVERCOMMIT).is_ok_and(|mode| mode.trim() == "2")
}

/// The page server at work. It stops when this is dropped.
#[derive(Debug)]
pub(super) struct Filling {
    running: PipeWriter,
    work: JoinHandle<Result<(), FillError>>,
}

impl Filling {
    /// CRIU will look for it in its work directory `work`.
    pub(super) fn begin(memory: Arc<Memory>, work: &Path) -> Result<Self, Reason> {
        let listener = listen(work).map_err(Reason::Memory)?;
        let (stop, running) = io::pipe().map_err(|source| Reason::Memory(FillError::Socket(source)))?;
        let work = tokio::task::spawn_blocking(move || fill_in(&listener, &memory, &stop));
        Ok(Self { running, work })
    }

    /// Waits for the last page. Answers whether it came in time.
    pub(super) async fn end(self, until: Instant) -> Result<bool, Reason> {
        let Self { running, work } = self;
        let ended = tokio::time::timeout_at(until.into(), work).await;
        drop(running);
        match ended {
            Err(_elapsed) => Ok(false),
            Ok(Err(_panicked)) => Err(Reason::Thread { step: "memory" }),
            Ok(Ok(filled)) => filled.map(|()| true).map_err(Reason::Memory),
        }
    }

    /// After a restore that has failed. Answers what has failed here, if that came first.
    pub(super) async fn give_up(self) -> Option<FillError> {
        let Self { running, work } = self;
        drop(running);
        match tokio::time::timeout(LINGER, work).await {
            // What CRIU has killed is not there any more.
            Ok(Ok(Err(
                FillError::Stopped
                | FillError::Gone
                | FillError::Copy {
                    source: Errno::ESRCH, ..
                },
            ))) => None,
            Ok(Ok(Err(error))) => Some(error),
            Ok(Ok(Ok(())) | Err(_)) | Err(_) => None,
        }
    }
}

/// Whose fault it is that memory could not be filled in.
pub(super) fn blame(error: &FillError) -> Blame {
    match error {
        FillError::Run(_)
        | FillError::Process(_)
        | FillError::Event(_)
        | FillError::Copy {
            source: Errno::ENOENT | Errno::EFAULT | Errno::EINVAL,
            ..
        } => Blame::Snapshot,
        _ => Blame::Passing,
    }
}
