//! Are the mounts in the images those that runc makes for the live spec?
//!
//! CRIU takes from the images which mounts there are, their types and their flags; of runc it has the sources of binds
//! alone. A mask that is left out, a bind that is no longer read-only or an overlay with folders of the host would come
//! back as the images say, and whoever writes to the store writes them.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;
use oci_spec::runtime::{Mount as Asked, Spec};
use thaw_criu::mounts::{self, Mount};
use thaw_criu::{Images, ReadError};

/// What runc mounts over a masked file, and the name by which it tells CRIU so (runc, `addMaskPaths`).
const NULL: &str = "/dev/null";
/// The terminal of a container that has one; runc mounts it besides what the spec says.
const CONSOLE: &str = "/dev/console";
/// Where the kernel's own file systems are: what is mounted there has to be exactly where the spec says.
const OF_THE_KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Options that take something away, the flag that shows it, and the options that give it back; the last one wins, as
/// in runc.
const RESTRICTIONS: [(MsFlags, [&str; 2], [&str; 2]); 4] = [
    (MsFlags::MS_RDONLY, ["ro", "rro"], ["rw", "rrw"]),
    (MsFlags::MS_NOSUID, ["nosuid", "rnosuid"], ["suid", "rsuid"]),
    (MsFlags::MS_NODEV, ["nodev", "rnodev"], ["dev", "rdev"]),
    (MsFlags::MS_NOEXEC, ["noexec", "rnoexec"], ["exec", "rexec"]),
];

/// Why the mounts are not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountsError {
    /// The mounts can't be read.
    #[error("read the mounts in the images")]
    Read(#[source] ReadError),
    /// A path that is not absolute and plain, or a tree that does not hang together.
    #[error("the mount at {path:?} has no place in the tree")]
    Tree {
        /// Where it is mounted.
        path: String,
    },
    /// The spec has no such mount.
    #[error("the images mount {fstype} at {path}, which the spec does not")]
    Foreign {
        /// Where it is mounted.
        path: String,
        /// The type of file system.
        fstype: String,
    },
    /// The spec has it, with more restrictions.
    #[error("the mount at {path} is not {restriction}, which the spec says")]
    Flags {
        /// Where it is mounted.
        path: String,
        /// The option of the spec that does not show.
        restriction: &'static str,
    },
    /// A tmpfs may grow beyond what the spec gives it.
    #[error("the tmpfs at {path} may hold more than the {size} bytes of the spec")]
    Size {
        /// Where it is mounted.
        path: String,
        /// The spec's limit in bytes.
        size: u64,
    },
    /// The spec mounts, masks or protects a path, and the images don't.
    #[error("the images mount nothing at {path}, which the spec does")]
    Missing {
        /// Where it should be.
        path: String,
    },
}

/// The live spec makes every mount that is in the images, and the images leave out none; `exists` says so of a path of
/// the kernel's, since runc masks no path that is not there.
pub(crate) fn check(images: &Images, spec: &Spec, exists: &dyn Fn(&str) -> bool) -> Result<(), MountsError> {
    let mounts = mounts::list(images).map_err(MountsError::Read)?;
    let tree = Tree::of(&mounts)?;
    let asked = Asking::of(spec);
    let mut made = HashSet::new();
    for mount in &mounts {
        if mount.mountpoint == "/" {
            let readonly = spec.root().as_ref().and_then(|root| root.readonly());
            let needed = if readonly == Some(true) {
                MsFlags::MS_RDONLY
            } else {
                MsFlags::empty()
            };
            restricted(mount, needed)?;
        } else if let Some(index) = asked.mount_at(mount, &made)? {
            made.insert(index);
        } else if !asked.besides(mount, &tree)? {
            return Err(MountsError::Foreign {
                path: mount.mountpoint.clone(),
                fstype: mount.fstype.clone(),
            });
        }
    }
    asked.complete(&made, &tree, exists)
}

/// The mounts of the images as a tree.
#[derive(Debug)]
struct Tree<'a> {
    by_path: HashMap<&'a Path, Vec<&'a Mount>>,
}

impl<'a> Tree<'a> {
    /// One root, every other mount upon the one that holds its path; a mount that hangs elsewhere would be covered.
    fn of(mounts: &'a [Mount]) -> Result<Self, MountsError> {
        let mut by_path: HashMap<&Path, Vec<&Mount>> = HashMap::new();
        let mut ids = HashSet::new();
        for mount in mounts {
            let path = Path::new(&mount.mountpoint);
            let plain = plain(path).is_some_and(|plain| plain.as_os_str() == path.as_os_str());
            if !plain || !ids.insert(mount.mnt_id) {
                return Err(misplaced(mount));
            }
            by_path.entry(path).or_default().push(mount);
        }
        let tree = Self { by_path };
        for mount in mounts {
            let sound = match mount.mountpoint.as_str() {
                "/" => !ids.contains(&mount.parent_id) && tree.at("/").len() == 1,
                path => {
                    let stacked = tree.at(path).iter().any(|other| other.mnt_id == mount.parent_id);
                    stacked && mount.parent_id != mount.mnt_id
                        || tree
                            .below(path)
                            .iter()
                            .any(|under| under.mnt_id == mount.parent_id)
                }
            };
            if !sound {
                return Err(misplaced(mount));
            }
        }
        if tree.at("/").is_empty() {
            return Err(MountsError::Missing { path: "/".to_owned() });
        }
        Ok(tree)
    }

    fn at(&self, path: &str) -> &[&'a Mount] {
        self.by_path.get(Path::new(path)).map_or(&[], Vec::as_slice)
    }

    /// What is mounted at the closest folder above a path.
    fn below(&self, path: &str) -> &[&'a Mount] {
        let above = Path::new(path).ancestors().skip(1);
        above
            .filter_map(|folder| self.by_path.get(folder))
            .next()
            .map_or(&[], Vec::as_slice)
    }
}

fn misplaced(mount: &Mount) -> MountsError {
    MountsError::Tree {
        path: mount.mountpoint.clone(),
    }
}

/// What the spec asks for.
#[derive(Debug)]
struct Asking<'a> {
    mounts: Vec<(PathBuf, &'a Asked)>,
    masked: HashSet<PathBuf>,
    readonly: HashSet<PathBuf>,
    terminal: bool,
}

impl<'a> Asking<'a> {
    fn of(spec: &'a Spec) -> Self {
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let linux = spec.linux().as_ref();
        let paths = |list: Option<&Vec<String>>| {
            let list = list.map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(|path| plain(Path::new(path))).collect()
        };
        Self {
            mounts: mounts
                .iter()
                .filter_map(|mount| Some((plain(mount.destination())?, mount)))
                .collect(),
            masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref())),
            readonly: paths(linux.and_then(|linux| linux.readonly_paths().as_ref())),
            terminal: spec
                .process()
                .as_ref()
                .and_then(|process| process.terminal())
                .unwrap_or(false),
        }
    }

    /// The number of the spec's mount that this one is; each of them is made once.
    fn mount_at(&self, found: &Mount, made: &HashSet<usize>) -> Result<Option<usize>, MountsError> {
        let path = Path::new(&found.mountpoint);
        let all = || self.mounts.iter().enumerate();
        let candidates = || all().filter(|(index, _)| !made.contains(index));
        let here = candidates().find(|(_, (at, asked))| at == path && is_of_kind(found, asked));
        // Where the image has a link on the way (/var/run), runc mounts at its end, and calls a bind by that. It gives
        // CRIU no source for a name that no bind of the spec comes to (runc, `addCriuRestoreMount`), so all that is
        // left to tell is which of them this one is.
        let elsewhere = || {
            let moved = candidates().filter(|(_, (at, asked))| {
                !of_the_kernel(path)
                    && !of_the_kernel(at)
                    && is_of_kind(found, asked)
                    && ends_alike(at, path) > 0
            });
            moved.max_by_key(|(_, (at, _))| ends_alike(at, path))
        };
        let Some((index, (_, asked))) = here.or_else(elsewhere) else {
            return Ok(None);
        };
        let mut needed = restrictions(asked);
        if is_cgroup(asked) && found.fstype == "tmpfs" {
            // The folder of the controllers' own mounts; those are looked at one by one.
            needed -= MsFlags::MS_RDONLY;
        }
        restricted(found, needed)?;
        within_size(found, asked)?;
        Ok(Some(index))
    }

    /// What runc mounts besides the spec's mounts.
    fn besides(&self, found: &Mount, tree: &Tree<'_>) -> Result<bool, MountsError> {
        let path = Path::new(&found.mountpoint);
        if self.masked.contains(path) {
            let file = found.external_key.as_deref() == Some(NULL);
            let folder = !found.external && found.fstype == "tmpfs";
            if folder {
                restricted(found, MsFlags::MS_RDONLY)?;
            }
            return Ok(file || folder);
        }
        if self.readonly.contains(path) {
            restricted(found, MsFlags::MS_RDONLY)?;
            return Ok(!found.external
                && tree
                    .below(&found.mountpoint)
                    .iter()
                    .any(|under| shows(found, under)));
        }
        if found.mountpoint == CONSOLE {
            return Ok(self.terminal && found.fstype == "devpts");
        }
        self.is_controller(found)
    }

    /// One of the mounts below a `cgroup` mount of version 1.
    fn is_controller(&self, found: &Mount) -> Result<bool, MountsError> {
        let path = Path::new(&found.mountpoint);
        let of = self
            .mounts
            .iter()
            .find(|(at, asked)| is_cgroup(asked) && path.parent() == Some(at));
        let Some((_, asked)) = of else {
            return Ok(false);
        };
        restricted(found, restrictions(asked))?;
        Ok(found.fstype == "cgroup" && found.external_key.as_deref() == Some(found.mountpoint.as_str()))
    }

    fn complete(
        &self,
        made: &HashSet<usize>,
        tree: &Tree<'_>,
        exists: &dyn Fn(&str) -> bool,
    ) -> Result<(), MountsError> {
        let absent = (0..self.mounts.len()).find(|index| !made.contains(index));
        if let Some((path, _)) = absent.and_then(|index| self.mounts.get(index)) {
            return Err(missing(path));
        }
        for path in self.masked.iter().chain(&self.readonly) {
            let hidden = path.ancestors().skip(1).any(|above| self.masked.contains(above));
            let Some(text) = path.to_str() else { continue };
            let mounted = !tree.at(text).is_empty();
            // Of paths of the image nobody knows here whether they are there, and where the kernel's are not mounted
            // there are none.
            let of_kernel = path.starts_with("/proc") || path.starts_with("/sys");
            let there = tree.below(text).iter().any(|under| under.mountpoint != "/");
            if of_kernel && there && !hidden && !mounted && exists(text) {
                return Err(missing(path));
            }
        }
        Ok(())
    }
}

fn missing(path: &Path) -> MountsError {
    MountsError::Missing {
        path: path.to_string_lossy().into_owned(),
    }
}

/// The path without doubled or trailing slashes and dots; `None` if it is relative or steps up.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut parts = path.components();
    let rooted = parts.next() == Some(Component::RootDir);
    let plain = parts.all(|part| matches!(part, Component::Normal(_)));
    (rooted && plain).then(|| path.components().collect())
}

fn of_the_kernel(path: &Path) -> bool {
    OF_THE_KERNEL.iter().any(|folder| path.starts_with(folder))
}

fn options(asked: &Asked) -> &[String] {
    asked.options().as_deref().unwrap_or_default()
}

fn is_bind(asked: &Asked) -> bool {
    let named = options(asked)
        .iter()
        .any(|option| option == "bind" || option == "rbind");
    named || asked.typ().as_deref() == Some("bind")
}

fn is_cgroup(asked: &Asked) -> bool {
    !is_bind(asked) && asked.typ().as_deref() == Some("cgroup")
}

/// How many names two paths have in common at their ends.
fn ends_alike(one: &Path, other: &Path) -> usize {
    let names = one.iter().rev().zip(other.iter().rev());
    names.take_while(|(one, other)| one == other).count()
}

/// A bind comes from outside by the name of its place; anything else is a whole file system of the spec's type.
fn is_of_kind(found: &Mount, asked: &Asked) -> bool {
    if is_bind(asked) {
        return found.external_key.as_deref() == Some(found.mountpoint.as_str());
    }
    let kind = asked.typ().as_deref().unwrap_or_default();
    let same = match kind {
        "cgroup" => ["cgroup2", "tmpfs"].contains(&found.fstype.as_str()),
        kind => found.fstype == kind,
    };
    // The root of a cgroup2 is the container's own cgroup, by its path at the donor.
    same && !found.external && (found.root == "/" || found.fstype == "cgroup2")
}

/// A part of the file system below, at its own place.
fn shows(found: &Mount, under: &Mount) -> bool {
    let inside = Path::new(&found.mountpoint).strip_prefix(&under.mountpoint);
    inside.is_ok_and(|inside| Path::new(&under.root).join(inside) == Path::new(&found.root))
        && found.fstype == under.fstype
}

fn restrictions(asked: &Asked) -> MsFlags {
    let mut needed = MsFlags::empty();
    for option in options(asked) {
        for (flag, take, give) in RESTRICTIONS {
            if take.contains(&option.as_str()) {
                needed |= flag;
            } else if give.contains(&option.as_str()) {
                needed -= flag;
            }
        }
    }
    needed
}

fn restricted(found: &Mount, needed: MsFlags) -> Result<(), MountsError> {
    let missing = needed - MsFlags::from_bits_truncate(found.flags.into());
    let first = RESTRICTIONS.iter().find(|(flag, ..)| missing.contains(*flag));
    first.map_or(Ok(()), |(_, [restriction, _], _)| {
        Err(MountsError::Flags {
            path: found.mountpoint.clone(),
            restriction,
        })
    })
}

/// Only sizes in bytes are compared: a share of the machine's memory is not in the kernel's own list of options.
fn within_size(found: &Mount, asked: &Asked) -> Result<(), MountsError> {
    let last = |options: &mut dyn Iterator<Item = &str>| {
        options
            .filter_map(|option| option.strip_prefix("size="))
            .last()
            .and_then(bytes)
    };
    let Some(size) = last(&mut options(asked).iter().map(String::as_str)) else {
        return Ok(());
    };
    // The kernel counts whole pages, of 64 KiB at most.
    let most = size.saturating_add(64 << 10);
    if found.fstype != "tmpfs" || last(&mut found.options.split(',')).is_some_and(|size| size <= most) {
        return Ok(());
    }
    Err(MountsError::Size {
        path: found.mountpoint.clone(),
        size,
    })
}

/// A number with `k`, `m` or `g` behind it, as tmpfs takes it (Linux, `filesystems/tmpfs.rst`).
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests;
