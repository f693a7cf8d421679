//! Entries of the archive as [`super::diff`] writes them: ustar headers, and PAX records for what doesn't fit.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::pax;
use super::sparse::{Segment, SegmentReader, encode_map};

/// Longest name in a ustar header; longer ones go into a PAX record (the prefix field is not used).
const NAME: usize = 100;

/// What an entry says besides its name and content.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(super) mtime: (i64, i64),
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            mtime: (found.mtime(), found.mtime_nsec()),
            xattrs: Vec::new(),
        }
    }
}

/// The archive that is being written.
pub(super) struct Archive<'a> {
    builder: Builder<&'a mut dyn Write>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self {
            builder: Builder::new(out),
        }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.builder.finish()
    }

    /// The upper directory itself is `./`.
    pub(super) fn directory(&mut self, path: &Path, of: &Attributes) -> io::Result<()> {
        let mut name = path.as_os_str().as_bytes().to_vec();
        name.extend_from_slice(if name.is_empty() { b"./" } else { b"/" });
        self.append(EntryType::Directory, &name, b"", of, 0, io::empty())
    }

    /// A whiteout of either form: an empty file.
    pub(super) fn marker(&mut self, path: &Path) -> io::Result<()> {
        let none = Attributes::default();
        self.append(
            EntryType::Regular,
            path.as_os_str().as_bytes(),
            b"",
            &none,
            0,
            io::empty(),
        )
    }

    pub(super) fn hard_link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let (name, target) = (path.as_os_str().as_bytes(), target.as_os_str().as_bytes());
        self.append(
            EntryType::Link,
            name,
            target,
            &Attributes::default(),
            0,
            io::empty(),
        )
    }

    pub(super) fn symlink(&mut self, path: &Path, target: &Path, of: &Attributes) -> io::Result<()> {
        let (name, target) = (path.as_os_str().as_bytes(), target.as_os_str().as_bytes());
        self.append(EntryType::Symlink, name, target, of, 0, io::empty())
    }

    pub(super) fn fifo(&mut self, path: &Path, of: &Attributes) -> io::Result<()> {
        self.append(
            EntryType::Fifo,
            path.as_os_str().as_bytes(),
            b"",
            of,
            0,
            io::empty(),
        )
    }

    pub(super) fn file(
        &mut self,
        path: &Path,
        of: &Attributes,
        size: u64,
        content: impl Read,
    ) -> io::Result<()> {
        self.append(
            EntryType::Regular,
            path.as_os_str().as_bytes(),
            b"",
            of,
            size,
            content,
        )
    }

    /// The "PAX 1.0" form: a map of the data in front of the data.
    pub(super) fn sparse_file(
        &mut self,
        path: &Path,
        of: &Attributes,
        size: u64,
        file: &File,
        segments: Vec<Segment>,
    ) -> io::Result<()> {
        let map = encode_map(&segments, size);
        let stored = map.len() as u64 + segments.iter().map(|segment| segment.length).sum::<u64>();
        let size = size.to_string();
        let mut records: Vec<(&str, &[u8])> = vec![
            (pax::SPARSE_MAJOR, b"1"),
            (pax::SPARSE_MINOR, b"0"),
            (pax::SPARSE_NAME, path.as_os_str().as_bytes()),
            (pax::SPARSE_SIZE, size.as_bytes()),
        ];
        let attributes = pax_attributes(of);
        records.extend(
            attributes
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice())),
        );
        self.builder.append_pax_extensions(records)?;
        // What a reader without PAX sees, as GNU tar writes it.
        let header = header(EntryType::Regular, b"GNUSparseFile.0/data", b"", of, stored);
        self.builder
            .append(&header, map.as_slice().chain(SegmentReader::new(file, segments)))
    }

    fn append(
        &mut self,
        kind: EntryType,
        name: &[u8],
        target: &[u8],
        of: &Attributes,
        size: u64,
        content: impl Read,
    ) -> io::Result<()> {
        let attributes = pax_attributes(of);
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        if name.len() > NAME {
            records.push((pax::PATH, name));
        }
        if target.len() > NAME {
            records.push((pax::LINK, target));
        }
        records.extend(
            attributes
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice())),
        );
        self.builder.append_pax_extensions(records)?;
        self.builder
            .append(&header(kind, name, target, of, size), content)
    }
}

fn pax_attributes(of: &Attributes) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    if of.mtime.0 < 0 || of.mtime.1 != 0 {
        records.push((pax::MTIME.to_owned(), pax::format_time(of.mtime).into_bytes()));
    }
    records.extend(
        of.xattrs
            .iter()
            .map(|(name, value)| (format!("{}{name}", pax::XATTR), value.clone())),
    );
    records
}

fn header(kind: EntryType, name: &[u8], target: &[u8], of: &Attributes, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    let old = header.as_old_mut();
    let cut = |text: &[u8]| text.len().min(NAME);
    old.name[..cut(name)].copy_from_slice(&name[..cut(name)]);
    old.linkname[..cut(target)].copy_from_slice(&target[..cut(target)]);
    header.set_mode(of.mode);
    header.set_uid(of.uid.into());
    header.set_gid(of.gid.into());
    header.set_mtime(of.mtime.0.try_into().unwrap_or(0));
    header.set_size(size);
    header.set_cksum();
    header
}
