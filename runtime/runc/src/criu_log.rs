//! CRIU's own words: runc only says that CRIU failed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The most that is read of a log; CRIU writes some hundred KB at log level 4 for a big container.
const LOG_LIMIT: u64 = 8 << 20;
/// The longest message that is passed on, in characters.
const MESSAGE_LIMIT: usize = 500;

/// Errors after which CRIU goes on: without CAP_SYS_RESOURCE it can't raise its own limit of open files
/// (`rlimit_unlimit_nofile` in util.c), and restores with the one it has.
const HARMLESS: [&str; 1] = ["rlimit: Can't setup RLIMIT_NOFILE"];

/// The first error in a log of CRIU, `dump.log` or `restore.log`, without time stamp and process id. The first is the
/// cause; the later ones are its consequences.
#[must_use]
pub fn first_error(log: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(log)
        .ok()?
        .take(LOG_LIMIT)
        .read_to_end(&mut text)
        .ok()?;
    find(&String::from_utf8_lossy(&text))
}

/// Lines look like `(00.123456)      1: Error (criu/files.c:12): text`.
fn find(log: &str) -> Option<String> {
    log.lines().find_map(|line| {
        let (_, message) = line.split_once("Error (")?;
        let (place, text) = message.split_once("): ")?;
        if HARMLESS.iter().any(|harmless| text.starts_with(harmless)) {
            return None;
        }
        let said = format!("{} ({place})", text.trim());
        Some(
            said.chars()
                .filter(|c| !c.is_control())
                .take(MESSAGE_LIMIT)
                .collect(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_counts() {
        let log = "(00.0) Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self: no\n\
                   (00.1) Warn  (criu/x.c:1): no\n(00.2)      1: Error (criu/files-reg.c:2143): File bad size\n\
                   (00.3) Error (criu/cr-restore.c:1): later\n";
        assert_eq!(
            find(log).as_deref(),
            Some("File bad size (criu/files-reg.c:2143)")
        );
        assert_eq!(find("(00.1) fine\n"), None);
    }
}
