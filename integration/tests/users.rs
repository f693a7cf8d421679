//! Containers with a user namespace: their root filesystem is id-mapped, so that the files of the image belong to
//! their root. CRIU can't restore them; they start cold, as under the stock shim.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use thaw_integration::cri::{ConfigVersion, Containee, Cri, InPod, MAPPED};
use thaw_integration::{FakeRunc, Lab, Run, STOCK, THAW, Way, cell, cell_refused, ok, run, until};

/// The ids on the host.
const FIRST: u32 = 262_144;
const SHIM: &str = "containerd-shim-thaw-v1";
const HELPER: &str = "hold-user-namespace";

fn server() -> Containee {
    Containee {
        name: "app",
        image: "static",
        command: vec!["sh", "-c", "while :; do sleep 0.2; done"],
        ..Containee::default()
    }
}

/// What the container and the host see of its users and files. In the root filesystem there is a file of the image
/// that nobody has touched, one that is copied up, and a new one that belongs to another user.
fn seen(app: &InPod<'_>) -> Result<Vec<String>> {
    const LOOK: &str = "tr -s ' ' </proc/self/uid_map; tr -s ' ' </proc/self/gid_map; id -u; id -g
        stat -c '%n %u:%g %a' / /bin/busybox
        chmod 711 /bin && echo new >/written && chown 1000:1001 /written && stat -c '%n %u:%g' /bin /written";
    let inside = app.exec(&["sh", "-c", LOOK])?.ok()?;
    let mut seen: Vec<String> = inside.lines().map(|line| line.trim().to_owned()).collect();
    let root = format!("/proc/{}/root", app.pid()?);
    for file in ["", "/bin/busybox", "/bin", "/written"] {
        let found = fs::symlink_metadata(format!("{root}{file}/."))
            .or_else(|_| fs::symlink_metadata(format!("{root}{file}")))?;
        seen.push(format!("{file} is {}:{}", found.uid(), found.gid()));
    }
    Ok(seen)
}

#[test]
fn cri_runs_pods_without_host_users() -> Result<()> {
    let Some(lab) = Lab::enter_with_image("cri_runs_pods_without_host_users", "pause") else {
        return Ok(());
    };
    {
        let cri = Cri::start(ConfigVersion::newest()?, &["static"])?;
        let mut ways = Vec::new();
        for handler in ["runc", "thaw"] {
            let pod = cri.pod_with_users("mapped", handler, FIRST)?;
            let app = pod.run(&server())?;
            ways.push(seen(&app)?);
            if handler == "thaw" {
                let outcome = app.outcome()?;
                ensure!(outcome.reason == "user_namespace", "{outcome:?}");
                let refused = cri.capture(app.id());
                let words = format!("{:#}", refused.err().context("it can be captured")?);
                ensure!(words.contains("user namespace"), "{words}");
            }
            app.stop(0)?;
            app.remove()?;
        }
        let map = format!("0 {FIRST} {MAPPED}");
        let (user, group) = (FIRST + 1000, FIRST + 1001);
        let expected = [
            map.clone(),
            map,
            "0".to_owned(),
            "0".to_owned(),
            "/ 0:0 755".to_owned(),
            "/bin/busybox 0:0 755".to_owned(),
            "/bin 0:0".to_owned(),
            "/written 1000:1001".to_owned(),
            format!(" is {FIRST}:{FIRST}"),
            format!("/bin/busybox is {FIRST}:{FIRST}"),
            format!("/bin is {FIRST}:{FIRST}"),
            format!("/written is {user}:{group}"),
        ];
        ensure!(ways[0] == expected, "stock: {:#?}", ways[0]);
        ensure!(ways[1] == expected, "thaw: {:#?}", ways[1]);
    }
    lab.done()?;
    let feature = "user namespace of the pod (hostUsers: false)";
    cell("CRI", feature, Way::Cold);
    cell_refused("CRI", feature, Way::Restored, "`user_namespace`");
    Ok(())
}

/// The shim where the sample says that it is; removed when dropped.
struct Installed;

impl Installed {
    const PATH: &str = "/usr/local/bin/containerd-shim-thaw-v1";

    fn new() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join(SHIM));
        let shim = found.into_iter().find(|file| file.exists());
        symlink(shim.context("no shim")?, Self::PATH)?;
        Ok(Self)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        fs::remove_file(Self::PATH).ok();
    }
}

/// The sample for containerd 2.0 and 2.1, which ask nothing of a runtime type that they don't know.
#[test]
fn cri_asks_a_shim_named_by_its_path() -> Result<()> {
    let Some(lab) = Lab::enter_since_containerd("cri_asks_a_shim_named_by_its_path", 2) else {
        return Ok(());
    };
    {
        let _installed = Installed::new()?;
        let cri = Cri::start(ConfigVersion::ThreeByPath, &["static"])?;
        let (stock, thaw) = (cri.features("runc")?, cri.features("thaw")?);
        ensure!(stock == Some((true, true)), "stock: {stock:?}");
        ensure!(thaw == stock, "thaw: {thaw:?}");
        {
            let pod = cri.pod_with_users("mapped", "thaw", FIRST)?;
            let outcome = pod.run(&server())?.outcome()?;
            ensure!(outcome.reason == "user_namespace", "{outcome:?}");
        }
        for result in ["cold", "restored"] {
            let pod = cri.pod("named", "thaw", &[])?;
            let app = pod.run(&server())?;
            ensure!(app.outcome()?.result == result, "{:?}", app.outcome()?);
            if result == "cold" {
                cri.capture(app.id())?;
            }
            app.stop(0)?;
            app.remove()?;
        }
    }
    lab.done()?;
    for way in [Way::Cold, Way::Restored] {
        cell("CRI", "shim named by its path (runtime_path)", way);
    }
    Ok(())
}

fn mapped(id: &str, runtime: &str) -> Run {
    let map = format!("0:{FIRST}:{MAPPED}");
    Run::new(id, "static")
        .runtime(runtime)
        .flags(&["--uidmap", &map, "--gidmap", &map, "--remap-labels"])
        .command(&["sh", "-c", "while :; do sleep 0.2; done"])
}

/// Whatever ends the start or the shim, nothing of the mapping stays: no mount, no process, no folder.
#[test]
fn an_id_mapped_root_filesystem_goes_with_its_container() -> Result<()> {
    let Some(lab) = Lab::enter("an_id_mapped_root_filesystem_goes_with_its_container") else {
        return Ok(());
    };
    for runtime in [STOCK, THAW] {
        let container = mapped("mapped", runtime).start()?;
        let owner = container.sh("stat -c %u / && cat /proc/self/uid_map")?;
        let words: Vec<_> = owner.split_whitespace().collect();
        ensure!(
            words == ["0", "0", &FIRST.to_string(), &MAPPED.to_string()],
            "{owner}"
        );
        if runtime == THAW {
            container.assert_cold("user_namespace")?;
        }
        drop(container);
        lab.nothing_left()?;
    }
    {
        let _runc = FakeRunc::failing("create")?;
        let (container, ran) = mapped("mapped", THAW).try_start()?;
        ensure!(ran.code != 0 && ran.stderr.contains("runc create"), "{ran:?}");
        drop(container);
        lab.nothing_left()?;
    }
    let container = mapped("mapped", THAW).start()?;
    let parent = format!("/proc/{}/stat", container.pid()?);
    let stat = fs::read_to_string(&parent)?;
    let shim = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(1));
    ok(&["kill", "-KILL", shim.context("no shim")?])?;
    until("the end of the container", Duration::from_secs(30), || {
        Ok((!fs::exists(&parent)?).then_some(()))
    })?;
    drop(container);
    // The socket of a killed shim stays, under both runtimes, until the next container of that id has ended.
    drop(until("a second start", Duration::from_secs(30), || {
        let (container, ran) = mapped("mapped", THAW).try_start()?;
        Ok((ran.code == 0).then_some(container))
    })?);
    lab.done()
}

/// A shim that is killed while it waits for the helper takes it along.
#[test]
fn the_helper_for_id_mappings_ends_with_its_shim() -> Result<()> {
    let Some(lab) = Lab::enter("the_helper_for_id_mappings_ends_with_its_shim") else {
        return Ok(());
    };
    let mut helper = Command::new(SHIM)
        .arg(HELPER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = [0];
    let mut pipe = helper.stdout.take().context("no pipe")?;
    pipe.read_exact(&mut said)?;
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user"));
    let made = namespace(&helper.id().to_string())?;
    ensure!(made != namespace("self")?, "{made:?} is ours");
    helper.stdin.take().context("no pipe")?.flush()?;
    let ended = helper.wait()?;
    ensure!(ended.success(), "{ended}");

    // Where no more namespaces may be made. The limit is that of a namespace of its own.
    let script = format!("echo 0 >/proc/sys/user/max_user_namespaces && exec {SHIM} {HELPER}");
    let ran = run(&["unshare", "--user", "--map-root-user", "sh", "-c", &script])?;
    ensure!(ran.code == 1 && ran.stdout.is_empty(), "{ran:?}");
    ensure!(ran.stderr.contains("unshare the user namespace"), "{ran:?}");
    lab.done()
}
