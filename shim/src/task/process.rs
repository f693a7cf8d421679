//! One process: the init of a container, or one that was added by Exec.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::SystemTime;

use tokio::sync::watch;

use super::phase::Phase;
use crate::io::{Attached, Spec};

/// What waiters of an exec that never ran are told.
const NEVER_RAN: u32 = 255;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The exit code, or 128 and the signal's number.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

impl End {
    pub(super) fn new(status: ExitStatus, at: SystemTime) -> Self {
        const BY_SIGNAL: i32 = 128;
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| BY_SIGNAL + signal));
        Self {
            status: code.unwrap_or_default().cast_unsigned(),
            at,
        }
    }
}

/// What is known of one process.
#[derive(Debug)]
pub(super) struct Process {
    /// 0 until there is one.
    pub(super) pid: i32,
    pub(super) phase: Phase,
    pub(super) spec: Spec,
    /// The OCI process, as JSON; empty for init.
    pub(super) oci: Vec<u8>,
    pub(super) streams: Option<Attached>,
    /// Start or Resume is on its way: an exit waits in `early` until its event is out.
    pub(super) starting: bool,
    pub(super) early: Option<End>,
    end: watch::Sender<Option<End>>,
}

impl Process {
    pub(super) fn new(spec: Spec) -> Self {
        Self {
            pid: 0,
            phase: Phase::Created,
            spec,
            oci: Vec::new(),
            streams: None,
            starting: false,
            early: None,
            end: watch::Sender::new(None),
        }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<End> {
        *self.end.borrow()
    }

    /// To wait for the end without holding any lock.
    pub(super) fn watch(&self) -> watch::Receiver<Option<End>> {
        self.end.subscribe()
    }

    /// Its start is on its way. What waiters were told of an earlier one that failed is forgotten.
    pub(super) fn set_starting(&mut self) {
        self.starting = true;
        self.end.send_replace(None);
    }

    /// Its start has failed: nobody has to wait any longer, but as under the stock shim it still counts as created.
    pub(super) fn never_ran(&mut self) {
        self.starting = false;
        self.end.send_replace(Some(End {
            status: NEVER_RAN,
            at: SystemTime::now(),
        }));
    }

    /// Notes the end and wakes everybody who waits for it.
    pub(super) fn set_ended(&mut self, end: End) {
        self.phase = Phase::Stopped;
        self.end.send_replace(Some(end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_fails() {
        let mut process = Process::new(Spec::default());
        let waiter = process.watch();
        process.set_starting();
        process.never_ran();
        assert_eq!(waiter.borrow().map(|end| end.status), Some(NEVER_RAN));
        assert_eq!((process.phase, process.starting), (Phase::Created, false));
        process.set_starting();
        assert_eq!(process.ended(), None);
    }

    #[test]
    fn exit_codes() {
        let status = |raw| End::new(ExitStatus::from_raw(raw), SystemTime::UNIX_EPOCH).status;
        assert_eq!(status(0), 0);
        assert_eq!(status(3 << 8), 3);
        assert_eq!(status(9), 137);
        assert_eq!(status(34), 162);
    }
}
