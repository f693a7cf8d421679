//! A pod with one container that crictl runs.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use crate::command::{Ran, ok, run};
use crate::container::Outcome;
use crate::cri::{ENDPOINT, NAMESPACE_CONTAINER, outcome_of};

const FOLDER: &str = "/run/cri/crictl";

/// A pod and its container, as files say that crictl was given; stopped and removed when dropped.
#[derive(Debug)]
pub struct Crictl {
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
        fs::create_dir_all(FOLDER)?;
        // What crictl takes when nothing is said is one pid namespace for the pod, where nothing can be restored.
        let namespaces = json!({"security_context": {"namespace_options": {"pid": NAMESPACE_CONTAINER}}});
        let mut own = json!({
            "metadata": {"name": "app"},
            "image": {"image": format!("localhost/thaw/{image}:latest")},
            "command": command,
            "envs": [{"key": "HEAP_MB", "value": "8"}],
            "log_path": "app.log",
            "stdin": true,
            "linux": namespaces,
        });
        if command.is_empty() {
            own.as_object_mut().map(|own| own.remove("command"));
        }
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("{name}-uid"), "attempt": 0},
            "hostname": name,
            "log_directory": format!("{FOLDER}/{name}"),
            "linux": namespaces,
        });
        let write = |kind: &str, what: &Value| -> Result<String> {
            let path = PathBuf::from(FOLDER).join(format!("{name}-{kind}.json"));
            fs::write(&path, what.to_string())?;
            Ok(path.display().to_string())
        };
        let (pod, own) = (write("pod", &pod)?, write("container", &own)?);
        let mut made = Self {
            pod: call(&["runp", "--runtime", "thaw", &pod])?,
            container: String::new(),
        };
        made.container = call(&["create", &made.pod, &own, &pod])?;
        call(&["start", &made.container])?;
        Ok(made)
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
        run(&Self::line(&[&["exec", self.container.as_str()], words].concat()))
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
                "--image-endpoint",
                ENDPOINT,
            ],
            words,
        ]
        .concat()
    }
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
