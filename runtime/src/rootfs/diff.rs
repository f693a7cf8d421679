//! From an upper directory to an archive.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use thiserror::Error;

use super::entry::{Archive, Attributes};
use super::sparse::{Segment, SegmentReader};
use super::{Marks, OPAQUE, Stats, WHITEOUT, sparse};

/// Why the changes could not be taken. Paths are relative to the upper directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiffError {
    /// A file or directory could not be read.
    #[error("can't read {path:?} in the overlay's upper directory")]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The archive could not be written, or a file could not be read to its end while it was.
    #[error("can't add {path:?} to the archive of changes")]
    Write {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The overlay keeps something about this file that a layer can't say: `redirect`, `metacopy`, or the marks of
    /// an overlay inside this one.
    #[error("{path:?} has the overlay attribute {attribute:?}, which an archive of changes can't hold")]
    Overlay {
        /// Which file.
        path: PathBuf,
        /// Which attribute.
        attribute: OsString,
    },
    /// An attribute whose name can't be written down.
    #[error("{path:?} has the attribute {attribute:?}, whose name an archive can't hold")]
    Attribute {
        /// Which file.
        path: PathBuf,
        /// Which attribute.
        attribute: OsString,
    },
    /// A file that is called as if it were a whiteout.
    #[error("{0:?} is named like a whiteout")]
    ReservedName(PathBuf),
    /// A device node: no node would accept it from a store.
    #[error("{0:?} is a device node")]
    Device(PathBuf),
}

/// Writes the changes in `upper` to `out` as an archive. The container must not run meanwhile.
///
/// # Errors
/// See [`DiffError`]; `out` then holds a piece of an archive.
pub fn diff(upper: &Path, marks: Marks, out: &mut dyn Write) -> Result<Stats, DiffError> {
    let mut walk = Walk {
        upper,
        marks,
        archive: Archive::new(out),
        linked: HashMap::new(),
        stats: Stats::default(),
    };
    walk.directory(Path::new(""))?;
    let Walk { archive, stats, .. } = walk;
    archive.finish().map_err(|source| DiffError::Write {
        path: PathBuf::new(),
        source,
    })?;
    Ok(stats)
}

struct Walk<'a> {
    upper: &'a Path,
    marks: Marks,
    archive: Archive<'a>,
    /// First path of each file that has several, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
    stats: Stats,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path) -> Result<(), DiffError> {
        let full = self.upper.join(path);
        let read = |source| DiffError::Read {
            path: path.to_owned(),
            source,
        };
        let found = fs::symlink_metadata(&full).map_err(read)?;
        let (attributes, opaque) = self.attributes(path, &found)?;
        self.stats.entries += 1;
        let wrote = self.archive.directory(path, &attributes);
        self.written(path, wrote)?;
        if opaque {
            self.stats.entries += 1;
            let marker = path.join(OsStr::from_bytes(OPAQUE));
            let wrote = self.archive.marker(&marker);
            self.written(&marker, wrote)?;
        }
        let mut names = fs::read_dir(&full)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(read)?;
        // Always the same archive for the same tree.
        names.sort();
        names.into_iter().try_for_each(|name| self.child(path, &name))
    }

    fn child(&mut self, parent: &Path, name: &OsStr) -> Result<(), DiffError> {
        let path = parent.join(name);
        if name.as_bytes().starts_with(WHITEOUT) {
            return Err(DiffError::ReservedName(path));
        }
        let found = fs::symlink_metadata(self.upper.join(&path)).map_err(|source| DiffError::Read {
            path: path.clone(),
            source,
        })?;
        let kind = found.file_type();
        if kind.is_dir() {
            return self.directory(&path);
        }
        if kind.is_socket() {
            return Ok(());
        }
        self.stats.entries += 1;
        if kind.is_char_device() && found.rdev() == 0 {
            let mut marker = OsString::from_vec(WHITEOUT.to_vec());
            marker.push(name);
            let marker = parent.join(marker);
            let wrote = self.archive.marker(&marker);
            return self.written(&path, wrote);
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Err(DiffError::Device(path));
        }
        if found.nlink() > 1 {
            let inode = (found.dev(), found.ino());
            if let Some(first) = self.linked.get(&inode) {
                let wrote = self.archive.hard_link(&path, first);
                return self.written(&path, wrote);
            }
            self.linked.insert(inode, path.clone());
        }
        self.leaf(&path, &found)
    }

    fn leaf(&mut self, path: &Path, found: &Metadata) -> Result<(), DiffError> {
        let full = self.upper.join(path);
        let (attributes, _) = self.attributes(path, found)?;
        let wrote = if found.is_file() {
            return self.file(path, &full, found, &attributes);
        } else if found.is_symlink() {
            fs::read_link(&full).and_then(|target| self.archive.symlink(path, &target, &attributes))
        } else {
            self.archive.fifo(path, &attributes)
        };
        self.written(path, wrote)
    }

    fn file(&mut self, path: &Path, full: &Path, found: &Metadata, of: &Attributes) -> Result<(), DiffError> {
        let read = |source| DiffError::Read {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(full)
            .map_err(read)?;
        let size = found.size();
        let segments = segments(&file, found).map_err(read)?;
        self.stats.bytes += segments.iter().map(|segment| segment.length).sum::<u64>();
        let wrote = if segments
            == [Segment {
                offset: 0,
                length: size,
            }]
            || size == 0
        {
            self.archive
                .file(path, of, size, SegmentReader::new(&file, segments))
        } else {
            self.archive.sparse_file(path, of, size, &file, segments)
        };
        self.written(path, wrote)
    }

    fn written(&self, path: &Path, result: io::Result<()>) -> Result<(), DiffError> {
        result.map_err(|source| DiffError::Write {
            path: path.to_owned(),
            source,
        })
    }

    /// What goes with the entry, and whether the overlay calls it opaque.
    fn attributes(&self, path: &Path, found: &Metadata) -> Result<(Attributes, bool), DiffError> {
        let mut attributes = Attributes::of(found);
        // Linux has neither user.* nor security.capability on anything else.
        if !found.is_dir() && !found.is_file() {
            return Ok((attributes, false));
        }
        let full = self.upper.join(path);
        let read = |source| DiffError::Read {
            path: path.to_owned(),
            source,
        };
        let root = path.as_os_str().is_empty();
        let mut opaque = false;
        for name in xattr::list(&full).map_err(read)? {
            let value = || {
                xattr::get(&full, &name)
                    .map(Option::unwrap_or_default)
                    .map_err(read)
            };
            if let Some(mark) = name.as_bytes().strip_prefix(self.marks.prefix()) {
                // "overlay." twice: the mark of an overlay that the container itself has mounted.
                if matches!(mark, b"redirect" | b"metacopy") || mark.starts_with(b"overlay.") {
                    return Err(DiffError::Overlay {
                        path: path.to_owned(),
                        attribute: name,
                    });
                }
                opaque |= !root && mark == b"opaque" && value()? == b"y";
            } else if !root
                && (name.as_bytes() == b"security.capability" || name.as_bytes().starts_with(b"user."))
            {
                let value = value()?;
                match name.to_str() {
                    Some(text) if !text.contains(['=', '\n']) => {
                        attributes.xattrs.push((text.to_owned(), value))
                    }
                    _ => {
                        return Err(DiffError::Attribute {
                            path: path.to_owned(),
                            attribute: name,
                        });
                    }
                }
            }
        }
        attributes.xattrs.sort();
        Ok((attributes, opaque))
    }
}

/// Where the data is. Asked for only when the file takes less room than its size says.
fn segments(file: &File, found: &Metadata) -> io::Result<Vec<Segment>> {
    let size = found.size();
    // st_blocks counts in 512 bytes whatever the filesystem (stat(2)).
    if found.blocks().saturating_mul(512) >= size {
        return Ok(vec![Segment {
            offset: 0,
            length: size,
        }]);
    }
    sparse::find(file, size)
}
