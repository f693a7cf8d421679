//! Where the store keeps what belongs to a key.

use crate::{Digest, Key};

/// Longest encoded part of a path in bytes. File systems allow 255; the rest is for a store's own endings.
const MAX_PART: usize = 128;

impl Key {
    /// Path of the key document: `v1/keys/<scope>/<platform>/<config>/<fingerprint>.json`.
    ///
    /// Scope and platform are encoded so that each is one part of lower-case letters, digits, `.`, `_` and `-`, never
    /// begins with a dot, is at most 128 bytes long, and different names stay different.
    pub fn path(&self) -> String {
        format!(
            "v1/keys/{}/{}/{}/{}.json",
            part(&self.scope),
            part(&self.platform),
            self.config.hex(),
            self.fingerprint.hex(),
        )
    }
}

/// `_` and two hex digits for every byte that may not stand for itself. A `_` before another letter than a hex digit
/// therefore never comes out of that, and marks the two special forms. The percent sign is no choice: object stores
/// and their clients encode it again, not all alike.
fn part(name: &str) -> String {
    if name.is_empty() {
        return "_none".to_owned();
    }
    let mut out = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => out.push(char::from(byte)),
            b'.' if index > 0 => out.push('.'),
            other => out.push_str(&format!("_{other:02x}")),
        }
    }
    if out.len() > MAX_PART {
        format!("_sha256-{}", Digest::of(name.as_bytes()).hex())
    } else {
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(scope: &str, platform: &str) -> Key {
        let digest = Digest::of(b"x");
        Key {
            scope: scope.to_owned(),
            platform: platform.to_owned(),
            config: digest,
            fingerprint: digest,
        }
    }

    #[test]
    fn ordinary_names_stay_readable() {
        let hex = Digest::of(b"x").hex();
        assert_eq!(
            key("default", "linux-amd64").path(),
            format!("v1/keys/default/linux-amd64/{hex}/{hex}.json")
        );
        assert_eq!(
            key("k8s.io", "linux-amd64").path(),
            format!("v1/keys/k8s.io/linux-amd64/{hex}/{hex}.json")
        );
    }

    #[test]
    fn nothing_escapes() {
        for (name, encoded) in [
            ("", "_none"),
            ("..", "_2e."),
            (".", "_2e"),
            ("a/../b", "a_2f.._2fb"),
            ("Moby", "_4doby"),
            ("a_b", "a_5fb"),
            ("_none", "_5fnone"),
            ("%2f", "_252f"),
            ("a\0", "a_00"),
            ("k8s.io/shop", "k8s.io_2fshop"),
            ("é", "_c3_a9"),
        ] {
            assert_eq!(part(name), encoded);
        }
        assert_eq!(part(&"A".repeat(1000)).len(), "_sha256-".len() + 64);
    }

    proptest! {
        #[test]
        fn one_safe_part(name in any::<String>(), other in any::<String>()) {
            let encoded = part(&name);
            prop_assert!(!encoded.is_empty() && encoded.len() <= MAX_PART && !encoded.starts_with('.'));
            prop_assert!(encoded.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')));
            prop_assert_eq!(part(&other) == encoded, other == name);
        }
    }
}
