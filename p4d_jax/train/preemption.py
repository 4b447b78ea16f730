"""How a run ends when its machine is taken away: it saves the step that it is at, and says that it may go on.

SIGTERM (a cluster's notice) and SIGINT (Ctrl-C) ask for the end. Of several processes one that is asked is
enough: JAX's coordination service tells the others, and all of them stop at the same step. The run then
raises `errors.Preempted`, whose exit code tells launchers to start the same command again.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Notice:
    """Listens for the request to end, while it is open."""

    def __init__(self) -> None:
        self._asked, self._before = False, {}

    def __enter__(self) -> Notice:
        if threading.current_thread() is threading.main_thread():
            listening = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
            # Of several processes JAX itself listens for SIGTERM.
            self._before = {number: signal.signal(number, self._hear) for number in listening}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C: at once
        self._asked = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def came(self, step: int) -> bool:
        """Whether to end after this step, the same answer in all processes; all must ask, each step once."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
