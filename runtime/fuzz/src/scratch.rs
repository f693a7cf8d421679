//! Folders for targets that write files.

use std::path::Path;

use tempfile::TempDir;

/// A new folder, in memory where that is possible: a fuzzer makes thousands of them in a second.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.unwrap_or_else(|error| panic!("make a temporary folder: {error}"))
}
