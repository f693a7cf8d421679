//! Step 7: the processes come back, and are held. A failure is undone here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use thaw_runc::{RestoreOptions, RuncError, first_criu_error};

use super::memory::Filling;
use super::rewrite::{Prepared, discard};
use super::{
    Begun, Boot, CreateError, Failed, Held, HooksError, PID_FILE, Reason, Request, Rootfs, Streams, hooks,
};
use crate::network;
use crate::record::Record;
use crate::rootfs::{self, Limits, Marks, RootAttributes};
use crate::task::kill_tree;
use crate::timeline::Timeline;
use crate::words::chain;

/// No root filesystem diff that is worth a restore has more; applying a million files takes minutes.
const ROOTFS_LIMITS: Limits = Limits {
    entries: 1_000_000,
    bytes: 64 << 30,
};

/// A container whose processes exist and do not run.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) pid: i32,
    pub(super) held: Held,
}

pub(super) async fn run(
    boot: &Boot,
    request: &Request,
    container: &dyn Rootfs,
    streams: &dyn Streams,
    prepared: Prepared,
    timeline: &mut Timeline,
) -> Result<Restored, Failed> {
    let record = Record::new(&boot.config.state, &request.namespace, &request.id);
    let before = match begin(&record, &prepared.upper, &request.bundle) {
        Ok(before) => before,
        Err(reason) => {
            discard(&prepared.directory);
            return Err(reason.into());
        }
    };
    if !prepared.tcp_established {
        boot.unlock(request).await;
    }
    let tried = attempt(boot, request, container, streams, &prepared, timeline).await;
    let refused = match tried {
        Ok(restored) => match run_hooks(boot, request, &prepared, restored.pid, timeline).await {
            Ok(()) => {
                // The images and CRIU's temporary files are of no more use. The bundle stays: runc names it in its
                // state.
                discard(&prepared.images);
                discard(&prepared.work);
                return Ok(restored);
            }
            Err(error) => Refused::Hooks(error),
        },
        Err(reason) => Refused::Restore(reason),
    };
    timeline.stage("undo");
    let undone = undo(boot, request, container, &prepared, before).await;
    match (refused, undone) {
        (Refused::Restore(reason), Ok(())) => Err(Failed::Clean(reason)),
        (Refused::Restore(reason), Err(error)) => Err(Failed::Stuck(reason, error)),
        (Refused::Hooks(error), undone) => {
            if let Err(error) = undone {
                log::error!("undo the start of {}: {}", request.id, chain(&error));
            }
            Err(Failed::Refused(CreateError::Hooks(error)))
        }
    }
}

/// What has ended a try.
enum Refused {
    Restore(Reason),
    Hooks(HooksError),
}

async fn run_hooks(
    boot: &Boot,
    request: &Request,
    prepared: &Prepared,
    pid: i32,
    timeline: &mut Timeline,
) -> Result<(), HooksError> {
    timeline.stage("hooks");
    let spawner = &*boot.runc.spawner;
    let container = (request.id.as_str(), pid);
    hooks::run(
        &prepared.spec,
        container,
        &request.bundle,
        &prepared.bundle,
        spawner,
    )
    .await
}

/// What an undo must know, and must not find. It is noted for others too: this process may be killed.
fn begin(record: &Record, upper: &Path, bundle: &Path) -> Result<RootAttributes, Reason> {
    forget_pid(bundle)?;
    let failed = |source| Reason::Prepare {
        path: upper.to_owned(),
        source,
    };
    let before = RootAttributes::of(upper).map_err(failed)?;
    let begun = Begun {
        upper: upper.to_owned(),
        before,
    };
    record.put_begun(&begun).map_err(failed)?;
    Ok(before)
}

/// Removes the pid file of an earlier run: what stands in it is killed when the restore fails, so it must be what this
/// restore has written.
pub(super) fn forget_pid(bundle: &Path) -> Result<(), Reason> {
    let path = bundle.join(PID_FILE);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Reason::Prepare { path, source }),
        _ => Ok(()),
    }
}

/// Kills what a failed restore has left, when it got as far as to a pid.
pub(super) fn kill_left(bundle: &Path) {
    if let Some(pid) = held_pid(&bundle.join(PID_FILE)) {
        kill_tree(pid);
    }
}

async fn attempt(
    boot: &Boot,
    request: &Request,
    container: &dyn Rootfs,
    streams: &dyn Streams,
    prepared: &Prepared,
    timeline: &mut Timeline,
) -> Result<Restored, Reason> {
    timeline.stage("rootfs");
    if let Some(tar) = &prepared.rootfs {
        container.take_off().map_err(Reason::Mount)?;
        let until = Instant::now() + boot.config.deadlines.restore;
        timeline.bytes.rootfs = apply(tar, &prepared.upper, until).await?;
    }
    container.mount().map_err(Reason::Mount)?;
    timeline.stage("restore");
    let pid = restore(boot, request, streams, prepared).await?;
    timeline.bytes.pages = prepared.page_bytes;
    timeline.bytes.filled = prepared.memory.as_ref().map_or(0, |memory| memory.bytes());
    if let Some(limits) = &prepared.limits {
        timeline.stage("limits");
        let set = boot.runc.update(&request.id, limits.clone());
        set.await.map_err(Reason::Limits)?;
    }
    if !Path::new(&format!("/proc/{pid}")).exists() {
        return Err(Reason::Gone { pid });
    }
    let (file, seen) = (prepared.restored.clone(), container.seen_by(pid));
    let work = tokio::task::spawn_blocking(move || file.write(&seen));
    work.await
        .map_err(|_error| Reason::Thread { step: "restored" })?
        .map_err(Reason::Restored)?;
    Ok(Restored {
        pid,
        held: Held::new(pid, prepared.stopped.clone())
            .with(prepared.reconnect.clone(), prepared.announce.clone()),
    })
}

async fn apply(tar: &Path, upper: &Path, until: Instant) -> Result<u64, Reason> {
    let (tar, upper) = (tar.to_owned(), upper.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let file = File::open(&tar).map_err(|source| Reason::Prepare { path: tar, source })?;
        rootfs::apply(file, &upper, Marks::Trusted, ROOTFS_LIMITS, until).map_err(Reason::Rootfs)
    });
    Ok(work
        .await
        .map_err(|_error| Reason::Thread { step: "rootfs" })??
        .bytes)
}

async fn restore(
    boot: &Boot,
    request: &Request,
    streams: &dyn Streams,
    prepared: &Prepared,
) -> Result<i32, Reason> {
    let options = RestoreOptions {
        bundle: prepared.bundle.clone(),
        image_path: prepared.images.clone(),
        work_path: prepared.work.clone(),
        pid_file: request.bundle.join(PID_FILE),
        console_socket: streams.console_socket().map(Path::to_owned),
        lsm_profile: prepared.labels.process.clone(),
        lsm_mount_context: prepared.labels.mount.clone(),
        tcp_established: prepared.tcp_established,
        lazy_pages: prepared.memory.is_some(),
        criu_config: prepared.criu_config.clone(),
    };
    let deadline = boot.config.deadlines.restore;
    let until = Instant::now() + deadline;
    let stdio = streams.stdio_of_restore().map_err(Reason::Streams)?;
    let memory = prepared.memory.clone();
    let filling = memory
        .map(|memory| Filling::begin(memory, &prepared.work))
        .transpose()?;
    let restorer = boot.restorer();
    let restored = restorer.restore(&request.id, &options, stdio, deadline);
    let failed = |source| Reason::Restore {
        criu: first_criu_error(&prepared.work.join("restore.log")),
        source,
    };
    match (restored.await, filling) {
        (Ok(pid), None) => Ok(pid),
        (Ok(pid), Some(filling)) => {
            let in_time = filling.end(until).await?;
            let late = RuncError::Deadline {
                verb: "restore",
                seconds: deadline.as_secs(),
            };
            if in_time { Ok(pid) } else { Err(failed(late)) }
        }
        (Err(source), None) => Err(failed(source)),
        // What has kept the page server from its work may have kept CRIU from its own.
        (Err(source), Some(filling)) => Err(match filling.give_up().await {
            Some(first) => Reason::Memory(first),
            None => failed(source),
        }),
    }
}

/// Takes away everything that the try has made: processes, cgroup, runc's state, the changes in the root filesystem.
/// Goes on when something does not give way, so that as little as possible stays; then answers the first error.
async fn undo(
    boot: &Boot,
    request: &Request,
    container: &dyn Rootfs,
    prepared: &Prepared,
    before: RootAttributes,
) -> Result<(), CreateError> {
    kill_left(&request.bundle);
    // A restore that failed has cleaned up after itself; one that was cut off has not. The container's mounts are
    // not in this mount namespace, so this can't reach its files.
    let deleted = boot.runc.delete(&request.id, true).await;
    if prepared.tcp_established
        && let Some(network) = &prepared.joined
    {
        network::release(network, &*boot.runc.spawner).await;
    }
    keep_log(boot, request, prepared);
    discard(&prepared.directory);
    let record = Record::new(&boot.config.state, &request.namespace, &request.id);
    let emptied = empty(container, prepared.upper.clone(), before).await;
    let emptied = emptied.and_then(|()| record.forget_begun());
    deleted.map_err(CreateError::Runc)?;
    emptied.map_err(|source| CreateError::Undo {
        path: prepared.upper.clone(),
        source,
    })
}

/// The root filesystem as the client or the snapshotter had prepared it.
pub(super) async fn empty(container: &dyn Rootfs, upper: PathBuf, before: RootAttributes) -> io::Result<()> {
    if let Err(error) = container.take_off() {
        // Somebody uses it, which may be what has ended the try before anything was changed.
        let untouched = rootfs::is_empty(&upper)? && RootAttributes::of(&upper)? == before;
        return if untouched { Ok(()) } else { Err(error) };
    }
    let work = tokio::task::spawn_blocking(move || rootfs::clear(&upper, &before));
    let cleared = work.await.map_err(io::Error::other).flatten();
    // Also when it could not be cleared: the client will unmount what it has mounted.
    cleared.and(container.put_back())
}

/// The pid that runc wrote before something after it failed.
fn held_pid(file: &Path) -> Option<i32> {
    let pid = fs::read_to_string(file).ok()?.trim().parse().ok();
    // A stale file would name a stranger to the next reader.
    fs::remove_file(file).ok();
    pid
}

/// CRIU's log outlives the try: it is the first thing to look at.
fn keep_log(boot: &Boot, request: &Request, prepared: &Prepared) {
    let kept = Record::new(&boot.config.state, &request.namespace, &request.id)
        .directory()
        .join("restore.log");
    if let Err(error) = fs::rename(prepared.work.join("restore.log"), &kept) {
        log::debug!("keep CRIU's log as {}: {error}", kept.display());
    }
}
