//! Bringing up the loopback interface of a restored container.
//!
//! runc brings it up for a container that it creates, not for one that it restores. It has to be up before CRIU binds
//! sockets to 127.0.0.1, so a `createRuntime` hook does it, which runc runs between the namespaces and the sockets.
#![expect(
    unsafe_code,
    reason = "interface flags are set by ioctl, for which there is no safe wrapper"
)]

use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::Deserialize;

use super::visit;

/// The first argument with which the helper program is called as the hook.
pub const LOOPBACK_VERB: &str = "loopback-up";

/// The most that is read of the state that runc sends to a hook.
const STATE_LIMIT: u64 = 1 << 20;

/// Why the hook failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// Standard input can't be read.
    #[error("read the container's state")]
    Read(#[source] io::Error),
    /// It is not the state of a container (OCI runtime spec, "State").
    #[error("understand the container's state")]
    State(#[source] serde_json::Error),
    /// The interface stayed down.
    #[error("bring up the loopback interface of process {pid}")]
    Up {
        /// A process in the namespace.
        pid: u32,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

/// The hook: reads the container's state from `input` and brings up its loopback interface.
///
/// # Errors
/// See [`HookError`].
pub fn run_hook(input: impl io::Read) -> Result<(), HookError> {
    #[derive(Deserialize)]
    struct State {
        pid: u32,
    }
    let mut text = Vec::new();
    input
        .take(STATE_LIMIT)
        .read_to_end(&mut text)
        .map_err(HookError::Read)?;
    let State { pid } = serde_json::from_slice(&text).map_err(HookError::State)?;
    loopback_up(Path::new(&format!("/proc/{pid}/ns/net"))).map_err(|source| HookError::Up { pid, source })
}

/// Brings up `lo` in the network namespace at `path`.
///
/// # Errors
/// What the kernel answered.
pub fn loopback_up(path: &Path) -> io::Result<()> {
    visit(path, CloneFlags::CLONE_NEWNET, || {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        // SAFETY: an all-zero ifreq is a valid value: it is plain data made of integers and byte arrays.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
        // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives for the length of the call (man 7 netdevice).
        let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
        nix::errno::Errno::result(answer)?;
        Ok(())
    })
}
