//! What can go wrong with a runc call, and the one place where runc's words are read.
//!
//! runc has no error codes: every failure is exit status 1 and a line of text. Where a caller must decide by the kind
//! of failure, [`RuncError::class`] looks at the text, and nothing else in the project does.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde::Deserialize;

/// The most that is read back of runc's log for one call.
const LOG_LIMIT: u64 = 64 << 10;

/// A runc call that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuncError {
    /// The process could not be started.
    #[error("start {} {verb}", binary.display())]
    Spawn {
        /// The verb.
        verb: &'static str,
        /// The binary.
        binary: PathBuf,
        /// What `fork` or `exec` answered.
        #[source]
        source: io::Error,
    },
    /// Its end could not be learned.
    #[error("wait for runc {verb}")]
    Wait {
        /// The verb.
        verb: &'static str,
        /// What `wait` answered.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("runc {verb} did not end within {seconds} s")]
    Deadline {
        /// The verb.
        verb: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// Its CRIU has ended, and runc did not notice; both were killed, with what CRIU had made.
    #[error("runc {verb}: CRIU ended by {how} and left runc waiting")]
    CriuDied {
        /// The verb.
        verb: &'static str,
        /// A signal or an exit code.
        how: String,
    },
    /// It ended with an error.
    #[error("runc {verb}: {status}: {detail}")]
    Failed {
        /// The verb.
        verb: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// runc's last error line, from its log or from standard error.
        detail: String,
    },
    /// A file that goes with the call could not be written or read.
    #[error("use {} for runc {verb}", path.display())]
    File {
        /// The verb.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// What it printed, or what it was to be given, is not the JSON that the verb speaks.
    #[error("understand the JSON of runc {verb}")]
    Json {
        /// The verb.
        verb: &'static str,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A pid file did not hold a process id.
    #[error("understand the pid {text:?} that runc {verb} wrote")]
    Pid {
        /// The verb.
        verb: &'static str,
        /// What the file held.
        text: String,
    },
}

/// The kinds of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The process or container has ended, so there is nothing to send a signal to.
    Ended,
    /// runc does not know the container.
    Unknown,
    /// Anything else.
    Other,
}

impl RuncError {
    /// runc's own words when there are any, else what was attempted.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Failed { detail, .. } if !detail.is_empty() => detail.clone(),
            Self::Spawn { binary, source, .. } => format!("{}: {source}", binary.display()),
            other => other.to_string(),
        }
    }

    /// The kind of failure.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Failed { detail, .. } => classify(detail),
            _ => Class::Other,
        }
    }
}

/// runc 1.0 to 1.4; the texts are in its `libcontainer/error.go`, `kill.go` and `utils_linux.go`.
fn classify(detail: &str) -> Class {
    const ENDED: [&str; 4] = [
        "process already finished",
        "container not running",
        "no such process",
        "container init not running",
    ];
    let detail = detail.to_ascii_lowercase();
    if ENDED.iter().any(|text| detail.contains(text)) {
        Class::Ended
    } else if detail.contains("does not exist") {
        Class::Unknown
    } else {
        Class::Other
    }
}

/// Where the log ends now, so that the lines of the next call can be told from older ones.
pub(crate) fn log_end(log: &Path) -> u64 {
    log.metadata().map_or(0, |meta| meta.len())
}

/// The message of the last line of level error that was written to `log` from `start` on.
pub(crate) fn last_error_since(log: &Path, start: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut text = Vec::new();
    file.take(LOG_LIMIT).read_to_end(&mut text).ok()?;
    last_error(&String::from_utf8_lossy(&text))
}

fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    log.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .find(|line| line.level == "error" || line.level == "fatal")
        .map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runc_1_1_and_1_3_texts_are_known() {
        for (text, class) in [
            ("container not running", Class::Ended),
            ("os: process already finished", Class::Ended),
            ("unable to signal init: no such process", Class::Ended),
            ("container \"x\" does not exist", Class::Unknown),
            ("container does not exist", Class::Unknown),
            ("cannot pause a stopped container", Class::Other),
        ] {
            assert_eq!(classify(text), class, "{text}");
        }
    }

    #[test]
    fn the_last_error_line_of_the_log_is_the_detail() {
        let log = "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"t\"}\n\
                   {\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"second\"}\n\
                   {\"level\":\"info\",\"msg\":\"i\"}\nnot json\n";
        assert_eq!(last_error(log).as_deref(), Some("second"));
        assert_eq!(last_error("{}"), None);
    }

    #[test]
    fn only_lines_of_this_call_count() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.json");
        assert_eq!(log_end(&log), 0);
        std::fs::write(&log, "{\"level\":\"error\",\"msg\":\"old\"}\n").unwrap();
        assert_eq!(last_error_since(&log, log_end(&log)), None);
        assert_eq!(last_error_since(&log, 0).as_deref(), Some("old"));
    }
}
