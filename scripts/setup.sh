#!/usr/bin/env bash
# Make the environment: setup.sh PYTHON VENV LOCKFILE. Says what to install where something is missing.
set -euo pipefail
python=$1 venv=$2 lock=$3

fail() { printf '%s\n' "$@" >&2; exit 1; }
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo "

command -v "$python" >/dev/null || fail "There is no $python. Install Python 3.11 or newer, or run: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version) is too old: 3.11 or newer is needed. Run: make PYTHON=/path/to/python3.11"

if [ ! -x "$venv/bin/python" ]; then
  echo "Creating $venv with $("$python" --version)"
  if ! "$python" -m venv "$venv" >/dev/null 2>&1 || [ ! -x "$venv/bin/pip" ]; then
    rm -rf "$venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      echo "The venv module is missing; installing Debian's python3-venv"
      { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } >/dev/null
      "$python" -m venv "$venv"
    else
      fail "Python's venv module is missing. Install it and try again: ${as_root}apt-get install -y python3-venv"
    fi
  fi
fi

echo "Installing from $lock"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --timeout 60 --no-deps --require-hashes -r "$lock"

# llama.cpp's wheel uses the system's OpenMP library, which minimal images lack.
if ! "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null && [ "$(uname)" = Linux ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian's libgomp1 for the embedded engine"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1; } >/dev/null
  else
    echo "The embedded engine needs libgomp: ${as_root}apt-get install -y libgomp1" >&2
  fi
fi
