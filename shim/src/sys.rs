//! The kernel interfaces that the safe wrappers do not offer.
#![expect(
    unsafe_code,
    reason = "core scheduling, descriptors at fixed numbers, descriptors out of messages, real-time signals, the \
              terminal size and id-mapped mounts have no safe wrapper"
)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::unix::AsyncFd;

/// Gives the process group of `pid` a core scheduling cookie of its own (`SCHED_CORE`).
///
/// # Errors
/// What `prctl` answered; `EINVAL` on a kernel without core scheduling.
pub fn isolate_core(pid: u32) -> io::Result<()> {
    const PR_SCHED_CORE: libc::c_int = 62;
    const CREATE: libc::c_ulong = 1;
    const SCOPE_PROCESS_GROUP: libc::c_ulong = 2;
    // SAFETY: plain numbers, no memory is passed.
    let done = unsafe {
        libc::prctl(
            PR_SCHED_CORE,
            CREATE,
            libc::c_ulong::from(pid),
            SCOPE_PROCESS_GROUP,
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends signal number `signal` to one process; unlike nix, real-time signals too.
///
/// # Errors
/// What `kill` answered.
pub fn kill(pid: i32, signal: u32) -> io::Result<()> {
    // SAFETY: plain numbers, no memory is passed.
    let done = unsafe { libc::kill(pid, signal.cast_signed()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the size of a terminal.
///
/// # Errors
/// What `ioctl` answered.
pub fn resize(terminal: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which lives until the call returns.
    let done = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Maps the ids of the files in the mounts of `tree`, which are attached nowhere, as the user namespace has them
/// (Linux 5.12), and makes the mounts private.
///
/// # Errors
/// What `mount_setattr` answered; `EINVAL` also for a file system that does not know such mounts.
pub fn map_ids(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let read_only = if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | read_only,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        // A descriptor is never negative.
        userns_fd: u64::from(namespace.as_raw_fd().cast_unsigned()),
    };
    // SAFETY: the path is a constant that ends with a NUL, the kernel reads as many bytes of `attributes` as it has,
    // and both live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes the one descriptor that the peer sends, as runc does with the pty.
///
/// # Errors
/// What `recvmsg` answered; `InvalidData` when the message holds no descriptor.
pub fn receive_fd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut name = [0_u8; 4096];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([libc::c_int; 4]);
    let socket = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows their numbers.
            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    received
        .into_iter()
        .next()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Gives the child `fds` as its descriptors 3, 4, 5 and so on.
pub fn pass_fds(command: &mut Command, fds: Vec<OwnedFd>) -> io::Result<&mut Command> {
    // Above the range that is filled, so that filling one never closes another that is still to be placed.
    let mut high = Vec::with_capacity(fds.len());
    for fd in fds {
        high.push(raise(&fd)?);
    }
    // SAFETY: the closure runs between fork and exec and only calls dup2, which is async-signal-safe; it neither
    // allocates nor takes a lock. The descriptors live in the closure.
    Ok(unsafe {
        command.pre_exec(move || {
            for (number, fd) in (3..).zip(&high) {
                if libc::dup2(fd.as_raw_fd(), number) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        })
    })
}

fn raise(fd: &OwnedFd) -> io::Result<OwnedFd> {
    const ABOVE: libc::c_int = 64;
    // SAFETY: F_DUPFD_CLOEXEC makes a new descriptor that only we know.
    let raised = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, ABOVE) };
    if raised < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, see above.
    Ok(unsafe { OwnedFd::from_raw_fd(raised) })
}

/// Registers a descriptor with the runtime.
///
/// # Errors
/// What `epoll_ctl` answered; `PermissionDenied` for a descriptor that is always ready, such as a regular file.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always answers the same open descriptor until it is dropped.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
