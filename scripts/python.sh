#!/usr/bin/env bash
# Prints the first Python of a supported version that runs and can make virtual environments; nothing if there is none.
for python in python3.11 python3.12 python3.13 python3; do
  if "$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    echo "$python"
    exit
  fi
done
