//! The table of docs/compatibility.md: what a test has proved with a client.
//!
//! The tests print one line for each cell; `hack/compat` makes the table from them, and compares.

/// How the container came up in which a feature was seen to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The ordinary way.
    Cold,
    /// From a snapshot.
    Restored,
}

impl Way {
    const fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Restored => "restored",
        }
    }
}

/// Says that `feature` was seen to work with `client`. Call it after the assertion, not before.
///
/// `client` is a heading of the table (`ctr`, `nerdctl`, `Docker`, `CRI`, `Kubernetes`), `feature` one of its lines.
pub fn cell(client: &str, feature: &str, way: Way) {
    print(client, feature, way, "yes");
}

/// Says that `feature` was seen not to be had with `client`, and why: a reason code of docs/reasons.md in backquotes,
/// or a few words that a user can act on.
pub fn cell_refused(client: &str, feature: &str, way: Way, why: &str) {
    print(client, feature, way, why);
}

/// Says that `feature` has no meaning for a container that came up in this way.
pub fn cell_moot(client: &str, feature: &str, way: Way) {
    print(client, feature, way, "n/a");
}

#[expect(clippy::print_stdout, reason = "hack/compat reads these lines")]
fn print(client: &str, feature: &str, way: Way, content: &str) {
    for text in [client, feature, content] {
        assert!(
            !text.contains(['|', '\n']),
            "{text:?} can't stand in a cell of a table"
        );
    }
    println!("CELL {client} | {feature} | {} | {content}", way.word());
}
