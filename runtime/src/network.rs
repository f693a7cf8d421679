//! Looking into, and working in, the namespaces of a container: its network, its names, its ipc objects.
//!
//! Namespaces belong to threads, so each visit is a thread of its own that ends in the other namespace.

use std::collections::BTreeSet;
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

/// The interfaces of a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Their names.
    pub devices: BTreeSet<String>,
    /// Interface and address, in the order in which the kernel lists them: older interfaces first.
    pub addresses: Vec<(String, IpAddr)>,
}

/// The interfaces in the network namespace at `path`.
///
/// # Errors
/// What the kernel answered.
pub fn interfaces(path: &Path) -> io::Result<Interfaces> {
    visit(path, CloneFlags::CLONE_NEWNET, || {
        let mut found = Interfaces::default();
        // Each interface is listed with its link address too, so one without any other is there as well.
        for interface in nix::ifaddrs::getifaddrs()? {
            if let Some(address) = interface.address.and_then(address) {
                found.addresses.push((interface.interface_name.clone(), address));
            }
            found.devices.insert(interface.interface_name);
        }
        Ok(found)
    })
}

/// All addresses in the network namespace at `path`, sorted.
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

/// What a UTS namespace holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Host name.
    pub hostname: String,
    /// NIS domain name; `(none)` where nobody has set one.
    pub domainname: String,
}

/// The names in the UTS namespace at `path`, such as that of a pod.
///
/// # Errors
/// What the kernel answered.
pub fn names_in(path: &Path) -> io::Result<Names> {
    visit(path, CloneFlags::CLONE_NEWUTS, own_names)
}

/// Whether the ipc namespace at `path` holds System V objects.
///
/// # Errors
/// What the kernel answered.
pub fn has_sysv_ipc(path: &Path) -> io::Result<bool> {
    visit(path, CloneFlags::CLONE_NEWIPC, || {
        let mut found = false;
        for kind in ["shm", "msg", "sem"] {
            // A heading, then a line for each object of the reader's namespace (`man 5 sysvipc`).
            found |= std::fs::read_to_string(format!("/proc/sysvipc/{kind}"))?
                .lines()
                .count()
                > 1;
        }
        Ok(found)
    })
}

/// The names that this process sees.
///
/// # Errors
/// What the kernel answered.
pub fn own_names() -> io::Result<Names> {
    // The UTS namespace is the thread's, and uname answers for the thread.
    let uname = nix::sys::utsname::uname()?;
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    Ok(Names {
        hostname: text(uname.nodename()),
        domainname: text(uname.domainname()),
    })
}
