//! Whether a snapshot fits this machine. What it may stand in for is the key's business; this is about what the
//! restored process will find below it.

use std::cmp::Reverse;

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
        }
    }
}

/// Whether a snapshot may be restored on this machine in the place of a start with this key.
///
/// # Errors
/// The first thing that does not fit, the ones that last longest first.
pub fn check(manifest: &Manifest, key: &Key, host: &HostFacts) -> Result<(), Mismatch> {
    if manifest.key != *key {
        return Err(Mismatch::Key);
    }
    let donor = &manifest.host;
    if donor.page_size != host.page_size {
        return Err(Mismatch::PageSize {
            here: host.page_size,
            there: donor.page_size,
        });
    }
    check_cpu(donor, host)?;
    if donor.lsm != host.lsm {
        return Err(Mismatch::Lsm {
            here: host.lsm.clone(),
            there: donor.lsm.clone(),
        });
    }
    if donor.cgroup != host.cgroup {
        return Err(Mismatch::Cgroup {
            here: host.cgroup.clone(),
            there: donor.cgroup.clone(),
        });
    }
    if !at_least(&host.kernel, &donor.kernel) {
        return Err(Mismatch::KernelOlder {
            here: host.kernel.clone(),
            there: donor.kernel.clone(),
        });
    }
    if !at_least(&host.criu, &donor.criu) {
        return Err(Mismatch::CriuOlder {
            here: host.criu.clone(),
            there: donor.criu.clone(),
        });
    }
    Ok(())
}

/// The snapshot to restore: of those that fit the newest, of equally new ones the one with the smallest id.
///
/// # Errors
/// Why each of them does not fit, in the order of the document; empty when there are none.
pub fn choose<'a>(
    document: &'a KeyDocument,
    key: &Key,
    host: &HostFacts,
) -> Result<&'a Manifest, Vec<Mismatch>> {
    let mut fitting = Vec::new();
    let mut mismatches = Vec::new();
    for manifest in &document.variants {
        match check(manifest, key, host) {
            Ok(()) => fitting.push(manifest),
            Err(mismatch) => mismatches.push(mismatch),
        }
    }
    fitting.sort_by_cached_key(|manifest| (Reverse(created(manifest)), manifest.id()));
    fitting.first().copied().ok_or(mismatches)
}

/// Time of the dump; a manifest that [`Manifest::validate`] has passed has one.
fn created(manifest: &Manifest) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&manifest.created, &Rfc3339).ok()
}

fn check_cpu(donor: &HostFacts, host: &HostFacts) -> Result<(), Mismatch> {
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
        return Err(Mismatch::CpuFeatures {
            count: missing.len(),
            named,
        });
    }
    if donor.cpu.xsave_size != host.cpu.xsave_size {
        return Err(Mismatch::XsaveSize {
            here: host.cpu.xsave_size,
            there: donor.cpu.xsave_size,
        });
    }
    Ok(())
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
