//! Looking into, and working in, the network namespace and the host names of a container.
//!
//! Namespaces belong to threads, so each visit is a thread of its own that ends in the other namespace.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

mod lock;
mod loopback;

pub(crate) use lock::{any_noted, note, release, release_noted};
pub use loopback::{LOOPBACK_VERB, loopback_up, run_hook};

/// Runs `work` on a thread that has joined the namespace at `path`.
///
/// # Errors
/// That the namespace can't be joined, or what `work` answered.
pub(crate) fn visit<T: Send>(
    path: &Path,
    kind: CloneFlags,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(path)?;
    thread::scope(|scope| {
        let visitor = scope.spawn(move || {
            setns(namespace, kind)?;
            work()
        });
        visitor
            .join()
            .unwrap_or_else(|_panic| Err(io::Error::other("the visiting thread panicked")))
    })
}

/// All addresses in the network namespace at `path`.
///
/// # Errors
/// What the kernel answered.
pub fn addresses(path: &Path) -> io::Result<Vec<IpAddr>> {
    visit(path, CloneFlags::CLONE_NEWNET, own_addresses)
}

/// All addresses in the network namespace of this thread.
pub(crate) fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let mut found: Vec<IpAddr> = interfaces
        .filter_map(|interface| address(interface.address?))
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn address(raw: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = raw.as_sockaddr_in() {
        return Some(v4.ip().into());
    }
    raw.as_sockaddr_in6().map(|v6| v6.ip().into())
}

/// Host name in the UTS namespace at `path`, such as that of a pod.
///
/// # Errors
/// What the kernel answered.
pub fn hostname_in(path: &Path) -> io::Result<String> {
    visit(path, CloneFlags::CLONE_NEWUTS, own_hostname)
}

/// Host name of this process.
///
/// # Errors
/// What the kernel answered.
pub fn own_hostname() -> io::Result<String> {
    // The UTS namespace is the thread's, and uname answers for the thread.
    Ok(nix::sys::utsname::uname()?
        .nodename()
        .to_string_lossy()
        .into_owned())
}
