//! Finding a container by what its client calls it.
//!
//! People do not type ids of 64 digits. nerdctl and containerd's CRI write the names that they know into the
//! annotations of the spec, which lies in the bundle that the record names; so nobody has to be asked. Docker writes
//! its name into a record of its own ([`crate::docker`]).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::Spec;

use super::{Record, RecordError};
use crate::docker::Place;
use crate::key::{Bundle, read_bundle};

/// `--name` of nerdctl, or the name that it made up.
const NERDCTL_NAME: &str = "nerdctl/name";
/// Name of a container in its pod.
const CRI_CONTAINER: &str = "io.kubernetes.cri.container-name";
/// Name of its pod.
const CRI_POD: &str = "io.kubernetes.cri.sandbox-name";
/// Kubernetes namespace of its pod.
const CRI_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
/// `sandbox` or `container`.
const CRI_TYPE: &str = "io.kubernetes.cri.container-type";

/// Why there is no single answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The records can't be listed.
    #[error("list the records of the namespace {namespace:?}")]
    List {
        /// containerd namespace.
        namespace: String,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// It means more than one container.
    #[error("{wanted:?} means more than one container: {}", .ids.join(", "))]
    Several {
        /// What was asked for.
        wanted: String,
        /// Their ids, sorted.
        ids: Vec<String>,
    },
}

/// The id of the container that `wanted` means: an id; a name, which is nerdctl's or Docker's, or in pods `CONTAINER`,
/// `POD/CONTAINER` or `NAMESPACE/POD/CONTAINER`; or the start of an id. The first of these that is there counts.
/// `None` when there is no such container.
///
/// # Errors
/// See [`FindError`].
pub fn find(state: &Path, namespace: &str, wanted: &str) -> Result<Option<String>, FindError> {
    let ids = ids(state, namespace).map_err(|source| FindError::List {
        namespace: namespace.to_owned(),
        source,
    })?;
    if wanted.is_empty() {
        return Ok(None);
    }
    if ids.iter().any(|id| id == wanted) {
        return Ok(Some(wanted.to_owned()));
    }
    let mut named = Vec::new();
    for id in &ids {
        let record = Record::new(state, namespace, id);
        // A record that can't be read hides its own container, not the others.
        let names = names(&record, id).unwrap_or_else(|error| {
            log::warn!("look up the names of the container {id}: {error}");
            Vec::new()
        });
        if names.iter().any(|name| name == wanted) {
            named.push(id.clone());
        }
    }
    if named.is_empty() {
        named = ids.into_iter().filter(|id| id.starts_with(wanted)).collect();
    }
    if named.len() > 1 {
        return Err(FindError::Several {
            wanted: wanted.to_owned(),
            ids: named,
        });
    }
    Ok(named.pop())
}

/// The directory of a namespace holds one directory per container.
fn ids(state: &Path, namespace: &str) -> io::Result<Vec<String>> {
    let any = Record::new(state, namespace, "any");
    let entries = match any.directory().parent().map(fs::read_dir) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Some(Ok(entries)) => entries,
        _ => return Ok(Vec::new()),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
    let mut ids = names.collect::<io::Result<Vec<_>>>()?;
    ids.sort_unstable();
    Ok(ids)
}

/// What its client calls the container; nothing when it is just going, or has no name.
fn names(record: &Record, id: &str) -> Result<Vec<String>, RecordError> {
    let bundle = record.container()?.map(|container| container.bundle);
    // A bundle that is gone belongs to a container that nobody can mean any more.
    let bundle = bundle.and_then(|path| read_bundle(&path).ok());
    let Some(Bundle { spec, .. }) = bundle else {
        return Ok(Vec::new());
    };
    let mut names = names_in(&spec);
    names.extend(docker_name(&spec, id));
    Ok(names)
}

/// `--name` of Docker, or the name that it made up.
fn docker_name(spec: &Spec, id: &str) -> Option<String> {
    let place = Place::of(spec.root().as_ref()?.path(), id)?;
    // Other clients may keep root filesystems at paths like Docker's.
    let name = place.container(id).ok()?.name;
    Some(name.trim_start_matches('/').to_owned())
}

fn names_in(spec: &Spec) -> Vec<String> {
    let none = HashMap::new();
    let annotations = spec.annotations().as_ref().unwrap_or(&none);
    let of = |key: &str| annotations.get(key).filter(|name| !name.is_empty());
    let mut names: Vec<String> = of(NERDCTL_NAME).into_iter().cloned().collect();
    if let (Some(container), Some(pod)) = (of(CRI_CONTAINER), of(CRI_POD))
        && of(CRI_TYPE).is_none_or(|kind| kind != "sandbox")
    {
        names.extend([container.clone(), format!("{pod}/{container}")]);
        names.extend(of(CRI_NAMESPACE).map(|namespace| format!("{namespace}/{pod}/{container}")));
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(state: &Path, id: &str, annotations: &serde_json::Value) {
        let (record, bundle) = (state.join("ns").join(id), state.join("bundles").join(id));
        fs::create_dir_all(&record).unwrap();
        fs::create_dir_all(&bundle).unwrap();
        let container = json!({"bundle": bundle, "runc": "runc", "root": "/r", "systemd_cgroup": false,
            "terminal": false, "stdin": false, "containerd": "/c"});
        fs::write(record.join("container.json"), container.to_string()).unwrap();
        let spec = json!({"ociVersion": "1.2.0", "annotations": annotations});
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    }

    #[test]
    fn by_id_then_by_name_then_by_the_start_of_an_id() {
        let state = tempfile::tempdir().unwrap();
        let find = |wanted: &str| super::find(state.path(), "ns", wanted);
        assert_eq!(find("web").unwrap(), None);
        put(state.path(), "3fa9c1", &json!({NERDCTL_NAME: "web"}));
        put(state.path(), "web2", &json!({NERDCTL_NAME: "3fa"}));
        let pod =
            json!({CRI_CONTAINER: "app", CRI_POD: "shop", CRI_NAMESPACE: "prod", CRI_TYPE: "container"});
        put(state.path(), "77aa", &pod);
        put(
            state.path(),
            "77bb",
            &json!({CRI_CONTAINER: "app", CRI_POD: "blog"}),
        );
        for (wanted, id) in [
            ("web", "3fa9c1"),
            ("web2", "web2"),
            ("3fa", "web2"),
            ("3fa9", "3fa9c1"),
            ("shop/app", "77aa"),
            ("prod/shop/app", "77aa"),
            ("77b", "77bb"),
        ] {
            assert_eq!(find(wanted).unwrap().as_deref(), Some(id), "{wanted}");
        }
        for none in ["", "shop", "9", "../ns/77aa"] {
            assert_eq!(find(none).unwrap(), None, "{none:?}");
        }
        for several in ["app", "77"] {
            assert!(
                matches!(find(several), Err(FindError::Several { ids, .. }) if ids == ["77aa", "77bb"]),
                "{several}"
            );
        }
    }

    #[test]
    fn docker_keeps_names_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("containers/c1");
        fs::create_dir_all(&folder).unwrap();
        let record = r#"{"ID":"c1","Name":"/web","Image":"sha256:ab","Config":{}}"#;
        fs::write(folder.join("config.v2.json"), record).unwrap();
        let merged = root.path().join("overlay2/l1/merged");
        let spec = json!({"ociVersion": "1.2.0", "root": {"path": merged}});
        let spec = serde_json::from_value(spec).unwrap();
        assert_eq!(docker_name(&spec, "c1").as_deref(), Some("web"));
        assert_eq!(docker_name(&spec, "c2"), None);
    }

    #[test]
    fn a_sandbox_has_no_name() {
        let spec = json!({"ociVersion": "1.2.0", "annotations": {CRI_TYPE: "sandbox", CRI_CONTAINER: "", CRI_POD: "p"}});
        assert!(names_in(&serde_json::from_value(spec).unwrap()).is_empty());
    }
}
