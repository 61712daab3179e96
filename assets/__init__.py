"""What there is: one graph of daily assets and checks per dataset of the catalog. How is `ml/`, when is `orchestration/`."""
