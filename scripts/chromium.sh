#!/usr/bin/env bash
# What Grafana's own components are drawn with: Chromium, node and npm. Debian's packages are installed where that can
# be done. Says why when it cannot, and exits 3.
set -euo pipefail
cannot() { printf '%s\n' "$@" >&2; exit 3; }

packages=()
command -v chromium >/dev/null || packages+=(chromium fonts-noto-cjk)
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
if [ "${#packages[@]}" -gt 0 ]; then
  command -v apt-get >/dev/null || cannot "Missing here, and this is no Debian: ${packages[*]}"
  [ "$(id -u)" = 0 ] ||
    cannot "Installing takes root: sudo apt-get install -y --no-install-recommends ${packages[*]}"
  echo "Installing Debian's ${packages[*]}" >&2
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null 2>&1 ||
    cannot "Debian's packages could not be installed; try by hand: apt-get install -y ${packages[*]}"
fi
command -v chromium
