#!/bin/bash
set -euo pipefail
mkdir -p "$OUT"/{bin,etc,www,tmp,proc,sys,dev,run,root}
chmod 1777 "$OUT/tmp"
cp /usr/bin/busybox "$OUT/bin/busybox"
for name in $(/usr/bin/busybox --list | grep -vx busybox); do
    ln -sf busybox "$OUT/bin/$name"
done
# The users that busybox images have, and one that containerd's stress test asks for.
cat >"$OUT/etc/passwd" <<'P'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
games:x:12:100:games:/usr/games:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
P
cat >"$OUT/etc/group" <<'G'
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
users:x:100:
nobody:x:65534:
G
echo ok >"$OUT/www/index.html"
echo ok >"$OUT/www/healthz"
