# In the lab: containerd's own tests pull images by fixed public names. Here these names lead to a registry of the lab,
# which serves the lab's busybox image under each of them.
# shellcheck shell=bash

public_names=(ghcr.io/containerd/busybox:1.36 ghcr.io/containerd/alpine:3.14.0 ghcr.io/containerd/volume-copy-up:2.2
    ghcr.io/containerd/volume-ownership:2.1 registry.k8s.io/pause:3.10)

# Go programs that are started from here on trust the registry's certificate, and no other.
serve_public_names() {
    local dir name
    dir=$(mktemp -d)
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ghcr.io -addext subjectAltName=DNS:ghcr.io,DNS:registry.k8s.io \
        -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
    export SSL_CERT_FILE=$dir/cert.pem
    printf '127.0.0.1 ghcr.io registry.k8s.io\n' >>/etc/hosts
    cat >"$dir/registry.yml" <<Y
version: 0.1
storage: {filesystem: {rootdirectory: $dir/blobs}, delete: {enabled: true}}
http: {addr: "127.0.0.1:443", tls: {certificate: $dir/cert.pem, key: $dir/key.pem}}
Y
    docker-registry serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 &
    curl --silent --output /dev/null --cacert "$dir/cert.pem" --retry 100 --retry-delay 0 --retry-connrefused \
        --retry-max-time 20 https://ghcr.io/v2/
    for name in "${public_names[@]}"; do
        ctr image tag localhost/thaw/static:latest "$name" >/dev/null
        ctr image push --local --tlscacert "$dir/cert.pem" "$name" >/dev/null
        ctr image rm "$name" >/dev/null
    done
}
