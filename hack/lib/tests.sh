# What the test commands share: where the tests' programs are, what a log of them must not say, and what failed.
# shellcheck shell=bash disable=SC2154 # hack and target come from common.sh

# A failed test says its chain of causes; a backtrace through the harness would bury it.
export RUST_BACKTRACE=0

# integration_binaries [CARGO ARGS...]: prints where they are, as the lab sees them.
integration_binaries() {
    cargo test -p thaw-integration --locked --no-run --message-format=json-render-diagnostics "$@" \
        | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
        print("/src/target" + message["executable"].removeprefix(sys.argv[1]))' "$target"
}

# check_skips LOG ACCEPTED: fails when a test skipped that the file ACCEPTED does not name.
check_skips() {
    local name unexpected=0
    while read -r name; do
        if ! grep -qE "^$name( |\$)" "$2"; then
            echo "error: $name was skipped, and $2 does not name it" >&2
            unexpected=1
        fi
    done < <(grep -oE '^SKIP [A-Za-z0-9_:]+' "$1" | awk '{ sub(/:$/, "", $2); print $2 }')
    return "$unexpected"
}

# say_failures LOG: prints once more what the failed tests have said. It scrolled away under the tests that came after.
say_failures() {
    awk '
        /^failures:$/ { inside = !inside; next }
        /^test result: / { inside = 0 }
        inside' "$1"
}
