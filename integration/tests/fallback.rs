//! Whatever goes wrong, the container starts, with its root filesystem as new, and nothing else is left.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use thaw_integration::forge::Tar;
use thaw_integration::{FakeCriu, Lab, Python, forge, ok, patience};

/// A cold start in the lab takes some 0.3 s in a debug build; the rest is room for a slow machine.
const SOON: Duration = Duration::from_secs(4);

/// Starts the container, which has to come up cold for one of these reasons, and leaves the node as it was.
fn cold_for(lab: &Lab, reasons: &[&str]) -> Result<()> {
    comes_up(lab, "cold", reasons)
}

/// Starts the container, which has to come up in this way for one of these reasons, and leaves the node as it was.
fn comes_up(lab: &Lab, way: &str, reasons: &[&str]) -> Result<()> {
    {
        let started = Instant::now();
        let container = lab.python_run("cold").start()?;
        let took = started.elapsed();
        let outcome = container.outcome()?;
        let late = outcome.result == "restored" && way == "either";
        if !late && (outcome.result != "cold" || !reasons.contains(&outcome.reason.as_str())) {
            bail!("should be {way} for {reasons:?}, is {outcome:?}");
        }
        if took > patience(SOON) {
            bail!("the start took {took:?}");
        }
        let python = Python::ready(container)?;
        // The donor has made it, so it is there after a restore and must not be otherwise.
        let times = if late { "2\n" } else { "1\n" };
        if python.get("/write?marker")? != times {
            bail!("the root filesystem is not as it should be");
        }
    }
    // What has failed is left alone on this node; the next try of a test is not to be.
    lab.forgive()?;
    lab.nothing_left()
}

fn cold(lab: &Lab, reason: &str) -> Result<()> {
    cold_for(lab, &[reason])
}

#[test]
fn the_store_is_not_there() -> Result<()> {
    let Some(lab) = Lab::enter("the_store_is_not_there") else {
        return Ok(());
    };
    cold(&lab, "no_snapshot")?;
    fs::write(lab.path("file"), "not a folder")?;
    lab.configure_store(&format!("file://{}", lab.path("file").display()), "")?;
    cold(&lab, "store_invalid")?;
    lab.configure_store(
        "s3://thaw/prefix",
        "store.endpoint = 'http://127.0.0.1:1'\nstore.allow_http = true",
    )?;
    cold_for(&lab, &["lookup_failed", "lookup_timeout"])?;
    // Accepts, and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!(
        "store.endpoint = 'http://{}'\nstore.allow_http = true",
        mute.local_addr()?
    );
    lab.configure_store("s3://thaw/prefix", &endpoint)?;
    cold(&lab, "lookup_timeout")?;
    lab.done()
}

#[test]
fn a_blob_is_not_what_it_should_be() -> Result<()> {
    let Some(lab) = Lab::enter("a_blob_is_not_what_it_should_be") else {
        return Ok(());
    };
    for name in ["meta", "rootfs", "pages"] {
        lab.with_snapshot()?;
        let path = forge::blob(&lab.store(), name)?;
        let good = fs::read(&path)?;
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        fs::write(&path, flipped)?;
        cold(&lab, "fetch_failed").with_context(|| format!("{name} flipped"))?;
        fs::write(&path, &good[..good.len() / 2])?;
        cold(&lab, "fetch_failed").with_context(|| format!("{name} cut"))?;
        fs::write(&path, [&good[..], b"more"].concat())?;
        cold(&lab, "fetch_failed").with_context(|| format!("{name} longer"))?;
        fs::remove_file(&path)?;
        cold(&lab, "fetch_failed").with_context(|| format!("{name} missing"))?;
        // None of the tries has spoiled the cache.
        fs::write(&path, good)?;
        let clone = Python::ready(lab.python_run("clone").start()?)?;
        clone.container.assert_restored()?;
        assert_eq!(clone.get("/write?marker")?, "2\n");
    }
    lab.done()
}

#[test]
fn the_key_document_is_not_understood() -> Result<()> {
    let Some(lab) = Lab::enter("the_key_document_is_not_understood") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let path = forge::document(&lab.store())?;
    let good = fs::read_to_string(&path)?;
    let newer = good.replacen("\"format\":1", "\"format\":2", 1);
    assert_ne!(newer, good);
    for (bad, reason) in [
        ("garbage", "manifest_invalid"),
        ("", "manifest_invalid"),
        ("{}", "manifest_invalid"),
        (&newer, "manifest_invalid"),
        (&good[..good.len() - 20], "manifest_invalid"),
        (&" ".repeat(9 << 20), "lookup_failed"),
        (&"[".repeat(1 << 20), "manifest_invalid"),
    ] {
        fs::write(&path, bad)?;
        cold(&lab, reason).with_context(|| bad[..bad.len().min(40)].to_owned())?;
    }
    // What holds for another kind of machine.
    fs::write(&path, &good)?;
    forge::edit(&lab.store(), |manifest| {
        manifest["host"]["kernel"] = "99.0.0".into()
    })?;
    cold(&lab, "host_mismatch")?;
    // A snapshot of something else under this key.
    fs::write(&path, good)?;
    forge::edit(&lab.store(), |manifest| manifest["key"]["scope"] = "other".into())?;
    cold(&lab, "manifest_invalid")?;
    lab.done()
}

#[test]
fn criu_does_not_do_its_work() -> Result<()> {
    let Some(lab) = Lab::enter("criu_does_not_do_its_work") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    lab.configure("criu = '/nonexistent'")?;
    cold(&lab, "host_unfit")?;
    lab.configure("")?;
    {
        let _criu = FakeCriu::new("exit 1")?;
        cold(&lab, "restore_failed")?;
    }
    lab.configure("deadlines.restore = '1s'")?;
    // On a quick machine CRIU has done its work when the late ones come.
    for (after, way) in [(0, "cold"), (6, "cold"), (20, "either"), (50, "either")] {
        let _criu = FakeCriu::signalled("KILL", Duration::from_millis(after))?;
        // What CRIU has made so far outlives it and keeps runc waiting.
        comes_up(&lab, way, &["restore_failed", "restore_timeout"])
            .with_context(|| format!("killed after {after} ms"))?;
    }
    Python::ready(lab.python_run("clone").start()?)?
        .container
        .assert_restored()?;
    lab.done()
}

#[test]
fn a_restore_hangs() -> Result<()> {
    let Some(lab) = Lab::enter("a_restore_hangs") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    lab.configure("deadlines.restore = '1s'")?;
    {
        let _criu = FakeCriu::new("sleep 1000")?;
        cold(&lab, "restore_timeout")?;
    }
    for after in [0, 6] {
        let _criu = FakeCriu::signalled("STOP", Duration::from_millis(after))?;
        cold(&lab, "restore_timeout").with_context(|| format!("stopped after {after} ms"))?;
    }
    lab.done()
}

#[test]
fn the_rootfs_changes_do_not_apply() -> Result<()> {
    let Some(lab) = Lab::enter("the_rootfs_changes_do_not_apply") else {
        return Ok(());
    };
    let escape = "/var/lib/containerd/escaped";
    for tar in [
        Tar::new()
            .file(&format!("../../../../../../../../../../..{escape}"), b"out")
            .bytes(),
        Tar::new().file(escape, b"out").bytes(),
        b"this is no tar at all".repeat(100),
        Tar::new().file("srv/marker", b"half").bytes()[..600].to_vec(),
    ] {
        lab.with_snapshot()?;
        forge::replace_rootfs(&lab.store(), &tar)?;
        cold(&lab, "rootfs_diff_failed")?;
        assert!(!fs::exists(escape)?, "a file was written outside");
    }
    lab.done()
}

#[test]
fn the_cache_cannot_be_used() -> Result<()> {
    let Some(lab) = Lab::enter("the_cache_cannot_be_used") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let cache = lab.path("cache");
    fs::write(&cache, "not a folder")?;
    cold(&lab, "cache_failed")?;
    fs::remove_file(&cache)?;
    fs::create_dir(&cache)?;
    // Room for a part of the snapshot.
    let path = cache.display().to_string();
    ok(&["mount", "-t", "tmpfs", "-o", "size=1m", "full", &path])?;
    let tried = {
        let container = lab.python_run("cold").start()?;
        container
            .outcome()
            .and_then(|outcome| Python::ready(container).map(|_python| outcome))
    };
    ok(&["umount", &path])?;
    lab.forgive()?;
    let outcome = tried?;
    assert!(
        ["fetch_failed", "cache_failed"].contains(&outcome.reason.as_str()),
        "{outcome:?}"
    );
    Python::ready(lab.python_run("clone").start()?)?
        .container
        .assert_restored()?;
    // Somebody empties it while the next clone lives on what it has.
    lab.empty_cache()?;
    Python::ready(lab.python_run("clone").start()?)?
        .container
        .assert_restored()?;
    lab.done()
}

/// Pages or images of another snapshot with right digests: nobody but a writer of the store can do this.
#[test]
fn the_images_are_others() -> Result<()> {
    let Some(lab) = Lab::enter("the_images_are_others") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    forge::replace_meta(&lab.store(), |name, content| {
        if name.starts_with("core-") {
            let half = content.len() / 2;
            content[half] ^= 0xff;
        }
    })?;
    let container = lab.python_run("cold").start()?;
    let outcome = container.outcome()?;
    assert_eq!(outcome.result, "cold", "{outcome:?}");
    Python::ready(container)?;
    lab.done()
}
