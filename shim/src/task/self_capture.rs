//! Starting what captures a container when it is ready: this program under another verb, beside the shim.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use thaw_config::{NodeConfig, Policy, Probe};
use thaw_runc::Spawner as _;
use thaw_runtime::capture::{log_seen, remove_left_proofs};
use thaw_runtime::record::Record;

use super::Shim;
use super::container::Container;
use crate::io::Watch;
use crate::self_capture::CAPTURE_VERB;
use crate::spec::Spec;

/// How often, and with what pause, it is looked for what a killed capture has left.
const LOOKS: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

impl Shim {
    /// Leaves it to a process of its own. Whatever becomes of that is told by the container's record; the container
    /// knows nothing of it.
    pub(super) fn capture_when_ready(&self, container: &Container) {
        let mut command = Command::new(std::env::current_exe().unwrap_or_default());
        command
            .arg(CAPTURE_VERB)
            .args(["-namespace", &self.namespace, "-id", &container.id])
            // Signals for the shim's group are not for it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        match self.reaper.spawn(&mut command) {
            Ok((child, exit)) => {
                log::info!(
                    "process {} captures {} when it is ready",
                    child.id(),
                    container.id
                );
                let (id, runc) = (container.id.clone(), container.runc.clone());
                let state = container.record.state().to_owned();
                tokio::spawn(async move {
                    if let Ok(status) = exit.await
                        && !status.success()
                    {
                        log::warn!("the capture of {id} ended with {status}");
                        // Killed in the middle of its proof, it has left a second of the application, and perhaps a
                        // runc that is still at work.
                        for _ in 0..LOOKS {
                            remove_left_proofs(&state, &runc).await;
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                });
            }
            Err(error) => log::warn!("start the capture of {}: {error}", container.id),
        }
    }
}

/// What is to be looked for in the output of the container, if it starts cold. A mistake in the annotations is told by
/// the boot.
pub(super) fn watch(config: &NodeConfig, spec: &Spec, record: &Record) -> Option<Watch> {
    if !spec.annotations.contains_key(thaw_config::ANNOTATION_CAPTURE) {
        return None;
    }
    let policy = Policy::resolve(config, &spec.annotations).ok()?;
    let Probe::Log(pattern) = policy.capture?.ready else {
        return None;
    };
    let until = Instant::now() + config.capture.ready_deadline;
    Some(Watch::new(pattern.compile().ok()?, log_seen(record), until))
}
