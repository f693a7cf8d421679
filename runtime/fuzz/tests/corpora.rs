//! Every input of `corpus/` through its target: what a fuzzer has found once stays found, without a fuzzer.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use thaw_fuzz::TARGETS;

#[test]
fn every_input_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut broken = Vec::new();
    for target in TARGETS {
        let folder = corpus.join(target.name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut inputs = 0;
        for entry in entries {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            if catch_unwind(|| (target.run)(&data)).is_err() {
                broken.push(path);
            }
            inputs += 1;
        }
        assert!(inputs > 3, "{} has {inputs} inputs", target.name);
    }
    assert!(broken.is_empty(), "{broken:?}");
}

/// `hack/fuzz` runs programs, this test functions, and both read folders: there must be one of each for every name.
#[test]
fn programs_and_folders_go_with_the_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str, end: &str| {
        let mut found: Vec<String> = fs::read_dir(root.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(end).unwrap_or(&name).to_owned())
            .collect();
        found.sort();
        found
    };
    let mut targets: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    targets.sort();
    assert_eq!(names("corpus", ""), targets);
    assert_eq!(names("libfuzzer/fuzz_targets", ".rs"), targets);
}
