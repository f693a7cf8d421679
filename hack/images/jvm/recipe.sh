#!/bin/bash
set -euo pipefail
apt-get update
# Java links its manual pages, which this root leaves out, and fails without their folder.
mkdir -p /usr/share/man/man1
apt-get install -y --no-install-recommends openjdk-21-jre-headless tomcat11-user tomcat11-examples tomcat11-docs
home=/usr/share/tomcat11
base=/srv/tomcat
mkdir -p "$base"/{conf,logs,temp,work,webapps/ROOT}
cp -r "$home"/skel/conf/* "$base/conf/"
cp -r "$home-examples/examples" "$base/webapps/examples"
cp -r "$home-docs/docs" "$base/webapps/docs"
cp whoami.jsp "$base/webapps/ROOT/index.jsp"
# A broken installation should fail here, not in a test.
java -XX:TieredStopAtLevel=1 -cp "$home/bin/bootstrap.jar:$home/bin/tomcat-juli.jar" -Dcatalina.home="$home" \
    -Dcatalina.base="$base" org.apache.catalina.startup.Bootstrap configtest
rm -rf "$base"/{logs,temp,work}/*
