//! `thaw explain`.

use std::io::{self, Write};

use clap::Args;
use thaw_runtime::outcome::{Outcome, Result as Way};
use thaw_runtime::record::Record;

use super::advice;
use super::context::Context;
use super::failure::Failure;
use super::output::{bytes, columns, plain};

/// Tell how a container came up.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Id of the container, or enough of its start
    container: String,
}

impl Explain {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let id = self.full_id(context)?;
        let outcome = Record::new(&context.config.state, &context.namespace, &id)
            .outcome()?
            .ok_or_else(|| unknown(&self.container, &context.namespace))?;
        context
            .output
            .print(&outcome, |outcome, out| in_words(outcome, out))
    }

    /// Docker's ids have 64 digits, and nobody types those.
    fn full_id(&self, context: &Context) -> Result<String, Failure> {
        let not_found = || unknown(&self.container, &context.namespace);
        // The directory of a namespace holds one directory per container.
        let probe = Record::new(&context.config.state, &context.namespace, &self.container);
        let Some(directory) = probe.directory().parent() else {
            return Err(not_found());
        };
        let names = match std::fs::read_dir(directory) {
            Ok(entries) => entries
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_found()),
            Err(error) => return Err(error.into()),
        };
        let ids: Vec<&str> = names
            .iter()
            .filter_map(|name| name.to_str())
            .filter(|name| !self.container.is_empty() && name.starts_with(&self.container))
            .collect();
        match ids.as_slice() {
            ids if ids.contains(&self.container.as_str()) => Ok(self.container.clone()),
            [] => Err(not_found()),
            [id] => Ok((*id).to_owned()),
            several => Err(Failure::usage(format!(
                "{} begins more than one id: {}",
                self.container,
                several.join(", ")
            ))),
        }
    }
}

fn unknown(container: &str, namespace: &str) -> Failure {
    Failure::not_found(format!(
        "there is no record of {container:?} in the namespace {namespace:?}: thaw did not start it, or it is gone \
         (other namespaces: -n)"
    ))
}

fn in_words(outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    let way = match outcome.result {
        Way::Restored => "was restored from a snapshot",
        Way::Cold => "started cold",
    };
    writeln!(
        out,
        "{} (namespace {}) {way}.",
        plain(&outcome.id),
        plain(&outcome.namespace)
    )?;
    writeln!(out)?;
    let mut facts = vec![vec!["Why:".to_owned(), plain(&outcome.detail)]];
    facts.push(vec!["Reason:".to_owned(), plain(&outcome.reason)]);
    if let Some(advice) = advice::of(&outcome.reason) {
        facts.push(vec!["What to do:".to_owned(), advice.to_owned()]);
    }
    let known = [
        ("Created:", Some(&outcome.created)),
        ("Key:", outcome.key.as_ref()),
    ];
    let snapshot = ("Snapshot:", outcome.snapshot.as_ref());
    for (name, fact) in known.into_iter().chain([snapshot]) {
        facts.extend(fact.map(|fact| vec![name.to_owned(), plain(fact)]));
    }
    columns(&facts, out)?;
    stages(outcome, out)
}

fn stages(outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    if !outcome.stages.is_empty() {
        let row = |name: &str, ms: f64| vec![plain(name), format!("{ms:>9.1}")];
        let mut rows = vec![vec!["STAGE".to_owned(), "       MS".to_owned()]];
        rows.extend(outcome.stages.iter().map(|stage| row(&stage.name, stage.ms)));
        rows.push(row("total", outcome.stages.iter().map(|stage| stage.ms).sum()));
        writeln!(out)?;
        columns(&rows, out)?;
    }
    if outcome.result == Way::Restored {
        let moved = &outcome.bytes;
        let (fetched, pages, rootfs) = (bytes(moved.fetched), bytes(moved.pages), bytes(moved.rootfs));
        writeln!(out)?;
        writeln!(
            out,
            "{pages} of memory and {rootfs} of files; {fetched} came from the store."
        )?;
    }
    Ok(())
}
