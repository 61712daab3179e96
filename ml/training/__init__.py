"""From training data to a trained day: steps, states, checkpoints and snapshots, and what is told of them to MLflow."""

import os

# MLflow reads these at its import; a user's own choice stands.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
