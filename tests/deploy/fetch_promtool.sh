#!/bin/sh
# Get promtool of Debian's package prometheus into DEST, without root: fetch_promtool.sh DEST
# Lists and downloads go into DEST too, so the machine's own apt state stays as it is.
set -eu
mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
cd "$1"
apt() { apt-get -qq -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root "$@"; }
apt update
apt download prometheus
dpkg-deb --extract prometheus_*.deb package
mv package/usr/bin/promtool .
rm -rf lists cache package prometheus_*.deb
