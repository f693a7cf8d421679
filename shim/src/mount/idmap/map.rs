//! The mapping, as containerd writes it: `uidmap=INSIDE:OUTSIDE:COUNT[,INSIDE:OUTSIDE:COUNT...]`, `gidmap=` likewise
//! (`IDMap.Marshal` in its `internal/userns/idmap.go`).

use std::fmt::Write as _;

/// The most ranges that the kernel takes (`UID_GID_MAP_MAX_EXTENTS` in `linux/user_namespace.h`).
const RANGES: usize = 340;

/// Which user and group of a container is which on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    users: Vec<Range>,
    groups: Vec<Range>,
}

/// Ids that follow each other inside and outside. Neither end wraps, and the last number, which stands for "no id",
/// is in neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

/// Why a text is no mapping.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// Users are mapped and groups are not, or the other way round.
    #[error("uidmap and gidmap go together, only one of them is given")]
    Half,
    /// Not three numbers of 32 bits.
    #[error("{range:?} is no INSIDE:OUTSIDE:COUNT")]
    Form {
        /// What stands there.
        range: String,
    },
    /// It holds no id, or ids beyond the last one.
    #[error("{range} holds no ids, or more than there are")]
    Size {
        /// The range.
        range: String,
    },
    /// An id is mapped twice.
    #[error("{range} holds ids that an earlier range holds too")]
    Overlap {
        /// The later range.
        range: String,
    },
    /// More than the kernel takes.
    #[error("there are more than {RANGES} ranges")]
    TooMany,
}

impl IdMap {
    /// From the values of the options `uidmap` and `gidmap`; `None` where neither is given.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn parse(users: Option<&str>, groups: Option<&str>) -> Result<Option<Self>, MapError> {
        match (users, groups) {
            (None, None) => Ok(None),
            (Some(users), Some(groups)) => Ok(Some(Self {
                users: ranges(users)?,
                groups: ranges(groups)?,
            })),
            _ => Err(MapError::Half),
        }
    }

    /// For `/proc/PID/uid_map`.
    pub(super) fn users(&self) -> String {
        lines(&self.users)
    }

    /// For `/proc/PID/gid_map`.
    pub(super) fn groups(&self) -> String {
        lines(&self.groups)
    }
}

impl Range {
    fn parse(text: &str) -> Result<Self, MapError> {
        let form = || MapError::Form {
            range: text.chars().take(40).collect(),
        };
        let numbers: Option<Vec<u32>> = text.splitn(4, ':').map(number).collect();
        let &[inside, outside, count] = numbers.as_deref().ok_or_else(form)? else {
            return Err(form());
        };
        let fits = |first: u32| first.checked_add(count).is_some();
        if count == 0 || !fits(inside) || !fits(outside) {
            return Err(MapError::Size {
                range: text.to_owned(),
            });
        }
        Ok(Self {
            inside,
            outside,
            count,
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        // No sum wraps, see the invariant.
        let meet = |a: u32, b: u32| a < b + other.count && b < a + self.count;
        meet(self.inside, other.inside) || meet(self.outside, other.outside)
    }
}

/// Digits only: `str::parse` takes a sign too.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn ranges(text: &str) -> Result<Vec<Range>, MapError> {
    let mut found: Vec<Range> = Vec::new();
    for part in text.split(',') {
        let range = Range::parse(part)?;
        if found.iter().any(|earlier| earlier.overlaps(&range)) {
            return Err(MapError::Overlap {
                range: part.to_owned(),
            });
        }
        if found.len() == RANGES {
            return Err(MapError::TooMany);
        }
        found.push(range);
    }
    Ok(found)
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        // Writing to a `String` can't fail.
        writeln!(text, "{} {} {}", range.inside, range.outside, range.count).ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<IdMap, MapError> {
        IdMap::parse(Some(text), Some("0:0:1")).map(Option::unwrap)
    }

    #[test]
    fn users_and_groups_are_told_apart() {
        let map = IdMap::parse(Some("0:65536:65536"), Some("0:131072:1000,2000:200000:1"));
        let map = map.unwrap().unwrap();
        assert_eq!(map.users(), "0 65536 65536\n");
        assert_eq!(map.groups(), "0 131072 1000\n2000 200000 1\n");
    }

    #[test]
    fn none_or_both() {
        assert_eq!(IdMap::parse(None, None), Ok(None));
        assert_eq!(IdMap::parse(Some("0:1:1"), None), Err(MapError::Half));
        assert_eq!(IdMap::parse(None, Some("0:1:1")), Err(MapError::Half));
    }

    #[test]
    fn anything_but_three_numbers_is_refused() {
        for text in [
            "",
            ",",
            "0:1:1,",
            ",0:1:1",
            "0",
            "0:1",
            "0:1:1:1",
            ":::",
            "a:1:1",
            "0:-1:1",
            "+0:1:1",
            " 0:1:1",
            "0:1:1\n",
            "0x1:1:1",
            "4294967296:1:1",
            "1.5:1:1",
            "0:1:1;0:2:2",
            "0:1:99999999999999999999",
            "\0:1:1",
            "٠:1:1",
        ] {
            assert!(matches!(parse(text), Err(MapError::Form { .. })), "{text:?}");
        }
        let long = "9".repeat(1 << 20);
        let Err(MapError::Form { range }) = parse(&long) else {
            panic!("{} bytes are a range", long.len());
        };
        assert_eq!(range.len(), 40);
    }

    #[test]
    fn no_range_is_empty_or_wraps() {
        assert!(parse("4294967294:0:1").is_ok());
        assert!(parse("0:0:4294967295").is_ok());
        for text in [
            "0:1:0",
            "4294967295:0:1",
            "0:4294967295:1",
            "1:0:4294967295",
            "4294967290:0:6",
        ] {
            assert!(matches!(parse(text), Err(MapError::Size { .. })), "{text}");
        }
    }

    #[test]
    fn no_id_is_mapped_twice() {
        assert!(parse("0:100:10,10:110:10").is_ok());
        assert!(parse("10:110:10,0:100:10").is_ok());
        for text in [
            "0:100:10,9:200:1",
            "0:100:10,20:109:1",
            "5:5:1,0:10:10",
            "0:0:1,0:0:1",
            "3:3:1,0:0:4294967295",
        ] {
            assert!(matches!(parse(text), Err(MapError::Overlap { .. })), "{text}");
        }
    }

    #[test]
    fn as_many_ranges_as_the_kernel_takes() {
        let ranges = |count: usize| {
            let ranges: Vec<String> = (0..count).map(|at| format!("{at}:{at}:1")).collect();
            parse(&ranges.join(","))
        };
        assert!(ranges(RANGES).is_ok());
        assert_eq!(ranges(RANGES + 1), Err(MapError::TooMany));
    }
}
