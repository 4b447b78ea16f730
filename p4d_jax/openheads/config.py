"""Settings of OpenHeads. Imports no JAX: command lines are read with it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class OpenHeadsSettings:
    """What OpenHeads draws, and how widely. Hashable: a static argument of the jitted functions.

    Attributes:
      supersample: Samples a pixel and axis of the pictures; 1 is fastest, 2 gives smooth edges.
      shape_scale: Standard deviation of the shape coefficients; they are cut at two deviations.
      yaw: Standard deviation and largest value, in radians, of the cut normal that turns the head sideways.
      pitch: The same of the head's nodding.
      roll: The same of the head's tilting.
      radius: Smallest and largest distance of the camera from the world's origin, world units.
      pivot: Largest offset, on each axis, of the point the camera looks at from (0, 0, 0.09), world units.
      noise: Largest standard deviation of the sensor's noise, as a share of the full range.
      blur: Largest standard deviation of the lens blur, in pixels.
      domain_shift: Share by which light and tone wander off; 0 draws the training distribution.
      yaw_balance: Probability that a frame's yaw is drawn evenly from its whole range, largest value to
        largest value, instead of the cut normal: profiles come as often as fronts. Ours.
      closed_eyes: Probability that both eyes of a frame are shut, beside those that the motion shuts. Ours.
      sharp_backgrounds: Probability of a background in focus: edges, stripes, people-coloured shapes. Ours.
    """

    supersample: int = 1
    shape_scale: float = 0.9
    yaw: tuple[float, float] = (0.36, 0.8)
    pitch: tuple[float, float] = (0.20, 0.42)
    roll: tuple[float, float] = (0.10, 0.25)
    radius: tuple[float, float] = (3.65, 4.45)
    pivot: float = 0.03
    noise: float = 0.02
    blur: float = 0.7
    domain_shift: float = 0.0
    yaw_balance: float = 0.0
    closed_eyes: float = 0.0
    sharp_backgrounds: float = 0.0

    def __post_init__(self):
        for name in ("yaw_balance", "closed_eyes", "sharp_backgrounds"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a probability in [0, 1], got {getattr(self, name)}")
