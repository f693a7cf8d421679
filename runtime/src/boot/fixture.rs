//! Real images for the tests of the steps.

use std::collections::BTreeMap;
use std::path::Path;

use thaw_criu::Images;

/// A dump of runc's default container: root with CAP_AUDIT_WRITE, CAP_KILL and CAP_NET_BIND_SERVICE.
pub(super) fn sleep() -> Images {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("criu/tests/data/sleep");
    let files = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap());
    let read = |entry: std::fs::DirEntry| {
        (
            entry.file_name().into_string().unwrap(),
            std::fs::read(entry.path()).unwrap(),
        )
    };
    files.map(read).collect::<BTreeMap<_, _>>()
}
