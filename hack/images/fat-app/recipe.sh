#!/bin/bash
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends rails puma ruby ruby-bundler
python3 generate.py /srv/fat-app
cd /srv/fat-app
# Checksums are those of downloaded gems, and Debian's are not.
BUNDLE_LOCKFILE_CHECKSUMS=false bundle install --local --quiet
mkdir -p tmp log
# A broken application should fail here, not in a benchmark.
BUNDLE_FROZEN=true SECRET_KEY_BASE=x RAILS_ENV=production bundle exec ruby -e 'require "./config/environment"; p Rails.application.routes.routes.size'
