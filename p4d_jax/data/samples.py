"""What data sources hand to training: clips of one head with all that is known of them, single portraits.

Images are float32 NHWC in [-1, 1], row 0 at the top. F frames, S pixels a side; batches add leading axes.
"""

from __future__ import annotations

from flax import struct

from p4d_jax.types import Array, FrameParams


@struct.dataclass
class HeadClip:
    """F frames of one identity in front of one background.

    Attributes:
      image: (..., F, S, S, 3) in [-1, 1].
      mask: (..., F, S, S, 1) in [0, 1], how much of the pixel is the person (head, hair, shoulders).
      face_mask: (..., F, S, S, 1) in [0, 1], how much is the parametric head itself (skin, eyes, mouth).
      depth: (..., F, S, S, 1) distance along the ray in world units, 0 where the mask is 0.
      background: (..., S, S, 3) in [-1, 1], the same picture behind every frame, whatever the camera.
      params: `FrameParams` with leading axes (..., F).
    """

    image: Array
    mask: Array
    face_mask: Array
    depth: Array
    background: Array
    params: FrameParams


@struct.dataclass
class Portrait:
    """One picture of one person, or a batch of them.

    Attributes:
      image: (..., S, S, 3) in [-1, 1].
      mask: (..., S, S, 1) in [0, 1], how much of the pixel is the person.
      params: `FrameParams` (...); its camera carries the head's whole rotation.
    """

    image: Array
    mask: Array
    params: FrameParams
