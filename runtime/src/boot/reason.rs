//! Why a container started cold. The codes are stable and listed in `docs/reasons.md`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thaw_config::{ANNOTATION_MOUNTS, ConfigError, PolicyError};
use thaw_criu::pagemap::PagemapError;
use thaw_criu::{CheckError, EditError, ReadError};
use thaw_pages::FillError;
use thaw_runc::RuncError;
use thaw_snapshot::Mismatch;
use thaw_store::{CacheError, EntryError, FetchError, LookupError, OpenError};

use super::mounts::MountsError;
use super::rights::RightsError;
use super::sockets::UnmovableSocket;
use crate::host::HostError;
use crate::identify::IdentifyError;
use crate::key::KeyError;
use crate::misses::Said;
use crate::quarantine::Inmate;
use crate::rootfs::ApplyError;
use crate::words::chain;

/// Why a container is not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The policy says so.
    #[error("the policy is Never")]
    Never,
    /// The node's configuration can't be used.
    #[error("read the configuration")]
    Config(#[source] Arc<ConfigError>),
    /// An annotation can't be followed.
    #[error("follow the annotations")]
    Annotation(#[source] PolicyError),
    /// This kind of container is never restored.
    #[error("this kind of container is never restored")]
    Ineligible(#[source] Ineligible),
    /// `config.json` can't be read.
    #[error("read the OCI spec")]
    Spec(#[source] KeyError),
    /// The image can't be told.
    #[error("identify the image")]
    Identify(#[source] IdentifyError),
    /// The store's URL, or a client for it, doesn't work.
    #[error("open the store")]
    Store(#[source] OpenError),
    /// The store gave no usable answer.
    #[error("look the key up")]
    Lookup(#[source] LookupError),
    /// The store has nothing under the key.
    #[error("there is no snapshot for this image and spec")]
    Miss,
    /// It had nothing of use under the key when it was asked a moment ago.
    #[error("{said} {ms} ms ago")]
    Known {
        /// What it said.
        said: Said,
        /// How long ago.
        ms: u128,
    },
    /// The store is out, and not asked for a while.
    #[error(
        "the store gives no answer and is not asked for another {ms} ms, after {failures} failures: {why}"
    )]
    StoreResting {
        /// Failures in a row.
        failures: u32,
        /// How long still.
        ms: u128,
        /// The last failure.
        why: String,
    },
    /// A store that was out was asked again, and this container did not wait longer.
    #[error("the store was out, and did not answer within {ms} ms when it was asked again")]
    StoreWakes {
        /// How long it waited.
        ms: u128,
    },
    /// The snapshot has failed on this node, and is left alone for a while.
    #[error(
        "the snapshot has failed here {} times, last with {} ({}), and is left alone for another {} s",
        .0.failures, .0.reason, .0.detail, .0.left().unwrap_or_default().as_secs()
    )]
    Quarantined(Box<Inmate>),
    /// The snapshots under the key don't fit this host, or the container's limits.
    #[error("no snapshot fits here")]
    Mismatch(#[source] Mismatch),
    /// CRIU or runc is not there.
    #[error("learn what this host offers")]
    Host(#[source] HostError),
    /// A step took too long.
    #[error("{step} took longer than {ms} ms")]
    Deadline {
        /// The step: `identify`, `lookup`.
        step: &'static str,
        /// The limit.
        ms: u128,
    },
    /// The cache can't be used.
    #[error("use the cache")]
    Cache(#[source] CacheError),
    /// The snapshot can't be brought here whole.
    #[error("fetch the snapshot")]
    Fetch(#[source] FetchError),
    /// The cached snapshot can't be read.
    #[error("read the fetched snapshot")]
    Entry(#[source] EntryError),
    /// Its images are not what CRIU writes.
    #[error("check the CRIU images")]
    Images(#[source] CheckError),
    /// A fact can't be read from the images.
    #[error("read the CRIU images")]
    Facts(#[source] ReadError),
    /// The page maps can't be read.
    #[error("read the page maps")]
    Pagemap(#[source] PagemapError),
    /// The page maps and the page files of the manifest don't go together.
    #[error("the page files are not those that the page maps describe")]
    PageFiles,
    /// The images carry rights beyond the live spec.
    #[error("compare the rights in the images with the spec")]
    Rights(#[source] RightsError),
    /// The images hold other mounts than the live spec.
    #[error("compare the mounts in the images with the spec")]
    Mounts(#[source] MountsError),
    /// The images can't be given the clone's identity.
    #[error("edit the CRIU images")]
    Edit(#[source] EditError),
    /// A socket of the snapshot can't be in the clone's network.
    #[error("move the sockets to the container's own addresses")]
    Socket(#[source] UnmovableSocket),
    /// The snapshot holds System V objects, which would have to go into an ipc namespace that is not the clone's own.
    #[error("put System V objects into an ipc namespace that is in use")]
    SharedIpc,
    /// The clone's surroundings can't be read: the network namespace or host name it is to join.
    #[error("look at the namespaces to join")]
    Surroundings(#[source] io::Error),
    /// A file for the restore can't be written.
    #[error("write {}", path.display())]
    Prepare {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The root filesystem changes don't apply.
    #[error("apply the root filesystem changes")]
    Rootfs(#[source] ApplyError),
    /// The root filesystem can't be taken off to apply them, or be mounted afterwards.
    #[error("mount the root filesystem")]
    Mount(#[source] io::Error),
    /// The standard streams can't be handed to runc.
    #[error("hand over the standard streams")]
    Streams(#[source] io::Error),
    /// CRIU or runc refused.
    #[error("restore the processes{}", criu.as_ref().map(|text| format!(" [CRIU: {text}]")).unwrap_or_default())]
    Restore {
        /// CRIU's first error.
        criu: Option<String>,
        /// What runc said.
        #[source]
        source: RuncError,
    },
    /// The memory can't be filled in.
    #[error("fill in the memory")]
    Memory(#[source] FillError),
    /// The application can't be told that it was restored.
    #[error("write /run/thaw/restored.json in the container")]
    Restored(#[source] io::Error),
    /// The limits of the clone's cgroup can't be set.
    #[error("set the limits of the restored container")]
    Limits(#[source] RuncError),
    /// The restored process died while it was held.
    #[error("the restored process {pid} did not stay")]
    Gone {
        /// Its host pid.
        pid: i32,
    },
    /// A thread of the shim failed.
    #[error("run {step} on a thread")]
    Thread {
        /// The step.
        step: &'static str,
    },
}

/// Containers that are never restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ineligible {
    /// The sandbox of a pod.
    #[error("it is the sandbox of a pod")]
    Sandbox,
    /// An init container of a pod: it is to do its work again in each pod.
    #[error("it is an init container")]
    InitContainer,
    /// A debug container of a pod.
    #[error("it is an ephemeral container")]
    EphemeralContainer,
    /// The kubelet starts it again in its pod: it may be the restored process that has failed, and the pod's volumes
    /// hold what the run before has left.
    #[error("it was started {attempt} times before in its pod")]
    RestartAttempt {
        /// The kubelet's count, from 0.
        attempt: u64,
    },
    /// A container of a pod whose namespace is not known: it must not share with all pods.
    #[error("its pod's namespace is not known (annotation {annotation})")]
    ScopeUnknown {
        /// The annotation that should name it.
        annotation: &'static str,
    },
    /// It may use every device of the host.
    #[error("it is privileged")]
    Privileged,
    /// It has devices whose state no snapshot holds.
    #[error("it has the device {device}")]
    Devices {
        /// The path, or type and numbers of the rule that allows it.
        device: String,
    },
    /// It can write to storage that outlives it.
    #[error("it can write to {destination}, which outlives it ({ANNOTATION_MOUNTS}=allow lifts this)")]
    PersistentMount {
        /// The mount.
        destination: String,
    },
    /// It shares the pids of others, which may be taken.
    #[error("it joins a pid namespace, or has none of its own")]
    PidNamespace,
    /// CRIU can't join user namespaces (criu#2651).
    #[error("it has a user namespace")]
    UserNamespace,
    /// The clone would share sockets with the host.
    #[error("it uses the host's network")]
    HostNetwork,
    /// A restore would leave out hooks that run inside the container, or after its start.
    #[error("it has createContainer, startContainer or poststart hooks")]
    Hooks,
    /// The root filesystem has changes already: it is a restart.
    #[error("its root filesystem has been written to")]
    RootfsChanged,
    /// The root filesystem is no overlay that the shim could take off and mount again.
    #[error("its root filesystem is not an overlay that the shim can take off and mount again")]
    RootfsKind,
    /// The upper directory can't be read.
    #[error("read the upper directory of its root filesystem")]
    RootfsUnreadable(#[source] io::Error),
}

impl Reason {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Never => "policy_never",
            Self::Config(_) => "config_invalid",
            Self::Annotation(_) => "annotation_invalid",
            Self::Ineligible(kind) => kind.code(),
            Self::Spec(_) => "spec_unreadable",
            Self::Identify(IdentifyError::NoImage | IdentifyError::Docker { .. }) => "image_unknown",
            Self::Identify(IdentifyError::Moved { .. } | IdentifyError::ImageGone { .. }) => "image_moved",
            Self::Identify(_) => "identify_failed",
            Self::Store(OpenError::Timeout { .. }) => "lookup_timeout",
            Self::Store(_) => "store_invalid",
            Self::Known {
                said: Said::Broken, ..
            } => "manifest_invalid",
            Self::Known {
                said: Said::Denied, ..
            } => "lookup_failed",
            Self::Lookup(LookupError::Document { .. } | LookupError::WrongKey { .. }) => "manifest_invalid",
            Self::Lookup(_) => "lookup_failed",
            Self::Miss
            | Self::Known {
                said: Said::Nothing, ..
            } => "no_snapshot",
            Self::StoreResting { .. } | Self::StoreWakes { .. } => "store_resting",
            Self::Quarantined(_) => "quarantined",
            Self::Mismatch(Mismatch::Memory { .. }) => "memory_limit",
            Self::Mismatch(_) => "host_mismatch",
            Self::Host(_) => "host_unfit",
            Self::Deadline { step: "identify", .. } => "identify_timeout",
            Self::Deadline { .. } => "lookup_timeout",
            Self::Cache(_) => "cache_failed",
            Self::Fetch(FetchError::Deadline) => "fetch_timeout",
            Self::Fetch(_) => "fetch_failed",
            Self::Rights(_) | Self::Mounts(_) => "rights_exceeded",
            Self::Entry(_) | Self::Images(_) | Self::Facts(_) | Self::Pagemap(_) | Self::PageFiles => {
                "images_invalid"
            }
            Self::Socket(_) => "socket_unmovable",
            Self::SharedIpc => "ipc_shared",
            Self::Edit(_) | Self::Surroundings(_) | Self::Prepare { .. } => "rewrite_failed",
            Self::Rootfs(_) => "rootfs_diff_failed",
            Self::Mount(_) => "rootfs_mount_failed",
            Self::Restored(_) => "restored_file_failed",
            Self::Restore {
                source: RuncError::Deadline { .. },
                ..
            } => "restore_timeout",
            Self::Streams(_)
            | Self::Restore { .. }
            | Self::Memory(_)
            | Self::Limits(_)
            | Self::Gone { .. } => "restore_failed",
            Self::Thread { .. } => "internal",
        }
    }

    /// All of it in one line.
    #[must_use]
    pub fn words(&self) -> String {
        chain(self)
    }
}

impl Ineligible {
    fn code(&self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::InitContainer => "init_container",
            Self::EphemeralContainer => "ephemeral_container",
            Self::RestartAttempt { .. } => "restart_attempt",
            Self::ScopeUnknown { .. } => "scope_unknown",
            Self::Privileged => "privileged",
            Self::Devices { .. } => "devices",
            Self::PersistentMount { .. } => "persistent_mount",
            Self::PidNamespace => "pid_namespace",
            Self::UserNamespace => "user_namespace",
            Self::HostNetwork => "host_network",
            Self::Hooks => "hooks_unsupported",
            Self::RootfsChanged => "rootfs_changed",
            Self::RootfsKind | Self::RootfsUnreadable(_) => "rootfs_unsupported",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    /// The literals that `code` of [`super::Reason`] and of [`super::Ineligible`] answers.
    fn codes() -> BTreeSet<&'static str> {
        let source = include_str!("reason.rs").split("#[cfg(test)]").next().unwrap();
        let arms = source.split("fn code(").skip(1).flat_map(|rest| {
            let body = rest.split("\n    }").next().unwrap();
            // What an arm answers stands after its arrow; an answer in braces begins its own line.
            body.lines().filter_map(|line| {
                let (_, answer) = line.rsplit_once("=> ").unwrap_or(("", line));
                answer.trim().strip_prefix('"')?.split('"').next()
            })
        });
        arms.collect()
    }

    fn text_of(path: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
    }

    #[test]
    fn the_documentation_lists_every_code_and_no_other() {
        let text = text_of("docs/reasons.md");
        let listed: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let once: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(listed.len(), once.len(), "a code is listed twice");
        assert_eq!(once, codes());
    }

    #[test]
    fn advice_is_given_on_codes_that_exist() {
        let text = text_of("shim/src/cli/advice.rs");
        let arms = text.lines().filter_map(|line| line.split_once(" => "));
        let advised: BTreeSet<&str> = arms
            .flat_map(|(patterns, _)| patterns.split(" | "))
            .filter_map(|pattern| pattern.trim().strip_prefix('"')?.strip_suffix('"'))
            .collect();
        assert!(advised.len() > 20, "{advised:?}");
        let unknown: Vec<_> = advised.difference(&codes()).copied().collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
