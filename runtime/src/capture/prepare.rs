//! Before the freeze: is it ready, warm, and of a kind that can be dumped?

use thaw_config::NodeConfig;
use thaw_store::PutMode;

use super::find::Donor;
use super::refuse::{self, Refusal, Watched};
use super::{CaptureError, Progress, Request, Step};
use crate::ready;
use crate::record::Record;

pub(super) async fn prepare(
    config: &NodeConfig,
    request: &Request,
    donor: &Donor,
    progress: &dyn Progress,
) -> Result<Watched, CaptureError> {
    progress.step(Step::Warm);
    let refused = CaptureError::Refused;
    if request.mode == PutMode::IfAbsent && !donor.can_be_proven() {
        return Err(refused(Refusal::Unproven));
    }
    let policy = &donor.policy;
    let place = donor.place(
        &request.id,
        &Record::new(&config.state, &request.namespace, &request.id),
    );
    // A paused one answers nothing, and somebody has taken care of when.
    if !donor.paused {
        if let Some(probe) = &policy.ready {
            let asked = ready::wait(probe, &place, ready::AGAIN, ready::PAUSE).await;
            asked.map_err(|source| refused(Refusal::NotReady(source)))?;
        }
        if let Some(warmup) = &policy.warmup {
            let warm = ready::warm_up(warmup, &place).await;
            warm.map_err(|source| refused(Refusal::Warmup(source)))?;
        }
    }
    refuse::check(donor, config.capture.max_memory).await
}
