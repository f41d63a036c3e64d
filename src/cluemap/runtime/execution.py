"""How a network is called: compiled, data-parallel, in which precision, with which random draws."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cluemap.params import ComputeParams
from cluemap.runtime.distributed import Ranks

logger = logging.getLogger(__name__)


def wrapped(network: nn.Module, compute: ComputeParams, ranks: Ranks) -> Callable[..., Any]:
    """The network as the loop calls it: compiled (where that works) and data-parallel where asked."""
    wanted = compute.compile and compiles(ranks.device)
    module: nn.Module = torch.compile(network) if wanted else network  # type: ignore[assignment]
    if ranks.world == 1:
        return module
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices)


def compiles(device: torch.device) -> bool:
    """Whether torch.compile works here: a missing compiler shows only when a compiled function is first called."""
    try:
        torch.compile(lambda x: x.cos() + 1)(torch.zeros(2, device=device))
    except Exception as error:
        reason = [*str(error).splitlines(), type(error).__name__][0]
        logger.warning("compute.compile is set, but torch.compile does not work here (%s): going on without it", reason)
        return False
    return True


def autocast(compute: ComputeParams, device: torch.device) -> torch.autocast:
    """The context in which networks run under `compute.precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute.precision == "bf16")


def seed_draws(seed: int, step: int, rank: int) -> None:
    """Make every random draw of this step and rank a function of the three numbers."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))
