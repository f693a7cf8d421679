//! `/run/thaw/restored.json`: what the application may know of its new life, written while it stands still.
//!
//! The file is described in `docs/identity.md`. It goes into a root filesystem that the snapshot has filled, so nothing
//! there is believed: no symbolic link is followed, and nothing but the root filesystem itself or a tmpfs is written
//! to, since anything else may outlive the container or belong to others.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use oci_spec::runtime::Spec;
use serde::Serialize;
use thaw_snapshot::Manifest;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Request;
use crate::key::read_bundle;
use crate::network::Names;
use crate::uuid;

/// The version of the file.
const FORMAT: u32 = 1;
const NAME: &str = "restored.json";
/// Its directory, from the container's root.
const DIRECTORIES: [&str; 2] = ["run", "thaw"];

/// The content, but for what is only known when it is written.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RestoredFile {
    format: u32,
    /// A fresh one in each clone.
    generation: String,
    restored: String,
    snapshot: String,
    captured: String,
    container: String,
    namespace: String,
    hostname: String,
    domainname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
    env: BTreeMap<String, String>,
    #[serde(skip)]
    owner: (u32, u32),
    /// The root filesystem, where we have it mounted.
    #[serde(skip)]
    rootfs: PathBuf,
}

/// What CRI says of the pod.
#[derive(Debug, Clone, Serialize)]
struct Pod {
    name: String,
    namespace: String,
    uid: String,
}

impl RestoredFile {
    pub(super) fn new(request: &Request, spec: &Spec, manifest: &Manifest, names: Names) -> Self {
        let none = HashMap::new();
        let annotations = spec.annotations().as_ref().unwrap_or(&none);
        let process = spec.process().as_ref();
        let env = process.and_then(|process| process.env().as_ref());
        let user = process.map(|process| process.user());
        Self {
            format: FORMAT,
            generation: String::new(),
            restored: String::new(),
            snapshot: manifest.id().to_string(),
            captured: manifest.created.clone(),
            container: request.id.clone(),
            namespace: request.namespace.clone(),
            hostname: names.hostname,
            domainname: names.domainname,
            pod: pod(annotations),
            env: env
                .into_iter()
                .flatten()
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            owner: user.map_or((0, 0), |user| (user.uid(), user.gid())),
            rootfs: rootfs_of(spec, &request.bundle),
        }
    }

    /// Writes the file into the container whose held process has its root directory at `seen`. The application finds it
    /// complete with its first instruction.
    pub(super) fn write(mut self, seen: &Path) -> io::Result<()> {
        if same_place(seen, Path::new("/"), "")? {
            // Whatever it is, it is no container of ours, and this would write to the host.
            return Err(io::Error::other("the process has our own root directory"));
        }
        self.generation = uuid::new()?;
        self.restored = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .map_err(io::Error::other)?;
        let content = serde_json::to_vec_pretty(&self)?;
        let tried = self.put(seen, &content);
        match &tried {
            // A root filesystem that is read-only for the container is not so for us.
            Err(error)
                if error.raw_os_error() == Some(Errno::EROFS as i32)
                    && same_place(seen, &self.rootfs, DIRECTORIES[0])? =>
            {
                self.put(&self.rootfs, &content)
            }
            _ => tried,
        }
    }

    fn put(&self, root: &Path, content: &[u8]) -> io::Result<()> {
        let root = open(
            root,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let device = fstat(&root)?.st_dev;
        let mut directory = root;
        for name in DIRECTORIES {
            directory = self.enter(&directory, name)?;
            let tmpfs = fstatfs(&directory)?.filesystem_type() == TMPFS_MAGIC;
            if !tmpfs && fstat(&directory)?.st_dev != device {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("/{name} is a volume, neither a tmpfs nor of the root filesystem"),
                ));
            }
        }
        let temp = format!(".{NAME}.{}", self.generation);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let how = beneath().flags(flags).mode(Mode::S_IRUSR);
        let mut file = File::from(openat2(&directory, temp.as_str(), how)?);
        let written = self.fill(&mut file, content).and_then(|()| {
            renameat(&directory, temp.as_str(), &directory, NAME)?;
            Ok(())
        });
        if written.is_err() {
            // It is gone with the container otherwise.
            unlinkat(&directory, temp.as_str(), UnlinkatFlags::NoRemoveDir).ok();
        }
        written
    }

    /// Readable by the user that the container runs as, and by nobody else: the environment may hold secrets.
    fn fill(&self, file: &mut File, content: &[u8]) -> io::Result<()> {
        file.write_all(content)?;
        self.give(&*file)?;
        Ok(fchmod(&*file, Mode::S_IRUSR)?)
    }

    fn give(&self, file: impl AsFd) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        Ok(fchown(file, Some(uid), Some(gid))?)
    }

    /// Opens a directory, made if it is not there. The user may use `/run/thaw`, so it is given to it.
    fn enter(&self, parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        let how = || beneath().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        match openat2(parent, name, how()) {
            Err(Errno::ENOENT) => {}
            other => return Ok(other?),
        }
        mkdirat(parent, name, Mode::from_bits_truncate(0o755))?;
        let made = openat2(parent, name, how())?;
        // The mode that was asked for has gone through our umask.
        fchmod(&made, Mode::from_bits_truncate(0o755))?;
        if name == DIRECTORIES[1] {
            self.give(&made)?;
        }
        Ok(made)
    }
}

/// Takes the file of an earlier run away: a restarted container that now starts cold must not find it. `upper` holds
/// what that run has changed in the root filesystem, which is mounted.
pub(super) fn forget(bundle: &Path, upper: Option<&Path>) {
    let there = upper.is_some_and(|upper| fs::symlink_metadata(place_in(upper)).is_ok());
    if there
        && let Ok(read) = read_bundle(bundle)
        && let Err(error) = unlink(&rootfs_of(&read.spec, bundle))
    {
        log::warn!("remove {NAME} of an earlier run: {error}");
    }
}

fn unlink(root: &Path) -> io::Result<()> {
    let root = open(
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let how = beneath().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
    let directory = openat2(&root, DIRECTORIES.join("/").as_str(), how)?;
    Ok(unlinkat(&directory, NAME, UnlinkatFlags::NoRemoveDir)?)
}

fn place_in(root: &Path) -> PathBuf {
    DIRECTORIES
        .iter()
        .fold(root.to_owned(), |path, name| path.join(name))
        .join(NAME)
}

/// The root filesystem of a container; relative to the bundle, where it is not absolute.
fn rootfs_of(spec: &Spec, bundle: &Path) -> PathBuf {
    bundle.join(
        spec.root()
            .as_ref()
            .map_or(Path::new("rootfs"), |root| root.path()),
    )
}

fn beneath() -> OpenHow {
    OpenHow::new().resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    )
}

/// Whether `name` is the same directory in both, or is not there in both: not on a mount of the container's own.
fn same_place(seen: &Path, rootfs: &Path, name: &str) -> io::Result<bool> {
    let at = |root: &Path| {
        // The root itself may be reached through a link of /proc.
        let path = root.join(".").join(name);
        match fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    Ok(at(seen)? == at(rootfs)?)
}

fn pod(annotations: &HashMap<String, String>) -> Option<Pod> {
    let get = |name: &str| {
        annotations
            .get(&format!("io.kubernetes.cri.sandbox-{name}"))
            .cloned()
    };
    Some(Pod {
        name: get("name")?,
        namespace: get("namespace").unwrap_or_default(),
        uid: get("uid").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn content(generation: &str) -> RestoredFile {
        RestoredFile {
            format: FORMAT,
            generation: generation.to_owned(),
            restored: String::new(),
            snapshot: String::new(),
            captured: String::new(),
            container: String::new(),
            namespace: String::new(),
            hostname: String::new(),
            domainname: String::new(),
            pod: None,
            env: BTreeMap::new(),
            owner: (Uid::current().as_raw(), Gid::current().as_raw()),
            rootfs: PathBuf::new(),
        }
    }

    fn put(root: &Path) -> io::Result<()> {
        content("g").put(root, b"{}")
    }

    #[test]
    fn the_directories_are_made() {
        let root = tempfile::tempdir().unwrap();
        put(root.path()).unwrap();
        let file = root.path().join("run/thaw/restored.json");
        assert_eq!(fs::read(&file).unwrap(), b"{}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o400);
        for directory in ["run", "run/thaw"] {
            let mode = fs::metadata(root.path().join(directory))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o755, "{directory}");
        }
    }

    #[test]
    fn what_the_donor_was_told_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let secret = root.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::create_dir_all(root.path().join("run/thaw")).unwrap();
        symlink(&secret, root.path().join("run/thaw/restored.json")).unwrap();
        put(root.path()).unwrap();
        content("h").put(root.path(), b"{1}").unwrap();
        assert_eq!(
            fs::read(root.path().join("run/thaw/restored.json")).unwrap(),
            b"{1}"
        );
        assert_eq!(fs::read(secret).unwrap(), b"secret");
        let left = fs::read_dir(root.path().join("run/thaw")).unwrap().count();
        assert_eq!(left, 1);
    }

    #[test]
    fn no_link_is_followed() {
        for link in ["run", "run/thaw"] {
            let root = tempfile::tempdir().unwrap();
            let elsewhere = tempfile::tempdir().unwrap();
            let path = root.path().join(link);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(elsewhere.path(), &path).unwrap();
            assert_eq!(
                put(root.path()).unwrap_err().raw_os_error(),
                Some(Errno::ELOOP as i32)
            );
            assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn our_own_root_is_left_alone() {
        let rootfs = tempfile::tempdir().unwrap();
        let file = content("");
        file.clone().write(Path::new("/proc/self/root")).unwrap_err();
        file.write(rootfs.path()).unwrap();
        let text = fs::read(rootfs.path().join("run/thaw/restored.json")).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(told["generation"].as_str().unwrap().len(), 36);
    }

    #[test]
    fn a_restart_finds_no_file_of_the_run_before() {
        let bundle = tempfile::tempdir().unwrap();
        let rootfs = bundle.path().join("rootfs");
        fs::create_dir(&rootfs).unwrap();
        let spec = serde_json::json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}});
        fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
        put(&rootfs).unwrap();
        forget(bundle.path(), Some(&rootfs));
        assert_eq!(fs::read_dir(rootfs.join("run/thaw")).unwrap().count(), 0);
        forget(bundle.path(), Some(&rootfs));
    }

    #[test]
    fn a_directory_in_its_place_is_an_error_and_nothing_stays() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/thaw/restored.json")).unwrap();
        put(root.path()).unwrap_err();
        assert_eq!(fs::read_dir(root.path().join("run/thaw")).unwrap().count(), 1);
    }
}
