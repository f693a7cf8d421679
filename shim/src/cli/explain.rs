//! `thaw explain`.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use thaw_runtime::capture::{Standing, State};
use thaw_runtime::explain::{Difference, More, Nearest, explain};
use thaw_runtime::outcome::{Outcome, Result as Way};
use thaw_runtime::record::Record;

use super::advice;
use super::context::Context;
use super::failure::Failure;
use super::output::{bytes, columns, plain};

/// Tell how a container came up, and why.
///
/// Of a cold start it names the nearest snapshot of the same image, and each field that differs; of a restored one, the
/// variables of the environment that are the donor's.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Its id, the name that its client gave it, or the start of its id; in pods also POD/CONTAINER
    container: String,
}

/// All that is known of it.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    outcome: Outcome,
    /// What the store says to it.
    #[serde(flatten)]
    more: More,
    /// How far it is with capturing itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    capture: Option<Standing>,
}

impl Explain {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let id = context.container(&self.container)?;
        let record = Record::new(&context.config.state, &context.namespace, &id);
        let outcome = record
            .outcome()?
            .ok_or_else(|| Failure::not_found(format!("the container {id} has just gone")))?;
        let more = explain(&context.config, &outcome).await.unwrap_or_else(|error| {
            // The outcome is what was asked for; the store may be out, or the container half gone.
            log::warn!("can't compare with the store: {:#}", anyhow::Error::from(error));
            More::default()
        });
        let explained = Explained {
            outcome,
            more,
            capture: record.capture()?,
        };
        context.output.print(&explained, |explained, out| {
            in_words(&explained.outcome, out)?;
            compared(explained, out)?;
            explained
                .capture
                .as_ref()
                .map_or(Ok(()), |standing| capture(standing, out))
        })
    }
}

fn compared(explained: &Explained, out: &mut dyn Write) -> io::Result<()> {
    let more = &explained.more;
    if !more.stale_env.is_empty() {
        writeln!(out)?;
        writeln!(
            out,
            "It has the donor's values of: {}",
            plain(&more.stale_env.join(", "))
        )?;
    }
    let looked_up = explained.outcome.result == Way::Cold && explained.outcome.key.is_some();
    match &more.nearest {
        Some(nearest) => {
            writeln!(out)?;
            near(nearest, out)
        }
        None if looked_up && explained.outcome.reason == "no_snapshot" => {
            writeln!(out)?;
            writeln!(
                out,
                "The store has no snapshot of this image, or none that can be read."
            )
        }
        None => Ok(()),
    }
}

fn near(nearest: &Nearest, out: &mut dyn Write) -> io::Result<()> {
    let id: String = nearest.snapshot.hex().chars().take(12).collect();
    if nearest.differences.is_empty() && nearest.unfit.is_empty() {
        return writeln!(
            out,
            "The snapshot {id} of {} would be found now: by this container's next start, if nothing else is in the way.",
            plain(&nearest.created)
        );
    }
    writeln!(
        out,
        "The nearest snapshot is {id} of {}.",
        plain(&nearest.created)
    )?;
    if !nearest.differences.is_empty() {
        let text = |value: &Option<String>| plain(value.as_deref().unwrap_or("-"));
        let head = ["FIELD", "SNAPSHOT", "CONTAINER"].map(String::from).to_vec();
        let row = |one: &Difference| vec![plain(&one.field), text(&one.snapshot), text(&one.container)];
        let rows: Vec<Vec<String>> = std::iter::once(head)
            .chain(nearest.differences.iter().map(row))
            .collect();
        writeln!(out)?;
        columns(&rows, out)?;
    }
    for unfit in &nearest.unfit {
        writeln!(out, "It does not fit here: {}", plain(unfit))?;
    }
    Ok(())
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

fn capture(standing: &Standing, out: &mut dyn Write) -> io::Result<()> {
    let state = match standing.state {
        State::Waiting => "waits until it is ready",
        State::Capturing => "goes on",
        State::Published => "is in the store",
        State::Skipped => "was not needed",
        State::Failed => "has failed",
    };
    writeln!(out)?;
    writeln!(out, "Its own capture (thaw.dev/capture=ready) {state}.")?;
    writeln!(out)?;
    let mut facts = vec![
        vec!["Probe:".to_owned(), plain(&standing.ready)],
        vec!["Why:".to_owned(), plain(&standing.detail)],
        vec!["Reason:".to_owned(), plain(&standing.code)],
        vec!["At:".to_owned(), plain(&standing.at)],
    ];
    if let Some(snapshot) = &standing.snapshot {
        facts.push(vec!["Snapshot:".to_owned(), plain(snapshot)]);
    }
    if let Some(ms) = standing.frozen_ms {
        facts.push(vec!["Stood still:".to_owned(), format!("{ms} ms")]);
    }
    columns(&facts, out)
}
