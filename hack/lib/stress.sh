#!/bin/bash
# In the lab: containerd-stress with exec, first with the stock shim, then with thaw's; then looks for what is left. Shims that
# stay must not grow meanwhile: neither that of a restored container which lives through all of it, nor that of a cold or a
# restored one through many execs.
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

# start NAME [FLAGS...]: a container that sleeps, under thaw's shim; prints the pid of the shim.
start() {
    ctr run --detach --runtime io.containerd.thaw.v1 "${@:2}" "$image" "$1" sh -c 'while :; do sleep 1; done'
    pgrep -f "^[^ ]*containerd-shim-.* -id $1( |\$)" | head -n 1
}

remove() {
    ctr task rm --force "$1" >/dev/null
    ctr container rm "$1"
}

# A snapshot of what start starts.
publish() {
    start donor >/dev/null
    thaw capture donor >/dev/null
    remove donor
}

# came_up NAME cold|restored
came_up() {
    thaw explain -o json "$1" \
        | python3 -c 'import json, sys; outcome = json.load(sys.stdin); sys.exit(outcome["result"] != sys.argv[1] and str(outcome))' "$2"
}

# execs NAME ROUND COUNT
execs() {
    local n
    for ((n = 0; n < $3; n++)); do ctr task exec --exec-id "e$2-$n" "$1" true; done
}

# What the shim with this pid holds: anonymous memory in KiB, and files.
held() {
    printf '%s %s\n' "$(awk '/^RssAnon:/ { print $2 }' "/proc/$1/status")" "$(find "/proc/$1/fd" | wc -l)"
}

# compare WHAT HELD-BEFORE HELD-AFTER: says both; a shim that has grown is an error.
compare() {
    local memory files memory_after files_after
    read -r memory files <<<"$2"
    read -r memory_after files_after <<<"$3"
    printf '%s: anonymous memory %s KiB, then %s KiB; files %s, then %s\n' "$1" "$memory" "$memory_after" "$files" "$files_after"
    [ "$memory_after" -le $((memory + 512)) ] && [ "$files_after" -le "$files" ] && return
    echo "error: the shim grows"
    status=1
}

# shim_growth cold|restored [FLAGS...]: a shim that serves one container through many execs.
shim_growth() {
    local pid before after
    pid=$(start grower "${@:2}")
    came_up grower "$1"
    execs grower 1 200
    before=$(held "$pid")
    execs grower 2 200
    after=$(held "$pid")
    remove grower
    compare "the shim of a $1 container, 200 execs, then 200 more" "$before" "$after"
}

# Somebody looks into the witness all the time.
visits() {
    local n
    for ((n = 0; ; n++)); do
        [ ! -e /run/stress.done ] || return 0
        ctr task exec --exec-id "visit-$n" witness true
        sleep 1
    done
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
publish
witness=$(start witness)
came_up witness restored
execs witness 0 200
held_before=$(held "$witness")
before=$(leftovers)
visits &
visits=$!
run io.containerd.runc.v2 $((seconds / 10 + 5))
run io.containerd.thaw.v1 "$seconds"
touch /run/stress.done
wait "$visits" || { echo "error: an exec in the witness failed" && status=1; }
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
compare "the shim of a restored container, before all that and after" "$held_before" "$(held "$witness")"
remove witness
shim_growth cold --annotation thaw.dev/snapshot-policy=Never
shim_growth restored
exit "$status"
