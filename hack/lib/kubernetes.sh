# Builds the programs of a Kubernetes cluster, cached under the hash of their module and version.
# shellcheck shell=bash disable=SC2154 # cache and hack come from common.sh, go_built from go.sh

kubernetes_programs=(kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy)

kubernetes_dir() {
    printf '%s/kubernetes-%s\n' "$cache" \
        "$(printf '%s %s\n' "$KUBERNETES_VERSION" "$(hash_of "$hack/kubernetes")" | sha256sum | cut -c1-16)"
}

# Prints the folder that holds them, after building them when it is not there.
kubernetes() {
    grep -qF "k8s.io/kubernetes v$KUBERNETES_VERSION" "$hack/kubernetes/go.mod" \
        || die "hack/versions and hack/kubernetes/go.mod name different versions of Kubernetes"
    go_built "Kubernetes $KUBERNETES_VERSION" "$(kubernetes_dir)" build_kubernetes
}

# shellcheck disable=SC2317 # called by build_whole
build_kubernetes() {
    local program version=k8s.io/component-base/version minor=${KUBERNETES_VERSION#*.}
    # A kubelet without a version is refused by the API server.
    local flags="-s -w -X $version.gitVersion=v$KUBERNETES_VERSION -X $version.gitMajor=${KUBERNETES_VERSION%%.*}"
    flags+=" -X $version.gitMinor=${minor%%.*} -X $version.gitTreeState=clean"
    cd "$hack/kubernetes" || return
    for program in "${kubernetes_programs[@]}"; do
        CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$flags" -o "$1/$program" \
            "k8s.io/kubernetes/cmd/$program" || return
    done
}
