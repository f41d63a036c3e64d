"""torchrun without its own report of a failure: the rank that failed has said what was wrong.

    python launcher.py <torchrun's arguments>

A rank that was killed said nothing: that is reported, in one line. The exit status is torchrun's.
"""

import logging
import signal
import sys
from collections.abc import Iterable

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

NOISY = "torch.distributed.elastic"


def launch(arguments: list[str]) -> int:
    """Run torchrun in this process; 1 when a rank failed or a signal ended it, as torchrun itself does."""
    for name in logging.root.manager.loggerDict:
        if name.startswith(NOISY):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        main(arguments)
    except ChildFailedError as error:
        for line in killed({rank: failure.exitcode for rank, failure in error.failures.items()}.items()):
            print(line, file=sys.stderr)
        return 1
    except SignalException:
        return 1
    return 0


def killed(ends: Iterable[tuple[int, int]]) -> list[str]:
    """(rank, exit status) -> a line for each rank that a signal ended, but for those that torchrun then stopped."""
    return [
        f"process {rank} of the training was ended by {signal.Signals(-status).name}"
        + (": was there memory enough for it?" if -status == signal.SIGKILL else "")
        for rank, status in ends
        if status < 0 and -status != signal.SIGTERM
    ]


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
