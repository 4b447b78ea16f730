"""What a run tells of itself while it runs: log lines, TensorBoard events, pictures, a profile.

`metrics.jsonl` and the TensorBoard events hold the same numbers; the terminal gets one short line a tick.
Without tensorflow, which has no wheels for some Pythons, there are no events. Only the primary process
writes; the others call the same functions, which do nothing there.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from p4d_jax.imaging.writing import save_picture
from p4d_jax.train.flops import Work
from p4d_jax.train.processes import is_primary


class Journal:
    """Of one run, from the step at which this command starts or goes on; a context manager.

    Args:
      workdir: where it is written; made if it is not there.
      batch: pictures a step, for the speed in pictures; 0 leaves that out.
      shown: metrics that the terminal shows, where a step has them; () are all.
      work: what steps count their arithmetic in, for the share of the devices' rate; None leaves that out.
    """

    def __init__(self, workdir: Path, batch: int, shown: tuple[str, ...], work: Work | None = None):
        self.workdir, self.batch, self.shown, self.work = workdir, batch, shown, work or Work()
        self.events = open_events(workdir)
        self._spent: dict[str, float] = {}
        self._skipped = 0
        self._begun = time.time()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        if is_primary():
            self.events.close()

    @contextlib.contextmanager
    def spending(self, on: str) -> Iterator[None]:
        """Counts the time inside as lost to something: restart, compile, checkpoint, ..."""
        started = time.time()
        try:
            yield
        finally:
            self._spent[on] = self._spent.get(on, 0.0) + time.time() - started

    @contextlib.contextmanager
    def counting_step(self, waited: Callable[[], float]) -> Iterator[None]:
        """Counts what a step loses: its wait for data, and of the first one all else, since it compiles.

        waited: seconds that steps have waited for data so far.
        """
        started, before, first = time.time(), waited(), "compile" not in self._spent
        yield
        data = waited() - before
        self._spent["data"] = self._spent.get("data", 0.0) + data
        if first:
            self._spent["compile"] = time.time() - started - data

    def log_goodput(self, number: int) -> None:
        """A line of `goodput.jsonl`: the share of this command's time that went into steps, and what took the
        rest of it."""
        whole = max(time.time() - self._begun, 1e-9)
        parts = {f"seconds_{on}": round(spent, 3) for on, spent in self._spent.items()}
        share = round(1 - sum(self._spent.values()) / whole, 4)
        if is_primary():
            line = {"step": number, "seconds": round(whole, 3), "goodput": share, **parts}
            line |= {"skipped_steps": self._skipped} if self._skipped else {}
            with open(self.workdir / "goodput.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            self.events.write_scalars(number, {"goodput": share})

    def log_return(self, number: int, to: int, seconds: float, times: int, why: str) -> None:
        """A return to a checkpoint, since something was not finite."""
        self._write(number, seconds, {"returned_to": to, "returns": times})
        if is_primary():
            print(f"{why}; goes back to step {to} with other noise, time {times}", flush=True)

    def log_skip(self, number: int, times: int, broken: list[str]) -> None:
        """A step of which nothing was learned, the `times`-th in a row, since something was not finite."""
        self._skipped += 1
        seconds = time.time() - self._begun
        self._write(number, seconds, {"skipped": self._skipped, "skipped_in_a_row": times})
        if is_primary():
            print(f"step {number}: {', '.join(broken)} not finite; it is skipped", flush=True)

    def start(self, number: int, done: float) -> None:
        """The clock starts: `number` steps are done, a share `done` of the run."""
        self._done, self._started = done, time.time()
        self._last = (number, self._started, self.work.done)

    def log_steps(self, number: int, done: float, seconds: float, rate: float, values: dict) -> None:
        """A tick of the run.

        Args:
          number: steps done. done: the share of the run that they are. seconds: training time so far.
          rate: the learning rate.
          values: the step's metrics.
        """
        now = time.time()
        speed = (number - self._last[0]) / max(now - self._last[1], 1e-6)
        flops = self.work.done - self._last[2]
        pace = {"rate": rate, "steps_per_second": round(speed, 4)}
        if self.batch:
            pace["images_per_second"] = round(speed * self.batch, 3)
        if self.work.rate:
            if self.batch:
                images = (number - self._last[0]) * self.batch
                pace["gflop_an_image"] = round(flops / 1e9 / images, 3)
            pace["flops_utilisation"] = round(flops / max(now - self._last[1], 1e-6) / self.work.rate, 4)
        self._last = (number, now, self.work.done)
        pace["eta_minutes"] = round(minutes_left(self._done, done, now - self._started), 2)
        self._write(number, seconds, pace | values)
        if is_primary():
            shown = {k: v for k, v in values.items() if not self.shown or k in self.shown}
            print(tick_line(number, done, pace, shown), flush=True)

    def log_scores(self, number: int, seconds: float, scores: dict) -> None:
        """An evaluation."""
        self._write(number, seconds, scores)
        if is_primary():
            print(f"step {number}: " + ", ".join(f"{k} {v:.5g}" for k, v in scores.items()), flush=True)

    def show(self, number: int, picture: np.ndarray) -> None:
        """A picture (H, W, 3) uint8."""
        if is_primary():
            save_picture(self.workdir / f"grid_{number:06d}.png", picture)
            self.events.write_images(number, {"grid": picture[None]})
            self.events.flush()

    def _write(self, number: int, seconds: float, values: dict) -> None:
        if is_primary():
            with open(self.workdir / "metrics.jsonl", "a") as log:
                log.write(json.dumps({"step": number, "seconds": round(seconds, 1), **values}) + "\n")
            self.events.write_scalars(number, values)


def open_events(workdir: Path):
    """clu's writer of TensorBoard events in the workdir, which is made; None where another process writes.

    Without clu, or tensorflow, which it writes with, a line says so, and what is written is nothing.
    """
    if not is_primary():
        return None
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        from clu.metric_writers import SummaryWriter
    except ImportError as error:
        print(
            f"no TensorBoard events: {error.name!r} is not installed, or not to be had for this Python"
            f" (extra `train`); {workdir / 'metrics.jsonl'} has the same numbers",
            flush=True,
        )
        return NoEvents()
    return SummaryWriter(str(workdir))


class NoEvents:
    """Instead of clu's writer: writes nothing."""

    def write_scalars(self, number: int, scalars: dict) -> None:
        """See clu."""

    def write_images(self, number: int, images: dict) -> None:
        """See clu."""

    def flush(self) -> None:
        """See clu."""

    def close(self) -> None:
        """See clu."""


def minutes_left(before: float, done: float, seconds: float) -> float:
    """Minutes to the end of a run that went from the share `before` to `done` in so many seconds."""
    return seconds / 60 * (1 - done) / max(done - before, 1e-9)


def tick_line(number: int, done: float, pace: dict, values: dict) -> str:
    """'step 480   12.5 %   1 h 05 min left   3.2 steps/s   25.6 images/s   31 % of the FLOP rate', values."""
    parts = [f"step {number}", f"{100 * done:.1f} %", f"{duration(pace['eta_minutes'])} left"]
    parts.append(f"{pace['steps_per_second']:.3g} steps/s")
    if "images_per_second" in pace:
        parts.append(f"{pace['images_per_second']:.3g} images/s")
    if "flops_utilisation" in pace:
        parts.append(f"{100 * pace['flops_utilisation']:.3g} % of the FLOP rate")
    return "   ".join(parts + [f"{name} {value:.3g}" for name, value in values.items()])


def duration(minutes: float) -> str:
    """'45 s', '12 min', '3 h 05 min', '2 d 4 h'."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    if minutes < 60:
        return f"{minutes:.0f} min"
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class ProfileWindow:
    """Traces some steps of this command with JAX's profiler, by the primary process.

    TensorBoard's profile plugin, or Perfetto, shows what it writes.

    Args:
      folder: for the trace.
      first: steps of this command before the trace, so that it need not show how they are compiled.
      count: steps traced; 0 traces none.
    """

    def __init__(self, folder: Path, first: int, count: int):
        self._folder, self._first, self._last = folder, first, first + count
        self._steps, self._running = 0, False
        self._wanted = count > 0 and is_primary()

    def __enter__(self) -> ProfileWindow:
        return self

    def __exit__(self, *_) -> None:
        if self._running:  # the run is shorter than the window
            jax.profiler.stop_trace()

    def before_step(self, state) -> None:
        """Starts the trace, or ends it when the steps that made `state` are done."""
        if self._wanted and self._steps == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif self._running and self._steps == self._last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
        self._steps += 1
