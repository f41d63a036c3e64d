"""One process or many: starting under torchrun, joining the group, and the few sums that cross ranks."""

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluemap.errors import TrainingError
from cluemap.runtime import threads
from cluemap.runtime.memory import keep_freed

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # what torchrun tells each process
MEETING = ("MASTER_ADDR", "MASTER_PORT")  # where they find each other
LAUNCHER = Path(__file__).with_name("launcher.py")
GRACE = 170  # seconds that ranks have after SIGTERM to finish their step and save
FIRST_SPEAKS = 10.0  # seconds that a rank with an error gives the first one to tell of the same
TIMEOUT = timedelta(minutes=30)  # a rank that waits longer for the others gives up


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Only this rank writes and logs."""
        return self.rank == 0

    def total(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape, summed over all ranks; the same bits on each. No gradient passes."""
        if self.world == 1:
            return x
        summed = x.detach().clone()
        dist.all_reduce(summed)
        return summed

    def gather(self, mine: Any) -> list[Any]:
        """Every rank's object, in rank order, on rank 0; an empty list elsewhere."""
        if self.world == 1:
            return [mine]
        everyone: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(mine, everyone)
        return everyone or []

    def shared_out(self, items: Sequence[Any], work: Callable[[Any], Any]) -> Iterator[Any]:
        """`work` of every item, in their order, on rank 0; nothing elsewhere. Every rank does each world-th of them, as
        rank 0 goes through what is given: so all ranks have to loop over it.
        """
        for start in range(0, len(items), self.world):
            mine = start + self.rank
            found = self.gather((work(items[mine]),) if mine < len(items) else None)
            yield from (one[0] for one in found if one is not None)

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def alike(self, tensors: dict[str, Tensor]) -> bool:
        """Whether the tensors are the same on every rank, to the bit. The answer is the same on every rank."""
        if self.world == 1 or not tensors:
            return True
        mine = hashlib.blake2b(b"".join(value.cpu().numpy().tobytes() for value in tensors.values()))
        return self.agree(len(set(self.gather(mine.hexdigest()))) == 1)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


ALONE = Ranks(0, 1, torch.device("cpu"))  # one process, for what the CPU does


def wanted_processes() -> int:
    """CLUEMAP_PROCESSES, else the number of visible GPUs, else 1.

    Raises:
        TrainingError: CLUEMAP_PROCESSES is no whole number of at least 1.
    """
    text = os.environ.get("CLUEMAP_PROCESSES")
    if text is None and os.environ.get("CLUEMAP_DEVICE", "cuda") != "cuda":
        return 1
    if text is None:
        return max(1, torch.cuda.device_count())
    if not text.isdigit() or int(text) < 1:
        raise TrainingError(f"CLUEMAP_PROCESSES is {text!r}: give a whole number of processes, or unset it")
    return int(text)


def launched() -> bool:
    """Whether torchrun (or anything that speaks its environment) started this process.

    Some of the variables alone, left over in a shell or set by a cluster for other ends, say nothing.
    """
    return all(os.environ.get(name) for name in (*PLACE, *MEETING))


def torchrun_command(script: str, arguments: list[str], processes: int) -> list[str]:
    """The command line that runs `script` in `processes` processes of this machine."""
    return [
        sys.executable, str(LAUNCHER), "--standalone", f"--nproc-per-node={processes}",
        "--max-restarts=0", f"--shutdown-timeout={GRACE}", script, *arguments,
    ]  # fmt: skip


def run_under_torchrun(script: str, arguments: list[str], processes: int) -> int:
    """Start the ranks, pass SIGTERM and SIGINT on to them, and return their exit status."""
    environment = {**os.environ, **threads.share(processes, os.environ)}
    child = subprocess.Popen(
        torchrun_command(script, arguments, processes), env=environment, preexec_fn=dying_with_parent()
    )
    pass_on = lambda received, _frame: child.send_signal(received)
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def join() -> Ranks:
    """Join the process group torchrun announced; alone without one. Device from CLUEMAP_DEVICE, else GPU, else CPU.

    Raises:
        TrainingError: more processes than GPUs.
    """
    if not launched():
        return alone()
    rank, world, local = (int(os.environ[name]) for name in PLACE)
    device = _prepared_device(local)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return Ranks(rank, world, device)


def alone() -> Ranks:
    """One process with its device, whatever a launcher left in the environment; raises as `join`."""
    return Ranks(0, 1, _prepared_device(0))


def say_error(text: str) -> None:
    """A line on stderr. Of several ranks with the same error the first says it, and torchrun ends the others."""
    if launched() and os.environ["RANK"] != "0":
        time.sleep(FIRST_SPEAKS)
    sys.stderr.write(f"{text}\n")  # in one piece: the ranks share the terminal


def _prepared_device(local: int) -> torch.device:
    """The device of this machine's process `local`, with threads and memory set up for it."""
    keep_freed()
    if threads.COUNT not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), threads.cores()))  # OpenMP sees no container's quota
    kind = os.environ.get("CLUEMAP_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and local >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        mend = f"set CLUEMAP_PROCESSES={max(seen, 1)} or CLUEMAP_DEVICE=cpu"
        raise TrainingError(f"process {local} has no GPU of its own ({seen} visible): {mend}")
    device = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # cuDNN's own default: convolutions of fp32 in 10 bits of fraction
    return device


def leave(ranks: Ranks) -> None:
    """Leave the process group in good order."""
    if ranks.world > 1 and dist.is_initialized():
        dist.destroy_process_group()


def dying_with_parent() -> Callable[[], None]:
    """For Popen's preexec_fn. Linux: the child gets SIGTERM when the thread that started it ends, however it ends."""
    if sys.platform != "linux":
        return lambda: None
    library, parent = ctypes.CDLL(None), os.getpid()

    def arrange() -> None:
        library.prctl(1, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before this was arranged
            os._exit(128 + signal.SIGTERM)

    return arrange
