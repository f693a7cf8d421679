//! Storage that outlives the container: what was written there since the dump, the restored memory knows nothing of.

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};
use thaw_snapshot::fingerprint::{annotation, cri};

use super::Ineligible;

/// Files and folders that the container's client makes anew for each container or pod, and mounts writable.
const OF_THE_CLIENT: [&str; 7] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/shm",
    "/dev/termination-log",
    "/run/.containerenv",
    "/run/thaw",
];

/// File systems that live no longer than the container, or hold nothing that was written.
const EPHEMERAL: [&str; 11] = [
    "proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "bpf",
    "debugfs",
];

/// Can it write to nothing that outlives it?
pub(super) fn check(spec: &Spec) -> Result<(), Ineligible> {
    let pod = annotation(spec, cri::SANDBOX_ID).is_some();
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    match mounts.iter().find(|mount| is_persistent(mount, pod)) {
        None => Ok(()),
        Some(mount) => Err(Ineligible::PersistentMount {
            destination: mount.destination().to_string_lossy().into_owned(),
        }),
    }
}

fn is_persistent(mount: &Mount, pod: bool) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    // The last one wins, as in runc.
    let access = options
        .iter()
        .rev()
        .find(|option| ["ro", "rro", "rw", "rrw"].contains(&option.as_str()));
    if access.is_some_and(|access| access == "ro" || access == "rro") {
        return false;
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    let bind = kind == "bind" || options.iter().any(|option| option == "bind" || option == "rbind");
    if !bind {
        return !EPHEMERAL.contains(&kind);
    }
    let of_client = OF_THE_CLIENT
        .iter()
        .any(|known| mount.destination() == Path::new(known));
    let of_pod = || {
        let source = mount.source().as_deref();
        source.is_some_and(|source| is_of_kubelet(source) || is_of_image(source))
    };
    !(of_client || pod && of_pod())
}

/// An emptyDir, the file for the last words of a container, or the pod's hosts: they go with the pod. The kubelet keeps
/// them below a root of its own in `pods/<uid>/` (kubelet, `kubelet_getters.go`).
fn is_of_kubelet(source: &Path) -> bool {
    let parts: Vec<&str> = source.iter().filter_map(|part| part.to_str()).collect();
    let below = |rest: usize| parts.len() > rest + 2 && parts[parts.len() - rest - 2] == "pods";
    if parts.contains(&"..") {
        return false;
    }
    match parts.as_slice() {
        [.., "volumes", "kubernetes.io~empty-dir", _name] => below(3),
        [.., "containers", _name, _file] => below(3),
        [.., "etc-hosts"] => below(1),
        _ => false,
    }
}

/// A volume that the image declares: CRI makes a folder with the image's files for each container, and removes it with
/// the container (containerd, `volumeMounts` in `container_create.go`). Docker and nerdctl keep theirs among all other
/// volumes, where nothing tells whether it held another container's files before.
fn is_of_image(source: &Path) -> bool {
    let parts: Vec<&str> = source.iter().filter_map(|part| part.to_str()).collect();
    let ends = matches!(
        parts.as_slice(),
        [
            ..,
            "io.containerd.grpc.v1.cri",
            "containers",
            _container,
            "volumes",
            _volume
        ]
    );
    ends && !parts.contains(&"..")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The destination that is refused.
    fn refused(pod: bool, mount: (&str, &str, &str, &[&str])) -> Option<String> {
        let (destination, kind, source, options) = mount;
        let annotations = if pod {
            json!({cri::SANDBOX_ID: "x"})
        } else {
            json!({})
        };
        let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
        let spec = json!({"ociVersion": "1.2.0", "annotations": annotations, "mounts": [mount]});
        match check(&serde_json::from_value(spec).unwrap()) {
            Ok(()) => None,
            Err(Ineligible::PersistentMount { destination }) => Some(destination),
            Err(other) => panic!("{other:?}"),
        }
    }

    const IMAGE_VOLUME: &str = "/c/io.containerd.grpc.v1.cri/containers/c1/volumes/v1";
    const EMPTY_DIR: &str = "/var/lib/kubelet/pods/5f0e/volumes/kubernetes.io~empty-dir/tmp";

    #[test]
    fn what_goes_with_the_container_passes() {
        let last = "/k/pods/5f0e/containers/app/9f";
        let hosts = "/var/lib/docker/containers/x/hosts";
        for (pod, mount) in [
            (false, ("/data", "bind", "/srv/data", &["rbind", "ro"][..])),
            (false, ("/data", "none", "/srv/data", &["bind", "rw", "ro"])),
            (false, ("/tmp", "tmpfs", "tmpfs", &["nosuid"])),
            (false, ("/proc", "proc", "proc", &[])),
            (false, ("/etc/hosts", "bind", hosts, &["rbind"])),
            (false, ("/dev/shm", "bind", "/run/shm", &["rbind", "rw"])),
            (true, ("/scratch", "bind", EMPTY_DIR, &["rbind", "rw"])),
            (true, ("/dev/last", "bind", last, &["rbind", "rw"])),
            (true, ("/files", "bind", IMAGE_VOLUME, &["rbind", "rw"])),
        ] {
            assert_eq!(refused(pod, mount), None, "{mount:?}");
        }
    }

    #[test]
    fn what_outlives_the_container_is_refused() {
        let of_csi = "/k/pods/5f0e/volumes/kubernetes.io~csi/pv/mount";
        let elsewhere = "/volumes/kubernetes.io~empty-dir/tmp";
        let up = "/k/pods/../volumes/kubernetes.io~empty-dir/tmp";
        let part = "/k/pods/5f0e/volume-subpaths/tmp/app/0";
        for (pod, mount) in [
            (false, ("/data", "bind", "/srv/data", &["rbind", "rw"][..])),
            (false, ("/data", "", "/srv/data", &["rbind"])),
            (false, ("/data", "bind", "/srv/data", &["ro", "rw"])),
            (false, ("/data", "nfs", "server:/data", &[])),
            (false, ("/scratch", "bind", EMPTY_DIR, &["rbind", "rw"])),
            (false, ("/files", "bind", IMAGE_VOLUME, &["rbind", "rw"])),
            (true, ("/x", "bind", "/srv/containers/c1/volumes/v1", &["rbind"])),
            (true, ("/x", "bind", of_csi, &["rbind"])),
            (true, ("/x", "bind", elsewhere, &["rbind"])),
            (true, ("/x", "bind", up, &["rbind"])),
            (true, ("/x", "bind", part, &["rbind"])),
        ] {
            assert_eq!(refused(pod, mount).as_deref(), Some(mount.0), "{mount:?}");
        }
    }
}
