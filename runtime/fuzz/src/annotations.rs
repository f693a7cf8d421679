//! Annotations of a container, and the URLs in them.
//!
//! The first byte of the input chooses the node's policy, the rest are lines of `name=value`; a name without `/` stands below
//! `thaw.dev/`.

use std::collections::HashMap;

use thaw_config::{NodeConfig, Policy, SnapshotPolicy, StoreUrl};

pub(crate) fn run(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    let annotations: HashMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (full(name), value.to_owned()))
        .collect();
    let node = node(*choice);
    if let Ok(policy) = Policy::resolve(&node, &annotations) {
        if node.policy == SnapshotPolicy::Never {
            assert_eq!(policy.snapshot, SnapshotPolicy::Never);
        }
        if let Some(store) = &policy.store {
            assert!(
                node.allowed_paths.iter().any(|prefix| store.is_within(prefix)),
                "{store}"
            );
        }
    }
    for value in annotations.values() {
        url(value);
    }
}

fn full(name: &str) -> String {
    if name.contains('/') {
        name.to_owned()
    } else {
        format!("thaw.dev/{name}")
    }
}

fn node(choice: u8) -> NodeConfig {
    let policy = match choice % 3 {
        0 => SnapshotPolicy::IfPresent,
        1 => SnapshotPolicy::Never,
        _ => SnapshotPolicy::Required,
    };
    let allowed = ["s3://bucket/apps", "file:///srv/thaw"];
    let allowed_paths = allowed.iter().filter_map(|url| url.parse().ok()).collect();
    NodeConfig {
        policy,
        allowed_paths,
        ..NodeConfig::default()
    }
}

/// A URL that is taken has one form, and no step that leads out.
fn url(text: &str) {
    let Ok(url) = text.parse::<StoreUrl>() else {
        return;
    };
    let form = url.to_string();
    assert_eq!(form.parse::<StoreUrl>().as_ref(), Ok(&url), "{form:?}");
    assert!(url.is_within(&url));
    let path = url.path();
    assert!(
        path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | "..")),
        "{path:?}"
    );
    assert_eq!(
        url.as_url().path().trim_matches('/'),
        path,
        "two readings of {form:?}"
    );
}
