//! Whether a set of images may be shown to CRIU at all.
//!
//! Names come from a closed list: what `runc checkpoint` makes with an empty or an external network namespace. What
//! CRIU would read and runc never makes is refused, above all the files that CRIU hands to other programs
//! (`iptables-*`, `route-*` and their like) and the formats of old versions, which would be a second, unchecked
//! source of the same facts.

use thiserror::Error;

use crate::image::{self, ReadError};
use crate::pagemap::PagemapError;
use crate::wire::Message;
use crate::{Images, cgroup, core, files, ids, inventory, mounts, pagemap, pstree};

/// Most files that a set may have; a task has six.
pub const MAX_FILES: usize = 200_000;
/// Most bytes that all files together may have.
pub const MAX_BYTES: u64 = 256 << 20;

/// Version of the frame that this crate knows (`criu/include/magic.h: CRTOOLS_IMAGES_V1_1`).
const VERSION: u32 = 2;

/// runc's list of the donor's standard streams; no CRIU image, but needed in the same folder.
const DESCRIPTORS: &str = "descriptors.json";
/// Most bytes of it.
const MAX_DESCRIPTORS: usize = 64 << 10;

/// Why images may not be shown to CRIU.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A name that a dump by runc does not have.
    #[error("{0:?} is not the name of an image file")]
    Name(String),
    /// More than [`MAX_FILES`] files.
    #[error("there are {0} files")]
    Files(usize),
    /// More than [`MAX_BYTES`] in all, or a file that is larger than its kind may be.
    #[error("the images take {0} bytes")]
    Bytes(u64),
    /// An image is missing or is not sound.
    #[error("an image cannot be read")]
    Read(#[from] ReadError),
    /// A pagemap is not sound.
    #[error("pagemap {file} is not sound")]
    Pagemap {
        /// File name.
        file: String,
        /// What is wrong with it.
        #[source]
        source: PagemapError,
    },
    /// A task has a uts or ipc namespace that is not the root task's; CRIU never dumps such a tree, and an edit of the
    /// root's namespace would not reach it.
    #[error("task {0} has a uts or ipc namespace of its own")]
    Nested(i32),
    /// The tasks would come back in a cgroup that is not the container's own, or CRIU would write there.
    #[error("{0:?} is outside the cgroups of the container")]
    Cgroup(String),
    /// There is a second mount namespace: only the root task's is ever compared with a spec.
    #[error("{0} belongs to a second mount namespace")]
    MountNamespace(String),
    /// The inventory says another version than 2.
    #[error("image version {0} is not known")]
    Version(u32),
}

/// What follows the magic numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Records to the end.
    Records,
    /// A record, then data of a form that only CRIU knows.
    Opaque,
    /// No magic, no records: another program's format.
    Raw,
}

/// What stands between the stem of a name and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    None,
    Decimal,
    Hex,
}

/// Stem, id, magic, content (CRIU `criu/image-desc.c: imgset_template`, `criu/include/magic.h`).
const KINDS: &[(&str, Id, u32, Content)] = &[
    ("inventory", Id::None, image::magic::INVENTORY, Content::Records),
    ("pstree", Id::None, image::magic::PSTREE, Content::Records),
    ("files", Id::None, image::magic::FILES, Content::Records),
    ("seccomp", Id::None, image::magic::SECCOMP, Content::Records),
    ("cgroup", Id::None, image::magic::CGROUP, Content::Records),
    ("apparmor", Id::None, 0x5942_3047, Content::Records),
    ("filelocks", Id::None, 0x5432_3616, Content::Records),
    ("remap-fpath", Id::None, 0x5913_3954, Content::Records),
    ("memfd", Id::None, 0x4845_3499, Content::Records),
    ("pidfd", Id::None, 0x5443_5556, Content::Records),
    ("tty-info", Id::None, 0x5945_3036, Content::Records),
    ("tty-data", Id::None, 0x5941_3026, Content::Records),
    ("bpfmap-file", Id::None, 0x5750_6142, Content::Records),
    ("bpfmap-data", Id::None, 0x6432_4033, Content::Opaque),
    ("pipes-data", Id::None, 0x5645_3709, Content::Opaque),
    ("fifo-data", Id::None, 0x5933_3054, Content::Opaque),
    ("sk-queues", Id::None, 0x5626_4026, Content::Opaque),
    ("core", Id::Decimal, image::magic::CORE, Content::Records),
    ("ids", Id::Decimal, image::magic::IDS, Content::Records),
    ("mm", Id::Decimal, image::magic::MM, Content::Records),
    ("fs", Id::Decimal, 0x5140_3912, Content::Records),
    ("fdinfo", Id::Decimal, image::magic::FDINFO, Content::Records),
    ("pagemap", Id::Decimal, image::magic::PAGEMAP, Content::Records),
    (
        "pagemap-shmem",
        Id::Decimal,
        image::magic::PAGEMAP,
        Content::Records,
    ),
    (
        "mountpoints",
        Id::Decimal,
        image::magic::MOUNTPOINTS,
        Content::Records,
    ),
    ("netns", Id::Decimal, image::magic::NETNS, Content::Records),
    ("pidns", Id::Decimal, 0x6115_7326, Content::Records),
    ("timens", Id::Decimal, 0x4311_4433, Content::Records),
    ("userns", Id::Decimal, 0x5547_4906, Content::Records),
    ("utsns", Id::Decimal, image::magic::UTSNS, Content::Records),
    ("ipcns-var", Id::Decimal, 0x5311_5007, Content::Records),
    ("ipcns-shm", Id::Decimal, 0x4628_3044, Content::Opaque),
    ("ipcns-msg", Id::Decimal, 0x5545_3737, Content::Opaque),
    ("ipcns-sem", Id::Decimal, 0x5957_3019, Content::Opaque),
    ("tcp-stream", Id::Hex, 0x5146_5506, Content::Opaque),
    ("ghost-file", Id::Hex, 0x5258_3605, Content::Opaque),
];

/// Whether this is the name of a file that belongs into [`Images`]: an image of a dump by runc that is not a page
/// file, or runc's `descriptors.json`.
pub fn is_image_name(name: &str) -> bool {
    name == DESCRIPTORS || kind(name).is_some()
}

/// Refuses what CRIU must not see: unknown names, too many or too large files, files that are not what their name
/// says, missing files, an unsound process tree.
///
/// What it lets pass may still make CRIU fail; it can't make a reader of this crate see other facts than CRIU does.
///
/// # Errors
/// The first reason found.
pub fn check(images: &Images) -> Result<(), CheckError> {
    if images.len() > MAX_FILES {
        return Err(CheckError::Files(images.len()));
    }
    let bytes = images
        .values()
        .fold(0u64, |sum, file| sum.saturating_add(file.len() as u64));
    if bytes > MAX_BYTES {
        return Err(CheckError::Bytes(bytes));
    }
    for (name, bytes) in images {
        check_file(name, bytes)?;
    }
    check_required(images)
}

fn check_file(name: &str, bytes: &[u8]) -> Result<(), CheckError> {
    if name == DESCRIPTORS {
        let fits = bytes.len() <= MAX_DESCRIPTORS;
        return if fits {
            Ok(())
        } else {
            Err(CheckError::Bytes(bytes.len() as u64))
        };
    }
    let (magic, content) = kind(name).ok_or_else(|| CheckError::Name(name.to_owned()))?;
    match content {
        Content::Raw => {}
        Content::Opaque => {
            let mut rest = image::body(name, bytes, magic)?;
            if !rest.is_empty() {
                let first = image::take_record(name, 0, &mut rest)?;
                Message::parse(first).map_err(image::in_record(name, 0))?;
            }
        }
        Content::Records if magic == image::magic::PAGEMAP => {
            let in_file = |source| CheckError::Pagemap {
                file: name.to_owned(),
                source,
            };
            pagemap::read(name, bytes).map_err(in_file)?;
        }
        Content::Records => {
            image::records(name, bytes, magic)?;
        }
    }
    Ok(())
}

fn check_required(images: &Images) -> Result<(), CheckError> {
    let version = inventory::version(images)?;
    if version != VERSION {
        return Err(CheckError::Version(version));
    }
    inventory::root_ids(images)?;
    image::get(images, files::FILE)?;
    let tree = mounts::file(images)?;
    image::get(images, &tree)?;
    let other = image::numbered(images, "mountpoints").find(|(name, _)| *name != tree);
    if let Some((other, _)) = other {
        return Err(CheckError::MountNamespace(other.to_owned()));
    }
    if let Some(path) = cgroup::outside(images)? {
        return Err(CheckError::Cgroup(path));
    }
    let root = ids::of_root(images)?;
    for task in pstree::tasks(images)? {
        if core::is_dead(images, task.pid)? {
            continue;
        }
        let own = ids::of(images, task.pid)?;
        if (own.uts, own.ipc) != (root.uts, root.ipc) {
            return Err(CheckError::Nested(task.pid));
        }
    }
    for id in pstree::pids(images)? {
        image::get(images, &core::file(id))?;
    }
    Ok(())
}

/// Magic and content of a file with this name, if the name is on the list.
fn kind(name: &str) -> Option<(u32, Content)> {
    if let Some(stem) = name.strip_suffix(".tar.gz.img") {
        // Content of tmpfs mounts, by device or by mount id; CRIU runs tar on them inside the mount.
        let id = stem
            .strip_prefix("tmpfs-dev-")
            .or_else(|| stem.strip_prefix("tmpfs-"))?;
        return Id::Decimal.fits(id).then_some((0, Content::Raw));
    }
    let stem = name.strip_suffix(".img")?;
    KINDS
        .iter()
        .find(|(prefix, id, ..)| is_of(stem, prefix, *id))
        .map(|(_, _, magic, content)| (*magic, *content))
}

fn is_of(stem: &str, prefix: &str, id: Id) -> bool {
    match (stem.strip_prefix(prefix), id) {
        (Some(rest), Id::None) => rest.is_empty(),
        (Some(rest), id) => rest.strip_prefix('-').is_some_and(|text| id.fits(text)),
        (None, _) => false,
    }
}

impl Id {
    /// CRIU prints ids without leading zeros; a second spelling of the same id would be a file that it never opens.
    fn fits(self, text: &str) -> bool {
        let digits = match self {
            Self::None => false,
            Self::Decimal => text.bytes().all(|b| b.is_ascii_digit()),
            Self::Hex => text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        };
        digits && (1..=20).contains(&text.len()) && (text == "0" || !text.starts_with('0'))
    }
}
