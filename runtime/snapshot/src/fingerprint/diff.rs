//! Where two fingerprints differ, for people who ask why a start was cold.

use serde_json::Value;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDiff {
    /// Path in the document, as in `process.user.uid` or `env.RAILS_ENV`.
    pub path: String,
    /// Value in the first document; `None` where it is not there.
    pub left: Option<Value>,
    /// Value in the second.
    pub right: Option<Value>,
}

/// Deepest level that is looked into: the documents of this build have five.
const MAX_DEPTH: usize = 16;

/// The fields that differ, in the order of their paths. Lists are compared as a whole.
pub fn diff(left: &Value, right: &Value) -> Vec<FieldDiff> {
    let mut found = Vec::new();
    walk("", Some(left), Some(right), MAX_DEPTH, &mut found);
    found
}

fn walk(path: &str, left: Option<&Value>, right: Option<&Value>, depth: usize, found: &mut Vec<FieldDiff>) {
    if left == right {
        return;
    }
    let (Some(Value::Object(a)), Some(Value::Object(b)), true) = (left, right, depth > 0) else {
        found.push(FieldDiff {
            path: path.to_owned(),
            left: left.cloned(),
            right: right.cloned(),
        });
        return;
    };
    let mut keys: Vec<&String> = a
        .keys()
        .chain(b.keys().filter(|key| !a.contains_key(*key)))
        .collect();
    keys.sort_unstable();
    for key in keys {
        let below = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        walk(&below, a.get(key), b.get(key), depth - 1, found);
    }
}
