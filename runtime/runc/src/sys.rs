//! The kernel interfaces that the safe wrappers do not offer.
#![expect(
    unsafe_code,
    reason = "prctl and unshare in a forked child need pre_exec, and safe waitpid wrappers lose the status of a process that a \
              real-time signal killed"
)]

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use nix::libc;

/// Makes the child die (SIGKILL) when the thread that starts it ends.
///
/// It is the thread that counts, not the process (`man 2 PR_SET_PDEATHSIG`), so the caller must be a thread that
/// lives as long as the process does.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and only makes one system call, which is async-signal-safe; it
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(io::Error::from)
        })
    }
}

/// Gives the child a mount namespace of its own, into which mounts of ours go and out of which none come.
///
/// `runc restore` bind-mounts the root filesystem below its state directory; when it is killed, that mount would
/// stay, and `runc delete --force` would then empty the root filesystem through it.
pub(crate) fn private_mounts(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and makes two system calls with constant arguments; nix's
    // wrappers copy short paths to the stack, so nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(|| leave_mounts().map_err(io::Error::from)) }
}

/// Gives the calling thread a mount namespace of its own, into which mounts of others still go and out of which none
/// come: what it mounts ends with it. To be called before there is a second thread, which would stay outside.
///
/// # Errors
/// What the kernel answered.
pub fn leave_mounts() -> nix::Result<()> {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
}

/// Takes one ended child: `pid`, or any when `None`. Blocks when `block` is set; otherwise `Ok(None)` means that
/// nothing has ended yet.
///
/// nix's `waitpid` answers `EINVAL` for a process that died of a real-time signal, after the kernel has already
/// forgotten the status; this one keeps it.
///
/// # Errors
/// What `waitpid` answered; `ECHILD` when there is no such child.
pub fn reap(pid: Option<i32>, block: bool) -> io::Result<Option<(i32, ExitStatus)>> {
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for one int for the length of the call.
        let ended = unsafe { libc::waitpid(pid.unwrap_or(-1), &raw mut status, flags) };
        match ended {
            0 => return Ok(None),
            ended if ended > 0 => return Ok(Some((ended, ExitStatus::from_raw(status)))),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
