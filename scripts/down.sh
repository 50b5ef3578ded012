#!/usr/bin/env bash
# Stop every gateway that was started from this folder, by the process ids that they left. Engines go with them.
set -euo pipefail
shopt -s nullglob
pids=()
for file in "${GATEWAY_RUN_DIR:-.run}"/gateway.pid "${GATEWAY_RUN_DIR:-.run}"/gateway-*.pid; do
  [ -s "$file" ] || continue
  pid=$(cat "$file")
  # A process id can be used again by something else: look before stopping.
  if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- '-m gateway serve'; then
    kill -TERM "$pid"
    pids+=("$pid")
  else
    rm -f "$file"
  fi
done
if [ ${#pids[@]} -eq 0 ]; then
  echo "No gateway of this folder runs."
  exit 0
fi
for _ in $(seq 1 600); do
  left=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then left+=("$pid"); fi
  done
  [ ${#left[@]} -gt 0 ] || { echo "Stopped."; exit 0; }
  sleep 0.1
done
echo "The gateway (process ${left[*]}) is still finishing running answers; it has been told to stop." >&2
exit 1
