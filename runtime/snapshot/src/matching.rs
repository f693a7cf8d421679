//! Whether a snapshot fits this machine. What it may stand in for is the key's business; this is about what the
//! restored process will find below it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{HostFacts, Key, KeyDocument, Manifest};

/// Most missing CPU features that a [`Mismatch`] names.
const MAX_NAMED: usize = 8;

/// Why a snapshot does not fit. The words are for people, [`Mismatch::code`] for programs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The document under a key holds a snapshot for another one.
    #[error("the snapshot was stored under a key that is not its own")]
    Key,
    /// The donor's processor offered what this one does not.
    #[error("this processor lacks {count} features of the donor's: {named}")]
    CpuFeatures {
        /// How many.
        count: usize,
        /// The first few.
        named: String,
    },
    /// Programs have cached the size of the register save area, and it is another one here (criu#3120).
    #[error("the register save area has {here} bytes here and had {there} at the donor")]
    XsaveSize {
        /// On this machine.
        here: u32,
        /// At the donor.
        there: u32,
    },
    /// The kernel is older than the donor's: what the process uses may not exist yet.
    #[error("kernel {here} is older than the donor's {there}")]
    KernelOlder {
        /// On this machine.
        here: String,
        /// At the donor.
        there: String,
    },
    /// CRIU is older than the one that wrote the images.
    #[error("CRIU {here} is older than the {there} that wrote the images")]
    CriuOlder {
        /// On this machine.
        here: String,
        /// At the donor.
        there: String,
    },
    /// Another page size.
    #[error("pages have {here} bytes here and had {there} at the donor")]
    PageSize {
        /// On this machine.
        here: u64,
        /// At the donor.
        there: u64,
    },
    /// Another Linux security module.
    #[error("the security module is {here} here and was {there} at the donor")]
    Lsm {
        /// On this machine.
        here: String,
        /// At the donor.
        there: String,
    },
    /// A path that the spec hides existed at the donor, and there is nothing to hide here.
    #[error("the masked path {path:?} existed at the donor and does not exist here")]
    MaskedPath {
        /// The first such path.
        path: String,
    },
    /// The container may not have the memory that the processes have.
    #[error("the processes need at least {needed} bytes of memory, the container's limit is {limit}")]
    Memory {
        /// See [`memory_needed`].
        needed: u64,
        /// The container's limit.
        limit: u64,
    },
    /// Another cgroup version.
    #[error("cgroups are {here} here and were {there} at the donor")]
    Cgroup {
        /// On this machine.
        here: String,
        /// At the donor.
        there: String,
    },
}

impl Mismatch {
    /// A stable name for logs, metrics and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::CpuFeatures { .. } => "cpu_features",
            Self::XsaveSize { .. } => "xsave_size",
            Self::KernelOlder { .. } => "kernel_older",
            Self::CriuOlder { .. } => "criu_older",
            Self::PageSize { .. } => "page_size",
            Self::Lsm { .. } => "lsm",
            Self::Cgroup { .. } => "cgroup",
            Self::MaskedPath { .. } => "masked_path",
            Self::Memory { .. } => "memory",
        }
    }
}

/// Where a snapshot is to be restored.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The machine.
    pub host: &'a HostFacts,
    /// Most bytes of memory that the container may have; `None` when there is no limit.
    pub memory_limit: Option<u64>,
    /// Whether a path exists in `/proc` and `/sys` of this machine. It is asked only for what
    /// [`crate::may_be_masked`] takes, as long as the manifest has passed [`Manifest::validate`].
    pub exists: fn(&str) -> bool,
}

/// Whether a snapshot may be restored at this place in the stead of a start with this key.
///
/// Two things of the donor need no check. Its mounts are part of the fingerprint, so the clone has the same
/// destinations. Its pids are free, since only containers with a new pid namespace of their own are restored.
///
/// # Errors
/// The first thing that does not fit, the ones that last longest first.
pub fn check(manifest: &Manifest, key: &Key, place: Place<'_>) -> Result<(), Mismatch> {
    if manifest.key != *key {
        return Err(Mismatch::Key);
    }
    match mismatches(manifest, place).into_iter().next() {
        None => Ok(()),
        Some(first) => Err(first),
    }
}

/// All that does not fit at this place, the things that last longest first.
pub fn mismatches(manifest: &Manifest, place: Place<'_>) -> Vec<Mismatch> {
    let (donor, host) = (&manifest.host, place.host);
    let text = |here: &str, there: &str| (here.to_owned(), there.to_owned());
    let mut found = Vec::new();
    if donor.page_size != host.page_size {
        let (here, there) = (host.page_size, donor.page_size);
        found.push(Mismatch::PageSize { here, there });
    }
    check_cpu(donor, host, &mut found);
    if donor.lsm != host.lsm {
        let (here, there) = text(&host.lsm, &donor.lsm);
        found.push(Mismatch::Lsm { here, there });
    }
    if donor.cgroup != host.cgroup {
        let (here, there) = text(&host.cgroup, &donor.cgroup);
        found.push(Mismatch::Cgroup { here, there });
    }
    if !at_least(&host.kernel, &donor.kernel) {
        let (here, there) = text(&host.kernel, &donor.kernel);
        found.push(Mismatch::KernelOlder { here, there });
    }
    if !at_least(&host.criu, &donor.criu) {
        let (here, there) = text(&host.criu, &donor.criu);
        found.push(Mismatch::CriuOlder { here, there });
    }
    let absent = |path: &&String| !(place.exists)(path);
    if let Some(path) = manifest.donor.masked_paths.iter().find(absent) {
        found.push(Mismatch::MaskedPath { path: path.clone() });
    }
    if let Some(limit) = place.memory_limit {
        let needed = memory_needed(manifest);
        if needed > limit {
            found.push(Mismatch::Memory { needed, limit });
        }
    }
    found
}

/// Memory that a restored container has at least, in bytes: its pages, and a part in 64 for page tables, stacks in the
/// kernel, and the like, which count too. A process that lies in memory densely needs a part in 512 for its tables alone.
pub fn memory_needed(manifest: &Manifest) -> u64 {
    let pages = manifest.memory();
    pages.saturating_add(pages / 64)
}

/// Whether two machines are of one class: a snapshot of one is as good as one of the other. Then a new snapshot takes
/// the place of the old one; otherwise both stand side by side under their key.
pub fn same_class(one: &HostFacts, other: &HostFacts) -> bool {
    let minor = |version: &str| self::version(version).map(|[major, minor, _patch]| (major, minor));
    let features = |host: &HostFacts| host.cpu.features.iter().cloned().collect::<BTreeSet<String>>();
    one.page_size == other.page_size
        && one.cpu.xsave_size == other.cpu.xsave_size
        && one.cpu.vendor == other.cpu.vendor
        && one.lsm == other.lsm
        && one.cgroup == other.cgroup
        && minor(&one.kernel) == minor(&other.kernel)
        && features(one) == features(other)
}

/// The snapshot to restore: the first of those that are [`fitting`].
///
/// # Errors
/// As [`fitting`].
pub fn choose<'a>(
    document: &'a KeyDocument,
    key: &Key,
    place: Place<'_>,
) -> Result<&'a Manifest, Vec<Mismatch>> {
    let fitting = fitting(document, key, place)?;
    fitting.first().copied().ok_or_else(Vec::new)
}

/// The snapshots that fit, at least one, the best first: the one whose donor's processor was most like this one (it used
/// the most of what this one offers), of equal ones the one with the newest kernel, then the newest, then the one with
/// the smallest id. So every start at one place restores the same one.
///
/// # Errors
/// Why each of them does not fit, in the order of the document; empty when there are none.
pub fn fitting<'a>(
    document: &'a KeyDocument,
    key: &Key,
    place: Place<'_>,
) -> Result<Vec<&'a Manifest>, Vec<Mismatch>> {
    let mut fitting = Vec::new();
    let mut mismatches = Vec::new();
    for manifest in &document.variants {
        match check(manifest, key, place) {
            Ok(()) => fitting.push(manifest),
            Err(mismatch) => mismatches.push(mismatch),
        }
    }
    fitting.sort_by_cached_key(|manifest| {
        let features: BTreeSet<&String> = manifest.host.cpu.features.iter().collect();
        (
            Reverse(features.len()),
            Reverse(version(&manifest.host.kernel)),
            Reverse(created(manifest)),
            manifest.id(),
        )
    });
    if fitting.is_empty() {
        return Err(mismatches);
    }
    Ok(fitting)
}

/// Time of the dump; a manifest that [`Manifest::validate`] has passed has one.
fn created(manifest: &Manifest) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&manifest.created, &Rfc3339).ok()
}

fn check_cpu(donor: &HostFacts, host: &HostFacts, found: &mut Vec<Mismatch>) {
    let lacks = |feature: &&String| !host.cpu.features.contains(feature);
    let missing: Vec<&str> = donor
        .cpu
        .features
        .iter()
        .filter(lacks)
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        let named = missing
            .iter()
            .take(MAX_NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        found.push(Mismatch::CpuFeatures {
            count: missing.len(),
            named,
        });
    }
    if donor.cpu.xsave_size != host.cpu.xsave_size {
        found.push(Mismatch::XsaveSize {
            here: host.cpu.xsave_size,
            there: donor.cpu.xsave_size,
        });
    }
}

/// Whether the first version is the second or later. A version that can't be read is never enough.
fn at_least(here: &str, there: &str) -> bool {
    matches!((version(here), version(there)), (Some(here), Some(there)) if here >= there)
}

/// Major, minor and patch number; what is not written counts as 0, what follows them (`-generic`, `-rc1`) not at all.
fn version(text: &str) -> Option<[u32; 3]> {
    let numeric = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = numeric.trim_end_matches('.').split('.');
    let major = parts.next()?.parse().ok()?;
    let mut part = || parts.next().map_or(Some(0), |part| part.parse().ok());
    Some([major, part()?, part()?])
}
