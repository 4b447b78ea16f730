"""One thread that computes, so that the loop that answers browsers never waits.

Tasks have a key, which says whose they are. Of each key one task waits: a newer one takes its place, since
nobody wants the picture of where the mouse was. Keys take turns: after its task a key stands at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future


class Worker:
    """A thread and the tasks that wait for it."""

    def __init__(self, name: str):
        self._waiting: dict[Hashable, tuple[Future, Callable[[], object]]] = {}  # in order of their turns
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, key: Hashable, task: Callable[[], object]) -> Future:
        """The result to come of a task; it is cancelled when a newer task of this key takes its place."""
        future: Future = Future()
        with self._changed:
            if not self._open:
                future.cancel()
                return future
            before = self._waiting.get(key)
            self._waiting[key] = future, task  # a key that waits keeps its turn
            self._changed.notify()
        if before is not None:
            before[0].cancel()
        return future

    def forget(self, key: Hashable) -> None:
        """Cancels what waits of a key."""
        with self._changed:
            before = self._waiting.pop(key, None)
        if before is not None:
            before[0].cancel()

    def close(self) -> None:
        """Ends after the task at hand; what waits is cancelled."""
        with self._changed:
            self._open = False
            waiting = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify()
        for future, _ in waiting:
            future.cancel()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._waiting:
                    self._changed.wait()
                if not self._waiting:
                    return
                future, task = self._waiting.pop(next(iter(self._waiting)))
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(task())
            except BaseException as error:  # is the caller's: this thread serves all sessions
                future.set_exception(error)
