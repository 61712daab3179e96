# The variables that `make` exports, for commands typed by hand from the repository's root: `. ./env.sh`
export EVERGREEN_HOME="${EVERGREEN_HOME:-$PWD/.evergreen}"
export DAGSTER_HOME="${DAGSTER_HOME:-$PWD}"
export EVERGREEN_DAGSTER="$EVERGREEN_HOME/dagster"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # spinning OpenMP threads make two processes on two cores crawl
