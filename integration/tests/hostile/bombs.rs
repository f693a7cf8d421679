//! Snapshots that are small in the store and large, or long, when they are unpacked.

use anyhow::Result;
use thaw_integration::forge::Tar;
use thaw_integration::{Lab, forge};

use crate::tally::Tally;

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
