#!/bin/bash
set -euo pipefail
mkdir -p "$OUT"/{bin,etc,www,tmp,proc,sys,dev,run,root}
chmod 1777 "$OUT/tmp"
cp /usr/bin/busybox "$OUT/bin/busybox"
for name in $(/usr/bin/busybox --list | grep -vx busybox); do
    ln -sf busybox "$OUT/bin/$name"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$OUT/etc/passwd"
echo 'root:x:0:' >"$OUT/etc/group"
echo ok >"$OUT/www/index.html"
echo ok >"$OUT/www/healthz"
