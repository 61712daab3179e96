"""What MLflow runs to rebuild a logged model ("model from code"). It is never imported; the model is `ml.training.scorer`."""

from mlflow.models import set_model

from ml.training.scorer import RawLogScorer

set_model(RawLogScorer())
