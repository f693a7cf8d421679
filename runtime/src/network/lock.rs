//! CRIU's network lock, where nobody else takes it away.
//!
//! While CRIU dumps or restores established connections it drops all packets of the network namespace (`netfilter.c`).
//! A restore that fails leaves the lock behind (criu#2828), and so does a dump that ends its container, on purpose: a
//! packet that reached the address before the restored connection would be answered by a reset. In a namespace that
//! outlives the container, the next one there would be cut off. So a dump leaves a note, and the next start that
//! brings no connections back releases the lock.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thaw_runc::{Exit, Spawner};
use tokio::runtime::Handle;

use super::visit;

/// What takes the lock of the iptables method away, which is CRIU's default: a chain of that name, reached from both.
const RELEASE: &str = "*filter\n-D INPUT -j CRIU\n-D OUTPUT -j CRIU\n-F CRIU\n-X CRIU\nCOMMIT\n";

/// Where the notes are, below the state directory; no containerd namespace begins with a dot.
const NOTES: &str = ".locked";

/// How long it may take; it takes some milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);

/// Notes that the namespace at `network` stays locked.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn note(state: &Path, network: &Path) -> io::Result<()> {
    let note = place(state, network)?;
    if let Some(directory) = note.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(note, [])
}

/// Some namespace of this node may be locked; spares the ordinary start a look at its spec.
pub(crate) fn any_noted(state: &Path) -> bool {
    state.join(NOTES).exists()
}

/// Releases the lock of the namespace at `network` if there is a note of it.
pub(crate) async fn release_noted(state: &Path, network: &Path, spawner: &dyn Spawner) {
    let Ok(note) = place(state, network) else { return };
    if note.exists() {
        release(network, spawner).await;
        if let Err(error) = fs::remove_file(&note) {
            log::warn!("remove {}: {error}", note.display());
        }
    }
}

/// Releases the lock of the namespace at `network`. That there is none is no mistake, so failures are only said.
pub(crate) async fn release(network: &Path, spawner: &dyn Spawner) {
    for program in ["iptables-restore", "ip6tables-restore"] {
        let runtime = Handle::current();
        let started = visit(network, CloneFlags::CLONE_NEWNET, || {
            // The spawner may wait on a thread of the runtime.
            let _inside = runtime.enter();
            start(program, spawner)
        });
        let (pid, exit) = match started {
            Ok(started) => started,
            Err(error) => {
                log::warn!("release the network lock with {program}: {error}");
                continue;
            }
        };
        match tokio::time::timeout(DEADLINE, exit).await {
            Ok(Ok(status)) => log::debug!("{program} in {}: {status}", network.display()),
            Ok(Err(error)) => log::warn!("wait for {program}: {error}"),
            Err(_elapsed) => {
                log::warn!("{program} did not end within {DEADLINE:?}");
                // Only fails when it has just ended.
                kill(pid, Signal::SIGKILL).ok();
            }
        }
    }
}

/// A child has the network namespace of the thread that starts it.
fn start(program: &str, spawner: &dyn Spawner) -> io::Result<(Pid, Exit)> {
    let mut command = Command::new(program);
    command.args(["--noflush", "--wait", "2"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (mut child, exit) = spawner.spawn(&mut command)?;
    if let Some(mut input) = child.stdin.take() {
        // A pipe holds it all at once; one that broke shows in the exit status.
        input.write_all(RELEASE.as_bytes()).ok();
    }
    Ok((Pid::from_raw(child.id().cast_signed()), exit))
}

/// A namespace is known by its inode, for as long as it lives. A note that outlives it costs its heir one needless
/// release.
fn place(state: &Path, network: &Path) -> io::Result<PathBuf> {
    Ok(state.join(NOTES).join(fs::metadata(network)?.ino().to_string()))
}
