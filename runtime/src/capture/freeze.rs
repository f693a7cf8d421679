//! Step 2: memory and files are copied while everything stands still.
//!
//! CRIU owns the freeze, from the first process to the last: it stops them, dumps them, calls the script below while
//! they stand still (`post-dump`, CRIU's `cr_dump_finish`), and lets them go on, also when the script fails. So
//! nobody has to be there to let them go on: this process may be killed at any moment. (`runc pause` and `runc resume`
//! around the dump would leave the application frozen then.) With `--stop` the processes are killed only after the
//! script has succeeded.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thaw_config::NodeConfig;

use super::find::Donor;
use super::refuse::Watched;
use super::room::Room;
use super::{CaptureError, Request, RootfsError, dump};
use crate::rootfs::{self, Marks};

/// The first argument with which the helper program is called to write the rootfs diff; then the upper directory and
/// the file to write.
pub const ROOTFS_VERB: &str = "rootfs-diff";

/// The most that is read of what the script says when it fails.
const WORDS_LIMIT: usize = 1000;

/// A dump on this node's disk; goes when dropped.
#[derive(Debug)]
pub(super) struct Dump {
    /// What keeps the files.
    pub(super) directory: Room,
    /// The tar of root filesystem changes, if there are any.
    pub(super) rootfs: Option<PathBuf>,
    /// How long it took.
    pub(super) frozen: Duration,
}

pub(super) async fn take(
    config: &NodeConfig,
    request: &Request,
    donor: &Donor,
    watched: &Watched,
) -> Result<Dump, CaptureError> {
    let directory = Room::make(config)?;
    let work = directory.path().join("work");
    let told = watched.write(&work);
    told.map_err(|source| CaptureError::Room { path: work, source })?;
    let tar = directory.path().join("rootfs.tar");
    let words = directory.path().join("rootfs.err");
    let script = directory.path().join("while-frozen");
    write_script(&script, request, donor, &tar, &words)?;
    let since = Instant::now();
    let dumped = dump::dump(donor, request, directory.path(), &script, dump::LIMIT).await;
    let measured = since.elapsed();
    if let Err(error) = dumped {
        // CRIU only knows that its script failed.
        let said = fs::read_to_string(&words).unwrap_or_default();
        if said.is_empty() {
            return Err(error);
        }
        return Err(CaptureError::Rootfs {
            said: said.chars().take(WORDS_LIMIT).collect(),
        });
    }
    let stats = fs::read(directory.path().join("work/stats-dump")).unwrap_or_default();
    Ok(Dump {
        rootfs: tar.exists().then_some(tar),
        frozen: thaw_criu::stats::frozen_time(&stats).map_or(measured, Duration::from_micros),
        directory,
    })
}

/// CRIU calls its script for many events, with the event in the environment.
fn write_script(
    script: &Path,
    request: &Request,
    donor: &Donor,
    tar: &Path,
    words: &Path,
) -> Result<(), CaptureError> {
    let fail = |source| CaptureError::Room {
        path: script.to_owned(),
        source,
    };
    let quoted = [&request.helper, &donor.upper, tar, words].map(quote);
    let [Some(helper), Some(upper), Some(tar), Some(words)] = quoted else {
        return Err(fail(io::Error::from(io::ErrorKind::InvalidFilename)));
    };
    let text = format!(
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = post-dump ] || exit 0\n\
         exec {helper} {ROOTFS_VERB} {upper} {tar} 2>{words}\n"
    );
    fs::write(script, text)
        .and_then(|()| fs::set_permissions(script, Permissions::from_mode(0o700)))
        .map_err(fail)
}

/// A path as one word of the shell. `None` for one that no shell takes.
fn quote(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    Some(format!("'{}'", text.replace('\'', r"'\''")))
}

/// What the script does: writes the changes of the root filesystem to `tar`, or nothing when there are none.
///
/// # Errors
/// See [`RootfsError`].
pub fn write_rootfs_diff(upper: &Path, tar: &Path) -> Result<(), RootfsError> {
    if rootfs::is_empty(upper).map_err(|source| RootfsError::File {
        path: upper.to_owned(),
        source,
    })? {
        return Ok(());
    }
    let fail = |source| RootfsError::File {
        path: tar.to_owned(),
        source,
    };
    let mut out = BufWriter::with_capacity(1 << 20, File::create_new(tar).map_err(fail)?);
    rootfs::diff(upper, Marks::Trusted, &mut out).map_err(RootfsError::Diff)?;
    out.flush().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_stays_one_word() {
        assert_eq!(quote(Path::new("/a b/c'd")).as_deref(), Some(r"'/a b/c'\''d'"));
    }
}
