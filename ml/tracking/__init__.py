"""Experiment tracking with MLflow. `ml.training` reaches it through a small protocol and works without it."""

import os

# MLflow reads these when it is imported; values set by the user take precedence.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# If a server refuses requests, give up after half a minute instead of four. Metrics are sent again later.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
