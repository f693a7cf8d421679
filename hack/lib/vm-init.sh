#!/bin/bash
# Runs in the machine of vm.sh once systemd is up: as init.sh does in the lab, with its output and its exit status on
# serial lines. Then the machine ends.
stty raw -echo <>/dev/ttyS1 >&0
mapfile -d '' -t environment </environment
mapfile -d '' -t command </command
env -i "${environment[@]}" bash /src/hack/lib/init.sh "${command[@]}" </dev/null 2>&1 | cat >/dev/ttyS1
echo "${PIPESTATUS[0]}" >/dev/ttyS2
# Closed lines are drained.
systemctl poweroff --force --force
