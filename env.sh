# Exports the variables that `make` exports. Source it from the repository's root before other commands: `. ./env.sh`
export EVERGREEN_HOME="${EVERGREEN_HOME:-$PWD/.evergreen}"
export DAGSTER_HOME="${DAGSTER_HOME:-$PWD}"
export EVERGREEN_DAGSTER="$EVERGREEN_HOME/dagster"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # by default, idle OpenMP threads spin
