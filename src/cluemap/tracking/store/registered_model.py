"""A registered segmenter as MLflow loads it. This file is copied into the model: it needs torch, numpy and mlflow only.

    model = mlflow.pyfunc.load_model("models:/cluemap-demo-segmenter@champion")
    maps = model.predict({"images": images, "days": days})

images: int16 n t c h w, as the data set publishes them; -10000 where there is no data.
days:   int16 n t, day of year 1..366; 0 for dates that only fill a short series up.
maps:   uint8 n h w, the class of each pixel; the model's metadata names the classes.
"""

import warnings
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

CHUNK = 48  # windows at once

# MLflow asks for type hints, which a dict of tensors of any length cannot have, and sets a filter of its own before it
# does: an "ignore" here would not be heard.
with warnings.catch_warnings(record=True):

    class RegisteredSegmenter(PythonModel):
        """Raw windows in, crop maps out."""

        def load_context(self, context: Any) -> None:
            self._network = torch.export.load(context.artifacts["network"]).module()

        def predict(self, context, model_input, params=None):
            """{"images", "days"} -> n h w."""
            images, days = (torch.from_numpy(np.ascontiguousarray(model_input[name])) for name in ("images", "days"))
            parts = zip(images.split(CHUNK), days.split(CHUNK), strict=True)
            with torch.no_grad():
                return np.concatenate([self._network(*part).numpy() for part in parts])


set_model(RegisteredSegmenter())
