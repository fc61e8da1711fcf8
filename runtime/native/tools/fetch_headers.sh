#!/bin/sh
# Get the headers of ONNX Runtime's C API: fetch_headers.sh DEST
#
# They are Debian trixie's package libonnxruntime-dev, 85 kB, downloaded by apt without root and checked by its SHA-256.
# The address is that of this machine's own Debian sources; apt's lists, cache and settings of the machine stay as they are.
# DEST is whole or not there at all; where it is whole already, nothing is done.
set -eu

PACKAGE=libonnxruntime-dev=1.21.0+dfsg-1
SHA256=14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08
# The headers are the same on every processor; with one of them named, so is the checksum.
ARCHITECTURE=amd64

refuse() {
    echo "error: $1; get the headers of an official ONNX Runtime release, 1.21 or later, and configure with" \
        "-DONNXRUNTIME_INCLUDE_DIR=FOLDER" >&2
    exit 1
}

# The first source of Debian's archive, in whichever of apt's two formats, with trixie's suite, into the folder $1.
write_source() {
    for file in "$SOURCE_PARTS"*.sources; do
        [ -f "$file" ] || continue
        awk -v RS= '!/(^|\n)Enabled: *no/ && /(^|\n)URIs: *[^\n]*\/debian\/?( |\n|$)/ { print; exit }' "$file" |
            sed -e '/^#/d' -e 's/^Types:.*/Types: deb/' -e 's/^Suites:.*/Suites: trixie/' \
                -e 's/^Components:.*/Components: main/' > "$1/trixie.sources"
        if [ -s "$1/trixie.sources" ]; then return; fi
        rm "$1/trixie.sources"
    done
    for file in "$SOURCE_LIST" "$SOURCE_PARTS"*.list; do
        [ -f "$file" ] || continue
        sed -nE 's|^deb +(\[[^]]*\] +)?([^ ]*/debian/?) .*|deb \1\2 trixie main|p' "$file" | head -n 1 > "$1/trixie.list"
        if [ -s "$1/trixie.list" ]; then return; fi
        rm "$1/trixie.list"
    done
    refuse "apt on this machine has no source of Debian's archive"
}

# Settings for apt that point into the folder $1; of the machine's own only how to reach the network is kept.
write_settings() {
    mkdir -p "$1/sources" "$1/lists/partial" "$1/cache/archives/partial"
    : > "$1/status"
    apt-config dump | grep '^Acquire::' > "$1/apt.conf" || true
    cat >> "$1/apt.conf" <<SETTINGS
Acquire::Languages "none";
APT::Architecture "$ARCHITECTURE";
APT::Architectures "$ARCHITECTURE";
APT::Sandbox::User "root";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$1/sources";
Dir::State::lists "$1/lists";
Dir::State::status "$1/status";
Dir::Cache "$1/cache";
SETTINGS
}

download() {
    write_settings "$1"
    write_source "$1/sources"
    export APT_CONFIG="$1/apt.conf"
    (cd "$1" && apt-get -qq update && apt-get -qq download "$PACKAGE") > "$1/apt.log" 2>&1 ||
        refuse "apt could not download $PACKAGE ($(tail -n 1 "$1/apt.log"))"
    unset APT_CONFIG
    got=$(cat "$1"/*.deb | sha256sum | cut -d ' ' -f 1)
    [ "$got" = "$SHA256" ] || refuse "the package $PACKAGE has SHA-256 $got, expected $SHA256"
    dpkg-deb -x "$1"/*.deb "$1/unpacked"
}

[ $# -eq 1 ] || { echo "usage: fetch_headers.sh DEST" >&2; exit 2; }
DEST=$1
if [ -f "$DEST/onnxruntime_c_api.h" ]; then exit 0; fi
if [ -e "$DEST" ] && ! rmdir "$DEST" 2> /dev/null; then
    refuse "$DEST exists but has no onnxruntime_c_api.h"
fi
for tool in apt-config apt-get dpkg-deb sha256sum; do
    command -v $tool > /dev/null || refuse "$tool is missing, with which the headers are downloaded"
done
eval "$(apt-config shell SOURCE_LIST Dir::Etc::sourcelist/f SOURCE_PARTS Dir::Etc::sourceparts/d)"

# A plain name below /tmp: apt cannot be told of a folder with a space or a quote in its name.
WORK=$(mktemp -d /tmp/nerve-headers.XXXXXX)
trap 'rm -rf -- "$WORK" "$DEST.partial.$$"' EXIT
trap 'exit 1' HUP INT TERM
download "$WORK"
mkdir -p "$(dirname -- "$DEST")"
mv -- "$WORK/unpacked/usr/include/onnxruntime" "$DEST.partial.$$"
mv -- "$DEST.partial.$$" "$DEST"
