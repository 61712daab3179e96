"""The code that `mlflow.pyfunc.load_model` runs to load a logged bundle ("model from code").

MLflow executes this file; no module imports it. Nothing is pickled, and `ml` must be importable where the model is loaded.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]

from ml.artifacts.bundle import Bundle


class BundleModel(PythonModel):
    """Predicts click probabilities from a frame of N raw log rows: float32 [N], or a frame with a column for each label."""

    def load_context(self, context: Any) -> None:
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]))

    # MLflow declares that this returns None.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.float32] | pd.DataFrame:
        labels = list(self.bundle.labels)
        if len(labels) == 1:
            return self.bundle.predict(model_input)
        return pd.DataFrame(self.bundle.predict_labels(model_input), columns=pd.Index(labels))


set_model(BundleModel())
