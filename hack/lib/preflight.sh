#!/bin/bash
# Dumps and restores a process that has a socket. `criu check` does not notice a CRIU that is too old for the kernel.
set -euo pipefail
dir=$(mktemp -d)
cd "$dir"
cat >server.py <<'P'
import socket, sys
listener = socket.create_server(("127.0.0.1", 7000))
pair = socket.socketpair()
print("up", flush=True)
sys.stdout.close()
while True:
    client, _ = listener.accept()
    client.sendall(b"alive")
    client.close()
P
setsid python3 server.py </dev/null >up.txt 2>/dev/null &
pid=$!
for _ in $(seq 200); do
    [ -s up.txt ] && break
    sleep 0.05
done
mkdir images
criu dump --tree "$pid" --images-dir images --log-file dump.log \
    || { grep -E 'Error|Warn' images/dump.log >&2; exit 1; }
criu restore --restore-detached --images-dir images --log-file restore.log \
    || { grep -E 'Error|Warn' images/restore.log >&2; exit 1; }
answer=$(timeout 5 python3 -c 'import socket; print(socket.create_connection(("127.0.0.1", 7000)).recv(9).decode())')
[ "$answer" = alive ]
