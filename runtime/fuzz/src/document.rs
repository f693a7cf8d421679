//! The key document: parsing, canonical form, choosing, and the difference of fingerprints.

use serde_json::{Value, json};
use thaw_snapshot::fingerprint::diff;
use thaw_snapshot::matching::{self, Place};
use thaw_snapshot::{KeyDocument, Manifest};

/// Most fields that two fingerprints can differ in: each takes three bytes of JSON at least, in either.
fn most_differences(data: &[u8]) -> usize {
    data.len() + 16
}

pub(crate) fn run(data: &[u8]) {
    let Ok(document) = KeyDocument::parse(data) else {
        return;
    };
    let written = document.to_bytes();
    let again = KeyDocument::parse(&written).unwrap_or_else(|error| panic!("own bytes are refused: {error}"));
    assert_eq!(again.to_bytes(), written, "the canonical form is not stable");
    for (one, other) in document.variants.iter().zip(&again.variants) {
        assert_eq!(one.id(), other.id(), "writing a manifest changes its id");
        stays_inside(one);
        for with in [&Value::Null, &json!({"version": 1}), &other.fingerprint] {
            assert!(diff(&one.fingerprint, with).len() <= most_differences(data));
        }
    }
    if let Some(first) = document.variants.first() {
        for memory_limit in [None, Some(0), Some(u64::MAX)] {
            let place = Place {
                host: &first.host,
                memory_limit,
                exists: |path| path.len() % 2 == 0,
            };
            match matching::choose(&document, &first.key, place) {
                // Whatever is chosen is for this key, and fits.
                Ok(chosen) => assert_eq!(matching::check(chosen, &first.key, place), Ok(())),
                Err(mismatches) => assert_eq!(mismatches.len(), document.variants.len()),
            }
        }
    }
}

/// A key and the names of page files become paths, and masked paths are looked for.
fn stays_inside(manifest: &Manifest) {
    let path = manifest.key.path();
    assert!(
        path.starts_with("v1/keys/") && path.split('/').count() == 6,
        "{path}"
    );
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
    assert!(path.split('/').all(plain), "{path}");
    for path in &manifest.donor.masked_paths {
        let of_kernel = path.starts_with("/proc/") || path.starts_with("/sys/");
        assert!(of_kernel && path.split('/').all(|part| part != ".."), "{path}");
    }
    for file in &manifest.blobs.pages.files {
        assert!(
            file.name.starts_with("pages-")
                && file
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        );
    }
}
