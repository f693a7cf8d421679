//! Manifests that lie.

use anyhow::Result;
use serde_json::{Value, json};
use thaw_integration::{Lab, forge};

use crate::tally::Tally;

/// The manifest says what no snapshot can be.
#[test]
fn the_manifest_lies() -> Result<()> {
    let Some(lab) = Lab::enter("the_manifest_lies") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    for (what, place, value) in lies() {
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

/// What is wrong, where in the manifest, and what stands there.
fn lies() -> Vec<(&'static str, &'static str, Value)> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let chunk = json!({"digest": digest, "size": 1, "raw_size": 1});
    vec![
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
    ]
}
