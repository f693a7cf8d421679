//! The rules of [`Policy::resolve`].

use super::*;

fn resolve(node: &NodeConfig, annotations: &[(&str, &str)]) -> Result<Policy, PolicyError> {
    let annotations = annotations
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Policy::resolve(node, &annotations)
}

fn node(policy: SnapshotPolicy) -> NodeConfig {
    let allowed_paths = vec![
        "s3://bucket/apps".parse().unwrap(),
        "file:///srv/thaw".parse().unwrap(),
    ];
    NodeConfig {
        policy,
        allowed_paths,
        ..NodeConfig::default()
    }
}

#[test]
fn nothing_said_means_the_node_s_rules() {
    let policy = resolve(&NodeConfig::default(), &[("other", "x")]).unwrap();
    assert_eq!(
        policy,
        Policy {
            snapshot: SnapshotPolicy::IfPresent,
            store: None,
            tcp: TcpMode::Auto,
            ignore_env: Vec::new(),
            persistent_mounts: PersistentMounts::Refuse,
            capture: None,
            ready: None,
            warmup: None,
            on_restore: None,
        }
    );
}

#[test]
fn annotations_narrow_and_never_widen() {
    use SnapshotPolicy::{IfPresent, Never, Required};
    for (node_says, container_says, result) in [
        (IfPresent, "IfPresent", IfPresent),
        (IfPresent, "Never", Never),
        (IfPresent, "Required", Required),
        (Never, "IfPresent", Never),
        (Never, "Never", Never),
        (Required, "IfPresent", Required),
        (Required, "Never", Never),
        (Required, "Required", Required),
    ] {
        let policy = resolve(&node(node_says), &[(ANNOTATION_POLICY, container_says)]).unwrap();
        assert_eq!(policy.snapshot, result, "{node_says} and {container_says}");
    }
    let error = resolve(&node(Never), &[(ANNOTATION_POLICY, "Required")]).unwrap_err();
    assert_eq!(
        (error.required, error.problem),
        (true, PolicyProblem::NodeSaysNever)
    );
}

#[test]
fn a_path_needs_an_allowed_prefix() {
    let node = node(SnapshotPolicy::IfPresent);
    for path in [
        "s3://bucket/apps",
        "s3://bucket/apps/redmine/",
        "file:///srv/thaw/x",
    ] {
        let policy = resolve(&node, &[(ANNOTATION_PATH, path)]).unwrap();
        assert_eq!(policy.store, Some(path.parse().unwrap()));
    }
    for path in [
        "s3://bucket",
        "s3://bucket/apps-evil",
        "s3://bucket-evil/apps",
        "gs://bucket/apps",
        "file:///srv",
    ] {
        let error = resolve(&node, &[(ANNOTATION_PATH, path)]).unwrap_err();
        assert_eq!(error.problem, PolicyProblem::NotAllowed, "{path}");
    }
    for path in [
        "s3://bucket/apps/../x",
        "file:///srv/thaw/%2e%2e/x",
        "s3://u@bucket/apps",
        "s3://bucket/apps?x",
        "",
    ] {
        let error = resolve(&node, &[(ANNOTATION_PATH, path)]).unwrap_err();
        assert!(matches!(error.problem, PolicyProblem::Url(_)), "{path}");
    }
    let default = resolve(
        &NodeConfig::default(),
        &[(ANNOTATION_PATH, "file:///var/lib/thaw/store")],
    );
    assert_eq!(default.unwrap_err().problem, PolicyProblem::NotAllowed);
}

#[test]
fn nonsense_is_an_error_that_knows_whether_cold_is_allowed() {
    let node = node(SnapshotPolicy::IfPresent);
    let error = resolve(&node, &[(ANNOTATION_TCP, "keep")]).unwrap_err();
    assert_eq!((error.annotation, error.required), (ANNOTATION_TCP, false));
    let both = [(ANNOTATION_TCP, "keep"), (ANNOTATION_POLICY, "Required")];
    assert!(resolve(&node, &both).unwrap_err().required);
    let long = "x".repeat(1 << 20);
    let error = resolve(&node, &[(ANNOTATION_POLICY, &long)]).unwrap_err();
    assert!(error.problem.to_string().len() < 100);
    assert!(resolve(&node, &[(ANNOTATION_POLICY, "Never"), (ANNOTATION_TCP, "keep")]).is_ok());
}

#[test]
fn tcp_is_the_container_s_choice() {
    let policy = resolve(&NodeConfig::default(), &[(ANNOTATION_TCP, "established")]).unwrap();
    assert_eq!(policy.tcp, TcpMode::Established);
}

#[test]
fn variables_to_ignore_are_a_bounded_list_of_names() {
    let node = NodeConfig::default();
    let names = |text: &str| resolve(&node, &[(ANNOTATION_IGNORE_ENV, text)]).map(|policy| policy.ignore_env);
    assert_eq!(names("TOKEN, BUILD_ID,,TOKEN").unwrap(), ["BUILD_ID", "TOKEN"]);
    assert!(names("").unwrap().is_empty());
    let many = vec!["A"; MAX_IGNORED + 1].join(",");
    for bad in ["A=secret", "A B", "A\nB", &"x".repeat(MAX_VARIABLE + 1), &many] {
        assert_eq!(names(bad).unwrap_err().problem, PolicyProblem::Names);
    }
}

#[test]
fn persistent_mounts_are_refused_unless_somebody_says_so() {
    let mut node = NodeConfig::default();
    let mounts = |node: &NodeConfig, said: &[(&str, &str)]| resolve(node, said).unwrap().persistent_mounts;
    assert_eq!(mounts(&node, &[]), PersistentMounts::Refuse);
    assert_eq!(
        mounts(&node, &[(ANNOTATION_MOUNTS, "allow")]),
        PersistentMounts::Allow
    );
    node.persistent_mounts = PersistentMounts::Allow;
    assert_eq!(mounts(&node, &[]), PersistentMounts::Allow);
    assert_eq!(
        mounts(&node, &[(ANNOTATION_MOUNTS, "refuse")]),
        PersistentMounts::Refuse
    );
    assert!(resolve(&node, &[(ANNOTATION_MOUNTS, "yes")]).is_err());
}

/// One that never restores may be the donor of those that do.
#[test]
fn never_leaves_the_rules_for_captures() {
    let said = [
        (ANNOTATION_POLICY, "Never"),
        (ANNOTATION_MOUNTS, "allow"),
        (ANNOTATION_READY, "tcp:80"),
        (ANNOTATION_CAPTURE, "ready"),
    ];
    let policy = resolve(&NodeConfig::default(), &said).unwrap();
    assert_eq!(policy.persistent_mounts, PersistentMounts::Allow);
    assert_eq!(policy.ready, Some(Probe::Tcp(80)));
    assert_eq!(policy.capture, None);
}

#[test]
fn self_capture_needs_a_probe_and_the_node_s_leave() {
    let probe = (ANNOTATION_READY, "tcp:80");
    let ready = (ANNOTATION_CAPTURE, "ready");
    let node = NodeConfig::default();
    let policy = resolve(&node, &[ready, probe]).unwrap();
    assert_eq!(policy.capture.unwrap().ready, Probe::Tcp(80));
    let both = [probe, (ANNOTATION_CAPTURE, "never")];
    assert_eq!(resolve(&node, &both).unwrap().capture, None);
    assert_eq!(resolve(&node, &[probe]).unwrap().capture, None);
    let error = resolve(&node, &[ready]).unwrap_err();
    assert_eq!(error.problem, PolicyProblem::NoProbe);
    let error = resolve(&node, &[probe, (ANNOTATION_CAPTURE, "always")]).unwrap_err();
    assert_eq!(error.annotation, ANNOTATION_CAPTURE);
    let error = resolve(&node, &[(ANNOTATION_WARMUP, "tcp:80,1")]).unwrap_err();
    assert_eq!(error.problem, PolicyProblem::Readiness(ReadinessError::Warmup));

    let mut forbids = NodeConfig::default();
    forbids.capture.by_annotation = false;
    assert_eq!(resolve(&forbids, &[ready, probe]).unwrap().capture, None);
}
