//! The lab as one test sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command::{ok, run};
use crate::container::{Container, Python};
use crate::containerd::major_version;
use crate::inventory::Inventory;
use crate::run::{Run, full_name};
use crate::wait::{patience, until};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const CONFIG: &str = "/etc/thaw/config.toml";
/// A store with one snapshot of the Python server, made once for all tests of a lab.
const GOLDEN: &str = "/var/lib/thaw/golden";

/// A store, a cache and a configuration of one test's own; removed when dropped.
#[derive(Debug)]
pub struct Lab {
    directory: PathBuf,
    before: Inventory,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Enters, or says that `name` is skipped because this is no lab.
    ///
    /// # Panics
    /// When the lab can't be used.
    #[must_use]
    pub fn enter(name: &str) -> Option<Self> {
        if std::env::var_os("THAW_LAB").is_none() {
            skip(name, "not in the lab, see hack/test");
            return None;
        }
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self::new(name, turn).unwrap_or_else(|error| panic!("enter the lab: {error:#}")))
    }

    /// As [`Lab::enter`], where there is an S3 server too.
    ///
    /// # Panics
    /// When the lab can't be used.
    #[must_use]
    pub fn enter_with_s3(name: &str) -> Option<Self> {
        if std::env::var_os("AWS_ENDPOINT").is_none() {
            skip(name, "the lab has no S3 server (--s3)");
            return None;
        }
        Self::enter(name)
    }

    /// As [`Lab::enter`], where this image was imported.
    ///
    /// # Panics
    /// When the lab can't be used.
    #[must_use]
    pub fn enter_with_image(name: &str, image: &str) -> Option<Self> {
        let lab = Self::enter(name)?;
        let images = ok(&["ctr", "image", "list", "--quiet"]).unwrap_or_default();
        if !images.lines().any(|line| line == full_name(image)) {
            skip(name, &format!("the lab has no image {image} (--image {image})"));
            return None;
        }
        Some(lab)
    }

    /// As [`Lab::enter`], where this program is on PATH.
    ///
    /// # Panics
    /// When the lab can't be used.
    #[must_use]
    pub fn enter_with_tool(name: &str, program: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join(program).exists()) {
            skip(name, &format!("the lab has no {program} (hack/lab --tools)"));
            return None;
        }
        Self::enter(name)
    }

    /// As [`Lab::enter`], where containerd is of this major version or newer.
    ///
    /// # Panics
    /// When containerd does not say its version, or the lab can't be used.
    #[must_use]
    pub fn enter_since_containerd(name: &str, major: u32) -> Option<Self> {
        let lab = Self::enter(name)?;
        let found = major_version().unwrap_or_else(|error| panic!("ask containerd: {error:#}"));
        if found < major {
            skip(name, &format!("needs containerd {major}, here is {found}"));
            return None;
        }
        Some(lab)
    }

    /// As [`Lab::enter`], where systemd makes the cgroups.
    ///
    /// # Panics
    /// When the lab can't be used.
    #[must_use]
    pub fn enter_with_systemd(name: &str) -> Option<Self> {
        if !Path::new("/run/systemd/system").exists() {
            skip(name, "no systemd here (hack/test --vm)");
            return None;
        }
        Self::enter(name)
    }

    /// As [`Lab::enter`], where the kernel has AppArmor.
    ///
    /// # Panics
    /// When the lab can't be used.
    #[must_use]
    pub fn enter_with_apparmor(name: &str) -> Option<Self> {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
        if !enabled.starts_with('Y') {
            skip(name, "no AppArmor here (hack/test --vm)");
            return None;
        }
        Self::enter_with_tool(name, "apparmor_parser")
    }

    /// As [`Lab::enter`], where root may look at the limits of other users' processes, which CRIU has to.
    ///
    /// # Panics
    /// When the lab can't be used.
    #[must_use]
    pub fn enter_with_all_rights(name: &str) -> Option<Self> {
        const CAP_SYS_RESOURCE: u32 = 24;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let held = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
        let held = held
            .and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .unwrap_or_default();
        if held & (1 << CAP_SYS_RESOURCE) == 0 {
            skip(name, "root lacks CAP_SYS_RESOURCE here");
            return None;
        }
        Self::enter(name)
    }

    fn new(name: &str, turn: MutexGuard<'static, ()>) -> Result<Self> {
        // It would win over the file that we write, in every shim.
        for name in ["THAW_CACHE", "THAW_STORE", "THAW_CONFIG", "THAW_STATE"] {
            anyhow::ensure!(std::env::var_os(name).is_none(), "${name} is set in the lab");
        }
        let directory = PathBuf::from(format!("/var/lib/thaw/test-{}", name.replace("::", "-")));
        fs::create_dir_all(&directory)?;
        fs::create_dir_all("/etc/thaw")?;
        let lab = Self {
            directory,
            before: Inventory::take()?,
            _turn: turn,
        };
        lab.configure("")?;
        Ok(lab)
    }

    /// The store's folder.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// A path of the test's own.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes the node's configuration: the test's own store and cache, and these top-level keys.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn configure(&self, keys: &str) -> Result<()> {
        // What a start comes to must not hang on a pause of the machine. The defaults have their tests in
        // store_faults.rs and undo.rs.
        let identify = patience(Duration::from_secs(1)).as_millis();
        let keys = format!("deadlines.lookup = '5s'\ndeadlines.identify = '{identify}ms'\n{keys}");
        self.configure_store(&format!("file://{}", self.store().display()), &keys)
    }

    /// As [`Lab::configure`] with another store. What the node has noted about stores and snapshots is forgotten.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn configure_store(&self, url: &str, keys: &str) -> Result<()> {
        self.forgive()?;
        let cache = self.directory.join("cache");
        Ok(fs::write(
            CONFIG,
            format!("cache = {cache:?}\nstore.url = {url:?}\n{keys}\n"),
        )?)
    }

    /// Forgets which stores were out and which snapshots have failed on this node.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn forgive(&self) -> Result<()> {
        remove(Path::new("/run/thaw/.store"))?;
        remove(Path::new("/run/thaw/.quarantine"))
    }

    /// Empties this node's cache.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn empty_cache(&self) -> Result<()> {
        remove(&self.directory.join("cache"))
    }

    /// Empties the test's own store and this node's cache.
    ///
    /// # Errors
    /// When they can't be removed.
    pub fn forget(&self) -> Result<()> {
        remove(&self.store())?;
        self.empty_cache()
    }

    /// What to run for a Python server with a small heap.
    #[must_use]
    pub fn python_run(&self, id: &str) -> Run {
        Run::new(id, "python").flags(&["--env", "HEAP_MB=8", "--hostname", id])
    }

    /// A Python server that answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn python(&self, id: &str) -> Result<Python> {
        Python::ready(self.python_run(id).start()?)
    }

    /// Puts a snapshot of the Python server into the store. Its donor has made `/srv/marker`.
    ///
    /// # Errors
    /// When it can't be captured.
    pub fn with_snapshot(&self) -> Result<()> {
        if !Path::new(GOLDEN).exists() {
            let unfinished = format!("{GOLDEN}.part");
            remove(Path::new(&unfinished))?;
            let donor = self.python("golden")?;
            donor.get("/write?marker")?;
            ok(&[
                "thaw",
                "capture",
                "--store",
                &format!("file://{unfinished}"),
                donor.container.id(),
            ])?;
            fs::rename(unfinished, GOLDEN)?;
        }
        remove(&self.store())?;
        let store = self.store().display().to_string();
        ok(&["cp", "--archive", GOLDEN, &store])?;
        self.forgive()?;
        self.empty_cache()
    }

    /// `thaw capture`, and what it says.
    ///
    /// # Errors
    /// When it fails.
    pub fn capture(&self, container: &Container, flags: &[&str]) -> Result<Value> {
        let mut words = vec!["thaw", "capture", "-o", "json", container.id()];
        words.extend(flags);
        Ok(serde_json::from_str(&ok(&words)?)?)
    }

    /// Fails with what the test has left behind on the node.
    ///
    /// # Errors
    /// The list.
    pub fn done(self) -> Result<()> {
        self.nothing_left()
    }

    /// As [`Lab::done`], in the middle of a test.
    ///
    /// # Errors
    /// The list.
    pub fn nothing_left(&self) -> Result<()> {
        let mut last = Ok(());
        // Long: what ends by itself may take its time on a busy machine, and what was forgotten stays for ever.
        let waited = until("the node as it was", Duration::from_secs(20), || {
            last = Inventory::take()?.same_as(&self.before);
            Ok(last.is_ok().then_some(()))
        });
        match waited {
            Ok(()) => Ok(()),
            Err(error) => last.context(error),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove(Path::new(CONFIG)).ok();
        remove(&self.directory).ok();
    }
}

/// A file or a folder with all that is in it.
fn remove(path: &Path) -> Result<()> {
    let path = path.to_str().context("a path that is no text")?;
    run(&["rm", "--recursive", "--force", path])?.ok().map(drop)
}

#[expect(clippy::print_stdout, reason = "hack/test reads these lines")]
pub(crate) fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
}
