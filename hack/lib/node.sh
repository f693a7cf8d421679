# In the lab: a node for pods, which is a network with CNI and a containerd with the handlers runc and thaw. Logs and
# process ids are in /run/cluster.
# shellcheck shell=bash

dir=/run/cluster
# Of the lab's own network, which nothing else can reach.
node_ip=10.77.0.1 pods=10.88.0.0/16
mkdir -p "$dir"

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

# containerd_node SAMPLE: with the handler thaw as a file of config/examples has it.
containerd_node() {
    mkdir -p /run/containerd /etc/containerd/conf.d
    cp "/src/config/examples/$1" /etc/containerd/conf.d/thaw.toml
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
}
