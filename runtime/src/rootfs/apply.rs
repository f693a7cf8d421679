//! From an archive to an upper directory.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tar::{EntryType, Header};
use thiserror::Error;

use super::entry::Attributes;
use super::pax::{self, Records};
use super::place::{EntryPath, Place};
use super::{Limits, Marks, Stats, WHITEOUT, is_empty};

mod make;

/// Largest set of PAX records: the attributes of one file fit in 64 KiB (`XATTR_LIST_MAX`, and ext4 stores less).
const MOST_RECORDS: u64 = 1 << 20;

/// Copied in pieces of this many bytes.
const PIECE: usize = 256 * 1024;

/// Why an archive was not applied. [`super::clear`] takes back what was done until then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The upper directory could not be opened.
    #[error("can't open the upper directory {path:?}")]
    Open {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something is in the upper directory already.
    #[error("the upper directory {0:?} is not empty")]
    NotEmpty(PathBuf),
    /// The archive could not be read, or is none.
    #[error("can't read the archive of changes")]
    Archive(#[source] io::Error),
    /// A file could not be made as the archive says.
    #[error("can't make {path:?} in the upper directory")]
    Make {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An entry whose name no archive of ours holds: `..`, an absolute path, `.wh.` in another place.
    #[error("entry {0} of the archive of changes has a name that is not allowed")]
    Name(u64),
    /// An entry of a kind that is not allowed: device nodes above all.
    #[error("{path:?} is of a kind that is not allowed in an archive of changes ({kind:?})")]
    Kind {
        /// Which.
        path: PathBuf,
        /// Type flag of the tar header.
        kind: u8,
    },
    /// A hard link to something that is no file of this archive.
    #[error("{0:?} is a hard link to something that is not a file of the same archive")]
    Link(PathBuf),
    /// An extended attribute that no archive of ours holds.
    #[error("{path:?} has the attribute {attribute:?}, which is not allowed in an archive of changes")]
    Attribute {
        /// Which file.
        path: PathBuf,
        /// Which attribute.
        attribute: String,
    },
    /// PAX records that are broken, or that no archive of ours holds.
    #[error("entry {entry} of the archive of changes has a bad PAX record ({key:?})")]
    Record {
        /// Number of the entry.
        entry: u64,
        /// Key of the record.
        key: String,
    },
    /// A header field out of range, or a map of holes that doesn't add up.
    #[error("entry {0} of the archive of changes contradicts itself")]
    Malformed(u64),
    /// More than the limits allow.
    #[error("the archive of changes holds more than {} entries or {} bytes", .0.entries, .0.bytes)]
    Limit(Limits),
    /// It took longer than it may.
    #[error("the archive of changes was not applied in time; {0} entries were")]
    Deadline(u64),
}

/// Puts the changes in `archive` into `upper`, which must be empty and not be mounted as part of an overlay. Gives up at
/// `until`.
///
/// # Errors
/// See [`ApplyError`]. What was applied until then stays, see [`super::clear`].
pub fn apply(
    archive: impl Read,
    upper: &Path,
    marks: Marks,
    limits: Limits,
    until: Instant,
) -> Result<Stats, ApplyError> {
    let open = |source| ApplyError::Open {
        path: upper.to_owned(),
        source,
    };
    if !is_empty(upper).map_err(open)? {
        return Err(ApplyError::NotEmpty(upper.to_owned()));
    }
    let place = Place::open(upper).map_err(open)?;
    let buffer = vec![0; PIECE];
    let mut target = Target {
        place,
        marks,
        limits,
        until,
        stats: Stats::default(),
        directories: Vec::new(),
        buffer,
    };
    let mut archive = tar::Archive::new(archive);
    let mut records = None;
    for entry in archive.entries().map_err(ApplyError::Archive)?.raw(true) {
        let mut entry = entry.map_err(ApplyError::Archive)?;
        let header = entry.header().clone();
        if header.entry_type() == EntryType::XHeader && records.is_none() {
            records = Some(target.records(&header, &mut entry)?);
        } else {
            target.entry(&header, records.take().unwrap_or_default(), &mut entry)?;
        }
    }
    target.finish()
}

struct Target {
    place: Place,
    marks: Marks,
    limits: Limits,
    until: Instant,
    stats: Stats,
    /// Times of directories are set last: making what is in them changes them.
    directories: Vec<(EntryPath, (i64, i64))>,
    buffer: Vec<u8>,
}

impl Target {
    fn records(&self, header: &Header, content: &mut impl Read) -> Result<Records, ApplyError> {
        let entry = self.stats.entries;
        if header.entry_size().map_err(ApplyError::Archive)? > MOST_RECORDS {
            return Err(ApplyError::Record {
                entry,
                key: String::new(),
            });
        }
        let mut data = Vec::new();
        content.read_to_end(&mut data).map_err(ApplyError::Archive)?;
        pax::parse(&data).map_err(|key| ApplyError::Record { entry, key })
    }

    fn in_time(&self) -> Result<(), ApplyError> {
        if Instant::now() > self.until {
            return Err(ApplyError::Deadline(self.stats.entries));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        records: Records,
        content: &mut impl Read,
    ) -> Result<(), ApplyError> {
        self.stats.entries += 1;
        let number = self.stats.entries;
        if number > self.limits.entries {
            return Err(ApplyError::Limit(self.limits));
        }
        self.in_time()?;
        let kind = header.entry_type();
        let stored = header.entry_size().map_err(ApplyError::Archive)?;
        let name = records
            .path
            .clone()
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let path = entry_path(&name, kind).ok_or(ApplyError::Name(number))?;
        if kind != EntryType::Regular && (stored > 0 || records.sparse.is_some()) {
            return Err(ApplyError::Malformed(number));
        }
        let link = records
            .link
            .clone()
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let sparse = records.sparse;
        let of = attributes(header, records).ok_or(ApplyError::Malformed(number))?;
        check_attributes(self.marks, &path, kind, &of)?;
        let name = path.split().1.as_bytes();
        match kind {
            EntryType::Regular if name.starts_with(WHITEOUT) && stored == 0 => self.marker(&path, number),
            _ if name.starts_with(WHITEOUT) => Err(ApplyError::Name(number)),
            EntryType::Regular => self.file(&path, &of, stored, sparse, content),
            EntryType::Directory => self.directory(path, &of),
            EntryType::Link => self.hard_link(&path, &link),
            EntryType::Symlink => self.symlink(&path, &link, &of),
            EntryType::Fifo => self.fifo(&path, &of),
            _ => Err(ApplyError::Kind {
                path: path.as_path().to_owned(),
                kind: kind.as_byte(),
            }),
        }
    }
}

/// A directory's name ends with a slash, and `./` is the upper directory itself.
fn entry_path(name: &[u8], kind: EntryType) -> Option<EntryPath> {
    match kind {
        EntryType::Directory if name == b"./" => Some(EntryPath::root()),
        EntryType::Directory => EntryPath::parse(name.strip_suffix(b"/").unwrap_or(name)),
        _ => EntryPath::parse(name),
    }
}

/// `None` for numbers that Linux doesn't take.
fn attributes(header: &Header, records: Records) -> Option<Attributes> {
    let number = |field: io::Result<u64>| u32::try_from(field.ok()?).ok();
    let seconds = i64::try_from(header.mtime().ok()?).ok()?;
    Some(Attributes {
        mode: header.mode().ok()? & 0o7777,
        uid: number(header.uid())?,
        gid: number(header.gid())?,
        mtime: records.mtime.unwrap_or((seconds, 0)),
        xattrs: records.xattrs,
    })
}

/// Attributes may only be those that [`super::diff`] takes along: all others are for the kernel or for overlayfs.
fn check_attributes(
    marks: Marks,
    path: &EntryPath,
    kind: EntryType,
    of: &Attributes,
) -> Result<(), ApplyError> {
    let place = matches!(kind, EntryType::Regular | EntryType::Directory) && !path.is_root();
    let allowed = |name: &str| {
        place
            && (name == "security.capability" || name.starts_with("user."))
            && !name.as_bytes().starts_with(marks.prefix())
            && !name.contains('\0')
    };
    match of.xattrs.iter().find(|(name, _)| !allowed(name)) {
        Some((name, _)) => Err(ApplyError::Attribute {
            path: path.as_path().to_owned(),
            attribute: name.clone(),
        }),
        None => Ok(()),
    }
}
