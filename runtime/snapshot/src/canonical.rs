//! One spelling for a JSON value, so that its digest means something: keys sorted, no whitespace.

use serde::Serialize;
use serde_json::Value;

use crate::Digest;

/// The value as canonical JSON. Keys are sorted by their bytes on every level, whatever order the map type keeps.
pub(crate) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// Digest of the canonical JSON.
pub(crate) fn digest(value: &Value) -> Digest {
    Digest::of(text(value).as_bytes())
}

/// A value of ours as JSON. Our types hold strings, integers and lists of them, which always have a JSON form.
pub(crate) fn value<T: Serialize>(ours: &T) -> Value {
    serde_json::to_value(ours).unwrap_or(Value::Null)
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_bytes());
            out.push('{');
            for (index, (key, item)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(item, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sorted_and_tight() {
        let value = json!({"b": [1, {"z": null, "a": "x\"y"}], "a": true});
        assert_eq!(text(&value), r#"{"a":true,"b":[1,{"a":"x\"y","z":null}]}"#);
        let again: Value = serde_json::from_str(&text(&value)).unwrap();
        assert_eq!(digest(&again), digest(&value));
    }
}
