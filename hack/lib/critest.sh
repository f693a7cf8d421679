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
network
serve_public_names
python3 -B /src/hack/lib/critest-images.py /images/critest.tar registry.k8s.io "$public_certificate"
# By its path: the lab's containerd asks no runtime of another type what it can do, and leaves out tests of that.
ln -s "$(command -v containerd-shim-thaw-v1)" /usr/local/bin/
containerd_node containerd-v3-path.toml
# NRI is not a matter of the shim.
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
