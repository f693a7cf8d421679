# Shared by the scripts of hack/: where things are, how progress looks, which versions count.
# shellcheck shell=bash

hack=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
checkout=$(dirname "$hack")
cache=${THAW_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/thaw}
target=${CARGO_TARGET_DIR:-$checkout/target}
# shellcheck source=hack/versions
. "$hack/versions"
export THAW_CACHE=$cache

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "$1 needs root: namespaces, cgroups and CRIU ask for it"
}

# step TEXT CMD...: runs CMD with its output in a log, shows elapsed time, shows the log's end when CMD fails.
step() {
    local text=$1 log started=$SECONDS status=0
    shift
    log=$(mktemp)
    # A process group of its own, so that a Ctrl-C can end all of it: a background job would ignore it.
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    set +m
    local child=$!
    # shellcheck disable=SC2064 # the child is fixed now
    trap "kill -TERM -- -$child 2>/dev/null; wait $child; rm -f '$log'; exit 130" INT TERM
    while kill -0 "$child" 2>/dev/null; do
        if [ -t 2 ]; then
            printf '\r  %-46s %4d s' "$text" $((SECONDS - started)) >&2
        fi
        sleep 0.3
    done
    wait "$child" || status=$?
    trap - INT TERM
    [ -t 2 ] && printf '\r' >&2
    if [ "$status" = 0 ]; then
        printf '  %-46s %4d s\n' "$text" $((SECONDS - started)) >&2
    else
        printf '  %-46s failed after %d s; the end of its output:\n' "$text" $((SECONDS - started)) >&2
        tail -n 40 "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

# hash_of PATH...: one digest over names, contents and modes of files and folders.
hash_of() {
    find "$@" -type f ! -name '*.pyc' ! -name README.md -print0 | LC_ALL=C sort -z \
        | while IFS= read -r -d '' file; do
            printf '%s %s %s\n' "${file#"$hack"/}" "$(stat -c %A "$file")" "$(sha256sum <"$file")"
        done | sha256sum | cut -c1-16
}

# at_least HAVE WANT: compares versions.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# install_missing COMMAND=PACKAGE...: apt-get installs the packages whose command is not there.
install_missing() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    need_root "installing ${missing[*]}"
    step "apt-get install ${missing[*]}" apt_install "${missing[@]}"
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    # A stale package list is the usual reason for a first failure.
    apt-get install -y --no-install-recommends "$@" \
        || { apt-get update && apt-get install -y --no-install-recommends "$@"; }
}

# The profile whose binaries are used: THAW_PROFILE, or the one built last.
profile() {
    local name
    if [ -n "${THAW_PROFILE:-}" ]; then
        printf '%s\n' "$THAW_PROFILE"
        return
    fi
    # shellcheck disable=SC2012 # two fixed names, sorted by time
    name=$(ls -td "$target"/{release,debug}/containerd-shim-thaw-v1 2>/dev/null | head -n 1 || true)
    name=${name%/*}
    printf '%s\n' "${name:+${name##*/}}" | sed 's/^$/release/'
}

# What `cargo build` needs besides Rust.
build_needs() {
    command -v cargo >/dev/null || die "cargo is not on PATH; install Rust from https://rustup.rs"
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        die "rustfmt or clippy is missing; run: rustup component add rustfmt clippy"
    fi
    install_missing protoc=protobuf-compiler cc=build-essential
}

# lab_environment NAME: the environment of what runs in the lab NAME, NUL after each.
lab_environment() {
    local pair tools path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/src/target/$LAB_PROFILE
    while IFS= read -r -d '' pair; do
        # Those of hack itself would be settings of thaw in there: THAW_CACHE names the cache of snapshots to it.
        case $pair in
            THAW_CACHE=* | THAW_MIRROR=* | THAW_PROFILE=* | THAW_TOOLS=*) continue ;;
        esac
        case $pair in THAW_* | RUST_* | LAB_* | CI=* | TERM=* | NO_COLOR=*) printf '%s\0' "$pair" ;; esac
    done < <(env -0)
    for tools in ${LAB_TOOLS:-}; do
        path+=:/opt/${tools##*/}
    done
    printf '%s\0' HOME=/root LANG=C.UTF-8 "THAW_LAB=$1" THAW_LAB_IMAGES=/images "PATH=$path"
}
