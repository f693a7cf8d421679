#!/bin/bash
# Runs as the first process of the lab's new namespaces, still in the host's file tree: builds the lab's own tree
# and pivots into it. CRIU refuses a plain chroot, because the root mount must be one that it can see.
# Arguments: NAME ROOT RUN-FOLDER CMD...; everything else comes in LAB_* variables from hack/lab.
set -euo pipefail
# shellcheck source=hack/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name=$1 root=$2 run=$3
shift 3
new=$run/root

mount --make-rprivate /
hostname "$name"

# The root itself is never written: two runs share it, and --host must not change the host.
# A tmpfs as the upper layer also works where the cache lies on overlayfs.
mount -t tmpfs -o mode=755 lab-root "$new"
mkdir "$new"/{upper,work,tree}
mount -t overlay -o "lowerdir=$root,upperdir=$new/upper,workdir=$new/work" lab-root "$new/tree"
new=$new/tree
mkdir -p "$new"/{proc,sys,dev,run,tmp,src,images,mnt,root,var/lib/containerd,var/lib/thaw}

mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"
mount -t tmpfs -o mode=755 run "$new/run"
mount -t tmpfs -o mode=1777 tmp "$new/tmp"

make_dev() {
    local entry node numbers
    mount -t tmpfs -o mode=755,nosuid dev "$new/dev"
    for entry in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 kmsg:1:11 fuse:10:229 loop-control:10:237; do
        IFS=: read -r node numbers <<<"$entry"
        mknod -m 666 "$new/dev/$node" c "${numbers%:*}" "${numbers#*:}"
    done
    if [ -c /dev/userfaultfd ]; then
        cp -a /dev/userfaultfd "$new/dev/"
    fi
    mkdir "$new"/dev/{pts,shm,mqueue,net}
    mknod -m 666 "$new/dev/net/tun" c 10 200
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$new/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$new/dev/shm"
    mount -t mqueue mqueue "$new/dev/mqueue"
    ln -s pts/ptmx "$new/dev/ptmx"
    ln -s /proc/self/fd "$new/dev/fd"
    ln -s /proc/self/fd/0 "$new/dev/stdin"
    ln -s /proc/self/fd/1 "$new/dev/stdout"
    ln -s /proc/self/fd/2 "$new/dev/stderr"
}

# We are in a cgroup namespace: what is mounted here shows the run's own sub-cgroup as its root.
mount_cgroups() {
    local options dir
    if [ "$LAB_CGROUP" = v2 ]; then
        mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
        sed 's/\([a-z]\)/+\1/; s/ \([a-z]\)/ +\1/g' "$new/sys/fs/cgroup/cgroup.controllers" \
            >"$new/sys/fs/cgroup/cgroup.subtree_control"
        return
    fi
    mount -t tmpfs -o mode=755 cgroup "$new/sys/fs/cgroup"
    for options in $LAB_CONTROLLERS; do
        dir=$new/sys/fs/cgroup/${options#name=}
        mkdir "$dir"
        mount -t cgroup -o "$options" cgroup "$dir"
        case $options in *,*) (cd "$new/sys/fs/cgroup" && for one in ${options//,/ }; do ln -s "$options" "$one"; done) ;; esac
    done
}

# bind_in SOURCE DEST ro|rw
bind_in() {
    if [ -d "$1" ]; then mkdir -p "$new$2"; else mkdir -p "$(dirname "$new$2")" && touch "$new$2"; fi
    mount --bind "$1" "$new$2"
    if [ "$3" = ro ]; then
        mount -o remount,bind,ro "$new$2"
    fi
}

make_dev
mount_cgroups
bind_in "$checkout" /src ro
bind_in "$target" /src/target ro
bind_in "$cache/images" /images ro
for pair in $LAB_BINDS; do
    bind_in "${pair%%:*}" "${pair#*:}" rw
done
# The upper layer of a container's overlay must not lie on overlayfs itself.
if [ "$(stat -f -c %T "$run/disk")" = overlayfs ]; then
    echo "note: $run is on overlayfs, so the lab's containers live in memory" >&2
    mkdir "$run/memory"
    mount -t tmpfs disk "$run/memory"
    cp --archive "$run/disk" "$run/memory/"
    mount --bind "$run/memory/disk" "$run/disk"
fi
bind_in "$run/disk/containerd" /var/lib/containerd rw
bind_in "$run/disk/thaw" /var/lib/thaw rw
if [ -n "${LAB_OTHER_CONTAINERD:-}" ]; then
    for program in containerd ctr containerd-shim-runc-v2; do
        bind_in "$LAB_OTHER_CONTAINERD/$program" "/usr/bin/$program" ro
    done
fi
for tools in ${LAB_TOOLS:-}; do
    bind_in "$tools" "/opt/${tools##*/}" ro
done
if [ -n "$LAB_S3" ]; then
    bind_in "$LAB_S3/s3s-fs" /usr/local/bin/s3s-fs ro
    bind_in "$run/disk/s3" /var/lib/s3 rw
fi
if [ ! -s "$new/etc/resolv.conf" ]; then
    cat /etc/resolv.conf >"$new/etc/resolv.conf" 2>/dev/null || true
fi

cd "$new"
pivot_root . mnt
umount -l /mnt
cd /src
mapfile -d '' -t environment < <(lab_environment "$name")
exec env -i "${environment[@]}" bash /src/hack/lib/init.sh "$@"
