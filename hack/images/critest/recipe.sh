#!/bin/bash
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends nginx-light bridge-utils net-tools iproute2 iputils-ping procps hostname
# 12003 is where critest looks for a server in the host's network.
cat >/etc/nginx/sites-enabled/default <<'N'
server {
    listen 80;
    listen 12003;
    root /usr/share/nginx/html;
}
N
ln -sf /dev/stdout /var/log/nginx/access.log
ln -sf /dev/stderr /var/log/nginx/error.log
# The user and the group that critest's image of them has.
echo 'default-user:x:1000:1000::/:/bin/sh' >>/etc/passwd
printf 'default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n' >>/etc/group
