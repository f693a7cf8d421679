//! Broken and hostile snapshots: every container starts, in bounded time and memory, and nothing is left behind.
//!
//! `fallback.rs` breaks each step; here the snapshot itself is bent in every way that a bad disk or a hostile writer of the store
//! could. Where a digest would give it away, the forger makes it right.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tar::EntryType;
use thaw_integration::forge::Tar;
use thaw_integration::{Lab, Python, forge};

/// A cold start in the lab takes some 0.3 s in a debug build; the rest is room for a slow machine.
const SOON: Duration = Duration::from_secs(8);
/// Most memory that a shim may ever have used, in KiB. A snapshot of this size needs a tenth of it.
const SHIM_MEMORY: u64 = 256 << 10;

/// What a snapshot can be refused for when its images are not what they should be.
const BAD_IMAGES: &[&str] = &[
    "images_invalid",
    "rights_exceeded",
    "rewrite_failed",
    "restore_failed",
];

/// Counts the starts of a test.
#[derive(Debug, Default)]
struct Tally {
    cold: u32,
    restored: u32,
}

impl Tally {
    /// Starts a container with what is in the store now. It must run, cold for one of these reasons.
    fn cold(&mut self, lab: &Lab, what: &str, reasons: &[&str]) -> Result<()> {
        let (result, reason) = start(lab).with_context(|| what.to_owned())?;
        if result != "cold" || !reasons.contains(&reason.as_str()) {
            bail!("{what}: should be cold for one of {reasons:?}, is {result}: {reason}");
        }
        self.cold += 1;
        Ok(())
    }

    /// As [`Tally::cold`], where the damage may also be one that the application does not need.
    fn runs(&mut self, lab: &Lab, what: &str, reasons: &[&str]) -> Result<()> {
        let (result, reason) = start(lab).with_context(|| what.to_owned())?;
        if result == "restored" {
            self.restored += 1;
            return Ok(());
        }
        ensure!(
            reasons.contains(&reason.as_str()),
            "{what}: cold for {reason}, not one of {reasons:?}"
        );
        self.cold += 1;
        Ok(())
    }

    #[expect(clippy::print_stdout, reason = "the number is what the test is about")]
    fn say(&self, name: &str) {
        let all = self.cold + self.restored;
        println!(
            "{name}: {all} of {all} containers ran, {} cold, {} restored",
            self.cold, self.restored
        );
    }
}

/// Starts a container and asks it; answers how it came up.
fn start(lab: &Lab) -> Result<(String, String)> {
    let outcome = {
        let started = Instant::now();
        let container = lab.python_run("victim").start()?;
        let took = started.elapsed();
        let outcome = container.outcome()?;
        ensure!(took < SOON, "the start took {took:?}: {outcome:?}");
        let memory = shim_memory(container.pid()?)?;
        ensure!(
            memory < SHIM_MEMORY,
            "the shim has used {memory} KiB: {outcome:?}"
        );
        let python = Python::ready(container).with_context(|| format!("{outcome:?}"))?;
        // The donor has made the file, so a cold container must not have it.
        let times = if outcome.result == "restored" {
            "2\n"
        } else {
            "1\n"
        };
        ensure!(
            python.get("/write?marker")? == times,
            "the root filesystem is not as it should be"
        );
        ensure!(python.container.sh("hostname")? == "victim\n", "another hostname");
        outcome
    };
    lab.nothing_left()?;
    let left = lab.path("cache").join("tmp");
    for entry in fs::read_dir(&left).into_iter().flatten() {
        let path = entry?.path();
        ensure!(
            path.extension().is_some_and(|end| end == "lock"),
            "{} is left in the cache",
            path.display()
        );
    }
    Ok((outcome.result, outcome.reason))
}

/// The most memory in KiB that the parent of a container's init has had.
fn shim_memory(init: i32) -> Result<u64> {
    let number = |pid: i32, name: &str| -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let digits = line.and_then(|rest| rest.split_whitespace().next());
        Ok(digits.with_context(|| format!("no {name} of {pid}"))?.parse()?)
    };
    number(i32::try_from(number(init, "PPid:")?)?, "VmHWM:")
}

/// The first file of each kind: `core-1.img` stands for `core-7.img` too.
fn one_of_each_kind(names: Vec<String>) -> Vec<String> {
    let mut kinds = std::collections::BTreeMap::new();
    for name in names {
        let kind = name
            .trim_end_matches(".img")
            .trim_end_matches(|c: char| c.is_ascii_hexdigit())
            .to_owned();
        kinds.entry(kind).or_insert(name);
    }
    kinds.into_values().collect()
}

#[test]
fn a_bit_is_flipped_anywhere_in_a_blob() -> Result<()> {
    let Some(lab) = Lab::enter("a_bit_is_flipped_anywhere_in_a_blob") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    lab.with_snapshot()?;
    for name in ["meta", "rootfs", "pages"] {
        let path = forge::blob(&lab.store(), name)?;
        let good = fs::read(&path)?;
        // The ends, and places in between: every file of the archive has some of them in its bytes.
        for part in 0..=8 {
            let at = (good.len() - 1) * part / 8;
            let mut bad = good.clone();
            bad[at] ^= 1 << (part % 8);
            fs::write(&path, bad)?;
            tally.cold(
                &lab,
                &format!("bit {part} of byte {at} of {name}"),
                &["fetch_failed"],
            )?;
        }
        fs::write(&path, good)?;
    }
    // The document has no digest: a flip makes it unreadable, or another key, or says something false about a blob.
    let path = forge::document(&lab.store())?;
    let good = fs::read(&path)?;
    for part in 0..=12 {
        let at = (good.len() - 1) * part / 12;
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, bad)?;
        let reasons = [
            "manifest_invalid",
            "lookup_failed",
            "fetch_failed",
            "host_mismatch",
            "images_invalid",
        ];
        tally.runs(&lab, &format!("byte {at} of the document"), &reasons)?;
        lab.empty_cache()?;
    }
    tally.say("a_bit_is_flipped_anywhere_in_a_blob");
    lab.done()
}

/// Every kind of image, with digests that are right.
#[test]
fn an_image_is_not_one() -> Result<()> {
    let Some(lab) = Lab::enter("an_image_is_not_one") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    lab.with_snapshot()?;
    for victim in one_of_each_kind(forge::images(&lab.store())?) {
        type Change = fn(&mut Vec<u8>) -> bool;
        let changes: [(&str, Change); 4] = [
            ("is missing", |_| false),
            ("is empty", |content| {
                content.clear();
                true
            }),
            ("is cut off", |content| {
                content.truncate(content.len() / 2 + 3);
                true
            }),
            ("has another magic", |content| {
                for byte in content.iter_mut().take(8) {
                    *byte ^= 0x40;
                }
                true
            }),
        ];
        for (how, change) in changes {
            lab.with_snapshot()?;
            forge::filter_meta(&lab.store(), |name, content| name != victim || change(content))?;
            tally.runs(&lab, &format!("{victim} {how}"), BAD_IMAGES)?;
        }
    }
    tally.say("an_image_is_not_one");
    lab.done()
}

/// Records that announce more than there is, or than anybody can hold.
#[test]
fn the_images_count_absurdly() -> Result<()> {
    let Some(lab) = Lab::enter("the_images_count_absurdly") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for victim in [
        "pstree.img",
        "files.img",
        "core-1.img",
        "mm-1.img",
        "inventory.img",
        "pagemap-1.img",
    ] {
        // Behind the magic numbers: a record of 4 GiB, and a field of 2^63 bytes in the first record.
        let start = if victim == "inventory.img" { 4 } else { 8 };
        lab.with_snapshot()?;
        forge::replace_meta(&lab.store(), |name, content| {
            if name == victim {
                content[start..start + 4].fill(0xff);
            }
        })?;
        tally.cold(
            &lab,
            &format!("a record of 4 GiB in {victim}"),
            &["images_invalid"],
        )?;
        lab.with_snapshot()?;
        forge::replace_meta(&lab.store(), |name, content| {
            if name == victim {
                content.truncate(start);
                content.extend(10u32.to_le_bytes());
                content.push(0x0a);
                content.extend(huge);
            }
        })?;
        tally.cold(
            &lab,
            &format!("a field of 2^63 bytes in {victim}"),
            &["images_invalid"],
        )?;
    }
    // Runs of pages that no address space holds, and many that fit it.
    for (what, pages, flags) in [
        ("2^50 pages", 1u64 << 50, 4u64),
        ("2^35 pages in the file", 1 << 35, 4),
        ("2^35 pages from a parent", 1 << 35, 1),
        ("2^35 pages of no kind", 1 << 35, 0),
    ] {
        lab.with_snapshot()?;
        forge::replace_meta(&lab.store(), |name, content| {
            if name == "pagemap-1.img" {
                let record = [
                    &[0x08, 0x80, 0x80, 0x04, 0x10, 0x01, 0x20][..],
                    &varint(flags),
                    &[0x28],
                    &varint(pages),
                ];
                let record = record.concat();
                content.extend((record.len() as u32).to_le_bytes());
                content.extend(record);
            }
        })?;
        tally.cold(&lab, what, BAD_IMAGES)?;
    }
    tally.say("the_images_count_absurdly");
    lab.done()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The manifest says what no snapshot can be.
#[test]
fn the_manifest_lies() -> Result<()> {
    let Some(lab) = Lab::enter("the_manifest_lies") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    let digest = format!("sha256:{}", "0".repeat(64));
    let chunk = json!({"digest": digest, "size": 1, "raw_size": 1});
    let cases: Vec<(&str, &str, Value)> = vec![
        ("another format", "/format", 2.into()),
        ("no format", "/format", Value::Null),
        ("a huge format", "/format", u64::MAX.into()),
        ("meta of an exabyte", "/blobs/meta/raw_size", (1u64 << 60).into()),
        ("meta of nothing", "/blobs/meta/size", 0.into()),
        (
            "rootfs of an exabyte",
            "/blobs/rootfs/raw_size",
            (1u64 << 60).into(),
        ),
        ("pages of an exabyte", "/blobs/pages/size", (1u64 << 60).into()),
        (
            "a page file of 2^63",
            "/blobs/pages/files/0/size",
            (1u64 << 63).into(),
        ),
        (
            "a page file outside",
            "/blobs/pages/files/0/name",
            "../../../etc/cron.d/pages-1.img".into(),
        ),
        (
            "a page file of the cache",
            "/blobs/pages/files/0/name",
            "seal.json".into(),
        ),
        (
            "a chunk of 4 GiB",
            "/blobs/pages/chunks/0/raw_size",
            u32::MAX.into(),
        ),
        ("a chunk of nothing", "/blobs/pages/chunks/0/size", 0.into()),
        ("no chunks", "/blobs/pages/chunks", json!([])),
        ("many chunks", "/blobs/pages/chunks", vec![chunk; 20_000].into()),
        ("pages of one byte", "/host/page_size", 1.into()),
        ("pages of nothing", "/host/page_size", 0.into()),
        ("a long name", "/donor/hostname", "x".repeat(1 << 20).into()),
        ("many features", "/host/cpu/features", vec!["x"; 100_000].into()),
        ("a number as digest", "/blobs/meta/digest", 7.into()),
        (
            "a path as digest",
            "/blobs/meta/digest",
            "sha256:../../../../etc/passwd".into(),
        ),
        ("another fingerprint", "/fingerprint", json!({"version": 1})),
        ("a scope that leads out", "/key/scope", "../../..".into()),
    ];
    for (what, place, value) in cases {
        lab.with_snapshot()?;
        forge::edit(&lab.store(), |manifest| {
            if let Some(field) = manifest.pointer_mut(place) {
                *field = value;
            }
        })?;
        tally.cold(&lab, what, &["manifest_invalid", "lookup_failed"])?;
    }
    tally.say("the_manifest_lies");
    lab.done()
}

/// Archives that would write elsewhere, or make what must not be there. Their digests are right.
#[test]
fn an_archive_leads_out() -> Result<()> {
    use EntryType as T;
    let Some(lab) = Lab::enter("an_archive_leads_out") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    let escape = "/var/lib/containerd/escaped";
    let up = format!("../../../../../../../../../../..{escape}");
    let metas = [
        ("a path up", Tar::new().file(&up, b"out")),
        ("an absolute path", Tar::new().file(escape, b"out")),
        (
            "a symlink",
            Tar::new().entry(T::Symlink, "core-1.img", "/etc/shadow", b""),
        ),
        (
            "a hard link",
            Tar::new().entry(T::Link, "core-1.img", "/etc/shadow", b""),
        ),
        (
            "a character device",
            Tar::new().entry(T::Char, "core-1.img", "", b""),
        ),
        (
            "a block device",
            Tar::new().entry(T::Block, "core-1.img", "", b""),
        ),
        ("a pipe", Tar::new().entry(T::Fifo, "core-1.img", "", b"")),
        ("a folder", Tar::new().entry(T::Directory, "core-1.img", "", b"")),
        (
            "a long name",
            Tar::new().entry(T::GNULongName, "x", "", escape.as_bytes()),
        ),
        ("a page file", Tar::new().file("pages-1.img", b"x")),
        (
            "a script for CRIU's helpers",
            Tar::new().file("iptables-1.img", b"x"),
        ),
        (
            "CRIU's options",
            Tar::new().file("criu.conf", b"action-script /bin/false"),
        ),
        (
            "one file twice",
            Tar::new().file("core-1.img", b"x").file("core-1.img", b"y"),
        ),
        ("no file", Tar::new()),
    ];
    for (what, tar) in metas {
        lab.with_snapshot()?;
        forge::replace_meta_tar(&lab.store(), &tar.bytes())?;
        tally.cold(
            &lab,
            &format!("meta: {what}"),
            &["images_invalid", "fetch_failed"],
        )?;
        ensure!(!fs::exists(escape)?, "a file was written outside");
    }
    for (what, tar) in layers(escape, &up) {
        lab.with_snapshot()?;
        forge::replace_rootfs(&lab.store(), &tar.bytes())?;
        tally.cold(&lab, &format!("rootfs: {what}"), &["rootfs_diff_failed"])?;
        ensure!(!fs::exists(escape)?, "a file was written outside");
    }
    tally.say("an_archive_leads_out");
    lab.done()
}

/// Layers that must not apply.
fn layers(escape: &str, up: &str) -> Vec<(&'static str, Tar)> {
    use EntryType as T;
    let link = |target| Tar::new().entry(T::Symlink, "way", target, b"");
    vec![
        ("a path up", Tar::new().file(up, b"out")),
        (
            "a path up in the middle",
            Tar::new()
                .entry(T::Directory, "srv/", "", b"")
                .file("srv/../../x", b"out"),
        ),
        ("an absolute path", Tar::new().file(escape, b"out")),
        (
            "through a symlink to the host",
            link("/var/lib/containerd").file("way/escaped", b"out"),
        ),
        (
            "through a symlink up",
            link("../../..").file("way/escaped", b"out"),
        ),
        (
            "through a symlink to itself",
            link(".").file("way/escaped", b"out"),
        ),
        (
            "a hard link to the host",
            Tar::new().entry(T::Link, "x", "/etc/shadow", b""),
        ),
        (
            "a hard link up",
            Tar::new().entry(T::Link, "x", "../work/work", b""),
        ),
        (
            "a hard link through a symlink",
            link("/etc").entry(T::Link, "x", "way/shadow", b""),
        ),
        (
            "the memory of the machine",
            Tar::new().entry(T::Char, "mem", "", b""),
        ),
        ("a disk", Tar::new().entry(T::Block, "sda", "", b"")),
        ("a whiteout outside", Tar::new().file("../.wh.escaped", b"")),
        ("a whiteout of the folder above", Tar::new().file(".wh...", b"")),
        (
            "a path in a record",
            Tar::new().pax(&[("path", up)]).file("x", b"out"),
        ),
        (
            "a mark of the overlay",
            Tar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.redirect", "/")])
                .file("x", b""),
        ),
        (
            "a hole of 2^63",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.realsize", "9223372036854775808"),
                ])
                .file("x", b"1\n0\n1\n"),
        ),
    ]
}

/// Blobs of some hundred kilobytes that unpack to 10 GiB.
#[test]
fn zip_bombs() -> Result<()> {
    const GIB: usize = 10;
    let Some(lab) = Lab::enter("zip_bombs") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    // The room that there really is decides, so that the test can't fill the disk of the machine.
    lab.configure("deadlines.fetch = '2s'")?;
    let bomb = forge::zeros(GIB)?;
    let raw = (GIB as u64) << 30;
    let zero = "0".repeat(64);
    for name in ["meta", "rootfs"] {
        // Said to be small.
        lab.with_snapshot()?;
        forge::replace_packed(&lab.store(), name, &bomb, 1 << 20, &zero)?;
        tally.cold(
            &lab,
            &format!("{name} of 10 GiB, said to be 1 MiB"),
            &["fetch_failed", "manifest_invalid"],
        )?;
        // Said to be what it is.
        lab.with_snapshot()?;
        forge::replace_packed(&lab.store(), name, &bomb, raw, &zero)?;
        let reasons = ["fetch_failed", "fetch_timeout", "manifest_invalid"];
        tally.cold(&lab, &format!("{name} of 10 GiB"), &reasons)?;
    }
    lab.with_snapshot()?;
    forge::zero_pages(&lab.store(), GIB)?;
    tally.cold(
        &lab,
        "10 GiB of pages",
        &["fetch_failed", "fetch_timeout", "images_invalid"],
    )?;
    tally.say("zip_bombs");
    lab.done()
}

/// Honest sizes, and more files than anybody would wait for.
#[test]
fn a_layer_takes_forever() -> Result<()> {
    let Some(lab) = Lab::enter("a_layer_takes_forever") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    lab.configure("deadlines.restore = '1s'")?;
    lab.with_snapshot()?;
    let mut many = Tar::new();
    for number in 0..200_000 {
        many = many.file(&format!("f{number}"), b"");
    }
    forge::replace_rootfs(&lab.store(), &many.bytes())?;
    tally.cold(&lab, "200 000 files", &["restore_timeout", "rootfs_diff_failed"])?;
    tally.say("a_layer_takes_forever");
    lab.done()
}

/// Parts of one snapshot in the place of another's.
#[test]
fn blobs_are_swapped() -> Result<()> {
    let Some(lab) = Lab::enter("blobs_are_swapped") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    lab.with_snapshot()?;
    let own = fs::read(forge::document(&lab.store())?)?;
    let own_blobs: Value = serde_json::from_slice(&own)?;
    // Another snapshot of the same container, taken later: its memory has another size.
    {
        let donor = lab.python("other")?;
        for _ in 0..20 {
            donor.get("/healthz")?;
        }
        lab.capture(&donor.container, &[])?;
    }
    let other: Value = serde_json::from_slice(&fs::read(forge::document(&lab.store())?)?)?;
    let blobs =
        |document: &Value, name: &str| document.pointer(&format!("/variants/0/blobs/{name}")).cloned();
    // Files under each other's names.
    for name in ["meta", "pages"] {
        let digest = |document| -> Result<std::path::PathBuf> {
            let found = blobs(document, name).and_then(|blob| blob["digest"].as_str().map(str::to_owned));
            let hex = found.context("no blob")?.replace("sha256:", "");
            Ok(lab.store().join("v1/blobs/sha256").join(hex))
        };
        let (one, two) = (digest(&own_blobs)?, digest(&other)?);
        let (a, b) = (fs::read(&one)?, fs::read(&two)?);
        fs::write(&two, &a)?;
        tally.cold(
            &lab,
            &format!("{name} under the name of another"),
            &["fetch_failed"],
        )?;
        fs::write(&two, &b)?;
    }
    // A manifest that names them, with digests that are right.
    for name in ["meta", "pages"] {
        let blob = blobs(&own_blobs, name).context("no blob")?;
        forge::edit(&lab.store(), |manifest| manifest["blobs"][name] = blob)?;
        tally.runs(&lab, &format!("{name} of another snapshot"), BAD_IMAGES)?;
        fs::write(forge::document(&lab.store())?, serde_json::to_vec(&other)?)?;
        lab.empty_cache()?;
    }
    tally.say("blobs_are_swapped");
    lab.done()
}
