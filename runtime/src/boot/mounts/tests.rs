use serde_json::{Value, json};

use super::*;
use crate::boot::fixture::sleep;

/// What `runc spec` writes of mounts: the donor was started so.
fn spec() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "maskedPaths": ["/proc/acpi", "/proc/keys", "/proc/timer_list", "/proc/no-such", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/also-not"],
        },
    })
}

fn compare(images: &Images, spec: &Value) -> Result<(), MountsError> {
    let here = |path: &str| !["/proc/no-such", "/proc/also-not"].contains(&path);
    check(images, &serde_json::from_value(spec.clone()).unwrap(), &here)
}

/// The refusal, in words; empty where there is none.
fn refusal(images: &Images, spec: &Value) -> String {
    compare(images, spec)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

#[test]
fn the_donor_s_own_spec_has_these_mounts() {
    compare(&sleep(), &spec()).unwrap();
}

/// Place in the spec, its new value, and what is said then: the images are the donor's, the spec asks for something else.
#[test]
fn another_spec_has_others() {
    let bind = r#"{"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind"]}"#;
    for (place, value, said) in [
        ("/root/readonly", "true", "/ is not ro"),
        ("/mounts/0/options", r#"["nosuid"]"#, "/proc is not nosuid"),
        ("/mounts/0/type", r#""tmpfs""#, "mount proc at /proc,"),
        ("/mounts/1/options", r#"["ro"]"#, "/dev is not ro"),
        ("/mounts/1/options", r#"["noexec", "exec"]"#, ""),
        (
            "/mounts/3/options",
            r#"["size=1m"]"#,
            "/dev/shm may hold more than the 1048576 bytes",
        ),
        ("/mounts/3/options", r#"["size=64m"]"#, ""),
        (
            "/mounts/3/destination",
            r#""/dev/elsewhere""#,
            "mount tmpfs at /dev/shm,",
        ),
        (
            "/mounts/3/destination",
            r#""/dev/../dev/shm""#,
            "mount tmpfs at /dev/shm,",
        ),
        ("/mounts/3/destination", r#""//dev/shm/""#, ""),
        ("/mounts/4", bind, "mount mqueue at /dev/mqueue,"),
        ("/mounts/7", bind, "nothing at /data,"),
        ("/linux/maskedPaths", r#"["/proc/keys"]"#, "at /sys/firmware,"),
        (
            "/linux/maskedPaths/5",
            r#""/proc/kcore""#,
            "nothing at /proc/kcore,",
        ),
        ("/linux/maskedPaths/5", r#""/proc/acpi/below""#, ""),
        ("/linux/maskedPaths/5", r#""/etc/of-the-image""#, ""),
        (
            "/linux/readonlyPaths",
            r#"["/proc/sys"]"#,
            "mount proc at /proc/irq,",
        ),
        (
            "/linux/readonlyPaths/5",
            r#""/proc/sysrq-trigger""#,
            "nothing at /proc/sysrq-trigger,",
        ),
    ] {
        let mut other = spec();
        let (parent, name) = place.rsplit_once('/').unwrap();
        let value = serde_json::from_str(value).unwrap();
        match other.pointer_mut(parent).unwrap() {
            Value::Array(items) if name.parse() == Ok(items.len()) => items.push(value),
            Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
            parent => parent[name] = value,
        }
        let found = refusal(&sleep(), &other);
        assert_eq!(found.is_empty(), said.is_empty(), "{place}: {found}");
        assert!(found.contains(said), "{place}: {found}");
    }
}

/// One mount as CRIU writes it, under a number that the donor does not use; the parent is the donor's root, say.
fn record(parent: u64, path: &str, fstype: u64, flags: u64, key: Option<&str>) -> Vec<u8> {
    numbered(parent, 500, path, "/", fstype, flags, key)
}

fn numbered(
    parent: u64,
    id: u64,
    path: &str,
    root: &str,
    fstype: u64,
    flags: u64,
    key: Option<&str>,
) -> Vec<u8> {
    use thaw_criu::wire::{Value, push};
    let mut record = Vec::new();
    push(&mut record, 1, Value::Varint(fstype));
    push(&mut record, 2, Value::Varint(id));
    push(&mut record, 3, Value::Varint(1));
    push(&mut record, 4, Value::Varint(parent));
    push(&mut record, 5, Value::Varint(flags));
    push(&mut record, 6, Value::Bytes(root.as_bytes()));
    push(&mut record, 7, Value::Bytes(format!(".{path}").as_bytes()));
    push(&mut record, 8, Value::Bytes(b"x"));
    push(&mut record, 9, Value::Bytes(b"lowerdir=/"));
    if let Some(key) = key {
        push(&mut record, 18, Value::Bytes(key.as_bytes()));
    }
    let mut framed = u32::try_from(record.len()).unwrap().to_le_bytes().to_vec();
    framed.extend(record);
    framed
}

const ROOT: u64 = 153;
const PROC_MOUNT: u64 = 155;
/// `mnt.proto: fstype`.
const PROC: u64 = 1;
const TMPFS: u64 = 5;
const OVERLAY: u64 = 17;
const CGROUP2: u64 = 23;

/// Version 2 of cgroups: one file system, whose root has the donor's path; and a container without the kernel's folders.
#[test]
fn other_containers_have_other_mounts() {
    let mut images = sleep();
    let tree = images.get_mut("mountpoints-13.img").unwrap();
    tree.truncate(8);
    for (parent, id, path, root, fstype) in [
        (90, 153, "/", "/", TMPFS),
        (ROOT, 155, "/sys/fs/cgroup", "/pods/donor", CGROUP2),
    ] {
        tree.extend(numbered(parent, id, path, root, fstype, 1, None));
    }
    let mut asked = spec();
    asked["mounts"] = json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}]);
    assert_eq!(refusal(&images, &asked), "");
}

#[test]
fn images_with_a_mount_too_many() {
    for (parent, path, fstype, flags, key, said) in [
        (ROOT, "/host", OVERLAY, 0, None, "mount overlay at /host,"),
        (ROOT, "/host", TMPFS, 0, None, "mount tmpfs at /host,"),
        (ROOT, "/host", TMPFS, 0, Some("/host"), "mount tmpfs at /host,"),
        (ROOT, "/proc", PROC, 0, None, "mount proc at /proc,"),
        (PROC_MOUNT, "/proc/sys", PROC, 0, None, "/proc/sys is not ro"),
        (ROOT, "/proc/kcore", TMPFS, 1, Some(NULL), "kcore\" has no place"),
        (
            PROC_MOUNT,
            "/proc/x",
            TMPFS,
            1,
            Some(NULL),
            "mount tmpfs at /proc/x,",
        ),
        (ROOT, "/a/../b", TMPFS, 0, None, "has no place"),
        (ROOT, "/a/", TMPFS, 0, None, "has no place"),
        (ROOT, "/", TMPFS, 0, None, "has no place"),
        (156, "/dev/console", 6, 0, None, "mount devpts at /dev/console,"),
    ] {
        let mut images = sleep();
        let tree = images.get_mut("mountpoints-13.img").unwrap();
        tree.extend(record(parent, path, fstype, flags, key));
        let found = refusal(&images, &spec());
        assert!(!found.is_empty() && found.contains(said), "{path}: {found:?}");
    }
}

#[test]
fn binds_come_by_their_keys() {
    let mut asked = spec();
    let options = json!(["rbind", "ro"]);
    let bind =
        json!({"destination": "/var/run/secret", "type": "bind", "source": "/srv", "options": options});
    asked["mounts"].as_array_mut().unwrap().push(bind);
    let with = |path: &str, flags: u64, key: Option<&str>| {
        let mut images = sleep();
        let tree = images.get_mut("mountpoints-13.img").unwrap();
        tree.extend(record(ROOT, path, TMPFS, flags, key));
        refusal(&images, &asked)
    };
    assert_eq!(with("/var/run/secret", 1, Some("/var/run/secret")), "");
    // Through a link of the image.
    assert_eq!(with("/run/secret", 1, Some("/run/secret")), "");
    assert!(with("/run/secret", 0, Some("/run/secret")).contains("is not ro"));
    assert!(with("/run/another", 1, Some("/run/another")).contains("mount tmpfs at /run/another,"));
    assert!(with("/run/secret", 1, Some("/var/run/secret")).contains("mount tmpfs at /run/secret,"));
    assert!(with("/proc/secret", 1, Some("/proc/secret")).contains("has no place"));
    assert!(with("/run/secret", 1, None).contains("mount tmpfs at /run/secret,"));
    // Of two the one that ends more alike.
    let writable =
        json!({"destination": "/b/secret", "type": "bind", "source": "/srv", "options": ["rbind"]});
    asked["mounts"].as_array_mut().unwrap().push(writable);
    let mut images = sleep();
    let tree = images.get_mut("mountpoints-13.img").unwrap();
    tree.extend(record(
        ROOT,
        "/elsewhere/run/secret",
        TMPFS,
        0,
        Some("/elsewhere/run/secret"),
    ));
    assert!(refusal(&images, &asked).contains("is not ro"));
}
