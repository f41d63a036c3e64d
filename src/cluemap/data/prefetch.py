"""Making things ahead of their use, in a thread that cannot be left behind."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], prefetch: int) -> Iterator[Item]:
    """The same items in the same order, made up to `prefetch` ahead by a thread."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=prefetch)
    stopped = threading.Event()

    def put(kind: str, content: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put((kind, content), timeout=0.05)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, name="cluemap-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, content = ready.get()
            if kind == "error":
                raise content
            if kind == "end":
                return
            yield content
    finally:
        stopped.set()
        thread.join()
