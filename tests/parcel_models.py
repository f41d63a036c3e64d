"""A parcel network with random weights as a file, as `train_parcels` leaves it."""

import torch

from cluemap.data.parcels.parcel import GEOMETRY
from cluemap.data.patches import CropClass, Legend
from cluemap.model.networks.parcels.parcel_network import ParcelNetwork
from cluemap.model.storage import checkpoints
from cluemap.model.storage.parcel_models import FILE, KIND
from cluemap.params import load_params

LEGEND = Legend(("B04", "B08", "B11"), (0, 0, 0), tuple(CropClass(name, "#ff7f0e") for name in "abcd"), False)
SCALING = {"mean": [900, 1500, 1100], "std": [300, 500, 400], "geometry_mean": [120, 9, 0.8, 0.3],
           "geometry_std": [60, 11, 0.2, 0.2]}  # fmt: skip
TEMPERATURE = 1.6
MIDDLE = 377.5  # day in the middle of the training's season, from autumn to spring


def write_parcel_model(folder, kind="pse_tae", seed=3, dataset="d", **changes) -> dict[str, torch.Tensor]:
    """Write it to `folder`; gives the network's weights. Its normalisation has seen something."""
    params = load_params("demo").parcels.model_copy(update={"least_pixels": 3, "kind": kind})
    torch.manual_seed(seed)
    network = ParcelNetwork(3, 4, 4, params)
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name == "classes.2.weight":
            value.mul_(20)  # parcels differ
    told = {"kind": KIND, "dataset": dataset, "digest": "x", "legend": LEGEND.to_json(), "geometry": list(GEOMETRY),
            "background": False, "scaling": SCALING, "network": params.model_dump(mode="json"),
            "training": {"days": [5, 50, 90, 300, 340], "dates": [3, 5, 7]}, "temperature": TEMPERATURE,
            "middle_day": MIDDLE}  # fmt: skip
    checkpoints.save(folder / FILE, {f"network/{name}": value for name, value in state.items()}, {**told, **changes})
    return state
