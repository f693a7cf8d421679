//! Do the images carry no more rights than the live spec gives?
//!
//! CRIU takes user, groups, capabilities, no_new_privs, resource limits and seccomp filters from the images. The
//! fingerprint says that donor and clone were asked for alike, but the images say what comes back, and whoever writes to
//! the store writes them. What a filter lets pass is not looked at, only whether there is one.

use serde_json::Value;
use thaw_criu::creds::Creds;
use thaw_criu::{Images, ReadError, core, creds, seccomp};

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

const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const SYS_RESOURCE: u64 = 1 << 24;

/// `asm-generic/resource.h`, in the order of their numbers.
const LIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

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
    /// A thread has a group that it can't have come into.
    #[error("thread {id} is in group {gid}, which the spec does not allow for")]
    Group {
        /// Its id.
        id: i32,
        /// The group id.
        gid: u32,
    },
    /// A process may use more of something than the spec gives.
    #[error("process {id} has a {limit} of {found}, beyond the {hard} of the spec")]
    Limit {
        /// Its id.
        id: i32,
        /// The name of the limit.
        limit: &'static str,
        /// What it has, in the limit's own unit.
        found: u64,
        /// What the spec gives.
        hard: u64,
    },
    /// A thread runs without the filter that the spec asks for.
    #[error("thread {id} runs without the seccomp profile of the spec")]
    Seccomp {
        /// Its id.
        id: i32,
    },
}

/// What the spec gives to a process and to whatever it starts.
#[derive(Debug)]
struct Given {
    no_new_privs: bool,
    /// Capabilities that can be had at all. Without no_new_privs a setuid program of the image gets all of the bounding
    /// set; with it nothing is added to what runc has set before the program began (`security/commoncap.c`).
    most: u64,
    bounding: u64,
    user: u64,
    fixed_user: bool,
    groups: Vec<u64>,
    fixed_groups: bool,
    /// Number, name and value of each hard limit.
    limits: Vec<(usize, &'static str, u64)>,
}

impl Given {
    fn of(spec: &Value) -> Self {
        let number = |pointer: &str| spec.pointer(pointer).and_then(Value::as_u64);
        let list = |pointer: &str| {
            let list = spec.pointer(pointer).and_then(Value::as_array);
            list.map(Vec::as_slice).unwrap_or_default()
        };
        let flag = spec.pointer("/process/noNewPrivileges").and_then(Value::as_bool);
        let no_new_privs = flag.unwrap_or(false);
        let (bounding, permitted, ambient) = match spec.pointer("/process/capabilities") {
            None | Some(Value::Null) => (u64::MAX, u64::MAX, u64::MAX),
            Some(sets) => (
                bits(sets, "bounding"),
                bits(sets, "permitted"),
                bits(sets, "ambient"),
            ),
        };
        let user = number("/process/user/uid").unwrap_or(0);
        // A program that is not root's begins with the ambient set alone.
        let begins_with = if user == 0 { permitted | ambient } else { ambient };
        let fixed = |capability| no_new_privs && bounding & begins_with & capability == 0;
        let group = number("/process/user/gid").unwrap_or(0);
        let more = list("/process/user/additionalGids")
            .iter()
            .filter_map(Value::as_u64);
        let limits = list("/process/rlimits").iter().filter_map(|limit| {
            let index = LIMITS.iter().position(|name| limit["type"] == *name)?;
            Some((index, LIMITS[index], limit["hard"].as_u64()?))
        });
        Self {
            no_new_privs,
            most: if no_new_privs {
                bounding & (permitted | ambient)
            } else {
                bounding
            },
            bounding,
            user,
            fixed_user: fixed(SETUID),
            groups: std::iter::once(group).chain(more).collect(),
            fixed_groups: fixed(SETGID),
            limits: limits.collect(),
        }
    }

    fn gives(&self, id: i32, creds: &Creds) -> Result<(), RightsError> {
        let held = creds.permitted | creds.effective | creds.ambient;
        let inherits = creds.inheritable | creds.bounding;
        let excess = held & !self.most | inherits & !self.bounding;
        if excess != 0 {
            return Err(RightsError::Capabilities { id, excess });
        }
        if self.no_new_privs && !creds.no_new_privs {
            return Err(RightsError::NewPrivileges { id });
        }
        let other = creds.uids.into_iter().find(|uid| u64::from(*uid) != self.user);
        if let Some(uid) = other.filter(|_| self.fixed_user) {
            return Err(RightsError::User { id, uid });
        }
        let mut groups = creds.gids.iter().chain(&creds.groups);
        let other = groups.find(|gid| !self.groups.contains(&u64::from(**gid)));
        if let Some(gid) = other.filter(|_| self.fixed_groups) {
            return Err(RightsError::Group { id, gid: *gid });
        }
        Ok(())
    }

    fn allows(&self, id: i32, limits: &[core::Limit]) -> Result<(), RightsError> {
        if self.most & SYS_RESOURCE != 0 {
            return Ok(());
        }
        for (index, limit, hard) in &self.limits {
            let found = limits.get(*index).map_or(0, |found| found.soft.max(found.hard));
            if found > *hard {
                let (limit, hard) = (*limit, *hard);
                return Err(RightsError::Limit {
                    id,
                    limit,
                    found,
                    hard,
                });
            }
        }
        Ok(())
    }
}

/// The live spec (`config.json` in `spec`) gives every right that is in the images.
pub(crate) fn check(images: &Images, spec: &Value) -> Result<(), RightsError> {
    let given = Given::of(spec);
    for (id, creds) in creds::of_all(images).map_err(RightsError::Read)? {
        given.gives(id, &creds)?;
    }
    for (id, limits) in core::limits(images).map_err(RightsError::Read)? {
        given.allows(id, &limits)?;
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

/// One of the sets of the spec as bits; runc leaves all alone when the spec has no capabilities at all.
fn bits(sets: &Value, name: &str) -> u64 {
    let names = sets.get(name).and_then(Value::as_array).into_iter().flatten();
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
    use serde_json::json;

    use super::*;
    use crate::boot::fixture::sleep;

    fn spec(own: &[&str]) -> Value {
        let sets = json!({"bounding": own, "permitted": own, "effective": own});
        json!({"process": {"user": {"uid": 0}, "noNewPrivileges": true, "capabilities": sets}})
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
        let mut other = spec(&ENOUGH);
        other["process"]["capabilities"]["permitted"] = json!(&ENOUGH[..2]);
        let fewer = check(&sleep(), &other);
        assert!(
            matches!(fewer, Err(RightsError::Capabilities { excess: 0x400, .. })),
            "{fewer:?}"
        );
        other["process"]["noNewPrivileges"] = json!(false);
        check(&sleep(), &other).unwrap();
        let mut limited = spec(&ENOUGH);
        limited["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]);
        check(&sleep(), &limited).unwrap();
        limited["process"]["rlimits"][0]["hard"] = json!(1023);
        let above = check(&sleep(), &limited);
        assert!(
            matches!(above, Err(RightsError::Limit { found: 1024, .. })),
            "{above:?}"
        );
        let mut filtered = spec(&ENOUGH);
        filtered["linux"] = json!({"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}});
        assert!(matches!(
            check(&sleep(), &filtered),
            Err(RightsError::Seccomp { .. })
        ));
    }
    #[test]
    fn nobody_becomes_another() {
        // Capabilities that the program does not begin with do not make it root, with no_new_privs.
        let all = [
            "CAP_AUDIT_WRITE",
            "CAP_KILL",
            "CAP_NET_BIND_SERVICE",
            "CAP_SETUID",
            "CAP_SETGID",
        ];
        let mut other = spec(&all);
        check(&sleep(), &other).unwrap();
        other["process"]["user"] = json!({"uid": 1000, "gid": 0});
        let root = check(&sleep(), &other);
        assert!(matches!(root, Err(RightsError::User { uid: 0, .. })), "{root:?}");
        other["process"]["capabilities"]["ambient"] = json!(["CAP_SETUID"]);
        check(&sleep(), &other).unwrap();
        other["process"]["user"]["gid"] = json!(1000);
        let group = check(&sleep(), &other);
        assert!(
            matches!(group, Err(RightsError::Group { gid: 0, .. })),
            "{group:?}"
        );
        other["process"]["user"]["additionalGids"] = json!([0]);
        check(&sleep(), &other).unwrap();
    }
}
