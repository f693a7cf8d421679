//! What a person can do about each reason of a cold start (`docs/reasons.md`).

/// Advice for the reason code, when there is something to do.
pub(super) fn of(reason: &str) -> Option<&'static str> {
    about_the_container(reason)
        .or_else(|| about_the_restore(reason))
        .or_else(|| about_the_node(reason))
}

/// Where the container is not of a kind that is restored here.
fn about_the_container(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "pid_namespace" => {
            "give the container a pid namespace of its own (no --pid host, no shareProcessNamespace)"
        }
        "scope_unknown" => {
            "start it through a CRI that names the pod's namespace: containerd 1.6 or newer does"
        }
        "restart_attempt" => "nothing: it starts cold until its pod is replaced",
        "privileged" | "devices" => "give it no devices of the host: what they hold is in no snapshot",
        "persistent_mount" => {
            "mount it read-only; or, if the application copes with other files than its memory knows (as with a fresh \
             volume that the image declares), annotate the container with thaw.dev/persistent-mounts=allow"
        }
        "memory_limit" => {
            "raise the container's memory limit, or capture a container that uses less; `thaw inspect` shows how much"
        }
        "host_network" => "give the container a network of its own",
        "hooks_unsupported" => {
            "leave out the hooks, or turn them into createRuntime hooks; those of createRuntime, prestart and poststop \
             are run for restored containers too"
        }
        "rootfs_changed" => {
            "nothing: a restarted container goes on with its own files, only a new one is restored"
        }
        "rootfs_unsupported" => "use the overlayfs snapshotter, or Docker's overlay2 storage driver",
        _ => return None,
    })
}

/// Where a snapshot was there and could not be restored.
fn about_the_restore(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "images_invalid" | "rewrite_failed" | "rootfs_diff_failed" => "remove the snapshot and capture again",
        "socket_unmovable" => {
            "bind the socket to no interface (SO_BINDTODEVICE), or give the container a network made before it"
        }
        "ipc_shared" => {
            "give the container an ipc namespace of its own, or capture before it uses System V IPC"
        }
        "rootfs_mount_failed" => "look at the kernel's log for the overlay",
        "restore_failed" => "CRIU's first error is named above; what it can't restore here, capture here",
        "restored_file_failed" => {
            "let /run be a directory of the image or a tmpfs, neither a link nor a volume, with /run/thaw in it free"
        }
        "restore_timeout" => "raise deadlines.restore if the machine is slow, else report it with the log",
        _ => return None,
    })
}

/// Where a snapshot, the store or the node is not as it should be.
fn about_the_node(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "policy_never" => {
            "change `policy` in /etc/thaw/config.toml or the annotation thaw.dev/snapshot-policy"
        }
        "config_invalid" => "correct the configuration: `thaw ls` shows all of its mistakes",
        "annotation_invalid" => {
            "correct the annotation; a snapshot-path must lie under one of the node's allowed_paths"
        }
        "no_snapshot" => {
            "capture a container of the same image and settings once it is ready: `thaw capture CONTAINER`"
        }
        "host_mismatch" => "capture again on a machine like this one",
        "host_unfit" => {
            "install runc and CRIU 4.2 or newer in containerd's PATH, or name them in the configuration"
        }
        "image_unknown" => {
            "start it from an image that containerd knows (--rootfs containers have none); with Docker turn on its \
             containerd image store, `features.containerd-snapshotter` in daemon.json"
        }
        "image_moved" => "the tag points to another image now: pull it again and start the container anew",
        "identify_failed" | "identify_timeout" => {
            "look at containerd's log: it did not answer about the image"
        }
        "store_invalid" => "correct the store's URL, or the credentials in containerd's environment",
        "lookup_failed" | "lookup_timeout" => {
            "see if the node reaches the store: `thaw ls` asks the same one"
        }
        "store_resting" => {
            "see if the node reaches the store: `thaw ls` asks the same one; once it answers, thaw goes on by itself"
        }
        "quarantined" => {
            "see `thaw quarantine ls`; once the cause is gone, `thaw quarantine clear ID`, or capture again"
        }
        "manifest_invalid" => "remove the snapshot and capture again; it may come from a newer thaw",
        "fetch_failed" => "see if the snapshot is whole: remove it and capture again if not",
        "fetch_timeout" => "raise deadlines.fetch, or bring the store nearer",
        "cache_failed" => "see if the cache directory can be written and the disk has room",
        "internal" => "look at the log, and report it",
        _ => return None,
    })
}
