//! What was written, and where: layers of `key = value`, the later ones on top.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use toml::{Table, Value};

use crate::mistake::{Mistake, Origin, Problem};

/// What was written, by dotted key, before anybody asked what it means.
#[derive(Debug, Default)]
pub(crate) struct Written {
    values: BTreeMap<String, (Origin, Value)>,
    environment: BTreeMap<String, String>,
}

/// One value as it was written.
#[derive(Debug)]
pub(crate) enum Raw {
    /// In a file.
    Toml(Value),
    /// In the environment, where everything is text.
    Text(String),
}

impl Written {
    /// Puts a file on top. A file that is not there adds nothing, unless somebody `asked` for it.
    pub(crate) fn add_file(&mut self, path: &Path, asked: bool, mistakes: &mut Vec<Mistake>) {
        let origin = Origin::File(path.to_owned());
        let problem = match std::fs::read_to_string(path) {
            Ok(text) => match text.parse::<Table>() {
                Ok(table) => return self.add_table("", &origin, table),
                Err(error) => Problem::Syntax(Box::new(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && !asked => return,
            Err(error) => Problem::Read(error),
        };
        mistakes.push(Mistake {
            origin,
            key: String::new(),
            problem,
        });
    }

    fn add_table(&mut self, prefix: &str, origin: &Origin, table: Table) {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}.{name}")
            };
            match value {
                Value::Table(table) => self.add_table(&key, origin, table),
                // `store = "url"` is short for `[store] url = "url"`, so that most nodes need one line.
                value if key == "store" => self.add("store.url".to_owned(), origin, value),
                value => self.add(key, origin, value),
            }
        }
    }

    fn add(&mut self, key: String, origin: &Origin, value: Value) {
        self.values.insert(key, (origin.clone(), value));
    }

    /// Puts the environment on top: `THAW_DEADLINES_FETCH` for `deadlines.fetch`.
    pub(crate) fn add_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        self.environment.extend(
            variables
                .into_iter()
                .filter(|(name, _)| name.starts_with("THAW_")),
        );
    }

    /// Takes out the value of `key` that counts.
    pub(crate) fn take(&mut self, key: &str) -> Option<(Origin, Raw)> {
        let below = self.values.remove(key);
        let name = match key {
            "store.url" => "THAW_STORE".to_owned(),
            key => format!("THAW_{}", key.replace('.', "_").to_uppercase()),
        };
        match self.environment.remove(&name) {
            Some(text) => Some((Origin::Environment(name), Raw::Text(text))),
            None => below.map(|(origin, value)| (origin, Raw::Toml(value))),
        }
    }

    /// What nobody took: keys that mean nothing. The environment is left out: in Kubernetes every service called
    /// `thaw` puts variables of its own there.
    pub(crate) fn rest(self) -> Vec<Mistake> {
        let unknown = |(key, (origin, _))| Mistake {
            origin,
            key,
            problem: Problem::Unknown,
        };
        self.values.into_iter().map(unknown).collect()
    }
}
