"""A registered parcel network as MLflow loads it. This file is copied into the model: torch, numpy and mlflow suffice.

    model = mlflow.pyfunc.load_model("models:/cluemap-demo-parcels@champion")
    shares = model.predict({"pixels": pixels, "days": days, "geometry": geometry})

pixels:   int16 n s t c, reflectance as the data set publishes it; -10000 where a pixel was not seen, or only fills up.
days:     int16 n t, rising: 1 = 1 January of the year in which the series begins, or of another, counted on over New
          Year; 0 for dates that only fill up.
geometry: float32 n g, the geometric features that the model's metadata names.
shares:   float32 n k, the probability of each class, in the order of the metadata's classes.
"""

import warnings
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

CHUNK = 64  # parcels at once
INPUTS = ("pixels", "days", "geometry")

with warnings.catch_warnings(record=True):  # MLflow asks for type hints, as of the registered segmenter

    class RegisteredParcels(PythonModel):
        """Raw parcels in, probabilities of their crops out."""

        def load_context(self, context: Any) -> None:
            self._network = torch.export.load(context.artifacts["network"]).module()

        def predict(self, context, model_input, params=None):
            """{"pixels", "days", "geometry"} -> n k."""
            given = (torch.from_numpy(np.ascontiguousarray(model_input[name])).split(CHUNK) for name in INPUTS)
            with torch.no_grad():
                return np.concatenate([self._network(*part).numpy() for part in zip(*given, strict=True)])


set_model(RegisteredParcels())
