//! The server against memory of this very process, with a thread in CRIU's place.
#![expect(
    unsafe_code,
    reason = "it maps memory and registers it, as CRIU does for a process"
)]

use std::fs;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use memmap2::MmapMut;
use nix::errno::Errno;
use nix::libc;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use thaw_criu::memory::Run;

use crate::{FillError, Memory, SOCKET, fill_in};

const PAGE: u64 = 4096;
const FINISHED: u32 = 0x5253_5446;
const PID: i32 = 7;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

nix::ioctl_readwrite!(uffdio_api, 0xAA, 0x3F, Api);
nix::ioctl_readwrite!(uffdio_register, 0xAA, 0x00, Register);

/// A userfaultfd for faults of user code, which every user may have.
fn userfaultfd() -> OwnedFd {
    const UFFD_USER_MODE_ONLY: libc::c_int = 1;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: it takes flags and answers a new descriptor, which nobody else owns.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, flags);
        OwnedFd::from_raw_fd(Errno::result(fd).unwrap().try_into().unwrap())
    };
    let mut api = Api {
        api: 0xAA,
        features: 0,
        ioctls: 0,
    };
    // SAFETY: the structure is the kernel's and lives through the call.
    unsafe { uffdio_api(fd.as_raw_fd(), &raw mut api) }.unwrap();
    fd
}

fn register(uffd: &OwnedFd, memory: &MmapMut) {
    let mut request = Register {
        start: memory.as_ptr() as u64,
        len: memory.len() as u64,
        mode: 1,
        ioctls: 0,
    };
    // SAFETY: as above; the mapping outlives the registration, and from now on only reads wait for its pages.
    unsafe { uffdio_register(uffd.as_raw_fd(), &raw mut request) }.unwrap();
}

/// What CRIU restores: memory without its pages, and the file that has them.
struct Restored {
    directory: tempfile::TempDir,
    listener: UnixListener,
    memory: MmapMut,
    uffd: OwnedFd,
}

impl Restored {
    fn new(pages: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(SOCKET)).unwrap();
        let memory = MmapMut::map_anon((pages * PAGE) as usize).unwrap();
        // Page N holds the byte N + 1.
        let content: Vec<u8> = (0..pages)
            .flat_map(|page| [(page as u8).wrapping_add(1); PAGE as usize])
            .collect();
        fs::write(directory.path().join("pages"), content).unwrap();
        Self {
            directory,
            listener,
            memory,
            uffd: userfaultfd(),
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("pages")
    }

    /// `count` pages from page `page` on lie in the file from page `offset` on.
    fn run(&self, page: u64, count: u64, offset: u64) -> Run {
        Run {
            address: self.memory.as_ptr() as u64 + page * PAGE,
            length: count * PAGE,
            offset: offset * PAGE,
        }
    }

    fn open(&self, runs: Vec<Run>) -> Memory {
        Memory::open(PID, &self.file(), runs, PAGE).unwrap()
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join(SOCKET)).unwrap()
    }

    fn announce(&self, criu: &mut UnixStream, pid: i32) {
        criu.write_all(&pid.to_ne_bytes()).unwrap();
        let descriptors = [self.uffd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&*criu, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
    }

    /// The first byte of a page, which waits for it.
    fn touch(&self, page: u64) -> u8 {
        // SAFETY: the page is inside of the mapping. The kernel writes to it meanwhile, so the compiler must not know.
        unsafe { self.memory.as_ptr().add((page * PAGE) as usize).read_volatile() }
    }

    /// All bytes of a page.
    fn page(&self, page: u64) -> &[u8] {
        &self.memory[(page * PAGE) as usize..][..PAGE as usize]
    }
}

/// Why the kernel does not take all of it, when CRIU says at once all that it has to say.
fn refused(restored: &Restored, memory: &Memory) -> Errno {
    let (stop, _running) = io::pipe().unwrap();
    let mut criu = restored.connect();
    restored.announce(&mut criu, PID);
    finish(&mut criu);
    match fill_in(&restored.listener, memory, &stop) {
        Err(FillError::Copy { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn finish(criu: &mut UnixStream) {
    criu.write_all(&FINISHED.to_ne_bytes()).unwrap();
}

#[test]
fn all_of_it_is_there_when_it_returns() {
    let restored = Restored::new(2048);
    // Page 0 is in no run; the others are moved by one.
    let memory = restored.open(vec![restored.run(1, 1000, 0), restored.run(1001, 1047, 1000)]);
    let (stop, _running) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut criu = restored.connect();
            restored.announce(&mut criu, PID);
            std::thread::sleep(Duration::from_millis(20));
            register(&restored.uffd, &restored.memory);
            // As CRIU's restorer does; before it has said that it is done.
            assert_eq!(restored.touch(2000), 2000u64 as u8);
            assert_eq!(restored.touch(0), 0);
            finish(&mut criu);
        });
        fill_in(&restored.listener, &memory, &stop).unwrap();
    });
    for page in 0..2048 {
        assert!(
            restored.page(page).iter().all(|byte| *byte == page as u8),
            "page {page}"
        );
    }
}

#[test]
fn nothing_is_registered_late() {
    let restored = Restored::new(4);
    let memory = restored.open(vec![restored.run(0, 4, 0)]);
    assert_eq!(refused(&restored, &memory), Errno::ENOENT);
}

#[test]
fn a_criu_that_dies_is_noticed() {
    for announced in [false, true] {
        let restored = Restored::new(4);
        register(&restored.uffd, &restored.memory);
        let memory = restored.open(vec![restored.run(0, 4, 0)]);
        let (stop, _running) = io::pipe().unwrap();
        let mut criu = restored.connect();
        if announced {
            restored.announce(&mut criu, PID);
        }
        drop(criu);
        let filled = fill_in(&restored.listener, &memory, &stop);
        assert!(matches!(filled, Err(FillError::Gone)), "{filled:?}");
    }
}

#[test]
fn it_can_be_stopped_at_any_time() {
    for step in 0..3 {
        let restored = Restored::new(4);
        let memory = restored.open(vec![restored.run(0, 4, 0)]);
        let (stop, running) = io::pipe().unwrap();
        let mut criu = (step > 0).then(|| restored.connect());
        if let Some(criu) = criu.as_mut().filter(|_| step > 1) {
            // Never registered: it waits for that.
            restored.announce(criu, PID);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                drop(running);
            });
            let filled = fill_in(&restored.listener, &memory, &stop);
            assert!(matches!(filled, Err(FillError::Stopped)), "{filled:?}");
        });
    }
}

#[test]
fn another_process_is_refused() {
    for pid in [8, -7, 0] {
        let restored = Restored::new(1);
        let memory = restored.open(vec![restored.run(0, 1, 0)]);
        let (stop, _running) = io::pipe().unwrap();
        let mut criu = restored.connect();
        restored.announce(&mut criu, pid);
        let filled = fill_in(&restored.listener, &memory, &stop);
        assert!(
            matches!(filled, Err(FillError::Process(other)) if other == pid),
            "{filled:?}"
        );
    }
}

/// As a huge page would be that the kernel gave CRIU for the page beside it.
#[test]
fn a_page_that_is_there_already_is_an_error() {
    let mut restored = Restored::new(8);
    restored.memory[5 * PAGE as usize] = 0;
    register(&restored.uffd, &restored.memory);
    let memory = restored.open(vec![restored.run(0, 8, 0)]);
    assert_eq!(refused(&restored, &memory), Errno::EEXIST);
}

/// A file that has become shorter since it was opened must not end the shim.
#[test]
fn pages_that_are_gone_are_an_error() {
    let restored = Restored::new(8);
    register(&restored.uffd, &restored.memory);
    let memory = restored.open(vec![restored.run(0, 8, 0)]);
    fs::File::options()
        .write(true)
        .open(restored.file())
        .unwrap()
        .set_len(4 * PAGE)
        .unwrap();
    assert_eq!(refused(&restored, &memory), Errno::EFAULT);
}

#[test]
fn runs_have_to_fit() {
    let restored = Restored::new(4);
    for (bad, runs) in [
        (0, vec![restored.run(0, 5, 0)]),
        (0, vec![restored.run(0, 2, 3)]),
        (
            0,
            vec![Run {
                length: 1,
                ..restored.run(0, 1, 0)
            }],
        ),
        (
            0,
            vec![Run {
                address: u64::MAX - PAGE + 1,
                ..restored.run(0, 2, 0)
            }],
        ),
        (
            0,
            vec![Run {
                offset: u64::MAX - PAGE + 1,
                ..restored.run(0, 2, 0)
            }],
        ),
        (1, vec![restored.run(1, 1, 0), restored.run(0, 1, 1)]),
        (1, vec![restored.run(0, 2, 0), restored.run(1, 1, 2)]),
    ] {
        let opened = Memory::open(PID, &restored.file(), runs, PAGE);
        assert!(
            matches!(opened, Err(FillError::Run(index)) if index == bad),
            "{opened:?}"
        );
    }
    let missing = restored.directory.path().join("missing");
    let opened = Memory::open(PID, &missing, Vec::new(), PAGE);
    assert!(matches!(opened, Err(FillError::Map { .. })), "{opened:?}");
}
