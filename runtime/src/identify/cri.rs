//! What containerd's CRI keeps of a container, in an extension of containerd's record.

use containerd_client::services::v1::Container;
use serde_json::Value;

/// The container extension in which containerd's CRI keeps its own record.
const CRI_METADATA: &str = "io.cri-containerd.container.metadata";

/// The kubelet's word for the kind of a container, in its labels and annotations.
pub(crate) const CONTAINER_TYPE: &str = "io.kubernetes.container.type";

/// What the kubelet tells CRI of a container, and CRI keeps for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// How often the container was started before in its pod.
    pub attempt: u64,
    /// `init`, `container` or `ephemeral`, where the kubelet says it.
    pub kind: Option<String>,
}

/// What CRI noted when it made the container. Its fields are those of CRI's own types, and differ little between
/// versions; what is not as expected counts as not there.
pub(super) fn note(container: &Container) -> Option<Value> {
    let metadata = container.extensions.get(CRI_METADATA)?;
    serde_json::from_slice(&metadata.value).ok()
}

/// `ImageRef` is the config digest, in all versions.
pub(super) fn image(note: &Value) -> Option<String> {
    let found = note.pointer("/Metadata/ImageRef")?.as_str()?;
    found.starts_with("sha256:").then(|| found.to_owned())
}

/// The attempt is left out of the note when it is 0. The kubelet has named the kind in a label or in an annotation.
pub(super) fn kubernetes(note: &Value) -> Kubernetes {
    let config = |path: &str| note.pointer(&format!("/Metadata/Config/{path}"));
    let kind = ["annotations", "labels"]
        .iter()
        .find_map(|list| config(list)?.get(CONTAINER_TYPE)?.as_str());
    Kubernetes {
        attempt: config("metadata/attempt").and_then(Value::as_u64).unwrap_or(0),
        kind: kind.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(text: &str) -> Option<Value> {
        let mut container = Container::default();
        let metadata = container.extensions.entry(CRI_METADATA.to_owned());
        metadata.or_default().value = text.into();
        note(&container)
    }

    #[test]
    fn the_image_that_noted() {
        assert_eq!(note(&Container::default()), None);
        assert_eq!(noted("not json"), None);
        let made_from = |text: &str| noted(text).as_ref().and_then(image);
        let found = made_from(r#"{"Metadata": {"ImageRef": "sha256:ab"}}"#);
        assert_eq!(found.as_deref(), Some("sha256:ab"));
        assert_eq!(made_from("{}"), None);
    }

    #[test]
    fn what_the_kubelet_said() {
        let said = |text: &str| kubernetes(&noted(text).unwrap());
        assert_eq!(said("{}"), Kubernetes::default());
        assert_eq!(
            said(r#"{"Metadata": {"Config": {"metadata": {"name": "app"}}}}"#),
            Kubernetes::default()
        );
        let again = said(r#"{"Metadata": {"Config": {"metadata": {"name": "app", "attempt": 2}}}}"#);
        assert_eq!(again.attempt, 2);
        for list in ["labels", "annotations"] {
            let text =
                format!(r#"{{"Metadata": {{"Config": {{"{list}": {{"{CONTAINER_TYPE}": "init"}}}}}}}}"#);
            assert_eq!(said(&text).kind.as_deref(), Some("init"));
        }
    }
}
