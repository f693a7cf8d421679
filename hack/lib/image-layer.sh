#!/bin/bash
# Makes one layer: runs RECIPE/recipe.sh in an overlay above the base, inside namespaces that hack/lib/image.sh made.
# Arguments: RECIPE WORK BASE LAB-ROOT; the layer is what appears in WORK/layer.
set -euo pipefail
recipe=$1 work=$2 base=$3 lab=$4
mount --make-rprivate /
mkdir "$work"/{layer,tmp,tree}

if grep -q '"base": *"scratch"' "$recipe/image.json"; then
    # Nothing below it: the recipe runs on the lab's root and fills /out.
    mkdir "$work/lab-layer"
    mount -t overlay -o "lowerdir=$lab,upperdir=$work/lab-layer,workdir=$work/tmp" overlay "$work/tree"
    mkdir -p "$work/tree/out"
    mount --bind "$work/layer" "$work/tree/out"
else
    mount -t overlay -o "lowerdir=$base,upperdir=$work/layer,workdir=$work/tmp" overlay "$work/tree"
fi
tree=$work/tree
mount -t proc proc "$tree/proc"
mount -t tmpfs -o mode=1777 tmp "$tree/tmp"
mount -t tmpfs -o mode=755 dev "$tree/dev"
for entry in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "$tree/dev/${entry%:*}" c 1 "${entry#*:}"
done
mkdir "$tree/tmp/recipe"
mount --bind "$recipe" "$tree/tmp/recipe"
resolv=$(cat /etc/resolv.conf)
resolv_before=$(cat "$tree/etc/resolv.conf" 2>/dev/null || true)
[ "$resolv" = "$resolv_before" ] || printf '%s\n' "$resolv" >"$tree/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
printf 'force-unsafe-io\n' >"$tree/etc/dpkg/dpkg.cfg.d/unsafe-io"
printf 'Acquire::Check-Valid-Until "false";\n' >"$tree/etc/apt/apt.conf.d/90valid-until"

env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive OUT=/out \
    chroot "$tree" sh -c 'cd /tmp/recipe && exec bash recipe.sh'

rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/cache/apt/archives/*.deb \
    "$tree"/var/log/* "$tree/usr/sbin/policy-rc.d"
