//! Real mounts, as in the tests of root filesystems: they need root.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use thaw_runc::PlainSpawner;

use super::super::{Mount, Parsed, mounted_below, unmount_all};
use super::namespace::map_and_open;
use super::*;

const UNMAPPED: u32 = 65534;

fn map() -> IdMap {
    IdMap::parse(Some("0:300000:1000"), Some("0:400000:1000"))
        .unwrap()
        .unwrap()
}

/// A stranger's helper: the shim's own program is not there in a unit test.
struct Helper(Child);

impl Helper {
    fn namespaces() -> Namespaces {
        let child = Command::new("unshare")
            .args(["--user", "sh", "-c", "echo; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut helper = Self(child.unwrap());
        helper.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let namespace = map_and_open(helper.0.id(), &map()).unwrap();
        Namespaces(vec![(map(), namespace)])
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Layers with a file in each, and a place to mount on; unmounted at the end.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        let room = Self(tempfile::tempdir().unwrap());
        for (layer, owner) in [("1", 0), ("12", 5), ("123", 5000)] {
            fs::create_dir_all(room.at(&format!("layers/{layer}/fs"))).unwrap();
            let file = room.at(&format!("layers/{layer}/fs/of-{owner}"));
            fs::write(&file, "x").unwrap();
            chown(&file, Some(owner), Some(owner)).unwrap();
        }
        for name in ["upper", "work", "rootfs"] {
            fs::create_dir(room.at(name)).unwrap();
        }
        chown(room.at("upper"), Some(300_000), Some(400_000)).unwrap();
        room
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn owner(&self, name: &str) -> (u32, u32) {
        let found = fs::symlink_metadata(self.at("rootfs").join(name)).unwrap();
        (found.uid(), found.gid())
    }

    fn mount(&self, kind: &str, source: &str, options: &[String]) -> io::Result<()> {
        let one = Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.to_vec(),
            ..Mount::default()
        };
        let parsed = Parsed::parse(options)?;
        let namespaces = Helper::namespaces();
        mount_mapped(&one, &self.at("rootfs"), &parsed, namespaces.of(&map())?)
    }

    fn mounts(&self) -> usize {
        mounted_below(&self.0.path().canonicalize().unwrap())
            .unwrap()
            .len()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        unmount_all(self.0.path()).unwrap();
    }
}

#[test]
fn lower_files_are_mapped_and_upper_ones_are_not() {
    let room = Room::new();
    let lower = ["123", "12", "1"].map(|layer| room.at(&format!("layers/{layer}/fs")).display().to_string());
    let options = [
        format!("workdir={}", room.at("work").display()),
        format!("upperdir={}", room.at("upper").display()),
        format!("lowerdir={}", lower.join(":")),
    ];
    room.mount("overlay", "overlay", &options).unwrap();
    assert_eq!(room.owner(""), (300_000, 400_000));
    assert_eq!(room.owner("of-0"), (300_000, 400_000));
    assert_eq!(room.owner("of-5"), (300_005, 400_005));
    assert_eq!(room.owner("of-5000"), (UNMAPPED, UNMAPPED));
    // A file that is copied up belongs to the id of the host from then on.
    fs::write(room.at("rootfs/of-5"), "changed").unwrap();
    let copied = fs::metadata(room.at("upper/of-5")).unwrap();
    assert_eq!((copied.uid(), copied.gid()), (300_005, 400_005));
    assert_eq!(fs::read_to_string(room.at("layers/12/fs/of-5")).unwrap(), "x");
    assert_eq!(room.mounts(), 1, "the mapped layers are not seen");
}

#[test]
fn bind_mounts_are_mapped() {
    let room = Room::new();
    let source = room.at("layers/12/fs").display().to_string();
    room.mount("bind", &source, &["rbind".to_owned(), "ro".to_owned()])
        .unwrap();
    assert_eq!(room.owner("of-5"), (300_005, 400_005));
    let refused = fs::write(room.at("rootfs/new"), "").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(room.mounts(), 1);
}

#[test]
fn a_mount_that_fails_leaves_nothing() {
    let room = Room::new();
    for (kind, source, option) in [
        ("overlay", "overlay", "lowerdir=/proc:/sys"),
        ("overlay", "overlay", "lowerdir=/nowhere/a:/nowhere/b"),
        ("overlay", "overlay", "index=off"),
        ("bind", "/nowhere", "rbind"),
        // It knows no id-mapped mounts.
        ("proc", "proc", "nosuid"),
    ] {
        assert!(
            room.mount(kind, source, &[option.to_owned()]).is_err(),
            "{kind} {option}"
        );
        assert_eq!(room.mounts(), 0, "{kind} {option}");
    }
}

#[tokio::test]
async fn a_helper_that_fails_is_told() {
    let mut namespaces = Namespaces::default();
    let asked = namespaces
        .add(map(), Path::new("/bin/sleep"), &PlainSpawner)
        .await;
    let Err(NamespaceError::Refused { words }) = asked else {
        panic!("{asked:?}");
    };
    assert!(words.contains(USER_NAMESPACE_VERB), "{words}");
    let asked = namespaces.add(map(), Path::new("/nowhere"), &PlainSpawner).await;
    assert!(matches!(asked, Err(NamespaceError::Call { .. })), "{asked:?}");
    assert!(namespaces.of(&map()).is_err());
}
