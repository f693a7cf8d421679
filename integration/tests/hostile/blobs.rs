//! Blobs and documents with a bit flipped, and blobs of another snapshot.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;
use thaw_integration::{Lab, Python, Run, forge};

use crate::tally::Tally;

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

/// Parts of one snapshot in the place of another's.
#[test]
fn blobs_are_swapped() -> Result<()> {
    let Some(lab) = Lab::enter("blobs_are_swapped") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    let other = lab.path("other");
    {
        // The same program with more memory.
        let run = Run::new("other", "python").flags(&["--env", "HEAP_MB=16", "--hostname", "other"]);
        let donor = Python::ready(run.start()?)?;
        lab.capture(
            &donor.container,
            &["--store", &format!("file://{}", other.display())],
        )?;
    }
    let foreign: Value = serde_json::from_slice(&fs::read(forge::document(&other)?)?)?;
    for name in ["meta", "pages"] {
        let theirs = fs::read(forge::blob(&other, name)?)?;
        // Under the name of our own.
        lab.with_snapshot()?;
        fs::write(forge::blob(&lab.store(), name)?, &theirs)?;
        tally.cold(
            &lab,
            &format!("{name} of another under our name"),
            &["fetch_failed"],
        )?;
        // Under its own, in a manifest that names it.
        lab.with_snapshot()?;
        forge::plant(&lab.store(), &theirs)?;
        let blob = foreign.pointer(&format!("/variants/0/blobs/{name}"));
        let blob = blob.context("no blob")?.clone();
        forge::edit(&lab.store(), |manifest| manifest["blobs"][name] = blob)?;
        tally.cold(
            &lab,
            &format!("{name} of another in our manifest"),
            &["images_invalid"],
        )?;
    }
    // Its document under our key.
    lab.with_snapshot()?;
    fs::write(forge::document(&lab.store())?, serde_json::to_vec(&foreign)?)?;
    tally.cold(&lab, "the document of another", &["manifest_invalid"])?;
    tally.say("blobs_are_swapped");
    lab.done()
}

/// Memory that nobody has dumped, with digests that are right: nothing can tell before the process runs. It dies, and
/// the next container does not try.
#[test]
fn the_memory_is_not_the_process_s() -> Result<()> {
    let Some(lab) = Lab::enter("the_memory_is_not_the_process_s") else {
        return Ok(());
    };
    lab.with_snapshot()?;
    forge::replace_pages(&lab.store(), |memory| memory.fill(0))?;
    {
        let victim = lab.python_run("victim").start()?;
        let outcome = victim.outcome()?;
        if outcome.result == "restored" {
            victim.end()?;
        }
    }
    lab.nothing_left()?;
    {
        let next = lab.python("next")?;
        next.container.assert_cold("quarantined")?;
    }
    lab.done()
}
