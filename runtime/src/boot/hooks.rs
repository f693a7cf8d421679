//! Step 8: the hooks of the spec, once for each start, whether the restore works or not.
//!
//! `runc restore` would run the hooks of the Create phase in the middle of the restore, and those of the end when it
//! fails; the cold start that follows would run the first again. nerdctl's hooks attach the network, others count.
//! So the bundle for the restore has none of them. Once the processes are back and held, and nothing is left that
//! could fail, they are run here: with the pid that stays and with the container's own bundle, before Create answers,
//! as under runc. What a hook refuses is refused: it would refuse a cold start too.
//!
//! The hooks of the end are run by [`POSTSTOP_VERB`], which runc calls when it deletes the container. It finds them in
//! a file that is written just before the first hook is run. A restore that failed before that has no such file, and
//! no hook to undo.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thaw_runc::{Hook, HookError, PlainSpawner, Spawner};

use crate::key::Bundle;

/// The first argument with which the helper program is called when the container is deleted; the second is the
/// directory of the bundle for the restore.
pub const POSTSTOP_VERB: &str = "poststop-hooks";

/// In the bundle for the restore.
const POSTSTOP_FILE: &str = "poststop.json";

/// The most that is read of the state that runc sends, and of the file.
const STATE_LIMIT: u64 = 16 << 20;

/// Hooks that run inside the container before its program, or after runc has started it. A restore does neither.
const INSIDE: [&str; 3] = ["createContainer", "startContainer", "poststart"];

/// Why hooks were not run to their end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HooksError {
    /// The spec or the file does not hold hooks.
    #[error("understand the hooks")]
    Understand(#[source] serde_json::Error),
    /// The file for the end can't be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The file for the end, or the state that runc sends, can't be read.
    #[error("read what the hooks are to be told")]
    Read(#[source] io::Error),
    /// One has failed; those after it were not run.
    #[error("run the {phase} hooks")]
    Failed {
        /// `prestart`, `createRuntime`, `poststop`.
        phase: &'static str,
        /// What happened.
        #[source]
        source: HookError,
    },
}

/// What is kept for the end.
#[derive(Debug, Serialize, Deserialize)]
struct AtTheEnd {
    bundle: PathBuf,
    hooks: Vec<Hook>,
}

/// Does the spec have hooks that only a cold start runs?
pub(super) fn only_cold(spec: &Value) -> bool {
    INSIDE.iter().any(|phase| !list(spec, phase).is_empty())
}

fn list<'a>(spec: &'a Value, phase: &str) -> &'a [Value] {
    let list = spec.get("hooks").and_then(|hooks| hooks.get(phase));
    list.and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn parsed(spec: &Value, phase: &str) -> Result<Vec<Hook>, HooksError> {
    let hooks = list(spec, phase).iter().map(Hook::deserialize);
    hooks.collect::<Result<_, _>>().map_err(HooksError::Understand)
}

/// The hooks of the bundle for the restore, in place of those of `spec`.
pub(super) fn of_restore(
    spec: &Value,
    restore_bundle: &Path,
    helper: &Path,
    loopback: Option<Value>,
) -> Value {
    let mut hooks = json!({});
    if let Some(loopback) = loopback {
        hooks["createRuntime"] = json!([loopback]);
    }
    if !list(spec, "poststop").is_empty() {
        hooks["poststop"] = json!([{"path": helper, "args": [helper, POSTSTOP_VERB, restore_bundle]}]);
    }
    hooks
}

/// Runs the hooks of the Create phase of a container that is held.
pub(super) async fn run(
    read: &Bundle,
    (id, pid): (&str, i32),
    bundle: &Path,
    restore_bundle: &Path,
    spawner: &dyn Spawner,
) -> Result<(), HooksError> {
    let spec = &read.json;
    let hooks = parsed(spec, "poststop")?;
    if !hooks.is_empty() {
        let path = restore_bundle.join(POSTSTOP_FILE);
        let bundle = bundle.to_owned();
        let text = serde_json::to_vec(&AtTheEnd { bundle, hooks }).map_err(HooksError::Understand)?;
        fs::write(&path, text).map_err(|source| HooksError::Write { path, source })?;
    }
    let state = json!({
        "ociVersion": spec.get("ociVersion"),
        "id": id,
        "status": "creating",
        "pid": pid,
        "bundle": bundle,
        "annotations": spec.get("annotations").filter(|annotations| annotations.is_object()).unwrap_or(&json!({})),
    });
    for phase in ["prestart", "createRuntime"] {
        each(phase, &parsed(spec, phase)?, bundle, &state, spawner).await?;
    }
    Ok(())
}

async fn each(
    phase: &'static str,
    hooks: &[Hook],
    bundle: &Path,
    state: &Value,
    spawner: &dyn Spawner,
) -> Result<(), HooksError> {
    let state = state.to_string();
    for hook in hooks {
        let ran = hook.run(bundle, state.as_bytes(), spawner).await;
        ran.map_err(|source| HooksError::Failed { phase, source })?;
    }
    Ok(())
}

/// The hook that runc runs when it deletes a restored container: runs the container's own, with the state that runc
/// gives in `input`. There is nothing to do for a restore that never got as far as to the first hook.
///
/// # Errors
/// See [`HooksError`].
pub fn run_poststop(restore_bundle: &Path, input: impl io::Read) -> Result<(), HooksError> {
    let text = match fs::File::open(restore_bundle.join(POSTSTOP_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => read(file.map_err(HooksError::Read)?)?,
    };
    let AtTheEnd { bundle, hooks } = serde_json::from_slice(&text).map_err(HooksError::Understand)?;
    let mut state: Map<String, Value> =
        serde_json::from_slice(&read(input)?).map_err(HooksError::Understand)?;
    state.insert("bundle".to_owned(), json!(bundle));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(HooksError::Read)?;
    runtime.block_on(each(
        "poststop",
        &hooks,
        &bundle,
        &Value::Object(state),
        &PlainSpawner,
    ))
}

fn read(from: impl io::Read) -> Result<Vec<u8>, HooksError> {
    let mut text = Vec::new();
    let read = from.take(STATE_LIMIT).read_to_end(&mut text);
    read.map_err(HooksError::Read)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TELL: &str = "cat >>told; echo >>told";

    fn bundle(dir: &Path) -> Bundle {
        let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        let json = json!({"ociVersion": "1.2.0", "annotations": {"a": "b"},
            "hooks": {"createRuntime": hook(TELL), "poststop": hook(TELL)}});
        fs::create_dir(dir.join("restore")).unwrap();
        Bundle {
            spec: serde_json::from_value(json.clone()).unwrap(),
            json,
        }
    }

    #[test]
    fn a_hook_is_told_of_the_container_s_own_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let (path, restore) = (dir.path(), dir.path().join("restore"));
        let read = bundle(path);
        let ended = json!({"id": "c", "status": "stopped", "bundle": restore}).to_string();
        run_poststop(&restore, ended.as_bytes()).unwrap();
        assert!(
            !path.join("told").exists(),
            "before the first hook there is none to undo"
        );

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ran = run(&read, ("c", 7), path, &restore, &PlainSpawner);
        runtime.block_on(ran).unwrap();
        run_poststop(&restore, ended.as_bytes()).unwrap();
        let told = fs::read_to_string(path.join("told")).unwrap();
        let told: Vec<Value> = told
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let created = json!({"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": 7, "bundle": path,
            "annotations": {"a": "b"}});
        let stopped = json!({"id": "c", "status": "stopped", "bundle": path});
        assert_eq!(told, [created, stopped]);
    }

    #[test]
    fn the_bundle_for_the_restore_has_hooks_of_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let read = bundle(dir.path());
        let hooks = of_restore(&read.json, Path::new("/r"), Path::new("/h"), None);
        let ours = json!({"poststop": [{"path": "/h", "args": ["/h", POSTSTOP_VERB, "/r"]}]});
        assert_eq!(hooks, ours);
        assert_eq!(
            of_restore(&json!({}), Path::new("/r"), Path::new("/h"), None),
            json!({})
        );
        assert!(!only_cold(&read.json) && only_cold(&json!({"hooks": {"poststart": [{"path": "/x"}]}})));
    }
}
