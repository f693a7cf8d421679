//! From files and environment to [`NodeConfig`].

use std::fs;

use super::*;

/// The configuration of a directory with these files, and this environment.
fn load(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    NodeConfig::load_from(None, directory.path(), variables)
}

fn config(files: &[(&str, &str)], variables: &[(&str, &str)]) -> NodeConfig {
    load(files, variables).unwrap().strict().unwrap()
}

/// Keys of the mistakes.
fn mistakes(text: &str) -> Vec<String> {
    load(&[("config.toml", text)], &[])
        .unwrap_err()
        .mistakes
        .into_iter()
        .map(|m| m.key)
        .collect()
}

#[test]
fn no_file_means_the_defaults() {
    assert_eq!(config(&[], &[]), NodeConfig::default());
}

#[test]
fn the_sample_says_the_defaults() {
    let sample = include_str!("../examples/config.toml");
    assert_eq!(config(&[("config.toml", sample)], &[]), NodeConfig::default());
    // The lines that are only shown, switched on, are keys that exist.
    let shown: String = sample
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line)))
        .collect();
    assert_ne!(shown.trim(), sample.trim());
    let shown = config(&[("config.toml", &shown)], &[]);
    assert!(shown.store.endpoint.is_some());
}

#[test]
fn later_ones_win_key_by_key() {
    let files = [
        (
            "config.toml",
            "store = \"s3://a\"\nlog_level = \"warn\"\n[deadlines]\nlookup = \"1s\"\nfetch = \"2s\"",
        ),
        (
            "conf.d/20-b.toml",
            "[deadlines]\nlookup = \"20ms\"\n[store]\nrequest_timeout = \"1s\"",
        ),
        ("conf.d/10-a.toml", "[deadlines]\nlookup = \"10ms\""),
        ("conf.d/ignored.txt", "nonsense"),
    ];
    let merged = config(
        &files,
        &[
            ("THAW_LOG_LEVEL", "debug"),
            ("THAW_PORT_80_TCP", "tcp://"),
            ("HOME", "/"),
        ],
    );
    assert_eq!(merged.store.url.to_string(), "s3://a");
    assert_eq!(merged.store.request_timeout, Duration::from_secs(1));
    assert_eq!(merged.deadlines.lookup, Duration::from_millis(20));
    assert_eq!(merged.deadlines.fetch, Duration::from_secs(2));
    assert_eq!(merged.log_level, LevelFilter::Debug);
}

#[test]
fn everything_can_be_said_in_the_environment() {
    let variables = [
        ("THAW_STORE", "s3://b/c"),
        ("THAW_STORE_ENDPOINT", "http://127.0.0.1:9000"),
        ("THAW_STORE_ALLOW_HTTP", "true"),
        ("THAW_STORE_REQUEST_TIMEOUT", "1s"),
        ("THAW_ALLOWED_PATHS", "s3://b, gs://c/d"),
        ("THAW_POLICY", "Never"),
        ("THAW_TCP", "close"),
        ("THAW_DEADLINES_RESTORE", "3s"),
        ("THAW_CRIU", "/opt/thaw/bin/criu"),
    ];
    let config = config(&[], &variables);
    assert_eq!(config.store.url.to_string(), "s3://b/c");
    assert_eq!(config.store.endpoint.unwrap().as_str(), "http://127.0.0.1:9000/");
    assert_eq!(config.allowed_paths.len(), 2);
    assert_eq!(config.policy, SnapshotPolicy::Never);
    assert_eq!(config.tcp, TcpMode::Close);
    assert_eq!(config.deadlines.restore, Duration::from_secs(3));
    assert_eq!(config.criu, PathBuf::from("/opt/thaw/bin/criu"));
}

#[test]
fn all_mistakes_at_once() {
    let text = "
        store = 7
        cache = \"var/cache\"
        policy = \"Always\"
        allowed_paths = [\"s3://ok\", \"file:///a/../b\"]
        criu = \"bin/criu\"
        log_level = \"loud\"
        typo = 1
        [deadlines]
        lookup = 300
        fetch = \"soon\"
        restore = \"0s\"
        restoer = \"1s\"";
    let keys = mistakes(text);
    let expected = [
        "store.url",
        "cache",
        "policy",
        "allowed_paths",
        "deadlines.lookup",
        "deadlines.fetch",
        "deadlines.restore",
        "criu",
        "log_level",
        "deadlines.restoer",
        "typo",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn plain_http_has_to_be_allowed() {
    assert_eq!(
        mistakes("[store]\nendpoint = \"http://minio:9000\""),
        ["store.endpoint"]
    );
    assert_eq!(
        mistakes("[store]\nendpoint = \"https://key:secret@minio\""),
        ["store.endpoint"]
    );
}

#[test]
fn a_message_names_file_key_and_cause() {
    let error = load(&[("config.toml", "[deadlines]\nfetch = \"soon\"")], &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("config.toml: deadlines.fetch: not a duration"),
        "{error}"
    );
    let error = load(&[("conf.d/x.toml", "= 1")], &[]).unwrap_err().to_string();
    assert!(error.contains("conf.d/x.toml: not valid TOML: "), "{error}");
    let error = load(&[], &[("THAW_TCP", "keep")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "$THAW_TCP: tcp: \"keep\" is none of auto, established, close"
    );
}

#[test]
fn unknown_keys_are_told_and_survived() {
    let loaded = load(
        &[("config.toml", "cache = \"/c\"\nfuture = true\n[new]\nthing = 1")],
        &[],
    )
    .unwrap();
    assert_eq!(loaded.config.cache, PathBuf::from("/c"));
    let keys: Vec<_> = loaded.unknown.iter().map(|m| m.key.as_str()).collect();
    assert_eq!(keys, ["future", "new.thing"]);
    assert!(loaded.strict().is_err());
}

#[test]
fn a_named_file_stands_alone_and_must_exist() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mine.toml");
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    fs::write(directory.path().join("conf.d/a.toml"), "cache = \"/other\"").unwrap();
    let none = std::iter::empty;
    let named = |environment: Vec<_>| NodeConfig::load_from(None, directory.path(), environment);
    let variable = vec![("THAW_CONFIG".to_owned(), file.display().to_string())];
    assert!(NodeConfig::load_from(Some(&file), directory.path(), none()).is_err());
    assert!(named(variable.clone()).is_err());
    fs::write(&file, "state = \"/run/other\"").unwrap();
    let config = named(variable).unwrap().config;
    assert_eq!(
        (config.state, config.cache),
        (PathBuf::from("/run/other"), NodeConfig::default().cache)
    );
}
