#!/usr/bin/env bash
# Packages of another architecture or release, unpacked into a folder; the host's own apt is neither asked nor changed.
#   debian.sh FOLDER ARCHITECTURE RELEASE PACKAGE...
set -euo pipefail
root=$1 architecture=$2 release=$3
shift 3
apt=$root.apt
mkdir -p "$root" "$apt"/{state/lists/partial,cache/archives/partial}
: >"$apt/status"
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$apt/sources.list"
cat >"$apt/apt.conf" <<CONF
APT::Architecture "$architecture"; APT::Architectures { "$architecture"; };
Dir::State "$apt/state"; Dir::State::status "$apt/status"; Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list"; Dir::Etc::sourceparts "-";
APT::Sandbox::User "root"; Acquire::Languages "none";
CONF
export APT_CONFIG=$apt/apt.conf
apt-get update -qq
apt-get install -qq --yes --no-install-recommends --download-only "$@" >/dev/null
for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
rm -r "$apt"
