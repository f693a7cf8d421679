//! An error and its causes in one line.

use std::error::Error;
use std::fmt::Write as _;

/// The longest text, in characters: it goes into records, log lines and answers to clients.
const LIMIT: usize = 1000;

/// `error: cause: cause of the cause`, without control characters.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a String never fails.
        write!(text, ": {cause}").ok();
        next = cause.source();
    }
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LIMIT)
        .collect()
}
