//! Update: new limits, through runc, so that the systemd driver hears of them too.

use containerd_shim_protos::api::UpdateTaskRequest;

use super::Shim;
use super::phase::Verb;
use super::refusal::Refusal;

impl Shim {
    pub(super) async fn update(&self, request: UpdateTaskRequest) -> Result<(), Refusal> {
        let container = self.container(&request.id)?;
        let resources = request
            .resources
            .into_option()
            .ok_or_else(|| Refusal::invalid("there are no resources"))?;
        let _turn = container.turn.lock().await;
        container.state().init.phase.allow(Verb::Update)?;
        container
            .runc
            .update(&request.id, resources.value)
            .await
            .map_err(|error| Refusal::runc("OCI runtime update failed", &error))
    }
}
