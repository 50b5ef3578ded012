#!/usr/bin/env bash
# What the containers lane needs: a Docker Engine that a test may start, and what a base image is made of. Debian's
# packages are installed where that can be done. Says why when it cannot, and exits 3.
set -euo pipefail
cannot() { printf '%s\n' "$@" >&2; exit 3; }
packages=(docker.io mmdebstrap iptables iproute2 util-linux gcc libc6-dev)
programs=(dockerd docker mmdebstrap iptables ip nsenter gcc)
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH

[ "$(uname)" = Linux ] || cannot "A Docker Engine of the tests' own runs on Linux only."
[ "$(id -u)" = 0 ] || cannot "The containers lane starts a Docker Engine of its own, which takes root."
missing=()
for program in "${programs[@]}"; do command -v "$program" >/dev/null || missing+=("$program"); done
[ -x /usr/bin/docker ] || missing+=(/usr/bin/docker)
if [ "${#missing[@]}" -gt 0 ]; then
  command -v apt-get >/dev/null || cannot "Missing here, and this is no Debian: ${missing[*]}"
  echo "Installing ${packages[*]}" >&2
  # Debian starts a daemon of its own with the package; ours is another one.
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null 2>&1 ||
    cannot "Debian's packages could not be installed; try by hand: apt-get install -y ${packages[*]}"
fi
command -v dockerd
