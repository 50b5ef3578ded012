#!/usr/bin/env bash
# What the compiled lane needs: a C compiler and Python's headers, from Debian where that can be done. Says why when it
# cannot, and exits 3.
set -euo pipefail
cannot() { printf '%s\n' "$@" >&2; exit 3; }

packages=""
command -v "${CC:-gcc}" >/dev/null || packages="gcc libc6-dev"
header=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h
[ -e "$header" ] || packages="$packages python3-dev"
if [ -n "$packages" ]; then
  command -v apt-get >/dev/null || cannot "It needs$packages, and this is no Debian."
  [ "$(id -u)" = 0 ] || cannot "Only root can install what it needs: apt-get install -y $packages"
  echo "Installing $packages" >&2
  # shellcheck disable=SC2086
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >/dev/null 2>&1 ||
    cannot "Debian's packages could not be installed; try by hand: apt-get install -y $packages"
  [ -e "$header" ] || cannot "This Python has no headers ($header): it is not Debian's own."
fi
