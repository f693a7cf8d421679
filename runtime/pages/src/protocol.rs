//! What CRIU sends: `criu/uffd.c: send_uffd, lazy_pages_finish_restore`.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::FillError;

/// `LAZY_PAGES_RESTORE_FINISHED`, in the byte order of the machine. No pid is that large.
const FINISHED: u32 = 0x5253_5446;

/// One message.
#[derive(Debug)]
pub(crate) enum Message {
    /// The userfaultfd of the process with this pid.
    Process(i32, OwnedFd),
    /// All is restored.
    Finished,
    /// There was none: CRIU has closed the connection.
    End,
}

/// The next message. CRIU sends each at once, so that this does not wait when there is something to read.
pub(crate) fn next(criu: &UnixStream) -> Result<Message, FillError> {
    let Some(word) = read_word(criu).map_err(FillError::Socket)? else {
        return Ok(Message::End);
    };
    if word == FINISHED {
        return Ok(Message::Finished);
    }
    let pid = word.cast_signed();
    // A zombie has no memory, and CRIU says so with a negative pid; there is none where there is one process.
    if pid <= 0 {
        return Err(FillError::Process(pid));
    }
    let fd = read_descriptor(criu).map_err(FillError::Socket)?;
    Ok(Message::Process(pid, fd))
}

fn read_word(criu: &UnixStream) -> io::Result<Option<u32>> {
    let mut word = [0u8; 4];
    let mut have = 0;
    while have < word.len() {
        match rustix::io::read(criu, &mut word[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => have += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Some(u32::from_ne_bytes(word)))
}

fn read_descriptor(criu: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        criu,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let sent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    sent.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
