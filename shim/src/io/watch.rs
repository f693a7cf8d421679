//! Looking for a line in the output of a container, for the probe `log:REGEX`.
//!
//! Only a container that asks for it has its output looked at, and only until the line has come or its time is over.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use regex::bytes::Regex;

/// As much of a line is looked at, in bytes.
const LONGEST: usize = 4096;

/// What is looked for in all output of one container.
#[derive(Debug)]
pub struct Watch {
    pattern: Regex,
    /// The file to make when it has come.
    seen: PathBuf,
    /// Nobody waits for it after this.
    until: Instant,
    over: AtomicBool,
}

impl Watch {
    /// Looks for `pattern` until then, and makes the file `seen` when it has come.
    #[must_use]
    pub fn new(pattern: Regex, seen: PathBuf, until: Instant) -> Self {
        Self {
            pattern,
            seen,
            until,
            over: AtomicBool::new(false),
        }
    }

    /// Lines that end here or go on in the next piece.
    fn matched(&self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !self.pattern.is_match(line) {
            return false;
        }
        // Without it the application is never ready, which the capture tells.
        if let Err(error) = File::create(&self.seen) {
            log::warn!("make {}: {error}", self.seen.display());
        }
        true
    }
}

/// The lines of one stream.
#[derive(Debug)]
pub(super) struct Lines {
    watch: Arc<Watch>,
    /// The beginning of a line that has not ended.
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            begun: Vec::new(),
        }
    }

    /// Looks at what was read; `false` when there is nothing more to look for.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> bool {
        let watch = &*self.watch;
        if watch.over.load(Ordering::Relaxed) {
            return false;
        }
        let mut pieces = bytes.split_inclusive(|byte| *byte == b'\n');
        let over = Instant::now() >= watch.until
            || pieces.any(|piece| {
                let (text, ended) = match piece.strip_suffix(b"\n") {
                    Some(text) => (text, true),
                    None => (piece, false),
                };
                let room = LONGEST.saturating_sub(self.begun.len());
                self.begun.extend_from_slice(&text[..text.len().min(room)]);
                let found = ended && watch.matched(&self.begun);
                if ended {
                    self.begun.clear();
                }
                found
            });
        if over {
            watch.over.store(true, Ordering::Relaxed);
        }
        !over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_may_come_in_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let seen = directory.path().join("seen");
        let until = Instant::now() + Duration::from_secs(60);
        let pattern = Regex::new("(?-u)^listening on \\d+$").unwrap();
        let watch = Arc::new(Watch::new(pattern, seen.clone(), until));
        let (mut out, mut err) = (Lines::new(Arc::clone(&watch)), Lines::new(watch));
        assert!(out.feed(b"booting\nnot listening on 1\nlisten"));
        assert!(err.feed(b"ing on 80\n"));
        assert!(out.feed(b"ing on 80"));
        assert!(!seen.exists());
        assert!(!out.feed(b"00\r\nmore"));
        assert!(seen.exists());
        assert!(!err.feed(b"listening on 1\n"));
    }

    #[test]
    fn long_lines_and_long_waits_cost_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let seen = directory.path().join("seen");
        let until = Instant::now() + Duration::from_secs(60);
        let watch = Watch::new(Regex::new("end$").unwrap(), seen.clone(), until);
        let mut lines = Lines::new(Arc::new(watch));
        for _ in 0..100 {
            assert!(lines.feed(&[b'x'; 10_000]));
        }
        assert!(lines.begun.len() <= LONGEST);
        assert!(lines.feed(b"end\n") && !seen.exists());
        let late = Watch::new(Regex::new(".").unwrap(), seen, Instant::now());
        assert!(!Lines::new(Arc::new(late)).feed(b"a\n"));
    }
}
