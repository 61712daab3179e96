"""What there is: one graph of daily assets and checks per dataset of the catalog. How is `ml/`, when is `orchestration/`."""

import warnings

import dagster as dg

# Partitioned checks and single-run backfills are in use on purpose; a warning for each asset would bury the rest.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
