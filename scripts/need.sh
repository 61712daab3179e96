#!/usr/bin/env bash
# Checks for Python 3.11 and Java 17 before anything is installed, and says how to install what is missing.
set -u
python=${1:-python3.11}
fail() { printf '%s\n' "$@" >&2; exit 1; }

command -v "$python" >/dev/null || fail \
  "Evergreen needs Python 3.11, and '$python' was not found." \
  "Install it: 'apt-get install python3.11 python3.11-venv' (Debian, Ubuntu), 'brew install python@3.11' (macOS)," \
  "or set its path: make PYTHON=/path/to/python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || fail "Evergreen needs Python 3.11; '$python' is $version. Set the path of another: make PYTHON=/path/to/python3.11"

java=java
[ -n "${JAVA_HOME:-}" ] && java="$JAVA_HOME/bin/java"
found=$("$java" -version 2>&1 | sed -nE 's/.*version "([0-9]+)[^"]*".*/\1/p' | head -n 1)
[ "$found" = 17 ] || fail \
  "Evergreen needs Java 17 for Spark; found $( [ -n "$found" ] && echo "Java $found" || echo none ) ($java)." \
  "Install it: 'apt-get install openjdk-17-jre-headless' (Debian, Ubuntu), 'brew install openjdk@17' (macOS)," \
  "and set JAVA_HOME or PATH accordingly."
