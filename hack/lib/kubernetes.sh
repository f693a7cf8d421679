# Builds the programs of a Kubernetes cluster, cached under the hash of their module and version.
# shellcheck shell=bash disable=SC2154 # cache and hack come from common.sh

kubernetes_programs=(kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy)

kubernetes_dir() {
    printf '%s/kubernetes-%s\n' "$cache" \
        "$(printf '%s %s\n' "$KUBERNETES_VERSION" "$(hash_of "$hack/kubernetes")" | sha256sum | cut -c1-16)"
}

# Prints the folder that holds them, after building them when it is not there.
kubernetes() {
    local dir
    dir=$(kubernetes_dir)
    if [ ! -d "$dir" ]; then
        command -v go >/dev/null || die "Kubernetes is built with Go 1.21 or newer; install it from https://go.dev/dl"
        grep -qF "k8s.io/kubernetes v$KUBERNETES_VERSION" "$hack/kubernetes/go.mod" \
            || die "hack/versions and hack/kubernetes/go.mod name different versions of Kubernetes"
        step "building Kubernetes $KUBERNETES_VERSION (once)" build_kubernetes "$dir" >&2 || return 1
    fi
    printf '%s\n' "$dir"
}

build_kubernetes() {
    local part=$1.build.$$ program status=0 version=k8s.io/component-base/version minor=${KUBERNETES_VERSION#*.}
    # A kubelet without a version is refused by the API server.
    local flags="-s -w -X $version.gitVersion=v$KUBERNETES_VERSION -X $version.gitMajor=${KUBERNETES_VERSION%%.*}"
    flags+=" -X $version.gitMinor=${minor%%.*} -X $version.gitTreeState=clean"
    mkdir -p "$part"
    for program in "${kubernetes_programs[@]}"; do
        (cd "$hack/kubernetes" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$flags" \
            -o "$part/$program" "k8s.io/kubernetes/cmd/$program") || status=$?
    done
    if [ "$status" = 0 ]; then
        mv -T "$part" "$1" 2>/dev/null || [ -d "$1" ] # another run was faster
    fi
    rm -rf "$part"
    return "$status"
}
