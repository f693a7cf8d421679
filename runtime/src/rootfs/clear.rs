//! Taking back what was applied.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::RootAttributes;
use super::place::{open_beneath, open_upper};

/// Removes everything below `upper`, and gives `upper` the attributes that it had before [`super::apply`].
///
/// Follows no symbolic link and enters no mount. The overlay must not be mounted.
///
/// # Errors
/// The first file that could not be removed ends it.
pub fn clear(upper: &Path, before: &RootAttributes) -> io::Result<()> {
    empty(open_upper(upper)?)?;
    before.restore(upper)
}

fn empty(directory: OwnedFd) -> io::Result<()> {
    let mut listing = Dir::from_fd(directory.try_clone()?)?;
    let names: Vec<CString> = listing
        .iter()
        .map(|entry| Ok(entry?.file_name().to_owned()))
        .filter(|name: &io::Result<CString>| {
            !name.as_ref().is_ok_and(|n| matches!(n.to_bytes(), b"." | b".."))
        })
        .collect::<io::Result<_>>()?;
    // One descriptor per level, not two.
    drop(listing);
    for name in names {
        match unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {}
            // Linux answers EISDIR for a directory (unlink(2)).
            Err(Errno::EISDIR) => {
                empty(open_beneath(
                    &directory,
                    Path::new(OsStr::from_bytes(name.to_bytes())),
                )?)?;
                unlinkat(&directory, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
