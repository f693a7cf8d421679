#!/bin/bash
# Inside the lab: a Kubernetes cluster of one node (etcd, API server, controllers, scheduler, kube-proxy, kubelet) on a
# containerd of its own, with the handlers runc and thaw. Then runs the command; its end is the end of the cluster.
# Logs and process ids are in /run/cluster; $KUBECONFIG is an administrator's.
set -euo pipefail

# shellcheck source=hack/lib/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/node.sh"

# Of the lab's own network, which nothing else can reach.
services=10.96.0.0/16 api=10.96.0.1
server=https://127.0.0.1:6443
export KUBECONFIG=$dir/admin.conf

certificates() {
    cd "$dir"
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=lab-ca -keyout ca.key -out ca.crt
    openssl req -newkey rsa:2048 -nodes -subj /CN=kube-apiserver -keyout api.key -out api.csr
    openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out api.crt \
        -extfile <(printf 'subjectAltName=DNS:kubernetes,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:%s,IP:%s' "$node_ip" "$api")
    openssl genrsa -out accounts.key 2048
    local token
    token=$(openssl rand -hex 16)
    echo "$token,admin,admin,system:masters" >tokens.csv
    kubectl config --kubeconfig "$KUBECONFIG" set-cluster lab --server "$server" --certificate-authority "$dir/ca.crt"
    kubectl config --kubeconfig "$KUBECONFIG" set-credentials admin --token "$token"
    kubectl config --kubeconfig "$KUBECONFIG" set-context lab --cluster lab --user admin
    kubectl config --kubeconfig "$KUBECONFIG" use-context lab
    cd /src
}

control_plane() {
    start etcd etcd --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380
    start apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port 6443 \
        --advertise-address "$node_ip" --service-cluster-ip-range "$services" --allow-privileged \
        --authorization-mode RBAC --kubelet-preferred-address-types InternalIP --token-auth-file "$dir/tokens.csv" \
        --tls-cert-file "$dir/api.crt" --tls-private-key-file "$dir/api.key" --cert-dir "$dir" \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-key-file "$dir/accounts.key" --service-account-signing-key-file "$dir/accounts.key"
    wait_for apiserver 180 kubectl get --raw /readyz
    start controller-manager kube-controller-manager --kubeconfig "$KUBECONFIG" --leader-elect=false \
        --service-account-private-key-file "$dir/accounts.key" --root-ca-file "$dir/ca.crt"
    start scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false
}

kubelet_config() {
    cat <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: { anonymous: { enabled: true }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow }
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
# The machine belongs to others too.
evictionHard: { memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%" }
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
clusterDomain: cluster.local
YAML
}

node() {
    kubelet_config >"$dir/kubelet.yaml"
    start kubelet kubelet --config "$dir/kubelet.yaml" --kubeconfig "$KUBECONFIG" --node-ip "$node_ip" \
        --hostname-override lab --root-dir /var/lib/kubelet --cert-dir "$dir/kubelet"
    # Limits of connection tracking belong to the machine, and a network namespace can't change them.
    start proxy kube-proxy --kubeconfig "$KUBECONFIG" --hostname-override lab --proxy-mode nftables \
        --cluster-cidr "$pods" --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 \
        --conntrack-tcp-timeout-close-wait 0
    wait_for kubelet 180 kubectl wait --for=condition=Ready --timeout=1s node/lab
    wait_for controller-manager 60 kubectl get serviceaccount default
}

network
certificates >"$dir/certificates.log" 2>&1
containerd_node containerd-v3.toml
# So that the example of a Deployment finds what it asks for, without a registry.
ctr --namespace k8s.io image tag localhost/thaw/redmine:latest docker.io/library/redmine:6
control_plane
node
echo "cluster up after $SECONDS s" >&2
"$@"
