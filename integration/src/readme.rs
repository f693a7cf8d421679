//! What the README tells people to type.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command::run_within;

/// Long enough for anything that works, on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the lines of the README's first block that says `words`, one after another, with this variable in their
/// environment. After the first, which starts a container, it waits with `ready`. Answers what they print.
///
/// # Errors
/// When one of them fails, or there is no such block.
pub fn quick_start(words: &str, variable: &str, ready: impl Fn() -> Result<()>) -> Result<String> {
    let text = std::fs::read_to_string("/src/README.md")?;
    let block = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains(words))
        .with_context(|| format!("the README has no block with {words:?}"))?;
    let mut printed = String::new();
    for (number, line) in block.lines().enumerate() {
        printed += &run_within(LIMIT, &["env", variable, "sh", "-ec", line])?.ok()?;
        if number == 0 {
            ready()?;
        }
    }
    Ok(printed)
}
