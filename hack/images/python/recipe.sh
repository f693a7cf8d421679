#!/bin/bash
set -euo pipefail
mkdir -p /srv
cp server.py /srv/server.py
