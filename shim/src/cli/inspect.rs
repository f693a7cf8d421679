//! `thaw inspect`.

use std::io::{self, Write};

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::{bytes, columns, plain};
use super::snapshots::{self, Snapshot};

/// Show one snapshot.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Id of the snapshot, or enough of its start
    id: String,
}

impl Inspect {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let store = context.store().await?;
        let snapshots = snapshots::all(store.as_ref()).await?;
        context
            .output
            .print(snapshots::find(&snapshots, &self.id)?, |snapshot, out| {
                table(snapshot, out)
            })
    }
}

fn table(snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    let manifest = &snapshot.manifest;
    let (image, host, donor) = (&manifest.image, &manifest.host, &manifest.donor);
    let rootfs = manifest
        .blobs
        .rootfs
        .as_ref()
        .map_or("nothing".to_owned(), |blob| bytes(blob.raw_size));
    let addresses: Vec<String> = donor.addresses.iter().map(ToString::to_string).collect();
    let facts = [
        ("Id", snapshot.id.to_string()),
        ("Image", image.name.clone()),
        ("Image config", manifest.key.config.to_string()),
        ("Scope", manifest.key.scope.clone()),
        ("Platform", manifest.key.platform.clone()),
        ("Fingerprint", manifest.key.fingerprint.to_string()),
        ("Created", manifest.created.clone()),
        ("Format", manifest.format.to_string()),
        ("Memory", bytes(snapshot.memory())),
        ("Changed files", rootfs),
        (
            "In the store",
            format!("{} below {}", bytes(snapshot.stored()), snapshot.document),
        ),
        ("Donor", format!("{} (hostname {})", donor.id, donor.hostname)),
        ("Donor addresses", addresses.join(", ")),
        ("TCP connections", donor.established_tcp.to_string()),
        ("Stale variables", donor.stale_env.join(", ")),
        ("Donor stood still", format!("{} ms", donor.freeze_ms)),
        ("Kernel", host.kernel.clone()),
        ("CRIU, runc", format!("{}, {}", host.criu, host.runc)),
        (
            "Processor",
            format!("{}, xsave area of {} bytes", host.cpu.vendor, host.cpu.xsave_size),
        ),
        ("cgroup, LSM", format!("{}, {}", host.cgroup, host.lsm)),
    ];
    let rows: Vec<Vec<String>> = facts
        .iter()
        .map(|(name, fact)| vec![format!("{name}:"), plain(fact)])
        .collect();
    columns(&rows, out)
}
