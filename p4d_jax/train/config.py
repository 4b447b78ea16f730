"""Settings of the training loop. Imports no JAX: command lines are read with it."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long a run trains, and how often what happens.

    Attributes:
      steps: The run ends after so many steps.
      minutes: The run also ends after so many minutes of training; 0 is no limit.
      peak_rate: Highest learning rate; where networks have rates of their own, a factor of theirs.
      warmup: Steps in which the learning rate rises from 0 to its peak.
      final_share: Share of the peak at which the learning rate ends, after a cosine; 1 is a constant rate.
      log_every: Steps between two lines of the log.
      grid_every: Steps between two pictures of the run.
      save_minutes: Minutes between two checkpoints.
      keep: How many checkpoints are kept; the best one is kept beside them.
      evaluate_every: Steps between two evaluations, where there is something to evaluate; 0 evaluates at the
        end alone.
      best: Score of an evaluation that tells which checkpoint is best; '' tells none.
      best_is: Whether the 'lowest' or the 'highest' score is the best.
      profile: Steps of this command before JAX's profiler writes a trace to `profile/`, and steps that are
        traced; (0, 0) traces none.
    """

    steps: int = 100_000
    minutes: float = 0.0
    peak_rate: float = 1.0
    warmup: int = 0
    final_share: float = 0.01
    log_every: int = 16
    grid_every: int = 6250
    save_minutes: float = 30.0
    keep: int = 2
    evaluate_every: int = 0
    best: str = ""
    best_is: str = "lowest"
    profile: tuple[int, int] = (0, 0)

    def __post_init__(self):
        if self.best_is not in ("lowest", "highest"):
            raise ValueError(f"best_is={self.best_is!r}: expected 'lowest' or 'highest'")
        if len(self.profile) != 2 or min(self.profile) < 0:
            raise ValueError(
                f"profile={self.profile!r}: expected (steps before, steps traced), as in (10, 5)"
            )

    def merit(self, scores: dict | None) -> float:
        """Of an evaluation: the larger the better; minus infinity where `best` was not measured."""
        sign = 1.0 if self.best_is == "highest" else -1.0
        return sign * scores[self.best] if scores and self.best in scores else -math.inf
