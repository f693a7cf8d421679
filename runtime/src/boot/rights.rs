//! Do the images carry no more rights than the live spec gives?
//!
//! CRIU takes uid, capabilities, no_new_privs and seccomp filters from the images. The fingerprint says that donor and
//! clone were asked for alike, but the images say what comes back, and whoever writes to the store writes them.

use serde_json::Value;
use thaw_criu::{Images, ReadError, creds, seccomp};

/// `linux/capability.h`, in the order of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const SETUID: u64 = 1 << 7;

/// Why the images are not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RightsError {
    /// The rights can't be read.
    #[error("read the rights in the images")]
    Read(#[source] ReadError),
    /// A thread has capabilities that the spec does not give.
    #[error("thread {id} has capabilities {excess:#x} beyond those of the spec")]
    Capabilities {
        /// Its id.
        id: i32,
        /// The bits too many.
        excess: u64,
    },
    /// A thread may gain privileges and the spec says that none may.
    #[error("thread {id} may gain privileges, which the spec forbids")]
    NewPrivileges {
        /// Its id.
        id: i32,
    },
    /// A thread runs as a user that it can't have become.
    #[error("thread {id} runs as user {uid}, which the spec does not allow for")]
    User {
        /// Its id.
        id: i32,
        /// The user id.
        uid: u32,
    },
    /// A thread runs without the filter that the spec asks for.
    #[error("thread {id} runs without the seccomp profile of the spec")]
    Seccomp {
        /// Its id.
        id: i32,
    },
}

/// The live spec (`config.json` in `spec`) gives every right that is in the images.
pub(crate) fn check(images: &Images, spec: &Value) -> Result<(), RightsError> {
    let bounding = bounding(spec);
    let no_new_privs = spec
        .pointer("/process/noNewPrivileges")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let uid = spec
        .pointer("/process/user/uid")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let fixed_user = no_new_privs && bounding & SETUID == 0;
    for (id, creds) in creds::of_all(images).map_err(RightsError::Read)? {
        let held = creds.permitted | creds.effective | creds.inheritable | creds.ambient | creds.bounding;
        let excess = held & !bounding;
        if excess != 0 {
            return Err(RightsError::Capabilities { id, excess });
        }
        if no_new_privs && !creds.no_new_privs {
            return Err(RightsError::NewPrivileges { id });
        }
        if let Some(other) = creds.uids.into_iter().find(|found| u64::from(*found) != uid)
            && fixed_user
        {
            return Err(RightsError::User { id, uid: other });
        }
    }
    if spec
        .pointer("/linux/seccomp")
        .is_some_and(|profile| !profile.is_null())
        && let Some(id) = seccomp::of(images).map_err(RightsError::Read)?.free.first()
    {
        return Err(RightsError::Seccomp { id: *id });
    }
    Ok(())
}

/// The bounding set of the spec as bits; runc leaves the set alone when the spec has no capabilities at all.
fn bounding(spec: &Value) -> u64 {
    let Some(sets) = spec
        .pointer("/process/capabilities")
        .filter(|sets| !sets.is_null())
    else {
        return u64::MAX;
    };
    let names = sets
        .get("bounding")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    names
        .filter_map(|name| {
            CAPABILITIES
                .iter()
                .position(|known| Some(*known) == name.as_str())
        })
        .fold(0, |bits, number| bits | 1 << number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use serde_json::json;

    use super::*;

    /// A dump of runc's default container: root with CAP_AUDIT_WRITE, CAP_KILL and CAP_NET_BIND_SERVICE.
    fn sleep() -> Images {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("criu/tests/data/sleep");
        let files = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap());
        let read = |entry: std::fs::DirEntry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        };
        files.map(read).collect::<BTreeMap<_, _>>()
    }

    fn spec(bounding: &[&str]) -> Value {
        json!({"process": {"user": {"uid": 0}, "noNewPrivileges": true, "capabilities": {"bounding": bounding}}})
    }

    const ENOUGH: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

    #[test]
    fn the_donor_s_own_spec_is_enough() {
        check(&sleep(), &spec(&ENOUGH)).unwrap();
    }

    #[test]
    fn a_narrower_spec_is_not() {
        let narrow = check(&sleep(), &spec(&ENOUGH[..2]));
        assert!(
            matches!(narrow, Err(RightsError::Capabilities { excess: 0x400, .. })),
            "{narrow:?}"
        );
        let mut other_user = spec(&ENOUGH);
        other_user["process"]["user"]["uid"] = json!(1000);
        assert!(matches!(
            check(&sleep(), &other_user),
            Err(RightsError::User { uid: 0, .. })
        ));
        let mut filtered = spec(&ENOUGH);
        filtered["linux"] = json!({"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}});
        assert!(matches!(
            check(&sleep(), &filtered),
            Err(RightsError::Seccomp { .. })
        ));
    }
}
