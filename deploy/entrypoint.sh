#!/usr/bin/env bash
# Passes the password of PostgreSQL from its secret to Dagster, which reads it from the environment. Then runs the command.
set -euo pipefail
secret="${EVERGREEN_PG_PASSWORD_FILE:-}"
if [[ -n "$secret" ]]; then
  EVERGREEN_PG_PASSWORD="$(<"$secret")"
  export EVERGREEN_PG_PASSWORD
fi
exec "$@"
