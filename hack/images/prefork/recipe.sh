#!/bin/bash
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends gunicorn
mkdir -p /srv
cp app.py /srv/app.py
