#!/usr/bin/env bash
# Resolve pyproject.toml into lock files: hashes, no download addresses, one file for every platform
# and every Python from 3.11. Needs uv in the environment: pip install uv.
set -euo pipefail
uv=$1/bin/uv
[ -x "$uv" ] || "$1/bin/python" -m pip install --quiet uv
plain=(pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
  --no-emit-index-url --no-emit-find-links --no-annotate)
common=("${plain[@]}" --extra local --extra chat pyproject.toml)
"$uv" "${common[@]}" --output-file requirements/runtime.lock
"$uv" "${common[@]}" --extra gpu --extra otel --group dev --output-file requirements/dev.lock
# The GPU sidecar is a small image of its own, in the versions that the tests run with.
"$uv" "${plain[@]}" --constraint requirements/dev.lock --output-file monitoring/gpu/requirements.lock \
  monitoring/gpu/requirements.in
