"""What MLflow runs to rebuild a logged model ("model from code"). It is never imported; the model is `ml.artifacts.scorer`."""

from mlflow.models import set_model

from ml.artifacts.scorer import RawLogScorer

set_model(RawLogScorer())
