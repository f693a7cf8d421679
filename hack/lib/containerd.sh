# containerd in other versions than the lab's own.
# shellcheck shell=bash disable=SC2154 # cache comes from common.sh, go_built from go.sh

# other_containerd VERSION|oldest|newest: builds containerd, ctr and the stock shim of that version, once; prints the
# folder. The shim has to be of the same version: containerd 1.7 does not take the one of 2.x.
other_containerd() {
    local version=$1
    case $version in
        oldest) version=$OLDEST_CONTAINERD ;;
        newest) version=$NEWEST_CONTAINERD ;;
    esac
    go_built "containerd $version" "$cache/containerd-$version" build_containerd "$version"
}

# shellcheck disable=SC2317 # called by build_whole
build_containerd() {
    local module=github.com/containerd/containerd
    case $2 in 1.*) ;; *) module+=/v2 ;; esac
    # In a module of its own: `go install` refuses what has exclude directives.
    mkdir "$1/src" && cd "$1/src" && go mod init thaw.dev/hack/other-containerd \
        && go get "$module/cmd/containerd@v$2" "$module/cmd/ctr@v$2" "$module/cmd/containerd-shim-runc-v2@v$2" \
        && CGO_ENABLED=0 GOFLAGS='' go build -trimpath -ldflags "-s -w -X $module/version.Version=$2" -o "$1/" \
            "$module/cmd/containerd" "$module/cmd/ctr" "$module/cmd/containerd-shim-runc-v2" \
        && rm -rf "$1/src"
}
