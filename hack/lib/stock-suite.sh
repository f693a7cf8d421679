#!/bin/bash
# In the lab: runs containerd's own client tests against one runtime.
# Arguments: RUNTIME, then the test binary and its flags.
set -euo pipefail
# shellcheck source=hack/lib/public-names.sh
. "$(dirname "${BASH_SOURCE[0]}")/public-names.sh"

serve_public_names
push_public_names "${containerd_names[@]}"
# The root filesystem of the lab is an overlay, which can't be the upper directory of another one.
mkdir -p /var/lib/containerd/suite /var/lib/containerd-test
mount --bind /var/lib/containerd/suite /var/lib/containerd-test
# One test counts the lines with FIFO of `lsof -p PID`; the lab has no lsof.
tools=$(mktemp -d)
cat >"$tools/lsof" <<'L'
#!/bin/sh
for file in /proc/"$2"/fd/*; do
    [ ! -p "$file" ] || echo "$file FIFO"
done
L
chmod +x "$tools/lsof"
# runc-fp lies beside the tests.
PATH=$PATH:$tools:$(dirname "$2")
TEST_RUNTIME=$1 exec "${@:2}"
