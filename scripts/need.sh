#!/usr/bin/env bash
# Checks Python before anything is installed, and says how to install what is missing.
set -u
python=${1:-}
fail() { printf '%s\n' "$@" >&2; exit 1; }
way_out=(
  "Install one: 'apt-get install python3 python3-venv' (Debian 12 and 13, Ubuntu 24.04), 'brew install python@3.13' (macOS),"
  "or set its path: make PYTHON=/path/to/python3.12"
)

[ -n "$python" ] || fail "Evergreen needs Python 3.11, 3.12 or 3.13 with its module venv, and found none." "${way_out[@]}"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
[ -n "$version" ] || fail "Evergreen needs Python 3.11, 3.12 or 3.13, and '$python' does not run." "${way_out[@]}"
case $version in
  3.11 | 3.12 | 3.13) ;;
  *) fail "Evergreen needs Python 3.11, 3.12 or 3.13; '$python' is $version." "${way_out[@]}" ;;
esac
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail \
  "'$python' cannot make virtual environments: its module venv or ensurepip is missing." \
  "Install it: 'apt-get install python$version-venv' (Debian, Ubuntu)"
