//! Reading the small text files of a cgroup. A file that is not there gives nothing: which files exist depends on the
//! kernel's version and configuration.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// One number; `max` is the largest.
pub(super) fn number(dir: &Path, name: &str) -> Option<u64> {
    parse(fs::read_to_string(dir.join(name)).ok()?.trim())
}

/// Lines of `key value`.
pub(super) fn table(dir: &Path, name: &str) -> HashMap<String, u64> {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), parse(value.trim())?)))
        .collect()
}

/// The lines of a file.
pub(super) fn lines(dir: &Path, name: &str) -> Vec<String> {
    fs::read_to_string(dir.join(name))
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Page sizes for which there are files `hugetlb.SIZE.…`, as the kernel writes them (`2MB`).
pub(super) fn huge_pages(dir: &Path) -> Vec<String> {
    let mut sizes: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_prefix("hugetlb.")?.split_once('.')?.0.to_owned()))
        .collect();
    sizes.sort();
    sizes.dedup();
    sizes
}

pub(super) fn parse(text: &str) -> Option<u64> {
    if text == "max" {
        Some(u64::MAX)
    } else {
        text.parse().ok()
    }
}

/// `device key=value key=value`, as in `rdma.current`.
pub(super) fn keyed<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("n"), "42\n").unwrap();
        fs::write(dir.path().join("m"), "max\n").unwrap();
        fs::write(dir.path().join("t"), "a 1\nb 2\nbad\n").unwrap();
        fs::write(dir.path().join("hugetlb.2MB.max"), "0").unwrap();
        fs::write(dir.path().join("hugetlb.2MB.rsvd.max"), "0").unwrap();
        assert_eq!(number(dir.path(), "n"), Some(42));
        assert_eq!(number(dir.path(), "m"), Some(u64::MAX));
        assert_eq!(number(dir.path(), "gone"), None);
        assert_eq!(
            table(dir.path(), "t"),
            HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)])
        );
        assert_eq!(huge_pages(dir.path()), ["2MB"]);
        assert_eq!(
            keyed("mlx4_0 hca_handle=2 hca_object=2000", "hca_object"),
            Some("2000")
        );
    }
}
