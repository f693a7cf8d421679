//! The sample files are what the programs that they are for would take. (`config.toml` is tested with the reader.)

use toml::{Table, Value};

/// What containerd needs to know of the runtime, under the key of its CRI plugin.
fn assert_runtime<'a>(table: &'a Table, version: i64, plugin: &str, kind: &str) -> &'a Value {
    assert_eq!(table["version"], Value::Integer(version));
    let runtime = &table["plugins"][plugin]["containerd"]["runtimes"]["thaw"];
    assert_eq!(runtime["runtime_type"].as_str(), Some(kind));
    assert_eq!(runtime["pod_annotations"], Value::from(vec!["thaw.dev/*"]));
    runtime
}

#[test]
fn containerd() {
    let v3 = include_str!("../examples/containerd-v3.toml").parse().unwrap();
    assert_runtime(&v3, 3, "io.containerd.cri.v1.runtime", "io.containerd.thaw.v1");
    let v2 = include_str!("../examples/containerd-v2.toml").parse().unwrap();
    assert_runtime(&v2, 2, "io.containerd.grpc.v1.cri", "io.containerd.thaw.v1");
    let path = include_str!("../examples/containerd-v3-path.toml")
        .parse()
        .unwrap();
    let by_path = assert_runtime(&path, 3, "io.containerd.cri.v1.runtime", "io.containerd.runc.v2");
    // Where the README installs it.
    let shim = "/usr/local/bin/containerd-shim-thaw-v1";
    assert_eq!(by_path["runtime_path"].as_str(), Some(shim));
}

#[test]
fn docker() {
    let text = include_str!("../examples/docker-daemon.json");
    let daemon: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(daemon["runtimes"]["thaw"]["runtimeType"], "io.containerd.thaw.v1");
}

#[test]
fn annotations_are_spelled_as_in_the_code() {
    let kubernetes = include_str!("../examples/kubernetes-deployment.yaml");
    let nerdctl = include_str!("../examples/nerdctl.md");
    assert!(kubernetes.contains(&format!("{}: IfPresent", thaw_config::ANNOTATION_POLICY)));
    assert!(nerdctl.contains(&format!("{}=Never", thaw_config::ANNOTATION_POLICY)));
}
