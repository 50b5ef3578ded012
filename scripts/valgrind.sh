#!/usr/bin/env bash
# What the instructions lane needs: valgrind, from Debian where that can be done. Says why when it cannot, and exits 3.
set -euo pipefail
cannot() { printf '%s\n' "$@" >&2; exit 3; }

if ! command -v callgrind_control >/dev/null; then
  command -v apt-get >/dev/null || cannot "valgrind is not installed, and this is no Debian."
  [ "$(id -u)" = 0 ] || cannot "valgrind is not installed, and only root can do that: apt-get install -y valgrind"
  echo "Installing valgrind" >&2
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends valgrind; } >/dev/null 2>&1 ||
    cannot "Debian's package could not be installed; try by hand: apt-get install -y valgrind"
fi
command -v callgrind_control
