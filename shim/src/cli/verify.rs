//! `thaw verify`.

use std::io::{self, Write};

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use thaw_runtime::check;
use thaw_snapshot::Digest;

use super::context::Context;
use super::failure::Failure;
use super::output::{bytes, columns};
use super::snapshots;

/// Check a snapshot in the store: all of its bytes, and with --here whether this node can restore it.
///
/// The whole snapshot is read, and nothing of it is kept.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Say whether it fits this node: processor, kernel, CRIU, security module, cgroups
    #[arg(long)]
    here: bool,
    /// Id of the snapshot, or enough of its start
    id: String,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Verdict {
    id: Digest,
    /// Every byte is what the manifest says, and the images are what CRIU writes.
    whole: bool,
    /// Bytes that were read from the store.
    stored_bytes: u64,
    /// It can be restored on this node; left out unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<bool>,
    /// What keeps it from being restored here.
    unfit: Vec<Unfit>,
}

/// Something that does not fit.
#[derive(Debug, Serialize)]
struct Unfit {
    /// Stable name of the check.
    check: &'static str,
    detail: String,
}

impl Verify {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let store = context.store().await?;
        let snapshots = snapshots::all(store.as_ref()).await?;
        let snapshot = snapshots::find(&snapshots, &self.id)?;
        let (config, manifest) = (&context.config, &snapshot.manifest);
        // First what costs nothing.
        let unfit = if self.here {
            unfit(context, manifest).await
        } else {
            Vec::new()
        };
        check::whole(config, store.as_ref(), manifest).await?;
        let verdict = Verdict {
            id: snapshot.id,
            whole: true,
            stored_bytes: snapshot.stored(),
            fits: self.here.then_some(unfit.is_empty()),
            unfit,
        };
        context.output.print(&verdict, table)?;
        match verdict.unfit.first() {
            None => Ok(()),
            Some(first) => Err(Failure::incompatible(anyhow!(
                "the snapshot can't be restored on this node: {}",
                first.detail
            ))),
        }
    }
}

async fn unfit(context: &Context, manifest: &thaw_snapshot::Manifest) -> Vec<Unfit> {
    match check::fits_here(&context.config, manifest).await {
        Ok(mismatches) => mismatches
            .iter()
            .map(|mismatch| Unfit {
                check: mismatch.code(),
                detail: mismatch.to_string(),
            })
            .collect(),
        Err(error) => vec![Unfit {
            check: "host",
            detail: format!("{:#}", anyhow::Error::from(error)),
        }],
    }
}

fn table(verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![
        vec!["Snapshot:".to_owned(), verdict.id.to_string()],
        vec![
            "Whole:".to_owned(),
            format!("yes, {}", bytes(verdict.stored_bytes)),
        ],
    ];
    match verdict.fits {
        None => {}
        Some(true) => rows.push(vec!["Fits here:".to_owned(), "yes".to_owned()]),
        Some(false) => {
            let details = verdict.unfit.iter().map(|unfit| format!("no: {}", unfit.detail));
            rows.extend(details.map(|detail| vec!["Fits here:".to_owned(), detail]));
        }
    }
    columns(&rows, out)
}
