#!/bin/bash
# In the lab: containerd-stress with exec, first with the stock shim, then with thaw's; then looks for what is left.
# Arguments: PROGRAM SECONDS.
set -euo pipefail
trap 'echo "error: line $LINENO of $0 failed" >&2' ERR
# shellcheck source=hack/lib/public-names.sh
. "$(dirname "${BASH_SOURCE[0]}")/public-names.sh"

program=$1 seconds=$2
serve_public_names
push_public_names "${containerd_names[@]}"
image=${containerd_names[0]}
ctr image pull --local "$image" >/dev/null
started=$(pgrep -x containerd)

# What a container may leave behind, counted.
leftovers() {
    printf 'shims %s\n' "$(pgrep -fc '^[^ ]*containerd-shim-' || true)"
    # Whatever outlives its parent is handed to process 1 of the lab.
    printf 'orphans %s\n' "$(pgrep -c -P 1)"
    printf 'mounts %s\n' "$(wc -l </proc/self/mountinfo)"
    printf 'cgroups %s\n' "$(find /sys/fs/cgroup -type d | wc -l)"
    printf 'sockets %s\n' "$(wc -l </proc/net/unix)"
    printf 'containerd-files %s\n' "$(find "/proc/$started/fd" | wc -l)"
    printf 'run-thaw %s\n' "$(find /run/thaw 2>/dev/null | wc -l)"
    printf 'bundles %s\n' "$(find /run/containerd/io.containerd.runtime.v2.task -mindepth 2 -maxdepth 2 2>/dev/null | wc -l)"
}

# Memory of a shim that serves one container through many execs, in KiB.
shim_growth() {
    local pid before after round
    ctr run --detach --runtime "$1" "$image" grower sleep 3600
    pid=$(pgrep -f "^[^ ]*containerd-shim-.* -id grower" | head -n 1)
    for ((round = 0; round < 2; round++)); do
        for ((n = 0; n < 200; n++)); do ctr task exec --exec-id "e$round-$n" grower true; done
        after=$(awk '/^RssAnon:/ { print $2 }' "/proc/$pid/status")
        files=$(find "/proc/$pid/fd" | wc -l)
        [ "$round" = 1 ] || { before=$after && files_before=$files; }
    done
    ctr task rm --force grower >/dev/null
    ctr container rm grower
    printf '%s: 200 execs, then 200 more: anonymous memory %s KiB, then %s KiB; files %s, then %s\n' \
        "$1" "$before" "$after" "$files_before" "$files"
    [ "$after" -le $((before + 512)) ] && [ "$files" -le "$files_before" ]
}

status=0
run() {
    local json
    json=$("$program" --exec --json --concurrent 2 --image "$image" --runtime "$1" --duration "$2s" 2>/run/stress.log | tail -n 1)
    printf '%s for %s s: %s\n' "$1" "$2" "$json"
    printf '%s' "$json" | python3 -c '
import json, sys
result = json.load(sys.stdin)
sys.exit(0 if result["total"] and result["execTotal"] and not result["failures"] and not result["execFailures"] else 1)' \
        || { echo "error: a container or an exec failed:" && tail -n 3 /run/stress.log && status=1; }
}

# One of each first, so that what is made once is there.
run io.containerd.runc.v2 5
run io.containerd.thaw.v1 5
before=$(leftovers)
run io.containerd.runc.v2 $((seconds / 10 + 5))
run io.containerd.thaw.v1 "$seconds"
more() {
    join <(sort <<<"$before") <(leftovers | sort) | awk '$3 > $2 { print "  " $1 ": " $2 " before, " $3 " after" }'
}
for ((tries = 0; tries < 50; tries++)); do
    left=$(more)
    [ -n "$left" ] || break
    sleep 0.2
done
if [ -n "$left" ]; then
    printf 'error: something is left behind:\n%s\n' "$left"
    ps -e -o pid,ppid,state,args
    status=1
fi
shim_growth io.containerd.thaw.v1 || { echo "error: the shim grows" && status=1; }
exit "$status"
