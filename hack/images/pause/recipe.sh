#!/bin/bash
set -euo pipefail
mkdir -p "$OUT"/{bin,proc,sys,dev,run,tmp,etc}
cp /usr/bin/busybox "$OUT/bin/busybox"
