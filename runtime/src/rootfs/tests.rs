//! Real overlays where the tests run as root; plain directories for the rest.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{SFlag, makedev, mknod};

use super::*;

mod hostile;

/// Later than any test takes.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

const LIMITS: Limits = Limits {
    entries: 100_000,
    bytes: 1 << 30,
};

/// The directories of an overlay; unmounted at the end.
struct Overlay {
    directory: tempfile::TempDir,
    mounted: bool,
}

impl Overlay {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "merged"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self {
            directory,
            mounted: false,
        }
    }

    fn upper(&self) -> PathBuf {
        self.directory.path().join("upper")
    }

    fn merged(&self) -> PathBuf {
        self.directory.path().join("merged")
    }

    fn mount(&mut self, lower: &Path) {
        let at = |name| self.directory.path().join(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            at("upper"),
            at("work")
        );
        mount(
            Some("overlay"),
            &self.merged(),
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        self.mounted = true;
    }

    fn unmount(&mut self) {
        if self.mounted {
            umount2(&self.merged(), MntFlags::MNT_DETACH).unwrap();
            self.mounted = false;
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// One line per file: everything that a program could see of it.
fn listing(root: &Path) -> Vec<String> {
    fn walk(root: &Path, path: &Path, lines: &mut Vec<String>) {
        let full = root.join(path);
        let found = fs::symlink_metadata(&full).unwrap();
        let mut xattrs: Vec<_> = xattr::list(&full)
            .unwrap()
            .filter(|name| !name.as_bytes().starts_with(b"trusted.overlay."))
            .map(|name| (name.clone(), xattr::get(&full, &name).unwrap()))
            .collect();
        xattrs.sort();
        let content = if found.is_file() {
            fs::read(&full).unwrap()
        } else {
            Vec::new()
        };
        let target = fs::read_link(&full).unwrap_or_default();
        lines.push(format!(
            "{path:?} {:o} {}:{} {}.{:09} {} links {} hash {:x} -> {target:?} {xattrs:?}",
            found.mode(),
            found.uid(),
            found.gid(),
            found.mtime(),
            found.mtime_nsec(),
            if found.is_dir() { 0 } else { found.size() },
            if found.is_dir() { 0 } else { found.nlink() },
            content.iter().fold(7_u64, |hash, byte| hash
                .wrapping_mul(31)
                .wrapping_add((*byte).into())),
        ));
        if found.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&full)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            names.sort();
            names.iter().for_each(|name| walk(root, &path.join(name), lines));
        }
    }
    let mut lines = Vec::new();
    walk(root, Path::new(""), &mut lines);
    lines
}

/// Changes made in one overlay, taken and put into another, give the same merged tree.
fn round_trip(prepare: impl Fn(&Path), change: impl Fn(&Path)) -> (Vec<u8>, Overlay) {
    let lower = tempfile::tempdir().unwrap();
    prepare(lower.path());
    let (mut donor, mut clone) = (Overlay::new(), Overlay::new());
    donor.mount(lower.path());
    change(&donor.merged());
    let expected = listing(&donor.merged());
    let mut archive = Vec::new();
    let taken = diff(&donor.upper(), Marks::Trusted, &mut archive).unwrap();
    let put = apply(archive.as_slice(), &clone.upper(), Marks::Trusted, LIMITS, soon()).unwrap();
    assert_eq!(taken, put);
    let mut again = Vec::new();
    diff(&clone.upper(), Marks::Trusted, &mut again).unwrap();
    assert!(archive == again, "the same changes give another archive");
    clone.mount(lower.path());
    assert_eq!(listing(&clone.merged()), expected);
    clone.unmount();
    (archive, clone)
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = TimeSpec::new(seconds, nanos);
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
}

#[test]
fn whiteouts_and_opaque_directories() {
    let prepare = |lower: &Path| {
        for name in ["kept/a", "gone/b", "hidden/c", "hidden/deep/d"] {
            let path = lower.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
    };
    let (_, clone) = round_trip(prepare, |merged| {
        fs::remove_file(merged.join("kept/a")).unwrap();
        fs::remove_dir_all(merged.join("gone")).unwrap();
        fs::remove_dir_all(merged.join("hidden")).unwrap();
        fs::create_dir(merged.join("hidden")).unwrap();
        fs::write(merged.join("hidden/new"), "new").unwrap();
    });
    let whiteout = fs::symlink_metadata(clone.upper().join("gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let opaque = xattr::get(clone.upper().join("hidden"), "trusted.overlay.opaque").unwrap();
    assert_eq!(opaque.as_deref(), Some(b"y".as_slice()));
}

#[test]
fn everything_a_file_can_be() {
    let long = "n".repeat(200);
    let prepare = |lower: &Path| fs::write(lower.join("copied-up"), "old").unwrap();
    round_trip(prepare, |merged| {
        let deep = merged.join(&long).join(&long);
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join(OsStr::from_bytes(b"not \xff utf-8\n")), "x").unwrap();
        symlink("y".repeat(300), deep.join("link")).unwrap();
        symlink("/etc/../passwd", merged.join("outside")).unwrap();
        nix::unistd::mkfifo(&merged.join("pipe"), Mode::from_bits_truncate(0o640)).unwrap();
        fs::write(merged.join("copied-up"), "new").unwrap();
        let file = merged.join("file");
        fs::write(&file, "content").unwrap();
        xattr::set(&file, "user.lines", b"a\nb=c\0\n").unwrap();
        // VFS_CAP_REVISION_2, cap_net_bind_service permitted and effective.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        std::os::unix::fs::chown(&file, Some(3_000_000_000), Some(7)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4711)).unwrap();
        xattr::set(&file, "security.capability", &capability).unwrap();
        fs::hard_link(&file, merged.join("second name")).unwrap();
        fs::hard_link(merged.join("outside"), merged.join("outside too")).unwrap();
        let directory = merged.join("closed");
        fs::create_dir(&directory).unwrap();
        xattr::set(&directory, "user.note", b"dir").unwrap();
        fs::write(directory.join("in"), "").unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o1000)).unwrap();
        std::os::unix::fs::lchown(merged.join("outside"), Some(5), Some(6)).unwrap();
        set_mtime(&file, -2, 5);
        set_mtime(&directory, 1_600_000_000, 123_456_789);
        set_mtime(&merged.join("outside"), 9, 0);
        fs::set_permissions(merged, fs::Permissions::from_mode(0o711)).unwrap();
        set_mtime(merged, 1_500_000_000, 1);
    });
}

#[test]
fn holes_stay_holes() {
    let size = 1_u64 << 27;
    let (archive, clone) = round_trip(
        |_| {},
        |merged| {
            let mut file = File::create(merged.join("sparse")).unwrap();
            file.set_len(size).unwrap();
            for at in [1 << 20, 1 << 25, size / 2] {
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(b"data").unwrap();
            }
            File::create(merged.join("only a hole"))
                .unwrap()
                .set_len(1 << 20)
                .unwrap();
        },
    );
    assert!(
        archive.len() < 1 << 17,
        "{} bytes for 12 bytes of data",
        archive.len()
    );
    let found = fs::metadata(clone.upper().join("sparse")).unwrap();
    assert!(found.size() == size && found.blocks() * 512 < 1 << 17);
}

#[test]
fn sockets_are_left_out_and_devices_refused() {
    let upper = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.path().join("socket")).unwrap();
    let mut archive = Vec::new();
    assert_eq!(
        diff(upper.path(), Marks::Trusted, &mut archive).unwrap().entries,
        1
    );
    mknod(
        &upper.path().join("null"),
        SFlag::S_IFCHR,
        Mode::empty(),
        makedev(1, 3),
    )
    .unwrap();
    let error = diff(upper.path(), Marks::Trusted, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, DiffError::Device(path) if path == Path::new("null")));
}

#[test]
fn what_a_layer_can_not_say_is_refused() {
    for (name, marks) in [
        ("trusted.overlay.redirect", Marks::Trusted),
        ("trusted.overlay.metacopy", Marks::Trusted),
        ("trusted.overlay.overlay.opaque", Marks::Trusted),
        ("user.overlay.redirect", Marks::User),
    ] {
        let upper = tempfile::tempdir().unwrap();
        fs::create_dir(upper.path().join("dir")).unwrap();
        xattr::set(upper.path().join("dir"), name, b"y").unwrap();
        let error = diff(upper.path(), marks, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, DiffError::Overlay { attribute, .. } if attribute == name));
    }
    let upper = tempfile::tempdir().unwrap();
    fs::write(upper.path().join(".wh.x"), "").unwrap();
    assert!(matches!(
        diff(upper.path(), Marks::Trusted, &mut Vec::new()),
        Err(DiffError::ReservedName(_))
    ));
}

#[test]
fn cleared_means_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let (upper, outside) = (directory.path().join("upper"), directory.path().join("outside"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir_all(outside.join("kept")).unwrap();
    set_mtime(&upper, 1_000_000_000, 5);
    let before = listing(&upper);
    let attributes = RootAttributes::of(&upper).unwrap();
    fs::create_dir_all(upper.join("a/b/c")).unwrap();
    fs::write(upper.join("a/b/file"), "").unwrap();
    symlink(&outside, upper.join("a/link")).unwrap();
    mknod(
        &upper.join("a/gone"),
        SFlag::S_IFCHR,
        Mode::empty(),
        makedev(0, 0),
    )
    .unwrap();
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&upper, Some(1), Some(1)).unwrap();
    assert!(!is_empty(&upper).unwrap());
    clear(&upper, &attributes).unwrap();
    assert!(is_empty(&upper).unwrap());
    assert_eq!(listing(&upper), before);
    assert!(outside.join("kept").exists());
}

#[test]
fn clearing_enters_no_mount() {
    let directory = tempfile::tempdir().unwrap();
    let (upper, outside) = (directory.path().join("upper"), directory.path().join("outside"));
    fs::create_dir_all(upper.join("mount")).unwrap();
    fs::create_dir_all(outside.join("kept")).unwrap();
    mount(
        Some(&outside),
        &upper.join("mount"),
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    let cleared = clear(&upper, &RootAttributes::of(&upper).unwrap());
    umount2(&upper.join("mount"), MntFlags::MNT_DETACH).unwrap();
    assert!(cleared.is_err());
    assert!(outside.join("kept").exists());
}

#[test]
fn thousands_of_files_take_no_time() {
    let upper = tempfile::tempdir().unwrap();
    let begin = std::time::Instant::now();
    for directory in 0..50 {
        let directory = upper.path().join(format!("d{directory}"));
        fs::create_dir(&directory).unwrap();
        (0..100).for_each(|file| fs::write(directory.join(format!("f{file}")), [7; 300]).unwrap());
    }
    let written = begin.elapsed();
    let mut archive = Vec::new();
    diff(upper.path(), Marks::Trusted, &mut archive).unwrap();
    let clone = tempfile::tempdir().unwrap();
    let begin = std::time::Instant::now();
    apply(archive.as_slice(), clone.path(), Marks::Trusted, LIMITS, soon()).unwrap();
    let took = begin.elapsed();
    // Against the time that this machine needs to write them in the first place, busy as it may be.
    assert!(
        took < 20 * written,
        "5000 files took {took:?}, and {written:?} to write"
    );
    println!("5000 files: {took:?}, {written:?} to write");
}

#[test]
fn gnu_tar_reads_the_archive() {
    let upper = tempfile::tempdir().unwrap();
    let mut file = File::create(upper.path().join("sparse")).unwrap();
    file.set_len(1 << 20).unwrap();
    file.seek(SeekFrom::Start(1 << 19)).unwrap();
    file.write_all(b"data").unwrap();
    fs::write(upper.path().join("n".repeat(150)), "long").unwrap();
    let mut archive = tempfile::NamedTempFile::new().unwrap();
    diff(upper.path(), Marks::Trusted, &mut archive).unwrap();
    let into = tempfile::tempdir().unwrap();
    let Ok(output) = Command::new("tar")
        .arg("-xf")
        .arg(archive.path())
        .arg("-C")
        .arg(into.path())
        .output()
    else {
        return;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(listing(into.path()), listing(upper.path()));
}

/// Random changes, from a seed that is printed when they come out differently.
#[test]
fn random_trees() {
    for seed in 1..=20_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let numbers: Vec<usize> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap()
        })
        .take(600)
        .collect();
        println!("seed {seed}");
        round_trip(
            |lower| scribble(lower, &numbers[..200]),
            |merged| scribble(merged, &numbers[200..]),
        );
    }
}

/// Makes, changes, moves and removes files with a few names, so that they meet. Many attempts fail, as they may.
fn scribble(root: &Path, numbers: &[usize]) {
    let path = |n: usize| {
        let depth = n % 3 + 1;
        (0..depth).fold(root.to_owned(), |path, level| {
            path.join(format!("n{}", (n >> (3 * level + 2)) % 4))
        })
    };
    for pair in numbers.chunks_exact(2) {
        let (this, other) = (path(pair[0]), path(pair[1]));
        let _ = match pair[1] % 11 {
            0 | 1 => fs::create_dir_all(&this).is_ok(),
            2 | 3 => fs::write(&this, vec![b'x'; pair[1] % 5000]).is_ok(),
            4 => fs::remove_file(&this).is_ok(),
            5 => fs::remove_dir_all(&this).is_ok(),
            6 => fs::hard_link(&other, &this).is_ok(),
            7 => symlink(&other, &this).is_ok(),
            8 => fs::set_permissions(
                &this,
                fs::Permissions::from_mode(u32::try_from(pair[1] % 512).unwrap()),
            )
            .is_ok(),
            9 => xattr::set(&this, "user.n", &pair[0].to_le_bytes()).is_ok(),
            // A directory of the lower tree answers EXDEV, unless it is wholly new.
            _ => fs::rename(&other, &this).is_ok(),
        };
    }
}
