//! `thaw quarantine`.

use std::collections::BTreeSet;
use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde::Serialize;
use thaw_runtime::quarantine::{Inmate, Quarantine as Inmates};
use thaw_snapshot::Digest;

use super::context::Context;
use super::failure::Failure;
use super::output::{columns, plain};

/// Show or forget the snapshots that have failed on this node.
#[derive(Debug, Args)]
pub(super) struct Quarantine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the snapshots that have failed on this node, why, and for how long they are left alone
    #[command(visible_alias = "list")]
    Ls,
    /// Forget failures: the next container tries these snapshots again
    Clear(Clear),
}

#[derive(Debug, Args)]
struct Clear {
    /// Ids of the snapshots, or enough of their start; all of them when there is none
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

/// One line of the list.
#[derive(Debug, Serialize)]
struct Row {
    id: Digest,
    /// Failures since the last success.
    failures: u32,
    /// For how long it is left alone still; 0 when the next container tries it.
    left_seconds: u64,
    /// Code of the last failure.
    reason: String,
    detail: String,
}

impl Quarantine {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let inmates = Inmates::new(&context.config);
        match &self.verb {
            Verb::Ls => list(context, &inmates),
            Verb::Clear(clear) => clear.run(context, &inmates),
        }
    }
}

fn list(context: &Context, inmates: &Inmates) -> Result<(), Failure> {
    let rows: Vec<Row> = inmates.list()?.into_iter().map(row).collect();
    context.output.print(&rows, |rows, out| table(rows, out))
}

fn row(inmate: Inmate) -> Row {
    Row {
        // A part of a second counts: 0 says that it is over.
        left_seconds: inmate
            .left()
            .map_or(0, |left| left.as_millis().div_ceil(1000) as u64),
        id: inmate.snapshot,
        failures: inmate.failures,
        reason: inmate.reason,
        detail: inmate.detail,
    }
}

fn table(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let head = ["ID", "FAILURES", "LEFT", "REASON", "DETAIL"].map(String::from);
    let line = |row: &Row| {
        vec![
            short(&row.id),
            row.failures.to_string(),
            format!("{} s", row.left_seconds),
            plain(&row.reason),
            plain(&row.detail),
        ]
    };
    let table: Vec<_> = std::iter::once(head.to_vec())
        .chain(rows.iter().map(line))
        .collect();
    columns(&table, out)
}

fn short(id: &Digest) -> String {
    id.hex().chars().take(12).collect()
}

impl Clear {
    fn run(&self, context: &Context, inmates: &Inmates) -> Result<(), Failure> {
        let known: Vec<Digest> = inmates.list()?.iter().map(|inmate| inmate.snapshot).collect();
        // All names are looked at first: a typing error forgets nothing.
        let chosen: BTreeSet<Digest> = if self.ids.is_empty() {
            known.into_iter().collect()
        } else {
            let chosen = self.ids.iter().map(|prefix| find(&known, prefix));
            chosen.collect::<Result<_, _>>()?
        };
        let mut gone = Vec::new();
        for id in chosen {
            if inmates.clear(&id)? {
                gone.push(id);
            }
        }
        context.output.print(&gone, |gone, out| {
            gone.iter().try_for_each(|id| writeln!(out, "{id}"))
        })
    }
}

fn find(known: &[Digest], prefix: &str) -> Result<Digest, Failure> {
    let digits = prefix.trim_start_matches("sha256:");
    let matches = |id: &&Digest| !digits.is_empty() && id.hex().starts_with(digits);
    let found: Vec<&Digest> = known.iter().filter(matches).collect();
    match found.as_slice() {
        [] => Err(Failure::not_found(format!(
            "no snapshot whose id begins with {prefix:?} has failed on this node"
        ))),
        [id] => Ok(**id),
        several => {
            let names: Vec<String> = several.iter().map(|id| short(id)).collect();
            Err(Failure::usage(format!(
                "{prefix} begins more than one id: {}",
                names.join(", ")
            )))
        }
    }
}
