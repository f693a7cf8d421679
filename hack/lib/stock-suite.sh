#!/bin/bash
# In the lab: runs containerd's own client tests against one runtime.
# Arguments: RUNTIME, then the test binary and its flags.
set -euo pipefail
# shellcheck source=hack/lib/public-names.sh
. "$(dirname "${BASH_SOURCE[0]}")/public-names.sh"

serve_public_names
# The root filesystem of the lab is an overlay, which can't be the upper directory of another one.
mkdir -p /var/lib/containerd/suite /var/lib/containerd-test
mount --bind /var/lib/containerd/suite /var/lib/containerd-test
TEST_RUNTIME=$1 exec "${@:2}"
