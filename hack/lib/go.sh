# Programs built with Go from modules that pin their versions, each once.
# shellcheck shell=bash disable=SC2154 # cache and hack come from common.sh

# go_built WHAT DIR BUILD [ARGS...]: prints DIR. Where it is not there yet, BUILD FOLDER ARGS... fills it first.
go_built() {
    local what=$1 dir=$2
    shift 2
    if [ ! -d "$dir" ]; then
        command -v go >/dev/null || die "$what is built with Go 1.24 or newer; install it from https://go.dev/dl"
        step "building $what (once)" build_whole "$dir" "$@" >&2 || return 1
    fi
    printf '%s\n' "$dir"
}

# shellcheck disable=SC2317 # called by step
build_whole() {
    local dir=$1 part=$1.part.$$ build=$2 status=0
    shift 2
    mkdir -p "$part"
    ("$build" "$part" "$@") || status=$?
    if [ "$status" = 0 ]; then
        mv -T "$part" "$dir" 2>/dev/null || [ -d "$dir" ] # another run was faster
    fi
    rm -rf "$part"
    return "$status"
}

# crictl, for hack/test: the folder that holds it.
crictl() {
    go_built crictl "$cache/crictl-$(hash_of "$hack/cri")" build_crictl
}

# shellcheck disable=SC2317 # called by build_whole
build_crictl() {
    cd "$hack/cri" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$1/crictl" sigs.k8s.io/cri-tools/cmd/crictl
}

# critest, for hack/test-stock: the folder that holds it.
critest() {
    go_built critest "$cache/critest-$(hash_of "$hack/cri")" build_critest
}

# shellcheck disable=SC2317 # called by build_whole
build_critest() {
    cd "$hack/cri" && CGO_ENABLED=0 go test -c -trimpath -ldflags "-s -w" -o "$1/critest" sigs.k8s.io/cri-tools/cmd/critest
}
