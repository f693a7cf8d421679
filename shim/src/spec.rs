//! The few things that the shim itself needs from `config.json`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// No OCI spec of a client is near this size.
const LIMIT: u64 = 16 << 20;

/// The part of an OCI spec that the shim reads; the rest is skipped while parsing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// `annotations`.
    pub annotations: HashMap<String, String>,
    /// `linux`.
    pub linux: Linux,
    /// `root`.
    pub root: Root,
}

/// `linux` of the spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Linux {
    /// `cgroupsPath`.
    pub cgroups_path: String,
    /// `namespaces`.
    pub namespaces: Vec<Namespace>,
}

/// One namespace of the spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `pid`, `network` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// An existing one to join.
    pub path: String,
}

/// `root` of the spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Where the root file system is.
    pub path: PathBuf,
}

impl Spec {
    /// Reads the spec of a bundle.
    ///
    /// # Errors
    /// What the file system or the parser answered.
    pub fn read(bundle: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        File::open(bundle.join("config.json"))?
            .take(LIMIT)
            .read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The group of containers that one shim serves; the container's id when it is in none.
    #[must_use]
    pub fn group<'a>(&'a self, id: &'a str) -> &'a str {
        const LABELS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
        LABELS
            .iter()
            .find_map(|label| self.annotations.get(*label))
            .map_or(id, String::as_str)
    }

    /// The other processes of the container outlive its init, because init is not the init of a pid namespace of
    /// its own; somebody has to kill them.
    #[must_use]
    pub fn outlives_init(&self) -> bool {
        !self
            .linux
            .namespaces
            .iter()
            .any(|namespace| namespace.kind == "pid" && namespace.path.is_empty())
    }

    /// The cgroup path has the form `slice:prefix:name` of the systemd driver. Clients that know a runtime only by
    /// name set the path but cannot say which driver it is for (nerdctl, Docker, CRI without options of the handler).
    #[must_use]
    pub fn systemd_cgroup(&self) -> bool {
        let path = &self.linux.cgroups_path;
        !path.contains('/') && path.split(':').count() == 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn groups_by_annotation_in_the_stock_order() {
        assert_eq!(spec("{}").group("c1"), "c1");
        let cri = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
        assert_eq!(spec(cri).group("c1"), "pod");
        let both =
            r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(spec(both).group("c1"), "g");
    }

    #[test]
    fn only_a_pid_namespace_of_its_own_ends_with_init() {
        assert!(!spec(r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#).outlives_init());
        assert!(spec(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#).outlives_init());
        assert!(spec("{}").outlives_init());
    }

    #[test]
    fn the_systemd_driver_shows_in_the_cgroup_path() {
        let driver = |path: &str| {
            let linux = Linux {
                cgroups_path: path.into(),
                ..Linux::default()
            };
            Spec {
                linux,
                ..Spec::default()
            }
            .systemd_cgroup()
        };
        assert!(driver("system.slice:containerd:c1"));
        assert!(driver("a.slice:b:c"));
        assert!(driver(":cri-containerd:c1"));
        assert!(!driver("/default/c1"));
        assert!(!driver("/a:b:c"));
        assert!(!driver(""));
    }
}
