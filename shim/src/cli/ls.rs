//! `thaw ls`.

use serde::Serialize;

use super::context::Context;
use super::failure::Failure;
use super::output::{bytes, columns, plain};
use super::snapshots::{self, Snapshot};

/// One line of the list.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    image: String,
    scope: String,
    platform: String,
    created: String,
    /// Memory of the processes.
    memory_bytes: u64,
    /// What it takes in the store.
    stored_bytes: u64,
}

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let rows: Vec<Row> = snapshots::all(store.as_ref()).await?.iter().map(row).collect();
    context.output.print(&rows, |rows, out| {
        let head = ["ID", "IMAGE", "SCOPE", "CREATED", "MEMORY", "STORED"]
            .map(String::from)
            .to_vec();
        let line = |row: &Row| {
            let id = row.id.trim_start_matches("sha256:").chars().take(12).collect();
            let (memory, stored) = (bytes(row.memory_bytes), bytes(row.stored_bytes));
            vec![
                id,
                plain(&row.image),
                plain(&row.scope),
                plain(&row.created),
                memory,
                stored,
            ]
        };
        let table: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(line)).collect();
        columns(&table, out)
    })
}

fn row(snapshot: &Snapshot) -> Row {
    let manifest = &snapshot.manifest;
    Row {
        id: snapshot.id.to_string(),
        image: manifest.image.name.clone(),
        scope: manifest.key.scope.clone(),
        platform: manifest.key.platform.clone(),
        created: manifest.created.clone(),
        memory_bytes: snapshot.memory(),
        stored_bytes: snapshot.stored(),
    }
}
