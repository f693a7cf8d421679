//! The lease on a key.
//!
//! The input is the time in seconds since 1970 (eight bytes, little endian) and the document.

use thaw_runtime::parsers;

/// No lease may keep others away for longer, in seconds.
const LONGEST: i64 = 24 * 3600;

pub(crate) fn run(data: &[u8]) {
    let Some((now, document)) = data.split_first_chunk::<8>() else {
        return;
    };
    let now = i64::from_le_bytes(*now);
    let Some((owner, failed, left)) = parsers::lease(document, now) else {
        return;
    };
    assert!((1..=LONGEST).contains(&left), "it holds for {left} s");
    assert!(owner.len() + failed.map_or(0, |code| code.len()) < document.len());
    let end = now.saturating_add(left);
    assert_eq!(
        parsers::lease(document, end),
        None,
        "it holds when it has run out"
    );
}
