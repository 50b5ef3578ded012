#!/usr/bin/env bash
# Print the path of a real InfluxDB of the 1.x line; Debian's package is installed where that can be done.
# Says why when it cannot, and exits 3.
set -euo pipefail
cannot() { printf '%s\n' "$@" >&2; exit 3; }

if ! command -v influxd >/dev/null; then
  command -v apt-get >/dev/null ||
    cannot "InfluxDB is missing and this is no Debian: install InfluxDB 1.x so that influxd is on the PATH."
  [ "$(id -u)" = 0 ] ||
    cannot "InfluxDB is missing and installing it takes root: sudo apt-get install -y --no-install-recommends influxdb"
  echo "Installing Debian's influxdb" >&2
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends influxdb; } >/dev/null 2>&1 ||
    cannot "Debian's influxdb could not be installed; try by hand: apt-get install -y --no-install-recommends influxdb"
fi
influxd version | grep -q 'v1\.' ||
  cannot "The influxd on the PATH is not of the 1.x line, but $(influxd version | head -1). The lane speaks InfluxQL and v1 writes."
command -v influxd
