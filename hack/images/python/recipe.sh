# shellcheck shell=bash
mkdir -p /srv
cp server.py /srv/server.py
