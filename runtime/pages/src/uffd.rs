//! A userfaultfd that CRIU has made and registered (`man 2 ioctl_userfaultfd`, `linux/userfaultfd.h`).
#![expect(
    unsafe_code,
    reason = "userfaultfd and its ioctls have no safe wrapper in a crate that builds without libclang"
)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use memmap2::MmapRaw;
use nix::errno::Errno;
use rustix::mm::{UserfaultfdFlags, userfaultfd};

/// Bytes of a `struct uffd_msg`.
const MESSAGE: usize = 32;
/// `UFFD_EVENT_PAGEFAULT`.
const PAGEFAULT: u8 = 0x12;

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

#[repr(C)]
struct Span {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Zeropage {
    range: Span,
    mode: u64,
    zeropage: i64,
}

mod ioctl {
    //! `UFFDIO` is 0xAA; the numbers are `_UFFDIO_WAKE`, `_UFFDIO_COPY` and `_UFFDIO_ZEROPAGE`.
    nix::ioctl_read!(wake, 0xAA, 0x02, super::Span);
    nix::ioctl_readwrite!(copy, 0xAA, 0x03, super::Copy);
    nix::ioctl_readwrite!(zeropage, 0xAA, 0x04, super::Zeropage);
}

/// What a process that touches its memory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It waits for the page of this address.
    Fault(u64),
    /// It changes its mappings, or forks, which nothing does that is being restored.
    Other(u8),
}

/// Whether a userfaultfd can be made here that also sees the faults of the kernel, as CRIU makes one: not on every
/// kernel, and not without `CAP_SYS_PTRACE` or with a seccomp filter.
#[must_use]
pub fn available() -> bool {
    // SAFETY: nothing is registered with it, and it is closed at once.
    unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) }.is_ok()
}

/// The memory of one process, for who fills it in.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

impl From<OwnedFd> for Uffd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Uffd {
    /// Copies as much of a part of `pages` to `address` as goes at once, wakes who waits for it, and answers how much it
    /// was.
    ///
    /// # Errors
    /// `EEXIST`: the first page is there already. `ENOENT`: the range is not registered, or not in one mapping.
    /// `EAGAIN`: the process changes its mappings just now. `EINVAL`: `pages` has no such part.
    pub(crate) fn copy(&self, address: u64, pages: &MmapRaw, part: &Range<u64>) -> Result<u64, Errno> {
        if part.start >= part.end || part.end > pages.len() as u64 {
            return Err(Errno::EINVAL);
        }
        let mut request = Copy {
            dst: address,
            src: pages.as_ptr() as u64 + part.start,
            len: part.end - part.start,
            mode: 0,
            copy: 0,
        };
        // SAFETY: the descriptor is open, the structure is the kernel's and lives through the call, and the source is a
        // part of a mapping that lives as long; only the kernel reads it, which answers `EFAULT` where the file behind
        // it has become shorter. What is written is the memory of another process, which no reference of this one leads
        // to.
        let answer = unsafe { ioctl::copy(self.0.as_raw_fd(), &raw mut request) };
        match (answer, request.copy) {
            (Ok(_), _) => Ok(request.len),
            // Part of it: that is not an error yet.
            (Err(Errno::EAGAIN), copied) if copied > 0 => Ok(copied.unsigned_abs()),
            (Err(errno), _) => Err(errno),
        }
    }

    /// Puts a page of zeros at `address` and wakes who waits for it.
    ///
    /// # Errors
    /// As [`Uffd::copy`].
    pub(crate) fn zero(&self, address: u64, page: u64) -> Result<(), Errno> {
        let mut request = Zeropage {
            range: Span {
                start: address,
                len: page,
            },
            mode: 0,
            zeropage: 0,
        };
        // SAFETY: as in `copy`; nothing is read.
        unsafe { ioctl::zeropage(self.0.as_raw_fd(), &raw mut request) }.map(drop)
    }

    /// Wakes who waits for the page at `address`, which is there.
    ///
    /// # Errors
    /// `EINVAL`, when it is not a page.
    pub(crate) fn wake(&self, address: u64, page: u64) -> Result<(), Errno> {
        let mut range = Span {
            start: address,
            len: page,
        };
        // SAFETY: as in `copy`; nothing is read, and nothing but the structure could be written.
        unsafe { ioctl::wake(self.0.as_raw_fd(), &raw mut range) }.map(drop)
    }

    /// The next thing that the process says, if there is one.
    ///
    /// # Errors
    /// What `read` answered; `EAGAIN` is none.
    pub(crate) fn event(&self) -> io::Result<Option<Event>> {
        let mut message = [0u8; MESSAGE];
        match rustix::io::read(&self.0, &mut message) {
            Ok(MESSAGE) => Ok(Some(decode(&message))),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// `struct uffd_msg`: the event, seven bytes of nothing, and of a page fault its flags and its address.
fn decode(message: &[u8; MESSAGE]) -> Event {
    let [
        event,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        address @ ..,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
    ] = message;
    match *event {
        PAGEFAULT => Event::Fault(u64::from_ne_bytes(*address)),
        other => Event::Other(other),
    }
}
