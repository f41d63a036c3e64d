"""Programs that the slow tests of tracking start: several writers on one fresh store, and a training to be killed."""

import multiprocessing
import sys
import time
from pathlib import Path

from runs import journal_of, opened, train

from cluemap import paths
from cluemap.tracking import RunRef


def write(root: Path, writer: int, steps: int) -> None:
    """One process of several: a run with `steps` points, delivered now and then, and an artifact."""
    paths.ROOT = root
    with opened(root, name=f"writer {writer}", journal=root / "out" / str(writer) / "journal.jsonl") as run:
        for start in range(0, steps, steps // 3):
            train(run, start, min(steps, start + steps // 3))
            run.flush()
        (root / f"{writer}.txt").write_text(str(writer))
        run.artifact(root / f"{writer}.txt")


def writers(roots: list[Path], count: int, steps: int) -> None:
    """Each root in turn: `count` processes that start at once where there is no store yet."""
    import cluemap.tracking.store.mlflow_store  # noqa: F401 (before the fork: saves each its import)

    fork = multiprocessing.get_context("fork")
    for root in roots:
        processes = [fork.Process(target=write, args=(root, writer, steps)) for writer in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                sys.exit(f"a writer ended with {process.exitcode}")


def training(root: Path, first: int, last: int, key: str) -> None:
    """Train until killed; says which run it has, so that its parent knows when to kill it."""
    with opened(root, resume=RunRef(key) if key else None) as run:
        print(run.ref.key, run.id, flush=True)
        for step in range(first, last):
            train(run, step, step + 1)
            if step % 7 == 0:
                run.flush()
            time.sleep(0.002)
        print("trained", flush=True)
    assert not journal_of(root).exists()


if __name__ == "__main__":
    if sys.argv[1] == "writers":
        writers([Path(root) for root in sys.argv[4:]], int(sys.argv[2]), int(sys.argv[3]))
    else:
        training(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
