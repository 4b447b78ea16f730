"""What data sources give to training: clips of one head with all that is known of them, pairs, portraits.

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
      mask: (..., F, S, S, 1) in [0, 1], fraction of the pixel that the person covers (head, hair, shoulders).
      face_mask: (..., F, S, S, 1) in [0, 1], fraction that the parametric head covers (skin, eyes, mouth).
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
      mask: (..., S, S, 1) in [0, 1], fraction of the pixel that the person covers.
      params: `FrameParams` (...); its camera carries the head's whole rotation.
    """

    image: Array
    mask: Array
    params: FrameParams


@struct.dataclass
class HeadPair:
    """What the reconstructor learns from: a source picture, and the picture that it should become.

    Both show one person. `None` stands for what a data source does not know; a loss that needs it is then
    refused when training starts. Batches (B,) add a leading axis to every field.

    Attributes:
      source, source_params: (..., S, S, 3) source picture and the head model's parameters of it.
      image, params: (..., S, S, 3) target picture and its parameters: motion and camera.
      mask: (..., S, S, 1) in [0, 1], fraction of the target's pixel that the person covers.
      scale: (...) factor of the cross-attention: 1 for dynamic pairs, 0 for static ones, whose source and
        target share one motion.
      driving, driving_params: (..., S, S, 3) picture from which a motion encoder takes the target's motion,
        from another side, and its parameters; None where the target itself is taken.
      face_mask: (..., S, S, 1) in [0, 1], fraction that the parametric head covers.
      depth: (..., d, d, 1) distance along the target's rays, world units.
      background: (..., S, S, 3) picture behind the person.
      source_mask, source_depth: (..., S, S, 1) and (..., d, d, 1) the same of the source.
      features: (..., R, R, F) in [-1, 1], GenHead's feature image of the target.
      background_features: (..., R, R, F) in [-1, 1].
      points, plane_features: (..., N, 3) world points of the target, and (..., N, C) GenHead's tri-plane
        there.
      photos, photos_params: (..., K - 1, S, S, 3) further photos of the source, in other motions and views;
        None where there is one.
    """

    source: Array
    source_params: FrameParams
    image: Array
    params: FrameParams
    mask: Array
    scale: Array
    driving: Array | None = None
    driving_params: FrameParams | None = None
    face_mask: Array | None = None
    depth: Array | None = None
    background: Array | None = None
    source_mask: Array | None = None
    source_depth: Array | None = None
    features: Array | None = None
    background_features: Array | None = None
    points: Array | None = None
    plane_features: Array | None = None
    photos: Array | None = None
    photos_params: FrameParams | None = None
