#!/bin/bash
# Process 1 inside the lab: brings up lo and containerd, imports the images asked for, runs the command.
# Its end is the end of every process in the lab.
set -euo pipefail
trap 'exit 130' INT
trap 'exit 143' TERM

# Files left open by whoever started us lie outside the lab, and CRIU could not dump a process that inherits them.
for fd in "/proc/$$/fd"/*; do
    fd=${fd##*/}
    if [ "$fd" -gt 2 ] && [ "$fd" != 255 ]; then
        exec {fd}>&-
    fi
done

ip link set lo up

start_containerd() {
    local version
    mkdir -p /run/containerd /etc/containerd
    # The oldest format that the version in question takes as it is.
    case $(containerd --version) in *' v1.'* | *' 1.'*) version=2 ;; *) version=3 ;; esac
    cat >/etc/containerd/config.toml <<TOML
version = $version
disabled_plugins = [
  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[debug]
  level = "info"
TOML
    containerd --config /etc/containerd/config.toml >/run/containerd/containerd.log 2>&1 &
    containerd=$!
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        if [ -S /run/containerd/containerd.sock ] && ctr version >/dev/null 2>&1; then
            return
        fi
        kill -0 "$containerd" 2>/dev/null || break
        sleep 0.05
    done
    echo "error: containerd did not come up; the end of its log:" >&2
    tail -n 30 /run/containerd/containerd.log >&2
    exit 1
}

# Before containerd: shims get containerd's environment, and with it the way to the store.
start_s3() {
    export AWS_ENDPOINT=http://127.0.0.1:9000 AWS_ACCESS_KEY_ID=thaw AWS_SECRET_ACCESS_KEY=thaw-secret
    export AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true
    mkdir -p /var/lib/s3/thaw
    s3s-fs --host 127.0.0.1 --port 9000 --access-key "$AWS_ACCESS_KEY_ID" --secret-key "$AWS_SECRET_ACCESS_KEY" \
        /var/lib/s3 >/run/s3.log 2>&1 &
    curl --silent --output /dev/null --retry 50 --retry-delay 0 --retry-connrefused --retry-max-time 10 "$AWS_ENDPOINT"
}

if [ -n "$LAB_S3" ]; then
    start_s3
fi
if [ "$LAB_CONTAINERD" = yes ]; then
    start_containerd
    for image in $LAB_IMAGES; do
        ctr --namespace "$LAB_NAMESPACE" image import "/images/$(basename "$image")" >/dev/null
    done
fi
status=0
"$@" || status=$?
if [ -n "$LAB_SAVE" ]; then
    # What it stored is kept, so it has to end in good order.
    kill -TERM "$containerd"
    wait "$containerd" || true
fi
exit "$status"
