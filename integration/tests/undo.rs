//! A container that could not be restored finds what it would have found without thaw: every step is broken once, and
//! what the container sees then is compared with what it sees when nothing was tried.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use thaw_integration::{FakeCriu, FakeRunc, Lab, Netns, Python, Run, Surroundings, forge, ok, run};

/// A network namespace as CNI leaves it: an address, a route, a rule of somebody's own.
fn network(name: &str) -> Result<Netns> {
    let netns = Netns::new(name)?;
    for words in [
        "ip link add eth0 type veth peer name other",
        "ip link set eth0 address 02:78:00:00:00:02",
        "ip link set other address 02:78:00:00:00:03",
        "ip address add 10.78.0.2/24 dev eth0",
        "ip link set eth0 up",
        "ip link set other up",
        "ip route add default via 10.78.0.1",
        "nft add table inet own",
        "nft add chain inet own out",
        "nft add rule inet own out tcp dport 9 drop",
        "iptables -A OUTPUT -p tcp --dport 7 -j DROP",
    ] {
        netns.ok(&words.split(' ').collect::<Vec<_>>())?;
    }
    Ok(netns)
}

fn container(lab: &Lab, id: &str, netns: &Netns) -> Run {
    let network = format!("network:{}", netns.path().display());
    lab.python_run(id)
        .flags(&["--with-ns", &network, "--memory-limit", "200000000"])
}

/// Starts the container, which has to come up cold for one of these reasons, and looks around in it.
fn seen(lab: &Lab, reasons: &[&str]) -> Result<Surroundings> {
    let seen = {
        let netns = network("undo")?;
        let python = Python::ready(container(lab, "one", &netns).start()?)?;
        let outcome = python.container.outcome()?;
        ensure!(
            outcome.result == "cold" && reasons.contains(&outcome.reason.as_str()),
            "should be cold for {reasons:?}, is {outcome:?}"
        );
        let seen = Surroundings::of(&python.container, &netns)?;
        ensure!(
            python.get("/write?marker")? == "1\n",
            "the root filesystem is not as new"
        );
        seen
    };
    lab.forgive()?;
    lab.nothing_left()?;
    Ok(seen)
}

/// Puts a snapshot of such a container into an empty store, from where each try takes a copy to break.
fn capture(lab: &Lab) -> Result<()> {
    let netns = network("donor")?;
    let donor = Python::ready(container(lab, "donor", &netns).start()?)?;
    donor.get("/write?marker")?;
    lab.capture(&donor.container, &[])?;
    let (store, kept) = (lab.store(), lab.path("kept"));
    Ok(fs::rename(store, kept)?)
}

/// The snapshot as it was taken.
fn whole(lab: &Lab) -> Result<()> {
    let (store, kept) = (
        lab.store().display().to_string(),
        lab.path("kept").display().to_string(),
    );
    ok(&["rm", "--recursive", "--force", &store])?;
    ok(&["cp", "--archive", &kept, &store])?;
    lab.empty_cache()
}

/// A mount in the way of the files for the restore; removed when dropped.
struct InTheWay;

impl InTheWay {
    const PATH: &str = "/run/thaw/default/one/restore/images";

    fn new() -> Result<Self> {
        fs::create_dir_all(Self::PATH)?;
        ok(&["mount", "-t", "tmpfs", "way", Self::PATH])?;
        Ok(Self)
    }
}

impl Drop for InTheWay {
    fn drop(&mut self) {
        run(&["umount", Self::PATH]).ok();
        fs::remove_dir_all("/run/thaw/default/one").ok();
    }
}

/// What a container sees when nothing is tried, on a node with a snapshot of it.
fn first_start(lab: &Lab) -> Result<Surroundings> {
    capture(lab)?;
    whole(lab)?;
    lab.configure("policy = 'Never'")?;
    let first = seen(lab, &["policy_never"])?;
    let second = seen(lab, &["policy_never"])?;
    second.same_as(&first).context("two starts without thaw")?;
    lab.configure("")?;
    Ok(first)
}

/// Fails unless a container that comes up cold, for one of these reasons, sees what `first` has seen.
fn same(lab: &Lab, first: &Surroundings, step: &str, reasons: &[&str]) -> Result<()> {
    seen(lab, reasons)
        .and_then(|seen| seen.same_as(first))
        .with_context(|| step.to_owned())
}

#[test]
fn a_step_before_the_restore_leaves_a_first_start() -> Result<()> {
    let Some(lab) = Lab::enter("a_step_before_the_restore_leaves_a_first_start") else {
        return Ok(());
    };
    let first = first_start(&lab)?;
    let store = format!("file://{}", lab.store().display());
    lab.configure_store(&store, "deadlines.identify = '1ms'")?;
    same(&lab, &first, "identify", &["identify_timeout"])?;
    lab.configure("")?;

    fs::write(forge::document(&lab.store())?, "garbage")?;
    same(&lab, &first, "lookup", &["manifest_invalid"])?;

    whole(&lab)?;
    fs::write(forge::blob(&lab.store(), "pages")?, "short")?;
    same(&lab, &first, "fetch", &["fetch_failed"])?;

    whole(&lab)?;
    forge::replace_meta(&lab.store(), |name, content| {
        if name.starts_with("core-") {
            content.truncate(content.len() / 2);
        }
    })?;
    same(&lab, &first, "verify", &["images_invalid"])?;

    whole(&lab)?;
    {
        // The mount is seen too, so this one is not compared.
        let _way = InTheWay::new()?;
        let netns = network("undo")?;
        let python = Python::ready(container(&lab, "one", &netns).start()?)?;
        python.container.assert_cold("rewrite_failed")?;
        ensure!(
            python.get("/write?marker")? == "1\n",
            "rewrite: the root filesystem"
        );
    }
    lab.nothing_left().context("rewrite")?;

    // Some of it is there already when the rest turns out to be missing.
    let tar = forge::Tar::new().file("srv/marker", b"half").bytes();
    forge::replace_rootfs(&lab.store(), &[&tar[..1024], &tar[..600]].concat())?;
    same(&lab, &first, "rootfs", &["rootfs_diff_failed"])?;
    lab.done()
}

#[test]
fn a_broken_restore_leaves_a_first_start() -> Result<()> {
    let Some(lab) = Lab::enter("a_broken_restore_leaves_a_first_start") else {
        return Ok(());
    };
    let first = first_start(&lab)?;
    {
        let _criu = FakeCriu::new("exit 1")?;
        same(&lab, &first, "restore refused", &["restore_failed"])?;
    }
    for after in [0, 6] {
        let _criu = FakeCriu::signalled("KILL", Duration::from_millis(after))?;
        same(&lab, &first, "CRIU killed", &["restore_failed"])?;
    }
    lab.configure("deadlines.restore = '1s'")?;
    {
        let _criu = FakeCriu::signalled("STOP", Duration::from_millis(6))?;
        same(&lab, &first, "restore hangs", &["restore_timeout"])?;
    }
    lab.configure("")?;
    {
        let _runc = FakeRunc::failing("update")?;
        same(&lab, &first, "limits", &["restore_failed"])?;
    }
    // Nothing of all this was for want of a snapshot.
    {
        let netns = network("undo")?;
        let clone = Python::ready(container(&lab, "one", &netns).start()?)?;
        clone.container.assert_restored()?;
    }
    ensure!(!Path::new("/run/thaw/default/one").exists(), "a record stays");
    lab.done()
}

/// A CRIU that is killed half-way leaves processes that keep runc waiting; nobody waits for the deadline.
#[test]
fn a_killed_criu_is_noticed() -> Result<()> {
    let Some(lab) = Lab::enter("a_killed_criu_is_noticed") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    // The deadline is far away, so coming up at all is the proof.
    lab.configure("deadlines.restore = '10m'")?;
    let mut killed = 0;
    for after in [0, 4, 8, 16, 32] {
        let _criu = FakeCriu::signalled("KILL", Duration::from_millis(after))?;
        {
            let python = lab.python("cold")?;
            let outcome = python.container.outcome()?;
            // On a quick machine CRIU has done its work by then.
            if outcome.result == "cold" {
                ensure!(outcome.reason == "restore_failed", "{outcome:?}");
                killed += 1;
            }
        }
        lab.forgive()?;
        lab.nothing_left()
            .with_context(|| format!("killed after {after} ms"))?;
    }
    ensure!(killed > 0, "CRIU was never killed in time");
    lab.done()
}
