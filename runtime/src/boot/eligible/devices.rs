//! Devices: the ones that every container has hold no state, any other may.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};

use super::Ineligible;

/// The device files of every container (OCI runtime spec, "Default Devices").
const FILES: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/pts/ptmx",
];

/// Numbers of the character devices that clients let every container use, a minor number or all: those files, the
/// pseudo terminals, and tuntap, which older defaults list though they make no file for it.
const NUMBERS: [(i64, Option<i64>); 10] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
    (10, Some(200)),
];

/// Has it no more devices than every container?
pub(super) fn check(spec: &Spec) -> Result<(), Ineligible> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let resources = linux.resources().as_ref();
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    for rule in rules.unwrap_or_default() {
        if !grants(rule) {
            continue;
        }
        if is_any(rule) {
            return Err(Ineligible::Privileged);
        }
        if !is_default(rule) {
            return Err(Ineligible::Devices { device: words(rule) });
        }
    }
    let files = linux.devices().as_deref().unwrap_or_default();
    let extra = |path: &str| !FILES.contains(&path);
    match files
        .iter()
        .map(|file| file.path().to_string_lossy())
        .find(|path| extra(path))
    {
        None => Ok(()),
        Some(path) => Err(Ineligible::Devices {
            device: path.into_owned(),
        }),
    }
}

/// It lets a device be used. Making a node (`m`) alone does not, and is granted to all.
fn grants(rule: &LinuxDeviceCgroup) -> bool {
    let access = rule.access().as_deref().unwrap_or("rwm");
    rule.allow() && access.contains(['r', 'w'])
}

fn number(written: Option<i64>) -> Option<i64> {
    written.filter(|number| *number >= 0)
}

fn is_any(rule: &LinuxDeviceCgroup) -> bool {
    let every_kind = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
    every_kind && number(rule.major()).is_none() && number(rule.minor()).is_none()
}

fn is_default(rule: &LinuxDeviceCgroup) -> bool {
    let characters = matches!(rule.typ(), Some(LinuxDeviceType::C | LinuxDeviceType::U));
    let (major, minor) = (number(rule.major()), number(rule.minor()));
    characters
        && NUMBERS
            .iter()
            .any(|(known, of_it)| major == Some(*known) && (of_it.is_none() || minor == *of_it))
}

fn words(rule: &LinuxDeviceCgroup) -> String {
    let text = |number: Option<i64>| number.map_or("*".to_owned(), |number| number.to_string());
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        Some(LinuxDeviceType::P) => "p",
        Some(LinuxDeviceType::A) | None => "a",
    };
    let (major, minor) = (number(rule.major()), number(rule.minor()));
    format!("{kind} {}:{}", text(major), text(minor))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(linux: Value) -> Result<(), Ineligible> {
        let spec = json!({"ociVersion": "1.2.0", "linux": linux});
        check(&serde_json::from_value(spec).unwrap())
    }

    /// The rules that containerd, Docker and runc write for an ordinary container.
    #[test]
    fn the_defaults_of_the_clients_pass() {
        let nodes = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]);
        let rules = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "access": "m"},
            {"allow": true, "type": "b", "access": "m"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
            {"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm"},
            {"allow": true, "type": "c", "major": 136, "access": "rwm"},
            {"allow": true, "type": "c", "major": 136, "minor": -1, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ]);
        checked(json!({"devices": nodes, "resources": {"devices": rules}})).unwrap();
        checked(json!({})).unwrap();
    }

    #[test]
    fn more_is_refused() {
        let rule = |rule: Value| checked(json!({"resources": {"devices": [rule]}}));
        for all in [
            json!({"allow": true, "access": "rwm"}),
            json!({"allow": true, "type": "a", "access": "rwm"}),
            json!({"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rw"}),
            json!({"allow": true}),
        ] {
            assert!(matches!(rule(all.clone()), Err(Ineligible::Privileged)), "{all}");
        }
        for (some, named) in [
            (
                json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}),
                "c 10:229",
            ),
            (
                json!({"allow": true, "type": "b", "major": 1, "minor": 3, "access": "r"}),
                "b 1:3",
            ),
            (
                json!({"allow": true, "type": "c", "major": 195, "access": "rw"}),
                "c 195:*",
            ),
            (json!({"allow": true, "type": "c", "access": "rwm"}), "c *:*"),
        ] {
            match rule(some) {
                Err(Ineligible::Devices { device }) => assert_eq!(device, named),
                other => panic!("{named}: {other:?}"),
            }
        }
        let node = json!({"devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]});
        assert!(matches!(checked(node), Err(Ineligible::Devices { device }) if device == "/dev/fuse"));
    }
}
