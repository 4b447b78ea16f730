"""Settings of a training: its loop, and what the steps of all networks share.

Imports no JAX: command lines are read with it.
"""

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
      not_finite: What is done where a loss or the state is not finite: 'stop'; 'skip' the step, of which
        nothing is learned, and take the next one with its own batch, for which the state before is kept; or
        'go_back' to the last checkpoint, with other noise.
      most_not_finite: How many steps in a row may be skipped, or how often a command may go back; one more
        stops the run.
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
    not_finite: str = "stop"
    most_not_finite: int = 3
    profile: tuple[int, int] = (0, 0)

    def __post_init__(self):
        if self.best_is not in ("lowest", "highest"):
            raise ValueError(f"best_is={self.best_is!r}: expected 'lowest' or 'highest'")
        if self.not_finite not in ("stop", "skip", "go_back"):
            raise ValueError(f"not_finite={self.not_finite!r}: expected 'stop', 'skip' or 'go_back'")
        if self.most_not_finite < 1:
            raise ValueError(f"most_not_finite={self.most_not_finite}: expected at least 1")
        if len(self.profile) != 2 or min(self.profile) < 0:
            raise ValueError(
                f"profile={self.profile!r}: expected (steps before, steps traced), as in (10, 5)"
            )

    def merit(self, scores: dict | None) -> float:
        """Of an evaluation: the larger the better; minus infinity where `best` was not measured."""
        sign = 1.0 if self.best_is == "highest" else -1.0
        return sign * scores[self.best] if scores and self.best in scores else -math.inf


@dataclasses.dataclass(frozen=True)
class Term:
    """One line of a table of losses.

    Attributes:
      weight: Factor of the loss in the sum of losses.
      first: Number of images seen from which on it counts.
      last: Number of images seen from which on it no longer counts.
      fades: Whether its weight falls evenly from `first` to nothing at `last`.
    """

    weight: float
    first: float = 0.0
    last: float = math.inf
    fades: bool = False

    def __post_init__(self):
        if self.fades and not math.isfinite(self.last):
            raise ValueError(
                f"last={self.last}: a term that fades needs the number of images at which it is gone"
            )

    def active(self, images: float) -> bool:
        """Whether it counts after so many images."""
        return self.weight > 0 and self.first <= images < self.last


Terms = tuple[tuple[str, Term], ...]  # by name


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What the training steps of every network do; Psi's and GenHead's own settings add to it.

    Attributes:
      terms: The table of losses: (name, Term) of the room's `LOSSES`.
      stages: (images, R) each: from so many images on, R rays a side.
      samples: Coarse and fine samples a ray.
      density_every: Steps between two density regularisers.
      density_points: Points of that regulariser in [-1, 1]^3, of each sample.
      density_distance: How far these points are moved, as a share of the box.
      discriminator_rate: Learning rate of the discriminator D, a multiple of the run's.
      penalty_every: Steps between two R1 penalties of D.
      gamma_image: Weight of R1 on D's two pictures.
      gamma_correspondence: Weight of R1 on its correspondence map.
      gamma_segmentation: Weight of R1 on its mask.
      blur: Standard deviation, in pixels, of the blur of pictures before D at the start.
      blur_images: Images over which that blur fades to nothing.
      augment_target: Share of real pictures, in signs of logits, at which ADA's augmentation grows; 0 is no
        augmentation.
      augment_images: Images in which its probability can go from 0 to 1.
      average_half_life: Half-life of the moving average of the parameters, in images.
      average_ramp: Largest half-life, as a share of the images seen so far.
      rematerialize: Whether networks and views are computed again for their gradient, instead of being kept.
      views_at_once: Views that a device renders side by side; 0 is all of them.
    """

    terms: Terms = ()
    stages: tuple[tuple[int, int], ...] = ((0, 64),)
    samples: tuple[int, int] = (48, 48)
    density_every: int = 16
    density_points: int = 1000
    density_distance: float = 0.004
    discriminator_rate: float = 1.0
    penalty_every: int = 16
    gamma_image: float = 1.0
    gamma_correspondence: float = 10.0
    gamma_segmentation: float = 1.0
    blur: float = 0.0
    blur_images: float = 200_000.0
    augment_target: float = 0.0
    augment_images: float = 500_000.0
    average_half_life: float = 10_000.0
    average_ramp: float = 0.05
    rematerialize: bool = False
    views_at_once: int = 0

    def term(self, name: str) -> Term:
        """A term, of weight 0 where the table has none."""
        return dict(self.terms).get(name, Term(0.0))

    def weighted(self) -> tuple[str, ...]:
        """Names of the terms that count at some time."""
        return tuple(name for name, term in self.terms if term.weight)

    def active(self, images: float) -> tuple[str, ...]:
        """Names of the terms that count after so many images."""
        return tuple(name for name, term in self.terms if term.active(images))

    def resolution(self, images: float) -> int:
        """R after so many images."""
        return [resolution for start, resolution in self.stages if images >= start][-1]

    def blurs(self, images: float) -> bool:
        """Whether pictures are blurred before D after so many images."""
        return self.blur > 0 and images < self.blur_images
