//! `pagemap-<pid>.img` and `pagemap-shmem-<id>.img`: which page of memory lies where in which page file.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::Images;
use crate::image::{self, ReadError, in_record, magic};
use crate::wire::{Message, WireError};

/// The data is in the parent's images (`criu/include/pagemap.h`).
pub const PARENT: u32 = 1;
/// May be filled in after the restore.
pub const LAZY: u32 = 2;
/// The data is in the page file.
pub const PRESENT: u32 = 4;

/// A run of pages (`pagemap.proto: pagemap_entry`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Field 1: address of the first page.
    pub vaddr: u64,
    /// Field 5, or field 2 where that is absent: number of pages.
    pub pages: u64,
    /// Field 4: [`PARENT`], [`LAZY`], [`PRESENT`]. Where it is absent, field 3 says parent or present.
    pub flags: u32,
}

/// One pagemap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pagemap {
    /// `pagemap_head`, field 1: the data is in `pages-<id>.img`.
    pub pages_id: u32,
    /// Runs in ascending order. The offset of one in the page file is the sum of the [`PRESENT`] ones before it.
    pub entries: Vec<Entry>,
}

/// Why bytes are not a pagemap.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PagemapError {
    /// The frame or a message is not sound.
    #[error("the pagemap cannot be read")]
    Read(#[from] ReadError),
    /// It does not even have a head.
    #[error("the pagemap has no head")]
    Head,
    /// Runs overlap, are not in order, or leave the address space.
    #[error("run {0} of the pagemap overlaps another or leaves the address space")]
    Order(usize),
}

/// Reads the bytes of one pagemap file.
///
/// # Errors
/// The bytes are not one, or its runs are not in ascending order without overlap.
pub fn entries(bytes: &[u8]) -> Result<Pagemap, PagemapError> {
    read("pagemap", bytes)
}

/// Sizes in bytes that the page files must have, by name, going by all pagemaps of the dump.
///
/// # Errors
/// A pagemap cannot be read.
pub fn page_files(images: &Images, page_size: u64) -> Result<BTreeMap<String, u64>, PagemapError> {
    let mut sizes = BTreeMap::new();
    let maps = image::numbered(images, "pagemap").chain(image::numbered(images, "pagemap-shmem"));
    for (file, _) in maps {
        let map = read(file, image::get(images, file)?)?;
        let present = map.entries.iter().filter(|entry| entry.flags & PRESENT != 0);
        let pages = present.fold(0u64, |sum, entry| sum.saturating_add(entry.pages));
        let size: &mut u64 = sizes.entry(format!("pages-{}.img", map.pages_id)).or_default();
        *size = size.saturating_add(pages.saturating_mul(page_size));
    }
    Ok(sizes)
}

pub(crate) fn read(file: &str, bytes: &[u8]) -> Result<Pagemap, PagemapError> {
    let records = image::records(file, bytes, magic::PAGEMAP)?;
    let (head, rest) = records.split_first().ok_or(PagemapError::Head)?;
    let pages_id = head.required_uint32(1).map_err(in_record(file, 0))?;
    let mut entries = Vec::with_capacity(rest.len());
    let mut free_from = 0u64;
    for (index, record) in rest.iter().enumerate() {
        let entry = read_entry(*record).map_err(in_record(file, index + 1))?;
        // Counted in the smallest page there is; the last one must still have an address.
        let end = entry
            .pages
            .checked_mul(4096)
            .and_then(|size| entry.vaddr.checked_add(size));
        let end = end
            .filter(|_| entry.vaddr >= free_from)
            .ok_or(PagemapError::Order(index))?;
        free_from = end;
        entries.push(entry);
    }
    Ok(Pagemap { pages_id, entries })
}

fn read_entry(record: Message<'_>) -> Result<Entry, WireError> {
    let compat = record.required_uint32(2)?;
    let flags = match record.uint32(4)? {
        Some(flags) => flags,
        None if record.flag(3)? => PARENT,
        None => PRESENT,
    };
    Ok(Entry {
        vaddr: record.required_uint64(1)?,
        pages: record.uint64(5)?.unwrap_or(compat.into()),
        flags,
    })
}
