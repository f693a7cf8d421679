//! The conversation with CRIU, and with the process that it restores.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use crate::fill::Fill;
use crate::protocol::{self, Message};
use crate::uffd::{Event, Uffd};
use crate::{FillError, Memory};

pub(crate) fn run(
    listener: &UnixListener,
    memory: &Memory,
    stop: &PipeReader,
    workers: usize,
) -> Result<(), FillError> {
    wait([Some(listener.as_fd())], stop)?;
    let (criu, _) = listener.accept().map_err(FillError::Socket)?;
    let uffd = take_over(&criu, memory, stop)?;
    let fill = Fill::new(memory, &uffd);
    // The threads hold the one end, and it is closed when the last of them has ended.
    let (ended, working) = io::pipe().map_err(FillError::Socket)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let working = working.try_clone();
                let fill = &fill;
                scope.spawn(move || {
                    let _working = working.map_err(FillError::Socket)?;
                    fill.work()
                })
            })
            .collect();
        drop(working);
        let served = serve(&criu, &fill, &uffd, stop, &ended);
        if served.is_err() {
            fill.stopped.store(true, Ordering::Relaxed);
        }
        // A thread that was told to stop has nothing to say; the one that failed first has.
        let mut first = served;
        for thread in threads {
            let worked = thread.join().unwrap_or(Err(FillError::Stopped));
            if matches!(first, Ok(()) | Err(FillError::Stopped)) && worked.is_err() {
                first = worked;
            }
        }
        first
    })
}

/// The userfaultfd of the process.
fn take_over(criu: &UnixStream, memory: &Memory, stop: &PipeReader) -> Result<Uffd, FillError> {
    wait([Some(criu.as_fd())], stop)?;
    match protocol::next(criu)? {
        Message::Process(pid, uffd) if pid == memory.pid => Ok(uffd.into()),
        Message::Process(pid, _) => Err(FillError::Process(pid)),
        Message::Finished | Message::End => Err(FillError::Gone),
    }
}

/// Brings what the process waits for, until the threads have ended and CRIU is done.
fn serve(
    criu: &UnixStream,
    fill: &Fill<'_>,
    uffd: &Uffd,
    stop: &PipeReader,
    ended: &PipeReader,
) -> Result<(), FillError> {
    let (mut finished, mut filled) = (false, false);
    while !(finished && filled) {
        let criu_speaks = (!finished).then_some(criu.as_fd());
        let threads_end = (!filled).then_some(ended.as_fd());
        let [fault, spoke, end] = wait([Some(uffd.as_fd()), criu_speaks, threads_end], stop)?;
        if fault {
            answer(fill, uffd)?;
        }
        filled |= end;
        if spoke {
            match protocol::next(criu)? {
                Message::Finished => {
                    finished = true;
                    fill.registered.store(true, Ordering::Release);
                }
                Message::Process(pid, _) => return Err(FillError::Process(pid)),
                Message::End => return Err(FillError::Gone),
            }
        }
    }
    Ok(())
}

/// All that the process has said.
fn answer(fill: &Fill<'_>, uffd: &Uffd) -> Result<(), FillError> {
    while let Some(event) = uffd.event().map_err(FillError::Wait)? {
        match event {
            Event::Fault(address) => fill.serve(address)?,
            Event::Other(event) => return Err(FillError::Event(event)),
        }
    }
    Ok(())
}

/// Which of these have something to read, or have ended: waits until one has, or the other end of `stop` is closed.
fn wait<const N: usize>(
    sources: [Option<BorrowedFd<'_>>; N],
    stop: &PipeReader,
) -> Result<[bool; N], FillError> {
    let given = sources.iter().flatten().copied().chain([stop.as_fd()]);
    let mut polled: Vec<_> = given
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    while let Err(errno) = poll(&mut polled, None) {
        if errno != rustix::io::Errno::INTR {
            return Err(FillError::Wait(errno.into()));
        }
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    let found = sources.map(|source| source.is_some() && ready.next() == Some(true));
    if ready.next() == Some(true) {
        return Err(FillError::Stopped);
    }
    Ok(found)
}
