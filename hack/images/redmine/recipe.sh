#!/bin/bash
set -euo pipefail
apt-get update
# Packages set up the database themselves only when debconf may ask; we do it below, once and visibly.
echo 'redmine redmine/instances/default/dbconfig-install boolean false' | debconf-set-selections
apt-get install -y --no-install-recommends redmine redmine-sqlite puma ruby

export RAILS_ENV=production X_DEBIAN_SITEID=default
config=/etc/redmine/default
mkdir -p "$config" /var/lib/dbconfig-common/sqlite3/redmine/instances
cat >"$config/database.yml" <<'YAML'
production:
  adapter: sqlite3
  database: /var/lib/dbconfig-common/sqlite3/redmine/instances/redmine_default
  pool: 5
  timeout: 5000
YAML
cd /usr/share/redmine
bundle exec rake generate_secret_token
bundle exec rake db:migrate
rm -rf /var/cache/redmine/default/tmp/cache
