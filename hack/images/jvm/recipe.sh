#!/bin/bash
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends openjdk-21-jre-headless tomcat11-common tomcat11-examples tomcat11-docs
home=/usr/share/tomcat11
base=/srv/tomcat
mkdir -p "$base"/{conf,logs,temp,work,webapps/ROOT}
cp -r "$home"/etc/* "$base/conf/"
ln -s "$home-examples/examples" "$base/webapps/examples"
ln -s "$home-docs/docs" "$base/webapps/docs"
cp whoami.jsp "$base/webapps/ROOT/index.jsp"
# A broken installation should fail here, not in a test.
java -XX:TieredStopAtLevel=1 -cp "$home/bin/bootstrap.jar:$home/bin/tomcat-juli.jar" -Dcatalina.home="$home" \
    -Dcatalina.base="$base" org.apache.catalina.startup.Bootstrap configtest
rm -rf "$base"/{logs,temp,work}/*
