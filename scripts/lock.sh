#!/usr/bin/env bash
# Resolve pyproject.toml into lock files: hashes, no download addresses, one file for every platform
# and every Python from 3.11. Needs uv in the environment: pip install uv.
set -euo pipefail
uv=$1/bin/uv
[ -x "$uv" ] || "$1/bin/python" -m pip install --quiet uv
common=(pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
  --no-emit-index-url --no-emit-find-links --no-annotate)
local=(--extra local --extra chat --extra weights)
"$uv" "${common[@]}" "${local[@]}" pyproject.toml --output-file requirements/runtime.lock
"$uv" "${common[@]}" "${local[@]}" --extra gpu --extra otel --group dev pyproject.toml --output-file requirements/dev.lock
# What the container of the gateway has: no engine, but the card's memory, traces, and weights for `models pull`.
"$uv" "${common[@]}" --extra gpu --extra otel --extra weights pyproject.toml --output-file requirements/image.lock
# The compiler of the hot modules, in the versions that the tests run with.
"$uv" "${common[@]}" --constraint requirements/dev.lock --group compile --output-file requirements/compile.lock
# The GPU sidecar is a small image of its own, in the versions that the tests run with.
"$uv" "${common[@]}" --constraint requirements/dev.lock --output-file monitoring/gpu/requirements.lock \
  monitoring/gpu/requirements.in
