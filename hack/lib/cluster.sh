#!/bin/bash
# Inside the lab: a Kubernetes cluster of one node (etcd, API server, controllers, scheduler, kube-proxy, kubelet) on a
# containerd of its own, with the handlers runc and thaw. Then runs the command; its end is the end of the cluster.
# Logs and process ids are in /run/cluster; $KUBECONFIG is an administrator's.
set -euo pipefail

dir=/run/cluster
# Of the lab's own network, which nothing else can reach.
node_ip=10.77.0.1 pods=10.88.0.0/16 services=10.96.0.0/16 api=10.96.0.1
server=https://127.0.0.1:6443
export KUBECONFIG=$dir/admin.conf

# start NAME CMD...: in the background, with a log.
start() {
    local name=$1
    shift
    setsid "$@" >>"$dir/$name.log" 2>&1 </dev/null &
    echo $! >"$dir/$name.pid"
}

# wait_for NAME SECONDS CMD...: until CMD succeeds; when it never does, or NAME has ended, with the end of its log.
wait_for() {
    local name=$1 end=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ] || ! kill -0 "$(cat "$dir/$name.pid")" 2>/dev/null; then
            echo "error: $name did not come up; the end of its log:" >&2
            tail -n 40 "$dir/$name.log" >&2
            exit 1
        fi
        sleep 0.2
    done
}

network() {
    # A bridge without ports, since not every kernel has dummy interfaces; it needs an address to be up.
    ip link add node0 type bridge
    ip address add "$node_ip/24" dev node0
    ip link set node0 up
    # The service network has to be routed somewhere, or a connection to it ends before kube-proxy's rules see it.
    ip route add default dev node0 src "$node_ip"
    sysctl --quiet --write net.ipv4.ip_forward=1
    mkdir -p /etc/cni/net.d
    cat >/etc/cni/net.d/10-bridge.conflist <<JSON
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "$pods" }]], "routes": [{ "dst": "0.0.0.0/0" }] }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
JSON
}

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

containerd_node() {
    mkdir -p /run/containerd /etc/containerd/conf.d
    cp /src/config/examples/containerd-v3.toml /etc/containerd/conf.d/thaw.toml
    cat >/etc/containerd/config.toml <<'TOML'
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
[grpc]
  address = "/run/containerd/containerd.sock"
[debug]
  level = "info"
[plugins.'io.containerd.cri.v1.runtime']
  # Root without CAP_SYS_RESOURCE (as in some virtual machines) can't lower it, and every pod asks for that.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/thaw/pause:latest'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'
TOML
    containerd --config /etc/containerd/config.toml >/run/containerd/containerd.log 2>&1 </dev/null &
    echo $! >"$dir/containerd.pid"
    ln -s /run/containerd/containerd.log "$dir/containerd.log"
    wait_for containerd 60 ctr version
    # So that the example of a Deployment finds what it asks for, without a registry.
    ctr --namespace k8s.io image tag localhost/thaw/redmine:latest docker.io/library/redmine:6
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

mkdir -p "$dir"
network
certificates >"$dir/certificates.log" 2>&1
containerd_node
control_plane
node
echo "cluster up after $SECONDS s" >&2
"$@"
