//! CRIU images that are not what their names say.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use thaw_integration::{Lab, forge};

use crate::tally::{BAD_IMAGES, Tally};

/// The first file of each kind: `core-1.img` stands for `core-7.img` too.
fn one_of_each_kind(names: Vec<String>) -> Vec<String> {
    let mut kinds = BTreeMap::new();
    for name in names {
        let kind = name
            .trim_end_matches(".img")
            .trim_end_matches(|c: char| c.is_ascii_hexdigit())
            .to_owned();
        kinds.entry(kind).or_insert(name);
    }
    kinds.into_values().collect()
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
    runs_of_pages(&lab, &mut tally)?;
    tally.say("the_images_count_absurdly");
    lab.done()
}

/// A mask that is gone, and one that lies elsewhere: what it should hide would be there to read.
#[test]
fn the_images_leave_out_a_mask() -> Result<()> {
    let Some(lab) = Lab::enter("the_images_leave_out_a_mask") else {
        return Ok(());
    };
    let mut tally = Tally::default();
    let mask = b"/proc/keys".as_slice();
    type Change = fn(Vec<u8>) -> Option<Vec<u8>>;
    let changes: [(&str, Change); 2] = [
        ("is gone", |_record| None),
        ("lies elsewhere", |mut record| {
            let at = record.windows(10).position(|part| part == b"/proc/keys")?;
            record[at..at + 10].copy_from_slice(b"/proc/kexs");
            Some(record)
        }),
    ];
    for (how, change) in changes {
        lab.with_snapshot()?;
        let mut found = 0;
        forge::replace_meta(&lab.store(), |name, content| {
            if name.starts_with("mountpoints-") {
                let is_mask = |record: &[u8]| record.windows(mask.len()).any(|part| part == mask);
                *content = records(content)
                    .filter_map(|record| {
                        if is_mask(&record) {
                            found += 1;
                            change(record)
                        } else {
                            Some(record)
                        }
                    })
                    .fold(content[..8].to_vec(), framed);
            }
        })?;
        ensure!(found == 1, "{found} masks of /proc/keys");
        tally.cold(&lab, &format!("the mask {how}"), &["rights_exceeded"])?;
    }
    tally.say("the_images_leave_out_a_mask");
    lab.done()
}

/// The records of an image, behind the magic numbers.
fn records(content: &[u8]) -> impl Iterator<Item = Vec<u8>> + use<> {
    let mut rest = content[8..].to_vec();
    std::iter::from_fn(move || {
        let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        let after = rest.split_off(4 + length);
        let record = std::mem::replace(&mut rest, after);
        Some(record[4..].to_vec())
    })
}

fn framed(mut image: Vec<u8>, record: Vec<u8>) -> Vec<u8> {
    image.extend((record.len() as u32).to_le_bytes());
    image.extend(record);
    image
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

/// Runs of pages that no address space holds, and many that fit it.
fn runs_of_pages(lab: &Lab, tally: &mut Tally) -> Result<()> {
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
        tally.cold(lab, what, BAD_IMAGES)?;
    }
    Ok(())
}
