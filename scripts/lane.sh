#!/usr/bin/env bash
# One lane of `make test-all`: lane.sh NAME PROGRAM... . The programs get what the lane needs and exit 3 with the reason
# where they cannot. Then the lane is left out, or, with TESTS_OBLIGATORY=1, has failed.
set -euo pipefail
name=$1
shift
for part in "$@"; do
  if ! why=$("$part" 2>&1 >/dev/null); then
    printf 'Lane %s does not run: %s\n' "$name" "$why" >&2
    [ -z "${TESTS_OBLIGATORY:-}" ] || exit 1
    exit 0
  fi
done
echo "Lane $name"
exec .venv/bin/python -m pytest -q -m "$name" tests
