# containerd in other versions than the lab's own.
# shellcheck shell=bash disable=SC2154 # cache comes from common.sh

# other_containerd VERSION: builds containerd, ctr and the stock shim of that version, once; prints the folder. The shim
# has to be of the same version: containerd 1.7 does not take the one of 2.x.
other_containerd() {
    local dir=$cache/containerd-$1
    if [ ! -x "$dir/containerd-shim-runc-v2" ]; then
        rm -rf "$dir"
        command -v go >/dev/null || die "containerd $1 is built with Go; install it from https://go.dev"
        step "building containerd $1" build_containerd "$1" "$dir" >&2
    fi
    printf '%s\n' "$dir"
}

# shellcheck disable=SC2317 # called by step
build_containerd() {
    local part=$2.part.$$ module=github.com/containerd/containerd status=0
    case $1 in 1.*) ;; *) module+=/v2 ;; esac
    mkdir -p "$part"
    (
        # In a module of its own: `go install` refuses what has exclude directives.
        mkdir "$part/src" && cd "$part/src"
        go mod init thaw.dev/hack/other-containerd
        go get "$module/cmd/containerd@v$1" "$module/cmd/ctr@v$1" "$module/cmd/containerd-shim-runc-v2@v$1"
        CGO_ENABLED=0 GOFLAGS='' go build -trimpath -ldflags "-s -w -X $module/version.Version=$1" -o "$part/" \
            "$module/cmd/containerd" "$module/cmd/ctr" "$module/cmd/containerd-shim-runc-v2"
    ) || status=$?
    rm -rf "$part/src"
    [ "$status" != 0 ] || mv -T "$part" "$2"
    rm -rf "$part"
    return "$status"
}
