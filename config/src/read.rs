//! From what was written to what it means, value by value, with every mistake noted.

use std::path::PathBuf;
use std::time::Duration;

use toml::Value;
use url::Url;

use crate::StoreUrl;
use crate::mistake::{Mistake, Problem};
use crate::written::{Raw, Written};

/// Longer waits are a typing error: containerd's own clients give up long before.
const LONGEST: Duration = Duration::from_secs(3600);

/// Takes values out of [`Written`] one after the other.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) written: Written,
    pub(crate) mistakes: Vec<Mistake>,
}

impl Reader {
    /// Puts the value of `key` in `target`, which keeps its default when there is none or when it is wrong.
    pub(crate) fn read<T>(
        &mut self,
        key: &str,
        target: &mut T,
        parse: impl FnOnce(Raw) -> Result<T, Problem>,
    ) {
        let Some((origin, raw)) = self.written.take(key) else {
            return;
        };
        match parse(raw) {
            Ok(value) => *target = value,
            Err(problem) => self.mistakes.push(Mistake {
                origin,
                key: key.to_owned(),
                problem,
            }),
        }
    }
}

pub(crate) fn text(raw: Raw) -> Result<String, Problem> {
    match raw {
        Raw::Toml(Value::String(text)) | Raw::Text(text) => Ok(text),
        Raw::Toml(_) => Err(Problem::Type("a string")),
    }
}

pub(crate) fn boolean(raw: Raw) -> Result<bool, Problem> {
    match raw {
        Raw::Toml(Value::Boolean(value)) => Ok(value),
        Raw::Text(text) if text == "true" => Ok(true),
        Raw::Text(text) if text == "false" => Ok(false),
        _ => Err(Problem::Type("true or false")),
    }
}

pub(crate) fn duration(raw: Raw) -> Result<Duration, Problem> {
    let value = humantime::parse_duration(&text(raw)?).map_err(Problem::Duration)?;
    // A zero would mean "no time" to us and "no limit" to half of the readers.
    if value < Duration::from_millis(1) || value > LONGEST {
        return Err(Problem::DurationRange(LONGEST));
    }
    Ok(value)
}

/// Bytes: a whole number, and `KiB`, `MiB`, `GiB` or `TiB`.
pub(crate) fn size(raw: Raw) -> Result<u64, Problem> {
    let text = text(raw)?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(Problem::Size),
    };
    let count: u64 = digits.trim_end().parse().or(Err(Problem::Size))?;
    count
        .checked_mul(1 << shift)
        .filter(|size| *size > 0)
        .ok_or(Problem::Size)
}

pub(crate) fn absolute_path(raw: Raw) -> Result<PathBuf, Problem> {
    let path = PathBuf::from(text(raw)?);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Problem::Relative)
    }
}

pub(crate) fn program(raw: Raw) -> Result<PathBuf, Problem> {
    let text = text(raw)?;
    let path = PathBuf::from(&text);
    let bare = !text.is_empty() && !text.contains('/');
    if path.is_absolute() || bare {
        Ok(path)
    } else {
        Err(Problem::Program)
    }
}

pub(crate) fn store_url(raw: Raw) -> Result<StoreUrl, Problem> {
    text(raw)?.parse().map_err(Problem::Store)
}

pub(crate) fn store_urls(raw: Raw) -> Result<Vec<StoreUrl>, Problem> {
    let parts: Vec<Raw> = match raw {
        Raw::Toml(Value::Array(values)) => values.into_iter().map(Raw::Toml).collect(),
        Raw::Text(text) => text
            .split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .map(|p| Raw::Text(p.to_owned()))
            .collect(),
        Raw::Toml(_) => return Err(Problem::Type("a list of strings")),
    };
    parts.into_iter().map(store_url).collect()
}

pub(crate) fn endpoint(raw: Raw) -> Result<Option<Url>, Problem> {
    // The parser's own error adds nothing that a reader of the file could use.
    let Ok(url) = Url::parse(&text(raw)?) else {
        return Err(Problem::Endpoint);
    };
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if plain && matches!(url.scheme(), "http" | "https") {
        Ok(Some(url))
    } else {
        Err(Problem::Endpoint)
    }
}

pub(crate) fn log_level(raw: Raw) -> Result<log::LevelFilter, Problem> {
    word(raw, "off, error, warn, info, debug, trace")
}

/// One of a few words.
pub(crate) fn word<T: std::str::FromStr>(raw: Raw, known: &'static str) -> Result<T, Problem> {
    let found = text(raw)?;
    found.parse().or(Err(Problem::Word { found, known }))
}
