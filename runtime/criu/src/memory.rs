//! The memory of a process that somebody else than CRIU can fill in: `mm-<pid>.img` and `pagemap-<pid>.img` together.
//!
//! With `--lazy-pages` CRIU leaves out the pages that the dump has marked as lazy (private, anonymous, not locked) and
//! hands over a userfaultfd for them. Here is where they belong, and where they lie.

use crate::image::{self, in_record, magic};
use crate::pagemap::{self, Entry, LAZY, PARENT, PRESENT, PagemapError};
use crate::wire::WireError;
use crate::{Images, core, pstree};

/// `mm.proto: mm_entry.vmas`.
const VMAS: u32 = 14;
/// `vma.proto: vma_entry.start`, `.end`, `.prot`, `.flags` and `.status`.
const START: u32 = 1;
const END: u32 = 2;
const PROT: u32 = 5;
const FLAGS: u32 = 6;
const STATUS: u32 = 7;

/// `linux/mman.h`.
const PROT_WRITE: u32 = 2;
const MAP_PRIVATE: u32 = 2;
const MAP_NORESERVE: u32 = 0x4000;
/// `criu/include/image.h: VMA_AREA_SHSTK`.
const SHADOW_STACK: u32 = 1 << 15;

/// What CRIU leaves out of the memory of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its pid inside the container, under which CRIU announces it.
    pub pid: i32,
    /// The page file that holds all of it.
    pub pages: String,
    /// What goes where, in ascending order.
    pub runs: Vec<Run>,
    /// Bytes of private mappings that the process can't write to. When CRIU leaves memory out it maps them as if it
    /// could, so that the kernel counts them (`criu/mem.c: premap_private_vma`; Linux, `mm/overcommit-accounting.rst`).
    pub counted: u64,
}

/// Consecutive pages, all in one mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Address of the first byte.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// Where they begin in the page file, in bytes.
    pub offset: u64,
}

impl LeftOut {
    /// All of it, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.length).sum()
    }
}

/// What CRIU leaves out, when there is one process and all of it is in its page file.
///
/// `None` for several processes: CRIU lets a child share what it has in common with its parent, and one who fills in
/// can't. `None` also for images that CRIU has to judge, since they say of a page what no dump of thaw's says.
///
/// # Errors
/// The images cannot be read.
pub fn left_out(images: &Images, page_size: u64) -> Result<Option<LeftOut>, PagemapError> {
    let tasks = pstree::tasks(images)?;
    let [only] = tasks.as_slice() else {
        return Ok(None);
    };
    if core::is_dead(images, only.pid)? {
        return Ok(None);
    }
    let file = format!("pagemap-{}.img", only.pid);
    let map = pagemap::read(&file, image::get(images, &file)?)?;
    let mappings = mappings(images, only.pid)?;
    // CRIU reads the tokens on it before anything is filled in (`shstk_vma_restore`).
    if mappings.iter().any(|mapping| mapping.status & SHADOW_STACK != 0) {
        return Ok(None);
    }
    let spans: Vec<_> = mappings
        .iter()
        .map(|mapping| (mapping.start, mapping.end))
        .collect();
    let counted = mappings.iter().filter(|mapping| mapping.is_counted_later());
    Ok(runs(&map.entries, &spans, page_size).map(|runs| LeftOut {
        pid: only.pid,
        pages: format!("pages-{}.img", map.pages_id),
        runs,
        counted: counted.fold(0, |sum, mapping| {
            sum.saturating_add(mapping.end.saturating_sub(mapping.start))
        }),
    }))
}

/// One mapping (`vma.proto`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mapping {
    start: u64,
    end: u64,
    prot: u32,
    flags: u32,
    status: u32,
}

impl Mapping {
    fn is_counted_later(&self) -> bool {
        self.flags & MAP_PRIVATE != 0 && self.flags & MAP_NORESERVE == 0 && self.prot & PROT_WRITE == 0
    }
}

/// In ascending order.
fn mappings(images: &Images, pid: i32) -> Result<Vec<Mapping>, PagemapError> {
    let file = format!("mm-{pid}.img");
    let mm = image::single(images, &file, magic::MM)?;
    let read = || -> Result<Vec<Mapping>, WireError> {
        let mut found = Vec::new();
        for vma in mm.messages(VMAS)? {
            found.push(Mapping {
                start: vma.required_uint64(START)?,
                end: vma.required_uint64(END)?,
                prot: vma.required_uint32(PROT)?,
                flags: vma.required_uint32(FLAGS)?,
                status: vma.required_uint32(STATUS)?,
            });
        }
        Ok(found)
    };
    let mut found = read().map_err(in_record(&file, 0))?;
    found.sort_unstable();
    Ok(found)
}

fn runs(entries: &[Entry], mappings: &[(u64, u64)], page_size: u64) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    let mut offset = 0u64;
    let mut mappings = mappings.iter().copied().peekable();
    for entry in entries {
        if entry.flags & (PRESENT | PARENT) != PRESENT {
            return None;
        }
        let length = entry.pages.checked_mul(page_size)?;
        let end = entry.vaddr.checked_add(length)?;
        let behind = offset.checked_add(length)?;
        if entry.flags & LAZY != 0 {
            let mut address = entry.vaddr;
            while address < end {
                while mappings
                    .next_if(|(_, mapping_end)| *mapping_end <= address)
                    .is_some()
                {}
                let (_, mapping_end) = mappings.peek().filter(|(start, _)| *start <= address)?;
                let part = end.min(*mapping_end) - address;
                runs.push(Run {
                    address,
                    length: part,
                    offset: behind - (end - address),
                });
                address += part;
            }
        }
        offset = behind;
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn entry(vaddr: u64, pages: u64, flags: u32) -> Entry {
        Entry { vaddr, pages, flags }
    }

    const fn run(address: u64, length: u64, offset: u64) -> Run {
        Run {
            address,
            length,
            offset,
        }
    }

    #[test]
    fn offsets_count_what_lies_before() {
        let entries = [
            entry(0x1000, 2, PRESENT),
            entry(0x8000, 3, PRESENT | LAZY),
            entry(0x10000, 1, PRESENT | LAZY),
        ];
        let found = runs(&entries, &[(0x1000, 0x20000)], 4096);
        assert_eq!(
            found,
            Some(vec![run(0x8000, 0x3000, 0x2000), run(0x10000, 0x1000, 0x5000)])
        );
    }

    /// The kernel copies into one mapping at a time.
    #[test]
    fn no_run_reaches_over_the_end_of_a_mapping() {
        let entries = [entry(0x1000, 3, PRESENT | LAZY), entry(0x9000, 1, PRESENT | LAZY)];
        let found = runs(
            &entries,
            &[(0, 0x1000), (0x1000, 0x2000), (0x2000, 0x5000), (0x9000, 0xa000)],
            4096,
        );
        let wanted = vec![
            run(0x1000, 0x1000, 0),
            run(0x2000, 0x2000, 0x1000),
            run(0x9000, 0x1000, 0x3000),
        ];
        assert_eq!(found, Some(wanted));
    }

    #[test]
    fn what_only_criu_can_judge_is_left_to_it() {
        let mappings = [(0x1000, 0x5000)];
        // Somewhere else than in the page file, outside of every mapping, half outside, beyond the address space.
        for entries in [
            [entry(0x1000, 1, LAZY)],
            [entry(0x1000, 1, PARENT)],
            [entry(0x1000, 1, 0)],
            [entry(0x6000, 1, PRESENT | LAZY)],
            [entry(0x4000, 2, PRESENT | LAZY)],
            [entry(0x1000, u64::MAX, PRESENT | LAZY)],
        ] {
            assert_eq!(runs(&entries, &mappings, 4096), None, "{entries:?}");
        }
    }
}
