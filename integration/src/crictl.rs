//! A pod with one container that crictl runs.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::command::{Ran, ok, run};
use crate::container::Outcome;
use crate::cri::{ENDPOINT, NAMESPACE_CONTAINER, outcome_of};
use crate::run::full_name;
use crate::wait::until;

const FOLDER: &str = "/run/cri/crictl";
/// Longer than anything takes that works.
const LIMIT: Duration = Duration::from_secs(60);

/// A pod and its container, as files say that crictl was given; stopped and removed when dropped.
#[derive(Debug)]
pub struct Crictl {
    name: String,
    pod: String,
    container: String,
}

impl Crictl {
    /// `crictl runp`, `create` and `start`: a pod of this name under the handler `thaw`, and in it `app`, a container
    /// of an image of the lab with this command (none: the image's own) and an open standard input.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn run(name: &str, image: &str, command: &[&str]) -> Result<Self> {
        Self::run_with_memory(0, name, image, command)
    }

    /// As [`Crictl::run`], with a limit of the container's memory in bytes; 0: none.
    ///
    /// # Errors
    /// As [`Crictl::run`].
    pub fn run_with_memory(memory: u64, name: &str, image: &str, command: &[&str]) -> Result<Self> {
        fs::create_dir_all(FOLDER)?;
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("{name}-uid"), "attempt": 0},
            "hostname": name,
            "log_directory": format!("{FOLDER}/{name}"),
            "linux": {"security_context": namespaces()},
        });
        let pod = write(&format!("{name}-pod"), &pod)?;
        let mut made = Self {
            name: name.to_owned(),
            pod: call(&["runp", "--runtime", "thaw", &pod])?,
            container: String::new(),
        };
        made.container = made.start("app", image, command, memory)?;
        Ok(made)
    }

    /// Another container in the pod; it goes with the pod. Answers its id.
    ///
    /// # Errors
    /// When it does not start.
    pub fn beside(&self, name: &str, image: &str, command: &[&str]) -> Result<String> {
        self.start(name, image, command, 0)
    }

    fn start(&self, name: &str, image: &str, command: &[&str], memory: u64) -> Result<String> {
        let mut own = json!({
            "metadata": {"name": name},
            "image": {"image": full_name(image)},
            "command": command,
            "envs": [{"key": "HEAP_MB", "value": "8"}],
            "log_path": format!("{name}.log"),
            "stdin": true,
            "linux": {"security_context": namespaces(), "resources": {"memory_limit_in_bytes": memory}},
        });
        if command.is_empty() {
            own.as_object_mut().map(|own| own.remove("command"));
        }
        let own = write(&format!("{}-{name}", self.name), &own)?;
        let pod = path(&format!("{}-pod", self.name));
        let id = call(&["create", &self.pod, &own, &pod])?;
        call(&["start", &id])?;
        Ok(id)
    }

    /// Id of the container.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.container
    }

    /// Id of the pod.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// `crictl VERB [FLAGS] CONTAINER`, which has to succeed.
    ///
    /// # Errors
    /// When it fails.
    pub fn verb(&self, words: &[&str]) -> Result<String> {
        call(&[words, &[self.container.as_str()]].concat())
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// When crictl can't be run; a bad exit code is no error.
    pub fn exec(&self, words: &[&str]) -> Result<Ran> {
        Self::exec_in(&self.container, words)
    }

    /// As [`Crictl::exec`], in the container of this id.
    ///
    /// # Errors
    /// As [`Crictl::exec`].
    pub fn exec_in(id: &str, words: &[&str]) -> Result<Ran> {
        run(&Self::line(&[&["exec", id], words].concat()))
    }

    /// Its status, as `crictl inspect` shows it.
    ///
    /// # Errors
    /// When crictl can't tell.
    pub fn status(&self) -> Result<Value> {
        let all: Value = serde_json::from_str(&self.verb(&["inspect"])?)?;
        Ok(all["status"].clone())
    }

    /// Waits for its end, and answers exit code and reason.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&self) -> Result<(i64, String)> {
        let status = until("the end of a container", LIMIT, || {
            let status = self.status()?;
            Ok((status["state"] == "CONTAINER_EXITED").then_some(status))
        })?;
        let reason = status["reason"].as_str().unwrap_or_default();
        Ok((status["exitCode"].as_i64().unwrap_or(-1), reason.to_owned()))
    }

    /// How it came up.
    ///
    /// # Errors
    /// When thaw does not know.
    pub fn outcome(&self) -> Result<Outcome> {
        outcome_of(&self.container)
    }

    /// The command line of crictl with these words.
    #[must_use]
    pub fn line<'a>(words: &[&'a str]) -> Vec<&'a str> {
        [
            &[
                "crictl",
                "--runtime-endpoint",
                ENDPOINT,
                "--timeout=60s",
                "--image-endpoint",
                ENDPOINT,
            ],
            words,
        ]
        .concat()
    }
}

/// What crictl takes when nothing is said is one pid namespace for the pod, where nothing can be restored.
fn namespaces() -> Value {
    json!({"namespace_options": {"pid": NAMESPACE_CONTAINER}})
}

fn path(name: &str) -> String {
    format!("{FOLDER}/{name}.json")
}

/// Answers the path of the file.
fn write(name: &str, what: &Value) -> Result<String> {
    let path = path(name);
    fs::write(&path, what.to_string())?;
    Ok(path)
}

fn call(words: &[&str]) -> Result<String> {
    Ok(ok(&Crictl::line(words))?.trim().to_owned())
}

impl Drop for Crictl {
    fn drop(&mut self) {
        for verb in ["stopp", "rmp"] {
            run(&Self::line(&[verb, &self.pod])).ok();
        }
        fs::remove_dir_all(FOLDER).ok();
    }
}
