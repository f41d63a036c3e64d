"""Making things ahead of their use, in a thread that cannot be left behind."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], prefetch: int) -> Iterator[Item]:
    """The same items in the same order; a thread makes up to `prefetch` ahead of the one that was taken last."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue()
    stopped, room = threading.Event(), threading.Semaphore(prefetch)

    def work() -> None:
        try:
            source = iter(items)
            while True:
                room.acquire()
                if stopped.is_set():
                    return
                ready.put(("item", next(source)))
        except StopIteration:
            ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))

    thread = threading.Thread(target=work, name="cluemap-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, content = ready.get()
            if kind == "error":
                raise content
            if kind == "end":
                return
            room.release()
            yield content
    finally:
        stopped.set()
        room.release()
        thread.join()
