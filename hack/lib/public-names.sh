# In the lab: the tests of others pull images by fixed public names. Here these names lead to a registry of the lab,
# which serves the lab's busybox image under each of them.
# shellcheck shell=bash disable=SC2034 # used by who sources this

# What containerd's own tests pull.
containerd_names=(ghcr.io/containerd/busybox:1.36 ghcr.io/containerd/alpine:3.14.0 ghcr.io/containerd/volume-copy-up:2.2
    ghcr.io/containerd/volume-ownership:2.1 registry.k8s.io/pause:3.10)

# Starts the registry. Go programs that are started from here on trust its certificate, and no other.
serve_public_names() {
    local dir
    dir=$(mktemp -d)
    public_certificate=$dir/cert.pem
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ghcr.io \
        -addext subjectAltName=DNS:ghcr.io,DNS:gcr.io,DNS:registry.k8s.io \
        -keyout "$dir/key.pem" -out "$public_certificate" 2>/dev/null
    export SSL_CERT_FILE=$public_certificate
    printf '127.0.0.1 ghcr.io gcr.io registry.k8s.io\n' >>/etc/hosts
    cat >"$dir/registry.yml" <<Y
version: 0.1
storage: {filesystem: {rootdirectory: $dir/blobs}, delete: {enabled: true}}
http: {addr: "127.0.0.1:443", tls: {certificate: $public_certificate, key: $dir/key.pem}}
Y
    docker-registry serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 &
    curl --silent --output /dev/null --cacert "$public_certificate" --retry 100 --retry-delay 0 --retry-connrefused \
        --retry-max-time 20 https://ghcr.io/v2/
}

# push_public_names NAME...: from the containerd of the lab, whose environment says in which namespace.
push_public_names() {
    local name
    for name in "$@"; do
        ctr image tag localhost/thaw/static:latest "$name" >/dev/null
        ctr image push --local --tlscacert "$public_certificate" "$name" >/dev/null
        ctr image rm "$name" >/dev/null
    done
}
