//! An overlay that is mounted already, as the kernel tells of it (`man 5 proc_pid_mountinfo`).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A mounted overlay with an upper directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The kernel's number of the mount.
    pub id: u64,
    /// What was given as its source.
    pub source: String,
    /// What mounts it again, in the form of fstab; all paths are absolute.
    pub options: Vec<String>,
    /// Where changes go.
    pub upper: PathBuf,
    /// The mount belongs to a group that passes mounts on to each other.
    pub shared: bool,
    /// The mount came from another mount namespace: unmounting it here leaves it there.
    pub slave: bool,
    /// Other file systems are mounted in it, or below it.
    pub covered: bool,
}

impl Overlay {
    /// The overlay whose mount point is `path`. `None` when there is none, or none with an upper directory that this
    /// version could mount again.
    ///
    /// # Errors
    /// What reading `/proc/self/mountinfo` answered.
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        Ok(find(&fs::read("/proc/self/mountinfo")?, path))
    }

    /// Whether an overlay with the upper directory `upper` is mounted anywhere in this mount namespace.
    ///
    /// # Errors
    /// What reading `/proc/self/mountinfo` answered.
    pub fn mounted_with(upper: &Path) -> io::Result<bool> {
        Ok(any_with(&fs::read("/proc/self/mountinfo")?, upper))
    }
}

fn any_with(mountinfo: &[u8], upper: &Path) -> bool {
    let lines = mountinfo.split(|&byte| byte == b'\n');
    lines
        .filter_map(|line| std::str::from_utf8(line).ok())
        .any(|line| {
            let place = line.split(' ').nth(4).map(|field| unescape(field.as_bytes()));
            place
                .and_then(|place| parse(line, &place))
                .is_some_and(|found| found.upper == upper)
        })
}

fn find(mountinfo: &[u8], path: &Path) -> Option<Overlay> {
    let at = |line: &&[u8]| line.split(|&byte| byte == b' ').nth(4).map(unescape);
    let below = |line: &&[u8]| at(line).is_some_and(|place| place.starts_with(path));
    let mounts: Vec<&[u8]> = mountinfo.split(|&byte| byte == b'\n').filter(below).collect();
    // The last mount at a place is the one that is seen there.
    let last = mounts.iter().rfind(|line| at(line).as_deref() == Some(path))?;
    let mut found = parse(std::str::from_utf8(last).ok()?, path)?;
    found.covered = mounts.len() > 1;
    Some(found)
}

/// One line, if it is that of an overlay at `path`.
fn parse(line: &str, path: &Path) -> Option<Overlay> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mount: Vec<&str> = mount.split(' ').collect();
    let [kind, source, of_filesystem] = filesystem.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    if kind != "overlay" || unescape(mount.get(4)?.as_bytes()) != path {
        return None;
    }
    // A path with a comma or a space would need the escapes of the mount call, which are others.
    if of_filesystem.contains('\\') {
        return None;
    }
    let base = base(of_filesystem, path)?;
    let of_filesystem = of_filesystem.split(',').map(|option| absolute(option, base));
    let options: Vec<String> = mount
        .get(5)?
        .split(',')
        .map(str::to_owned)
        .chain(of_filesystem)
        .collect();
    let upper = options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="))?;
    let tagged = |tag: &str| mount.iter().skip(6).any(|field| field.starts_with(tag));
    Some(Overlay {
        id: mount.first()?.parse().ok()?,
        source: source.to_owned(),
        upper: PathBuf::from(upper),
        shared: tagged("shared:"),
        slave: tagged("master:"),
        covered: false,
        options,
    })
}

/// From where directories are named when the options would not fit into a page otherwise. Docker names all of them from
/// its own directory (`mountFrom` of its overlay2 driver), two levels above its mount points. containerd, and so thaw,
/// names only the lower ones, from the directory that they have in common; that of a snapshotter has the upper one too
/// (`snapshots/7/fs`).
fn base<'a>(of_filesystem: &'a str, path: &'a Path) -> Option<&'a Path> {
    let mut options = of_filesystem.split(',');
    let upper = Path::new(options.find_map(|option| option.strip_prefix("upperdir="))?);
    let near = if upper.is_absolute() { upper } else { path };
    near.parent()?.parent()
}

fn absolute(option: &str, base: &Path) -> String {
    let Some((name @ ("lowerdir" | "upperdir" | "workdir"), paths)) = option.split_once('=') else {
        return option.to_owned();
    };
    let paths = paths.split(':').map(|path| base.join(path).display().to_string());
    format!("{name}={}", paths.collect::<Vec<_>>().join(":"))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
#[must_use]
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "30 1 0:1 / /d/o/c1/merged rw - ext4 /dev/x rw\n\
        31 1 0:2 / /d/o/c2/merged rw,nodev shared:2 - overlay overlay rw,lowerdir=/d/l/A:/d/l/B,upperdir=/u/diff,workdir=/u/w\n\
        32 1 0:2 / /d/o/c3/merged rw master:7 - overlay overlay rw,lowerdir=l/A:l/B,upperdir=c3/diff,workdir=c3/work\n\
        33 32 0:2 / /d/o/c3/merged/proc rw - proc proc rw\n\
        34 1 0:2 / /d/o/c4/merged rw - overlay overlay rw,lowerdir=/l\\0541,upperdir=/u,workdir=/w\n\
        35 1 0:2 / /d/o/c5/merged ro - overlay overlay ro,lowerdir=/l/1:/l/2\n";

    fn at(path: &str) -> Option<Overlay> {
        find(INFO.as_bytes(), Path::new(path))
    }

    #[test]
    fn an_overlay_is_found_with_what_mounts_it_again() {
        let found = at("/d/o/c2/merged").unwrap();
        assert_eq!(found.upper, Path::new("/u/diff"));
        let options = [
            "rw",
            "nodev",
            "rw",
            "lowerdir=/d/l/A:/d/l/B",
            "upperdir=/u/diff",
            "workdir=/u/w",
        ];
        assert_eq!(found.options, options);
        assert_eq!(
            (found.id, found.shared, found.slave, found.covered),
            (31, true, false, false)
        );
    }

    #[test]
    fn relative_paths_are_those_of_docker() {
        let found = at("/d/o/c3/merged").unwrap();
        assert_eq!(found.upper, Path::new("/d/o/c3/diff"));
        assert!(found.options.contains(&"lowerdir=/d/o/l/A:/d/o/l/B".to_owned()));
        assert_eq!((found.shared, found.slave, found.covered), (false, true, true));
    }

    #[test]
    fn relative_lower_directories_alone_are_those_of_containerd() {
        let info = "31 1 0:2 / /run/b/rootfs rw - overlay overlay \
                    rw,lowerdir=12/fs:1/fs,upperdir=/s/snapshots/9/fs,workdir=/s/snapshots/9/work";
        let found = find(info.as_bytes(), Path::new("/run/b/rootfs")).unwrap();
        let lower = "lowerdir=/s/snapshots/12/fs:/s/snapshots/1/fs".to_owned();
        assert!(found.options.contains(&lower), "{:?}", found.options);
    }

    #[test]
    fn an_upper_directory_in_use_is_seen() {
        for (upper, used) in [("/u/diff", true), ("/d/o/c3/diff", true), ("/u", false)] {
            assert_eq!(any_with(INFO.as_bytes(), Path::new(upper)), used, "{upper}");
        }
    }

    #[test]
    fn what_could_not_be_mounted_again_is_none() {
        for other in ["c1", "c4", "c5", "c6"] {
            assert_eq!(at(&format!("/d/o/{other}/merged")), None, "{other}");
        }
    }

    #[test]
    fn octal_escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(br"/a\9"), Path::new(r"/a\9"));
    }
}
