//! The facts of this machine that decide whether a snapshot fits.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use thaw_runc::Spawner;
use thaw_snapshot::{CpuFacts, HostFacts};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

/// How long a program may take to tell its version; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that is read of what it prints.
const OUTPUT_LIMIT: u64 = 64 << 10;

/// Why the facts can't be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A program is not there, or can't be run.
    #[error("run {} to learn its version", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A program does not end.
    #[error("learn the version of {} within {} ms", program.display(), PATIENCE.as_millis())]
    Deadline {
        /// The program.
        program: PathBuf,
    },
    /// A program does not say its version.
    #[error("find a version in what {} prints", program.display())]
    Version {
        /// The program.
        program: PathBuf,
    },
    /// The kernel's own description can't be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

/// What was learned once, valid while the two programs are the same files and the machine was not booted again.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    boot: String,
    programs: Vec<Program>,
    facts: HostFacts,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Program {
    path: PathBuf,
    inode: u64,
    changed: (i64, i64),
}

/// The facts of this host, remembered in `state` so that only the first boot pays for asking.
///
/// The few files that it reads are in memory, so it reads them where it runs.
///
/// # Errors
/// See [`HostError`].
pub async fn facts(
    state: &Path,
    criu: &Path,
    runc: &Path,
    spawner: &dyn Spawner,
) -> Result<HostFacts, HostError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let boot = fs::read_to_string(path).map_err(|source| HostError::Read { path, source })?;
    let programs = vec![identity(criu)?, identity(runc)?];
    let memory = state.join("host.json");
    if let Some(known) = fs::read(&memory)
        .ok()
        .and_then(|text| serde_json::from_slice::<Remembered>(&text).ok())
        && known.boot == boot
        && known.programs == programs
    {
        return Ok(known.facts);
    }
    let (criu, runc) = tokio::join!(version(criu, spawner), version(runc, spawner));
    let facts = learn(criu?, runc?)?;
    let known = Remembered {
        boot,
        programs,
        facts,
    };
    let temp = state.join(format!(".host.json.{}", std::process::id()));
    let kept = serde_json::to_vec(&known)
        .map_err(io::Error::from)
        .and_then(|text| fs::create_dir_all(state).and_then(|()| fs::write(&temp, text)))
        .and_then(|()| fs::rename(&temp, &memory));
    if let Err(error) = kept {
        log::debug!("remember the facts of this host: {error}");
    }
    Ok(known.facts)
}

fn identity(program: &Path) -> Result<Program, HostError> {
    let fail = |source| HostError::Run {
        program: program.to_owned(),
        source,
    };
    let path = find(program).ok_or_else(|| fail(io::Error::from(io::ErrorKind::NotFound)))?;
    let meta = fs::metadata(&path).map_err(fail)?;
    Ok(Program {
        path,
        inode: meta.ino(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// As `execvp` finds it.
pub(crate) fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.exists().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// The directory of a program that is given by path.
pub(crate) fn directory(program: &Path) -> Option<PathBuf> {
    program
        .parent()
        .filter(|parent| parent.is_absolute())
        .map(Path::to_owned)
}

fn learn(criu: String, runc: String) -> Result<HostFacts, HostError> {
    let uname = nix::sys::utsname::uname().map_err(|errno| HostError::Read {
        path: "uname",
        source: errno.into(),
    })?;
    let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096);
    Ok(HostFacts {
        kernel: uname.release().to_string_lossy().into_owned(),
        criu,
        runc,
        cpu: cpu()?,
        cgroup: cgroup().to_owned(),
        lsm: lsm().to_owned(),
        page_size: page_size.unsigned_abs(),
    })
}

/// The first word of digits and dots that `PROGRAM --version` prints: `Version: 4.2.1`, `runc version 1.3.6+ds1`.
async fn version(program: &Path, spawner: &dyn Spawner) -> Result<String, HostError> {
    let text = print_version(program, spawner).await?;
    text.split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(|word| {
            word.chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect()
        })
        .ok_or_else(|| HostError::Version {
            program: program.to_owned(),
        })
}

/// Through the spawner, since the shim's reaper would take the exit status of any other child.
async fn print_version(program: &Path, spawner: &dyn Spawner) -> Result<String, HostError> {
    let fail = |source| HostError::Run {
        program: program.to_owned(),
        source,
    };
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let (mut child, exit) = spawner.spawn(&mut command).map_err(fail)?;
    // It holds our copy of the child's end of the pipe; without this there would be no end of output.
    drop(command);
    let work = async {
        let mut text = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            let pipe = Receiver::from_owned_fd(pipe.into())?;
            pipe.take(OUTPUT_LIMIT).read_to_end(&mut text).await?;
        }
        exit.await?;
        Ok(text)
    };
    let Ok(printed) = tokio::time::timeout(PATIENCE, work).await else {
        // Only fails when it has just ended by itself.
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).ok();
        return Err(HostError::Deadline {
            program: program.to_owned(),
        });
    };
    Ok(String::from_utf8_lossy(&printed.map_err(fail)?).into_owned())
}

fn cpu() -> Result<CpuFacts, HostError> {
    let path = "/proc/cpuinfo";
    let text = fs::read_to_string(path).map_err(|source| HostError::Read { path, source })?;
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let features = field("flags").or_else(|| field("Features")).unwrap_or_default();
    let features: BTreeSet<String> = features.split_whitespace().map(str::to_owned).collect();
    Ok(CpuFacts {
        vendor: field("vendor_id")
            .or_else(|| field("CPU implementer"))
            .unwrap_or_default(),
        features: features.into_iter().collect(),
        xsave_size: xsave_size(),
    })
}

/// CPUID leaf 0xd, subleaf 0, ebx: the size in bytes for the components that XCR0 enables (Intel SDM vol. 1, 13.2).
#[cfg(target_arch = "x86_64")]
fn xsave_size() -> u32 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 0xd || __cpuid(1).ecx & OSXSAVE == 0 {
        return 0;
    }
    __cpuid_count(0xd, 0).ebx
}

#[cfg(not(target_arch = "x86_64"))]
fn xsave_size() -> u32 {
    0
}

fn cgroup() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "v2"
    } else {
        "v1"
    }
}

fn lsm() -> &'static str {
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let mut names = active.trim().split(',');
    if names.clone().any(|name| name == "apparmor") {
        "apparmor"
    } else if names.any(|name| name == "selinux") {
        "selinux"
    } else {
        "none"
    }
}
