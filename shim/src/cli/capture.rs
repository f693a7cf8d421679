//! `thaw capture`.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Mutex;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use thaw_runtime::capture::{self, Cancel, CaptureError, Captured, Progress, Step};
use thaw_snapshot::Digest;
use thaw_store::PutMode;

use super::context::Context;
use super::failure::Failure;
use super::output::{bytes, columns, plain};
use super::snapshots::Snapshot;

/// Take a snapshot of a running container, and publish it to the store.
///
/// Do this when the application is ready to serve. It stands still while its memory is copied (the time is printed),
/// then goes on; its clients see a pause. Later containers of the same image and settings are restored from it.
#[derive(Debug, Args)]
pub(super) struct Capture {
    /// End the container with the snapshot, instead of letting it run on. Not where secrets are to be refused
    #[arg(long)]
    stop: bool,
    /// Who may be restored from it. `shared` is for everybody: publish nothing so that holds a secret
    #[arg(long, value_enum, default_value_t = Scope::Own)]
    scope: Scope,
    /// Publish without restoring it once in a scratch container, which is also left out with --stop
    #[arg(long)]
    no_proof: bool,
    /// Publish nothing in which secrets are found: well-known names in the environment, private keys in memory. Not
    /// with --stop: memory is searched after the dump
    #[arg(long)]
    refuse_secrets: bool,
    /// Its id, the name that its client gave it, or the start of its id; in pods also POD/CONTAINER. It must run under
    /// io.containerd.thaw.v1
    container: String,
}

/// Who may be restored from a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// Containers of the same containerd namespace, in Kubernetes of the same namespace of pods
    Own,
    /// Those of any other too, on nodes whose configuration says `shared_scope = true`
    Shared,
}

/// What was taken.
#[derive(Debug, Serialize)]
struct Taken {
    id: Digest,
    /// Path of the key document in the store.
    key: String,
    store: String,
    frozen_ms: u64,
    memory_bytes: u64,
    stored_bytes: u64,
    /// Changed files, before compression.
    rootfs_bytes: u64,
    /// It was restored once before it was published.
    proven: bool,
    /// Secrets that were found in it: what and where, never the values.
    secrets: Vec<String>,
}

impl Capture {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let namespace = context.namespace.clone();
        let request = capture::Request {
            namespace,
            id: context.container(&self.container)?,
            shared: self.scope == Scope::Shared,
            stop: self.stop,
            // The dump that ends a container may be the last that there is of it: it is kept, come what may.
            proof: !self.no_proof && !self.stop,
            refuse_secrets: self.refuse_secrets || context.config.capture.refuse_secrets,
            mode: PutMode::Replace,
            helper: std::env::current_exe()?,
        };
        let (progress, cancel) = (Reporter::new(), Cancel::default());
        let work = capture::capture(&context.config, &request, &progress, &cancel);
        tokio::pin!(work);
        // Asked to stop and waited for, so that it removes its files.
        let captured = loop {
            tokio::select! {
                captured = &mut work => break captured,
                Ok(()) = tokio::signal::ctrl_c() => cancel.cancel(),
            }
        };
        progress.finish();
        let taken = taken(captured.map_err(failure)?);
        for secret in &taken.secrets {
            log::warn!("the snapshot holds a secret: {}", plain(secret));
        }
        context.output.print(&taken, table)
    }
}

fn failure(error: CaptureError) -> Failure {
    match error {
        CaptureError::NotFound { .. } => Failure::not_found(error.to_string()),
        CaptureError::Useless(_) | CaptureError::Refused(_) => Failure::incompatible(error),
        error => error.into(),
    }
}

fn taken(captured: Captured) -> Taken {
    let Captured {
        manifest,
        store,
        frozen,
        proven,
        secrets,
    } = captured;
    let snapshot = Snapshot {
        id: manifest.id(),
        document: manifest.key.path(),
        manifest,
    };
    Taken {
        id: snapshot.id,
        store,
        frozen_ms: u64::try_from(frozen.as_millis()).unwrap_or(u64::MAX),
        memory_bytes: snapshot.memory(),
        stored_bytes: snapshot.stored(),
        rootfs_bytes: snapshot
            .manifest
            .blobs
            .rootfs
            .as_ref()
            .map_or(0, |blob| blob.raw_size),
        key: snapshot.document,
        proven,
        secrets,
    }
}

fn table(taken: &Taken, out: &mut dyn Write) -> io::Result<()> {
    let facts = [
        ("Snapshot", taken.id.to_string()),
        ("Key", taken.key.clone()),
        ("Store", taken.store.clone()),
        ("Stood still", format!("{} ms", taken.frozen_ms)),
        ("Memory", bytes(taken.memory_bytes)),
        ("Changed files", bytes(taken.rootfs_bytes)),
        ("In the store", bytes(taken.stored_bytes)),
        (
            "Restored once",
            if taken.proven { "yes" } else { "no" }.to_owned(),
        ),
    ];
    let rows: Vec<Vec<String>> = facts
        .iter()
        .map(|(name, fact)| vec![format!("{name}:"), plain(fact)])
        .collect();
    columns(&rows, out)
}

/// A bar on a terminal, a line per step elsewhere.
#[derive(Debug)]
struct Reporter {
    bar: Option<ProgressBar>,
    last: Mutex<Option<Step>>,
}

impl Reporter {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            bar,
            last: Mutex::new(None),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Reporter {
    fn step(&self, step: Step) {
        // A poisoned lock means that a thread died while it held a flag: nothing to be careful with.
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.replace(step) == Some(step) {
            return;
        }
        match &self.bar {
            Some(bar) => {
                // The template is a constant; a bar without it still says the words.
                let style = ProgressStyle::with_template("{spinner} {msg}");
                bar.set_style(style.unwrap_or_else(|_error| ProgressStyle::default_spinner()));
                bar.set_message(words(step));
            }
            None => {
                writeln!(io::stderr(), "{}", words(step)).ok();
            }
        }
    }

    fn bytes(&self, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            let style = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {bytes}/{total_bytes}");
            bar.set_style(style.unwrap_or_else(|_error| ProgressStyle::default_bar()));
            bar.set_length(total);
        }
        bar.set_position(done);
    }
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Identify => "finding the container and its image",
        Step::Warm => "asking the application",
        Step::Freeze => "copying memory and files, the application stands still",
        Step::Pack => "compressing, the application runs on",
        Step::Prove => "restoring it once, to see that it works",
        Step::Publish => "sending to the store",
        Step::Prime => "filling this node's cache",
    }
}
