//! The URL of a store, in one form only.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use url::Url;

/// Where a store is, in the one form in which it can be compared.
///
/// Invariants: a known scheme; a bucket of letters, digits, `.`, `_`, `-` (none for `file`); path segments that are
/// neither empty nor `.` nor `..`, without `%`; no user name, port, query or fragment. So two equal values name the
/// same place, and [`StoreUrl::is_within`] can't be talked round by another spelling. (A symbolic link below a
/// `file` store is the business of whoever may write there.)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreUrl {
    scheme: Scheme,
    bucket: String,
    segments: Vec<String>,
    url: Url,
}

/// The kind of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A directory.
    File,
    /// Amazon S3 or anything that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

/// Why a text is not the URL of a store.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreUrlError {
    /// Longer than any sensible URL.
    #[error("longer than {MAX_LENGTH} bytes")]
    Length,
    /// Not a URL.
    #[error("can't parse it")]
    Parse(#[source] url::ParseError),
    /// A scheme that is no store.
    #[error("scheme {0:?} is none of file, s3, gs, az")]
    Scheme(String),
    /// User name, password, port, query or fragment: parts that could hide a second meaning or a secret.
    #[error("user name, password, port, query and fragment are not allowed")]
    Extra,
    /// A bucket where none can be, none where one must be, or one of other characters.
    #[error("the bucket must be letters, digits, '.', '_', '-' (and absent for file:)")]
    Bucket,
    /// A path with `.`, `..` or empty segments, `%`, or characters that would have to be written with `%`.
    #[error("the path may not hold '.', '..' or empty segments, '%', '\\', blanks or other than ASCII")]
    Path,
}

/// The longest file name that Linux takes is 4095 bytes, and S3 keys end at 1024.
const MAX_LENGTH: usize = 2048;

impl StoreUrl {
    /// `file:///var/lib/thaw/store`.
    pub(crate) fn node_default() -> Self {
        let Ok(url) = "file:///var/lib/thaw/store".parse() else {
            unreachable!("a constant, and a test parses it");
        };
        url
    }

    /// The same as a parsed URL, for the client libraries.
    pub fn as_url(&self) -> &Url {
        &self.url
    }

    /// The kind of the store.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Bucket or container; empty for [`Scheme::File`].
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The path in it without the slash in front; for [`Scheme::File`] the path from the root of the file system,
    /// also without that slash.
    pub fn path(&self) -> String {
        self.segments.join("/")
    }

    /// This is `prefix`, or below it.
    pub fn is_within(&self, prefix: &Self) -> bool {
        self.scheme == prefix.scheme
            && self.bucket == prefix.bucket
            && self.segments.starts_with(&prefix.segments)
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_LENGTH {
            return Err(StoreUrlError::Length);
        }
        // The parser drops tabs and line ends and trims blanks; here they are a mistake.
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(StoreUrlError::Path);
        }
        let url = Url::parse(text).map_err(StoreUrlError::Parse)?;
        let scheme = match url.scheme() {
            "file" => Scheme::File,
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            other => return Err(StoreUrlError::Scheme(other.to_owned())),
        };
        let extra = !url.username().is_empty()
            || url.password().is_some()
            || url.port().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if extra || text.contains(['?', '#', '@']) {
            return Err(StoreUrlError::Extra);
        }
        let bucket = bucket(scheme, url.host_str())?;
        let segments = segments(&text[url.scheme().len()..])?;
        let url = Url::parse(&form(scheme, &bucket, &segments)).map_err(StoreUrlError::Parse)?;
        Ok(Self {
            scheme,
            bucket,
            segments,
            url,
        })
    }
}

/// The one way to write it.
fn form(scheme: Scheme, bucket: &str, segments: &[String]) -> String {
    let root = if segments.is_empty() && scheme == Scheme::File {
        "/"
    } else {
        ""
    };
    let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
    format!("{scheme}://{bucket}{path}{root}")
}

fn bucket(scheme: Scheme, host: Option<&str>) -> Result<String, StoreUrlError> {
    let host = host.unwrap_or_default();
    let plain = host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    // "." and ".." are no buckets, and object stores would refuse them later with less to say.
    let names = host.bytes().any(|b| b.is_ascii_alphanumeric());
    match scheme {
        Scheme::File if host.is_empty() => Ok(String::new()),
        Scheme::S3 | Scheme::Gs | Scheme::Az if plain && names => Ok(host.to_owned()),
        _ => Err(StoreUrlError::Bucket),
    }
}

/// The path of what follows the scheme. Taken from the text, not from the parsed URL: the parser resolves `..` (also as `%2e%2e`), and a URL that needs
/// resolving is one that we don't want.
fn segments(rest: &str) -> Result<Vec<String>, StoreUrlError> {
    let rest = rest.strip_prefix("://").ok_or(StoreUrlError::Path)?;
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let allowed = |b: u8| {
        !matches!(
            b,
            b'%' | b'\\' | b'"' | b'<' | b'>' | b'`' | b'|' | b'^' | b'{' | b'}'
        )
    };
    path.split('/')
        .map(|segment| match segment {
            "" | "." | ".." => Err(StoreUrlError::Path),
            segment if segment.bytes().all(allowed) => Ok(segment.to_owned()),
            _ => Err(StoreUrlError::Path),
        })
        .collect()
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&form(self.scheme, &self.bucket, &self.segments))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> StoreUrl {
        text.parse().unwrap()
    }

    #[test]
    fn one_form() {
        for (text, form) in [
            ("file:///var/lib/thaw/store", "file:///var/lib/thaw/store"),
            ("file:///var/lib/thaw/store/", "file:///var/lib/thaw/store"),
            ("file:///", "file:///"),
            ("file://localhost/a", "file:///a"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b-c", "s3://bucket/a/b-c"),
            ("gs://b/x", "gs://b/x"),
            ("az://c", "az://c"),
        ] {
            assert_eq!(url(text).to_string(), form);
            assert_eq!(url(form), url(text));
            assert_eq!(url(text).as_url().as_str(), form);
        }
        assert_eq!(url("file:///var/x").path(), "var/x");
        assert_eq!(StoreUrl::node_default(), url("file:///var/lib/thaw/store"));
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "file:///a/../b",
            "file:///a/%2e%2e/b",
            "file:///a/./b",
            "file:///a//b",
            "file:////etc",
            "file:///a/b//",
            "file:///a\\..\\b",
            "file:///a b",
            "file:///ä",
            "s3://bucket/{a}",
            "file:a/b",
            "file:/a/b",
            "file://host/a",
            "file:/a://b",
            "s3://",
            "s3:///a",
            "s3://../a",
            "s3://user@bucket/a",
            "s3://user:secret@bucket",
            "s3://bucket:80/a",
            "s3://bucket/a?x=y",
            "s3://bucket/a#f",
            "s3://bucket?",
            "s3:bucket/a",
            "s3://bu%63ket/a",
            "http://bucket/a",
            "bucket/a",
            "/a/b",
            "",
            " s3://bucket/a",
            "s3://bucket/a\n",
            "s3://bu\tcket/a",
            "s3://bucket/a\t/../b",
        ] {
            assert!(
                text.parse::<StoreUrl>().is_err(),
                "{text:?} was taken for a store"
            );
        }
        assert_eq!(
            "s3://b/".repeat(400).parse::<StoreUrl>(),
            Err(StoreUrlError::Length)
        );
    }

    #[test]
    fn within_is_by_component() {
        assert!(url("s3://bucket/a/b").is_within(&url("s3://bucket/a/")));
        assert!(url("s3://bucket/a").is_within(&url("s3://bucket/a")));
        assert!(url("s3://bucket/a").is_within(&url("s3://bucket")));
        assert!(!url("s3://bucket-evil/a").is_within(&url("s3://bucket")));
        assert!(!url("s3://bucket/ab").is_within(&url("s3://bucket/a")));
        assert!(!url("gs://bucket/a").is_within(&url("s3://bucket/a")));
        assert!(!url("s3://bucket").is_within(&url("s3://bucket/a")));
    }
}
