#!/bin/sh
# Installs the Debian packages that are missing; says nothing when none is.
# "setup.sh" for building and running, "setup.sh demo" for what the demo reads pages with,
# "setup.sh tests" for the tests as well, "setup.sh bench" for what the benchmark compares with.
set -eu

packages="gcc libc6-dev cmake ninja-build pkg-config
  liblua5.4-dev lua-cjson lua-argparse lua-rex-pcre2 libcurl4-openssl-dev libedit-dev libmicrohttpd-dev nettle-dev ca-certificates"
[ -z "${1-}" ] || [ "$1" = bench ] || packages="$packages tesseract-ocr diffutils"
if [ "${1-}" = tests ]; then
  packages="$packages clang libclang-rt-dev clang-format clang-tidy lua-busted lua-check
    libcmocka-dev json-schema-test-suite python3 curl openssl procps chromium
    git dpkg-dev file zsh fish lua5.4"
  # Any node and npm will do, wherever they come from.
  command -v node >/dev/null || packages="$packages nodejs"
  command -v npm >/dev/null || packages="$packages npm"
fi
if [ "${1-}" = bench ]; then
  packages="$packages g++ libsimdjson-dev python3 curl findutils lua5.4"
  command -v node >/dev/null || packages="$packages nodejs"
fi

missing=
for package in $packages; do
  dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "setup.sh: these packages are missing and installing them needs root:$missing" >&2
    exit 1
  }
  as_root=sudo
fi
echo "setup.sh: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >"$log" 2>&1; }
{ $as_root apt-get update >"$log" 2>&1 && install; } || {
  cat "$log" >&2
  echo "setup.sh: apt-get could not install$missing" >&2
  exit 1
}
