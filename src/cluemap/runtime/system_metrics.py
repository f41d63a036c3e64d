"""How hard the machine works: what goes beside the curves, under the prefix that MLflow shows as system metrics."""

import shutil

import psutil
import torch

from cluemap import paths
from cluemap.runtime.memory import peak

GIB = 2**30
psutil.cpu_percent()  # counts from here on: a first call has nothing to compare with


def system(device: torch.device) -> dict[str, float]:
    """Peak memory of this process and of its GPU (GiB), share of all cores and of the GPU at work, free disk."""
    found = {
        "memory_gib": peak() / GIB,
        "machine_memory_percent": psutil.virtual_memory().percent,
        "cpu_percent": psutil.cpu_percent(),
        "disk_free_gib": shutil.disk_usage(paths.ROOT).free / GIB,
    }
    if device.type == "cuda":
        found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        found |= _gpu_at_work(device)
    return {f"system/{name}": value for name, value in found.items()}


def _gpu_at_work(device: torch.device) -> dict[str, float]:
    try:
        return {"gpu_percent": float(torch.cuda.utilization(device))}
    except (ModuleNotFoundError, RuntimeError):  # it asks nvidia-ml-py, which only GPU machines need
        return {}
