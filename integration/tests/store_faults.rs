//! Whatever becomes of the store, containers start, and hardly later: real shims against a real server, with a way to
//! it that breaks.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use thaw_integration::{Container, Fault, FaultyStore, Lab, Outcome, Python, ok, run, until};

/// What a busy machine may add to any single start, in milliseconds. Of three hundred starts, with five processes for
/// each two that could run, none noticed the end of its deadline or of its probe more than eight milliseconds late.
const NOISE: f64 = 150.0;
/// What the first start may lose to a store in milliseconds: the lookup deadline.
const FIRST: f64 = 300.0;
/// What the later ones may lose.
const LATER: f64 = 50.0;
/// So many later ones there are: most meet a store that rests, and one or two ask whether it is back.
const STARTS: usize = 5;

/// The lab's server keeps its own records under names that leave no room for a prefix.
const URL: &str = "s3://thaw";

/// What the store has cost a start, in milliseconds.
fn lost(outcome: &Outcome) -> f64 {
    let steps = outcome.stages.iter();
    let store = steps.filter(|stage| ["lookup", "fetch"].contains(&stage.name.as_str()));
    store.map(|stage| stage.ms).sum()
}

/// One container, which has to come up cold for one of these reasons and to serve; what the store cost it.
fn cold(lab: &Lab, reasons: &[&str]) -> Result<f64> {
    let cost = cold_beside(lab, reasons)?;
    lab.nothing_left()?;
    Ok(cost)
}

/// As [`cold`], beside things that are not of the container.
fn cold_beside(lab: &Lab, reasons: &[&str]) -> Result<f64> {
    let outcome = {
        let python = lab.python("cold")?;
        // Not `thaw explain`, which asks the store.
        python.container.recorded()?
    };
    if outcome.result != "cold" || !reasons.contains(&outcome.reason.as_str()) {
        bail!("should be cold for {reasons:?}, is {outcome:?}");
    }
    Ok(lost(&outcome))
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

/// Containers in a row; the first for `first`, the others for `later`. What the dearest of the others has lost.
#[expect(clippy::print_stdout, reason = "the numbers are what the test is about")]
fn costs_little(
    lab: &Lab,
    start: fn(&Lab, &[&str]) -> Result<f64>,
    first: &[&str],
    later: &[&str],
) -> Result<f64> {
    let cost = start(lab, first)?;
    let mut costs = Vec::new();
    for _ in 0..STARTS {
        costs.push(start(lab, later)?);
    }
    println!("a store that is out: {cost:.1} ms, then {costs:.1?}");
    ensure!(cost < FIRST + NOISE, "the first start lost {cost} ms");
    let dearest = costs.iter().copied().fold(0.0, f64::max);
    ensure!(
        median(costs.clone()) < LATER && dearest < LATER + NOISE,
        "later starts lost {costs:?} ms"
    );
    Ok(dearest)
}

/// A network in which nobody answers; removed when dropped.
struct BlackHole;

impl BlackHole {
    const ADDRESS: &str = "10.99.0.2:9000";

    fn new() -> Result<Self> {
        let made = Self;
        for words in [
            "ip link add black0 type veth peer name black1",
            "ip address add 10.99.0.1/24 dev black0",
            "ip link set black0 up",
            "ip link set black1 up",
            // Nobody has this address, so what is sent there is dropped without a word.
            "ip neighbour add 10.99.0.2 lladdr 02:99:00:00:00:02 dev black0",
        ] {
            ok(&words.split(' ').collect::<Vec<_>>())?;
        }
        Ok(made)
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        run(&["ip", "link", "del", "black0"]).ok();
    }
}

/// A directory on a file system whose server is gone: whoever looks at it waits. It is one of FUSE with nobody behind it;
/// when this is dropped it is an empty directory, and those who wait get an error.
struct Hung {
    path: PathBuf,
    device: Option<File>,
}

impl Hung {
    fn new(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let none = MsFlags::empty();
        mount(Some("hung"), path, Some("fuse"), none, Some(options.as_str())).context("mount")?;
        Ok(Self {
            path: path.to_owned(),
            device: Some(device),
        })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.device.take();
        umount2(&self.path, MntFlags::MNT_DETACH).ok();
    }
}

/// The shim has one thread, and the others of its containers are served meanwhile.
#[test]
fn a_directory_that_hangs_costs_little() -> Result<()> {
    let Some(lab) = Lab::enter("a_directory_that_hangs_costs_little") else {
        return Ok(());
    };
    {
        let path = lab.path("hung");
        let hung = Hung::new(&path)?;
        lab.configure_store(&format!("file://{}/store", path.display()), "")?;
        costs_little(&lab, cold_beside, &["lookup_timeout"], &["store_resting"])?;
        drop(hung);
        until("a store that answers", Duration::from_secs(60), || {
            Ok(cold(&lab, &["no_snapshot"]).is_ok().then_some(()))
        })?;
    }
    lab.done()
}

#[test]
fn a_dead_store_costs_little() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("a_dead_store_costs_little") else {
        return Ok(());
    };
    let out = ["lookup_failed", "lookup_timeout"];
    // A probe that fails at once tells how.
    let resting = ["store_resting", "lookup_failed"];
    let keys = |address: &str| format!("store.endpoint = 'http://{address}'\nstore.allow_http = true");
    // Of most, one start has asked again.
    let mut probes = Vec::new();
    lab.configure_store(URL, &keys("127.0.0.1:1"))?;
    probes.push(costs_little(&lab, cold, &out, &resting).context("refused")?);
    {
        let _hole = BlackHole::new()?;
        lab.configure_store(URL, &keys(BlackHole::ADDRESS))?;
        probes.push(costs_little(&lab, cold, &out, &resting).context("black hole")?);
    }
    let store = FaultyStore::new()?;
    let html = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 40\r\nETag: \"x\"\r\n\
        Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n<html><body>Please log in.</body></html>";
    let long = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\nETag: \"x\"\r\n\
        Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nhalf a";
    let refusal = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let clear = ["manifest_invalid", "lookup_failed"];
    for (what, fault) in [
        ("silent", Fault::Silent),
        ("slow", Fault::SlowAfter(0)),
        ("cut", Fault::CutAfter(0)),
        ("junk", Fault::Answer(b"\0\x01junk\r\n\r\n".to_vec())),
        ("half an answer", Fault::Answer(long.to_vec())),
        ("500", Fault::Answer(refusal("500 Oh No"))),
        ("503", Fault::Answer(refusal("503 Slow Down"))),
    ] {
        lab.configure_store(URL, &store.keys())?;
        store.set(fault);
        probes.push(costs_little(&lab, cold, &out, &resting).context(what)?);
    }
    ensure!(
        median(probes.clone()) < LATER,
        "those that asked again lost {probes:?} ms"
    );
    // Quick, clear and of no use: no outage, but not worth a second question at once.
    for (what, answer) in [
        ("403", refusal("403 Forbidden")),
        ("a page for people", html.to_vec()),
    ] {
        let keys = format!("{}\nstore.remember_misses = '10m'", store.keys());
        lab.configure_store(URL, &keys)?;
        store.set(Fault::Answer(answer));
        costs_little(&lab, cold, &clear, &clear).context(what)?;
    }
    // No credentials anywhere, and nobody who would give some.
    lab.configure_store("gs://thaw", "")?;
    let reasons = [
        "lookup_failed",
        "lookup_timeout",
        "store_invalid",
        "store_resting",
    ];
    costs_little(&lab, cold, &reasons, &reasons).context("no credentials")?;
    lab.done()
}

/// Removes what a test has put into the bucket, which all tests share.
struct Bucket;

impl Drop for Bucket {
    fn drop(&mut self) {
        let Ok(list) = run(&["thaw", "-o", "json", "--store", URL, "ls"]) else {
            return;
        };
        let snapshots: serde_json::Value = serde_json::from_str(&list.stdout).unwrap_or_default();
        for snapshot in snapshots.as_array().into_iter().flatten() {
            run(&[
                "thaw",
                "--store",
                URL,
                "rm",
                snapshot["id"].as_str().unwrap_or_default(),
            ])
            .ok();
        }
    }
}

/// A store behind a proxy, with a snapshot in it and an empty cache.
fn with_snapshot(lab: &Lab) -> Result<(FaultyStore, Bucket)> {
    let store = FaultyStore::new()?;
    lab.configure_store(URL, &store.keys())?;
    let bucket = Bucket;
    let donor = lab.python("donor")?;
    donor.get("/write?marker")?;
    lab.capture(&donor.container, &[])?;
    lab.empty_cache()?;
    Ok((store, bucket))
}

fn restored(lab: &Lab) -> Result<Outcome> {
    let clone = Python::ready(lab.python_run("clone").start()?)?;
    clone.container.assert_restored()
}

/// By itself: nobody tells the node that the store is back.
#[test]
fn a_store_that_comes_back_is_used() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("a_store_that_comes_back_is_used") else {
        return Ok(());
    };
    {
        let (store, _bucket) = with_snapshot(&lab)?;
        store.set(Fault::Silent);
        for _ in 0..3 {
            cold(&lab, &["lookup_timeout", "store_resting"])?;
        }
        // It asks the store too, and says what it knows without it.
        lab.python("told")?.container.outcome()?;
        store.set(Fault::None);
        until("a restored container", Duration::from_secs(60), || {
            Ok(restored(&lab).is_ok().then_some(()))
        })?;
        restored(&lab)?;
    }
    lab.done()
}

#[test]
fn the_store_breaks_off() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("the_store_breaks_off") else {
        return Ok(());
    };
    {
        let (store, _bucket) = with_snapshot(&lab)?;
        // The document has come by then, and no blob of memory.
        for fault in [Fault::CutAfter(200 << 10), Fault::SlowAfter(200 << 10)] {
            lab.configure_store(URL, &format!("{}\nstore.request_timeout = '1s'", store.keys()))?;
            store.set(fault.clone());
            let cost = cold(&lab, &["fetch_failed"]).with_context(|| format!("{fault:?}"))?;
            ensure!(cost < 4_000.0, "{fault:?}: {cost} ms");
            let later = ["quarantined", "store_resting", "lookup_failed"];
            let mut costs = Vec::new();
            for _ in 0..2 {
                costs.push(cold(&lab, &later).with_context(|| format!("{fault:?}"))?);
            }
            ensure!(costs.iter().any(|cost| *cost < LATER), "{fault:?}: {costs:?}");
            let left = fs::read_dir(lab.path("cache/tmp"))?.flatten();
            let left: Vec<_> = left
                .map(|entry| entry.file_name())
                .filter(|name| !name.to_string_lossy().ends_with(".lock"))
                .collect();
            ensure!(left.is_empty(), "{left:?}");
        }
        store.set(Fault::None);
        lab.forgive()?;
        restored(&lab)?;
    }
    lab.done()
}

/// Replicas that start together cost the store one snapshot.
#[test]
fn two_starts_fetch_once() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("two_starts_fetch_once") else {
        return Ok(());
    };
    {
        let (store, _bucket) = with_snapshot(&lab)?;
        store.set(Fault::None);
        let starting: Vec<_> = ["one", "two", "three"]
            .map(|id| {
                // The host name is no part of the key.
                let run = lab.python_run(id);
                thread::spawn(move || run.start())
            })
            .into_iter()
            .collect();
        let containers = starting
            .into_iter()
            .map(|started| {
                started
                    .join()
                    .map_err(|_panic| anyhow::anyhow!("a thread died"))?
            })
            .collect::<Result<Vec<Container>>>()?;
        let mut fetched = Vec::new();
        for container in &containers {
            fetched.push(
                container.assert_restored()?.bytes["fetched"]
                    .as_u64()
                    .unwrap_or(0),
            );
        }
        ensure!(
            fetched.iter().filter(|bytes| **bytes > 0).count() == 1,
            "fetched {fetched:?}"
        );
        let most = fetched.iter().sum::<u64>() + (1 << 20);
        ensure!(store.answered() < most, "{} bytes came", store.answered());
    }
    lab.done()
}

/// A miss is asked for once, and hides nothing that this node publishes.
#[test]
fn a_miss_is_remembered_until_there_is_a_snapshot() -> Result<()> {
    let Some(lab) = Lab::enter_with_s3("a_miss_is_remembered_until_there_is_a_snapshot") else {
        return Ok(());
    };
    {
        let store = FaultyStore::new()?;
        lab.configure_store(URL, &format!("{}\nstore.remember_misses = '10m'", store.keys()))?;
        let _bucket = Bucket;
        let asked = cold(&lab, &["no_snapshot"])?;
        let before = store.connections();
        ensure!(before > 0, "nobody asked");
        let donor = lab.python("donor")?;
        // Before `thaw explain` is run, which looks for the nearest snapshot.
        ensure!(store.connections() == before, "it was asked again");
        let outcome = donor.container.assert_cold("no_snapshot")?;
        ensure!(outcome.detail.contains("ms ago"), "{outcome:?}");
        // The connection, and the client with its certificates.
        println!("a miss: asked {asked:.1} ms, remembered {:.1} ms", lost(&outcome));
        lab.capture(&donor.container, &[])?;
        restored(&lab)?;
    }
    lab.done()
}

/// It can be read, and not written.
#[test]
fn a_cache_that_cannot_be_written() -> Result<()> {
    let Some(lab) = Lab::enter("a_cache_that_cannot_be_written") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    let cache = lab.path("cache");
    let path = cache.display().to_string();
    fs::create_dir_all(&cache)?;
    ok(&["mount", "-t", "tmpfs", "-o", "size=1m,ro,mode=700", "full", &path])?;
    let tried = lab
        .python("cold")
        .and_then(|python| python.container.assert_cold("cache_failed"));
    ok(&["umount", &path])?;
    tried?;
    restored(&lab)?;
    lab.done()
}
