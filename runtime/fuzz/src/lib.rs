//! What a fuzzer feeds to every parser of store data.
//!
//! A snapshot comes from a store that others can write to, so whatever takes it apart must neither panic nor hang nor
//! take memory or touch files beyond its limits, on any bytes. Each [`Target`] is one such parser and what must
//! hold for its answer. `hack/fuzz` runs them under libFuzzer (the thin programs in `libfuzzer/`); an ordinary test
//! (`tests/corpora.rs`) runs them over the inputs in `corpus/`, in which every input that ever broke one is kept.
//!
//! A target answers nothing: it panics when something does not hold.

mod scratch;
mod archive;
mod document;
mod images;
mod meta;
mod records;
mod blobs;
mod rootfs;
mod annotations;
mod lease;
mod listing;

/// One parser, or a few small ones.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of the program in `libfuzzer/fuzz_targets` and of the folder in `corpus`.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "document",
        run: document::run,
    },
    Target {
        name: "meta",
        run: meta::run,
    },
    Target {
        name: "images",
        run: images::run,
    },
    Target {
        name: "records",
        run: records::run,
    },
    Target {
        name: "blobs",
        run: blobs::run,
    },
    Target {
        name: "rootfs",
        run: rootfs::run,
    },
    Target {
        name: "annotations",
        run: annotations::run,
    },
    Target {
        name: "lease",
        run: lease::run,
    },
    Target {
        name: "listing",
        run: listing::run,
    },
];

/// Feeds `data` to the target of this name.
///
/// # Panics
/// When there is no such target, and when something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("no fuzz target is named {name}"));
    (target.run)(data);
}
