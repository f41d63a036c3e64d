"""Batch normalisation of rows that is the same for one process and for many."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function


class RowNorm(nn.BatchNorm1d):
    """n c -> n c: each channel to mean 0 and variance 1 over the rows of all processes; at test by running means.

    torch's own takes each process's rows alone on CPUs, so that a result would depend on the number of processes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = _over_processes(x.new_tensor(float(len(x))))
        mean = _over_processes(x.sum(dim=0)) / count
        variance = _over_processes(((x - mean) ** 2).sum(dim=0)) / count
        with torch.no_grad():
            share = self.momentum or 0.0
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)  # type: ignore[union-attr]
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return (x - mean) * (torch.rsqrt(variance + self.eps) * self.weight) + self.bias


def _over_processes(x: Tensor) -> Tensor:
    """The sum over all processes; gradients pass."""
    many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _Total.apply(x) if many else x


class _Total(Function):
    """The sum over processes. What a process adds goes into every process's loss, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


class RowLayer(nn.Sequential):
    """n c -> n d: Linear, RowNorm and, unless it is a last one, ReLU."""

    def __init__(self, given: int, width: int, last: bool = False):
        super().__init__(nn.Linear(given, width), RowNorm(width), *([] if last else [nn.ReLU()]))
