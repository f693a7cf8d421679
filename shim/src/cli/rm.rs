//! `thaw rm`.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;
use thaw_snapshot::Digest;
use thaw_store::Removed;

use super::context::Context;
use super::failure::Failure;
use super::snapshots;

/// Remove snapshots.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Ids of the snapshots, or enough of their start
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// What was removed.
#[derive(Debug, Serialize)]
struct Gone {
    id: Digest,
    /// Blobs that went with it.
    blobs: usize,
}

impl Rm {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let store = context.store().await?;
        let snapshots = snapshots::all(store.as_ref()).await?;
        // All names are looked at first: a typing error removes nothing.
        let ids: BTreeSet<Digest> = self
            .ids
            .iter()
            .map(|prefix| snapshots::find(&snapshots, prefix).map(|snapshot| snapshot.id))
            .collect::<Result<_, _>>()?;
        let mut gone = Vec::new();
        for id in ids {
            match thaw_store::remove(store.as_ref(), &id).await? {
                Removed::Removed { blobs } => gone.push(Gone { id, blobs }),
                Removed::BlobsLeft => {
                    log::warn!("the blobs of {id} stay: a document that can't be read may name them");
                    gone.push(Gone { id, blobs: 0 });
                }
                Removed::NotFound => log::warn!("{id} was removed by somebody else meanwhile"),
            }
        }
        context.output.print(&gone, |gone, out| {
            gone.iter().try_for_each(|gone| writeln!(out, "{}", gone.id))
        })
    }
}
