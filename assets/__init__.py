"""One graph of daily assets and checks for each dataset of the catalog. The work is in `ml/`, schedules in `orchestration/`."""

import warnings

import dagster as dg

# Partitioned checks and single-run backfills are used on purpose; a warning per asset would hide all others.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
