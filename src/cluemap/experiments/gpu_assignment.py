"""Which GPUs each of several trials at once gets."""

import os

import torch

from cluemap.errors import TrainingError
from cluemap.runtime import threads


def devices() -> list[str]:
    """The visible GPUs, as CUDA_VISIBLE_DEVICES names them; none with CLUEMAP_DEVICE=cpu."""
    if os.environ.get("CLUEMAP_DEVICE", "cuda") != "cuda":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",") if name.strip()]


def shares(found: list[str], jobs: int) -> list[dict[str, str]]:
    """The environment of each of `jobs` trials at once: GPUs of its own, or its share of the processor's cores.

    Raises:
        TrainingError: fewer GPUs than jobs, or fewer in a share than CLUEMAP_PROCESSES.
    """
    if found and jobs > len(found):
        raise TrainingError(f"--jobs {jobs} wants {jobs} GPUs, {len(found)} are visible: give fewer jobs")
    wanted = int(os.environ.get("CLUEMAP_PROCESSES", "1"))
    if not found:
        mine = threads.share(jobs * wanted, os.environ)
        return [mine if jobs > 1 else {} for _ in range(jobs)]
    size, rest = divmod(len(found), jobs)
    if wanted > size:
        raise TrainingError(f"CLUEMAP_PROCESSES is {wanted} and each of {jobs} jobs has {size} GPUs: give fewer jobs")
    ends = [0]
    for job in range(jobs):
        ends.append(ends[-1] + size + (job < rest))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(found[ends[job] : ends[job + 1]])} for job in range(jobs)]


def processes(share: dict[str, str]) -> int:
    """How many processes, one a GPU, a trial with this share runs in."""
    told = os.environ.get("CLUEMAP_PROCESSES")
    return int(told) if told else max(1, len(share.get("CUDA_VISIBLE_DEVICES", "").split(",")))
