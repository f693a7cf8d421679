#!/bin/bash
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends nginx-light procps busybox
# 12003 is where critest looks for a server in the host's network.
cat >/etc/nginx/nginx.conf <<'N'
user www-data;
pid /run/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    server {
        listen 80;
        listen 12003;
        root /usr/share/nginx/html;
    }
}
N
# The user and the group that critest's image of them has.
echo 'default-user:x:1000:1000::/:/bin/sh' >>/etc/passwd
printf 'default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n' >>/etc/group
# critest knows what busybox says. Links that are files: a mask on one of them is none on the others.
for name in $(busybox --list); do
    [ "$name" = busybox ] || busybox ln -f /usr/bin/busybox "/usr/bin/$name"
done
