//! What a Linux security module labels the clone with: the live spec says it. The snapshot's own labels would carry the
//! categories of another pod, or a profile of a stranger's choice.

use oci_spec::runtime::Spec;

/// The labels of a spec, as CRIU takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Labels {
    /// For the processes: `selinux:LABEL` or `apparmor:PROFILE`.
    pub(super) process: Option<String>,
    /// For mounts with a `context=` option.
    pub(super) mount: Option<String>,
}

impl Labels {
    pub(super) fn of(spec: &Spec) -> Self {
        let process = spec.process().as_ref();
        let selinux = process.and_then(|process| process.selinux_label().as_deref());
        let apparmor = process.and_then(|process| process.apparmor_profile().as_deref());
        let linux = spec.linux().as_ref();
        let named = |kind: &str, label: Option<&str>| {
            let label = label.filter(|label| !label.is_empty())?;
            Some(format!("{kind}:{label}"))
        };
        Self {
            process: named("selinux", selinux).or_else(|| named("apparmor", apparmor)),
            mount: linux
                .and_then(|linux| linux.mount_label().clone())
                .filter(|label| !label.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(process: Value, linux: Value) -> Labels {
        let mut spec = json!({"ociVersion": "1.2.0", "linux": linux});
        spec["process"] = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}});
        let fields = process.as_object().unwrap().clone();
        spec["process"].as_object_mut().unwrap().extend(fields);
        Labels::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_live_spec_s_labels() {
        assert_eq!(of(json!({}), json!({})), Labels::default());
        assert_eq!(
            of(json!({"apparmorProfile": ""}), json!({"mountLabel": ""})),
            Labels::default()
        );
        let apparmor = of(json!({"apparmorProfile": "docker-default"}), json!({}));
        assert_eq!(apparmor.process.as_deref(), Some("apparmor:docker-default"));
        let label = "system_u:system_r:container_t:s0:c3,c4";
        let selinux = of(
            json!({"selinuxLabel": label}),
            json!({"mountLabel": "u:object_r:t:s0:c3,c4"}),
        );
        assert_eq!(selinux.process, Some(format!("selinux:{label}")));
        assert_eq!(selinux.mount.as_deref(), Some("u:object_r:t:s0:c3,c4"));
    }
}
