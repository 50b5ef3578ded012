#!/usr/bin/env bash
# Stop the gateway that was started from this folder, by the process id that it left. Engines go with it.
set -euo pipefail
file=${GATEWAY_RUN_DIR:-.run}/gateway.pid
if [ ! -s "$file" ]; then
  echo "No gateway of this folder runs."
  exit 0
fi
pid=$(cat "$file")
# A process id can be used again by something else: look before stopping.
if ! tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- '-m gateway serve'; then
  rm -f "$file"
  echo "No gateway of this folder runs."
  exit 0
fi
kill -TERM "$pid"
for _ in $(seq 1 600); do
  kill -0 "$pid" 2>/dev/null || { echo "Stopped."; exit 0; }
  sleep 0.1
done
echo "The gateway (process $pid) is still finishing running answers; it has been told to stop." >&2
exit 1
