//! PAX records (POSIX `pax`, "pax Extended Header"): `LENGTH KEY=VALUE\n`, the length counting the whole record.
//!
//! The reader of the tar crate cuts records at line ends, and values of extended attributes may hold those, so the
//! records are read here.

pub(super) const PATH: &str = "path";
pub(super) const LINK: &str = "linkpath";
pub(super) const MTIME: &str = "mtime";
pub(super) const XATTR: &str = "SCHILY.xattr.";
pub(super) const SPARSE_MAJOR: &str = "GNU.sparse.major";
pub(super) const SPARSE_MINOR: &str = "GNU.sparse.minor";
pub(super) const SPARSE_NAME: &str = "GNU.sparse.name";
pub(super) const SPARSE_SIZE: &str = "GNU.sparse.realsize";

const NANO: i64 = 1_000_000_000;

/// What the records of one entry say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) mtime: Option<(i64, i64)>,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    /// Size of the file with its holes, when its content is in the "PAX 1.0" sparse form.
    pub(super) sparse: Option<u64>,
}

/// Reads the records of one header.
///
/// # Errors
/// The key (or nothing, when not even that can be made out) of the first record that is malformed or that no
/// archive of ours holds. What is not understood could change the meaning of the entry.
pub(super) fn parse(mut data: &[u8]) -> Result<Records, String> {
    let mut records = Records::default();
    while !data.is_empty() {
        let (key, value, rest) = split(data).ok_or_else(String::new)?;
        let refused = || key.to_owned();
        match key {
            PATH | SPARSE_NAME => records.path = Some(value.to_vec()),
            LINK => records.link = Some(value.to_vec()),
            MTIME => records.mtime = Some(parse_time(value).ok_or_else(refused)?),
            SPARSE_MAJOR if value == b"1" => {}
            SPARSE_MINOR if value == b"0" => {}
            SPARSE_SIZE => {
                records.sparse = Some(text(value).and_then(|t| t.parse().ok()).ok_or_else(refused)?)
            }
            _ => match key.strip_prefix(XATTR) {
                Some(name) => records.xattrs.push((name.to_owned(), value.to_vec())),
                None => return Err(refused()),
            },
        }
        data = rest;
    }
    Ok(records)
}

fn split(data: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = text(&data[..space])?.parse().ok()?;
    let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((text(&record[..equals])?, &record[equals + 1..], &data[length..]))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Decimal seconds with a fraction, as in `-1.5`.
pub(super) fn format_time((seconds, nanos): (i64, i64)) -> String {
    if seconds < 0 && nanos > 0 {
        // The kernel counts nanoseconds forward, also before the epoch.
        format!("-{}.{:09}", (seconds + 1).unsigned_abs(), NANO - nanos)
    } else {
        format!("{seconds}.{nanos:09}")
    }
}

fn parse_time(value: &[u8]) -> Option<(i64, i64)> {
    let (negative, value) = match text(value)?.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text(value)?),
    };
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    match (negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, NANO - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_there_and_back() {
        for time in [
            (0, 0),
            (5, 1),
            (1_700_000_000, 999_999_999),
            (-1, 500_000_000),
            (-7, 0),
            (-2, 1),
        ] {
            assert_eq!(parse_time(format_time(time).as_bytes()), Some(time));
        }
        assert_eq!(parse_time(b"1.5"), Some((1, 500_000_000)));
        for bad in [
            "",
            "-",
            ".5",
            "1.",
            "+1",
            "1e3",
            "1.0000000000",
            "99999999999999999999",
        ] {
            assert_eq!(
                parse_time(bad.as_bytes()),
                if bad == "1." { Some((1, 0)) } else { None },
                "{bad}"
            );
        }
    }

    #[test]
    fn values_may_hold_line_ends() {
        let records = parse(b"28 SCHILY.xattr.user.a=1\n2\n\n10 path=a\n").unwrap();
        assert_eq!(records.xattrs, [("user.a".to_owned(), b"1\n2\n".to_vec())]);
        assert_eq!(records.path.as_deref(), Some(b"a".as_slice()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(parse(b"9 size=1\n"), Err("size".to_owned()));
        assert_eq!(
            parse(b"22 GNU.sparse.major=0\n"),
            Err("GNU.sparse.major".to_owned())
        );
        for bad in [
            &b"x"[..],
            b"5 a=b\n",
            b"99 path=a\n",
            b"0 a=b\n",
            b"2 path=a\n",
            b"10 path:a\n",
            b"\0",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
