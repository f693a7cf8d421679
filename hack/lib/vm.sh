# Another kind of machine: boots the lab's distribution with its own kernel, systemd and cgroup v2 in QEMU. Everything
# is emulated, so that /dev/kvm is not needed, and some ten times slower. The machine is the lab; nothing of it stays.
# shellcheck shell=bash disable=SC2154 # cache, checkout, hack, target and root_packages come from common.sh and root.sh

vm_packages=$root_packages,systemd-sysv,dbus,udev,linux-image-cloud-amd64,initramfs-tools,apparmor

# Memory of the machine, in MiB, and how long it may run: one that hangs would be waited for without an end.
vm_memory=6144
vm_limit=2h

# What would start and end processes while the tests look for those that were left behind.
vm_masks=$(printf ' systemd.mask=%s' timers.target systemd-udev{d,-trigger}.service systemd-udevd-{control,kernel}.socket)

vm_root() {
    printf '%s/root-vm-%s\n' "$cache" "$(printf '%s %s %s\n' "$LAB_SUITE" "$vm_packages" "$recipe_version" | sha256sum | cut -c1-16)"
}

ready_vm() {
    [ "$(uname -m)" = x86_64 ] || die "hack/lab --vm knows x86-64 machines only"
    install_missing qemu-system-x86_64=qemu-system-x86 mke2fs=e2fsprogs strip=binutils
    local root
    root=$(vm_root)
    [ -d "$root" ] || step "building the machine's root ($LAB_SUITE)" bootstrap "$vm_packages" "$root"
}

# put SOURCE DEST: a copy that shares the source's blocks, which nobody may write to.
put() {
    mkdir -p "$(dirname "$2")"
    cp --link --dereference "$1" "$2" 2>/dev/null || cp "$1" "$2"
}

# vm_tree TREE CMD...: what the machine has on its disk.
vm_tree() {
    local tree=$1 image program tools test
    shift
    cp --archive --link "$(vm_root)" "$tree"
    mkdir -p "$tree"/{src,images,var/lib/thaw}
    (cd "$checkout" && find . -path ./target -prune -o -path ./.git -prune -o -type f -print0 \
        | tar --create --null --files-from=-) | tar --extract --directory "$tree/src"
    for program in thaw containerd-shim-thaw-v1; do
        put "$target/$LAB_PROFILE/$program" "$tree/src/target/$LAB_PROFILE/$program"
    done
    for test in ${THAW_TEST_BINARIES:-}; do
        # Symbols are nine tenths of them.
        mkdir -p "$(dirname "$tree$test")"
        strip --strip-debug -o "$tree$test" "$target${test#/src/target}"
    done
    for image in "${images[@]}"; do
        put "$cache/images/$image.tar" "$tree/images/$image.tar"
        put "$cache/images/$image.json" "$tree/images/$image.json"
    done
    rm -rf "$tree/var/lib/containerd"
    copy_node "$LAB_NODE" "$tree/var/lib/containerd"
    for tools in $LAB_TOOLS; do
        for program in "$tools"/*; do
            put "$program" "$tree/opt/${tools##*/}/${program##*/}"
        done
    done
    if [ -n "$LAB_S3" ]; then
        put "$LAB_S3/s3s-fs" "$tree/usr/local/bin/s3s-fs"
    fi
    printf '%s\0' "$@" >"$tree/command"
}

# enter_vm CMD...: a new machine that runs CMD; its output is ours, and so is its exit status.
enter_vm() {
    local name dir root status
    root=$(vm_root)
    mkdir -p "$cache/runs"
    name=lab-$$-$RANDOM
    dir=$cache/runs/$name
    mkdir --mode=700 "$dir"
    # shellcheck disable=SC2064 # the name is fixed now
    trap "remove_run $name" EXIT
    step "making the machine's disk" vm_disk "$dir" "$@"
    # One processor: with more, the kernel may see half of an instruction that it is changing (QEMU 7.2, int3).
    timeout --foreground "$vm_limit" qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m "$vm_memory" -nodefaults -display none -no-reboot \
        -kernel "$root"/boot/vmlinuz-* -initrd "$root"/boot/initrd.img-* \
        -drive "file=$dir/disk,format=raw,if=virtio,cache=unsafe" \
        -serial "file:$dir/console" -serial stdio -serial "file:$dir/status" \
        -append "root=/dev/vda rw console=ttyS0 panic=-1 systemd.run=\"/bin/bash /src/hack/lib/vm-init.sh\" $vm_masks" \
        </dev/null || true # what it came to is in its status
    status=$(cat "$dir/status")
    if [ -z "$status" ]; then
        echo "error: the machine ended early, or not within $vm_limit; the end of its console:" >&2
        tail -n 30 "$dir/console" >&2
        status=1
    fi
    remove_run "$name"
    trap - EXIT
    return "${status%$'\r'}"
}

vm_disk() {
    local dir=$1
    shift
    vm_tree "$dir/tree" "$@"
    lab_environment "${dir##*/}" >"$dir/tree/environment"
    truncate --size 16G "$dir/disk"
    mke2fs -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d "$dir/tree" "$dir/disk"
    rm -rf "$dir/tree"
}
