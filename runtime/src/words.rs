//! An error and its causes in one line.

use std::error::Error;
use std::fmt::Write as _;

/// The longest text that goes into a record, in characters.
const LIMIT: usize = 1000;

/// `error: cause: cause of the cause`, without control characters.
pub(crate) fn chain(error: &dyn Error) -> String {
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
