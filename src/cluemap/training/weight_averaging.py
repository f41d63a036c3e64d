"""The exponential moving average of a network's weights: what is validated, chosen and published in its place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cluemap.model.storage import checkpoints

PREFIX = "average/"  # of the averaged weights in a saved state


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights after each step; decay 0 = no average, the weights themselves.

    In the first steps the decay is smaller, (1 + step) / (10 + step), so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.network, self.decay = network, decay
        self._average = {} if decay == 0 else {name: value.clone() for name, value in self._weights().items()}

    def update(self, step: int) -> None:
        """Move the average towards the weights after `step` (counted from 0)."""
        if not self._average:
            return
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self._weights().items():
                if value.is_floating_point():
                    self._average[name].lerp_(value, share)
                else:  # a counter of batches
                    self._average[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the network has the averaged weights."""
        if not self._average:
            yield
            return
        own = {name: value.clone() for name, value in self._weights().items()}
        self.network.load_state_dict(self._average)
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def state(self) -> dict[str, Tensor]:
        """The average by name, for a saved state; empty without one."""
        return {f"{PREFIX}{name}": value for name, value in self._average.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        found = checkpoints.split(tensors, PREFIX)
        for name, value in self._average.items():
            value.copy_(found[name])

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.network.state_dict().items()}
