#!/bin/bash
# In the lab: critest, the tests for implementations of CRI, against one handler of a containerd with pods. Prints its
# own output, then a line for each test, as Go's tests have them.
# Arguments: HANDLER PROGRAM [CRITEST ARGS...].
set -euo pipefail
# shellcheck source=hack/lib/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/node.sh"
# shellcheck source=hack/lib/public-names.sh
. "$(dirname "${BASH_SOURCE[0]}")/public-names.sh"

handler=$1 program=$2
shift 2
export CONTAINERD_NAMESPACE=k8s.io
kubernetes=registry.k8s.io/e2e-test-images staging=gcr.io/k8s-staging-cri-tools
names=("$kubernetes"/{busybox:1.29-2,nginx:1.14-2,httpd:2.4.39-4,nonewprivs:1.3}
    "$staging"/test-image-{user-uid,user-username,user-uid-group,user-username-group,predefined-group,latest}:latest
    "$staging"/test-image-tag:{test,all} "$staging"/test-image-{1,2,3}:latest "$staging"/test-image-tags:{1,2,3}
    "$staging/hostnet-nginx-$(dpkg --print-architecture):latest")
network
serve_public_names
containerd_node
push_public_names "${names[@]}"
# An image for each kind of test would have to be built; so those that look for its user or its server fail with any
# shim. NRI is not a matter of the shim.
"$program" --runtime-handler "$handler" --ginkgo.no-color --ginkgo.seed 1 --ginkgo.timeout 20m \
    --ginkgo.json-report "$dir/report.json" "$@" || true
python3 - "$dir/report.json" <<'P'
import json, sys

WORDS = {"passed": "PASS", "skipped": "SKIP", "pending": "SKIP"}
for suite in json.load(open(sys.argv[1])):
    for spec in suite["SpecReports"] or []:
        if spec["LeafNodeType"] == "It":
            words = [*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]]
            name = "_".join(" ".join(words).split())
            print(f"--- {WORDS.get(spec['State'], 'FAIL')}: {name}")
P
