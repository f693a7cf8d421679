//! The changes of the root filesystem, applied to a folder that they must not leave.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thaw_runtime::rootfs::{Limits, Marks, RootAttributes, apply, clear};

use crate::{archive, scratch};

const LIMITS: Limits = Limits {
    entries: 64,
    bytes: 64 << 10,
};

pub(crate) fn run(data: &[u8]) {
    let outside = Outside::new();
    let upper = outside.folder.path().join("upper");
    must(fs::create_dir(&upper));
    let before = must(RootAttributes::of(&upper));
    let soon = Instant::now() + Duration::from_secs(5);
    let result = apply(
        archive::mend(data).as_slice(),
        &upper,
        Marks::Trusted,
        LIMITS,
        soon,
    );
    if let Ok(stats) = result {
        assert!(
            stats.entries <= LIMITS.entries && stats.bytes <= LIMITS.bytes,
            "{stats:?}"
        );
    }
    look(&upper);
    outside.is_as_it_was();
    must(clear(&upper, &before));
    assert_eq!(must(RootAttributes::of(&upper)), before);
    assert_eq!(must(fs::read_dir(&upper)).count(), 0, "clear leaves something");
    outside.is_as_it_was();
}

/// What is beside the upper directory, where a `..` or a link would lead.
struct Outside {
    folder: TempDir,
    secret: Metadata,
}

impl Outside {
    fn new() -> Self {
        let folder = scratch::folder();
        must(fs::write(folder.path().join("secret"), "of the host"));
        must(fs::create_dir(folder.path().join("etc")));
        must(symlink("secret", folder.path().join("link")));
        let secret = must(fs::symlink_metadata(folder.path().join("secret")));
        Self { folder, secret }
    }

    fn is_as_it_was(&self) {
        let path = self.folder.path();
        assert_eq!(
            must(fs::read_dir(path)).count(),
            4,
            "something is beside the upper directory"
        );
        assert_eq!(
            must(fs::read_dir(path.join("etc"))).count(),
            0,
            "something is in a folder outside"
        );
        let secret = path.join("secret");
        assert_eq!(must(fs::read_to_string(&secret)), "of the host");
        let now = must(fs::symlink_metadata(&secret));
        let facts = |of: &Metadata| (of.mode(), of.uid(), of.gid(), of.nlink(), of.mtime(), of.ino());
        assert_eq!(facts(&now), facts(&self.secret), "a file outside was touched");
    }
}

/// Nothing that reaches out, and no mark of the overlay but the one for hidden folders.
fn look(folder: &Path) {
    for entry in must(fs::read_dir(folder)) {
        let path = must(entry).path();
        let found = must(fs::symlink_metadata(&path));
        let kind = found.file_type();
        let whiteout = kind.is_char_device() && found.rdev() == 0;
        assert!(
            whiteout || kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_fifo(),
            "{} is a {kind:?}",
            path.display()
        );
        for name in must(xattr::list(&path)) {
            let name = name.to_string_lossy().into_owned();
            let mark = name == "trusted.overlay.opaque" && kind.is_dir();
            let plain = name == "security.capability" || name.starts_with("user.");
            assert!(mark || plain, "{} has the attribute {name}", path.display());
        }
        if kind.is_dir() {
            look(&path);
        }
    }
}

fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
