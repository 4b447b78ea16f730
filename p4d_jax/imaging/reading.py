"""Reading photos: any common file or array to upright 8-bit RGB.

What a viewer would show is what comes out: EXIF rotation is applied, transparency lies on white, grey becomes
three equal channels, 16-bit values keep their upper 8 bits, of an animation the first frame is taken.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from p4d_jax.errors import UserError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SMALLEST_SIDE = 16


def read_photo(path: str | Path) -> np.ndarray:
    """Photo file -> (H, W, 3) uint8, upright.

    Raises:
      UserError: no such file, not an image, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"photo: no file {str(path)!r}; give the path of an image file")
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _to_rgb(upright)
    except UnidentifiedImageError as error:
        raise UserError(
            f"photo: {str(path)!r} is not an image that Pillow can read (JPEG, PNG, ...)"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(
            f"photo: {str(path)!r} is truncated or damaged ({error}); export or download it again"
        ) from error


def as_photo(image: np.ndarray | str | Path) -> np.ndarray:
    """A path, or an array (H, W), (H, W, 1), (H, W, 3), (H, W, 4) of uint8 or uint16 -> (H, W, 3) uint8."""
    photo = read_photo(image) if isinstance(image, str | Path) else _array_to_rgb(np.asarray(image))
    if min(photo.shape[:2]) < SMALLEST_SIDE:
        height, width = photo.shape[:2]
        raise UserError(f"photo: {width}x{height} pixels are too few to show a face; give a larger one")
    return photo


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(
            f"image: expected uint8 or uint16 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"got {array.dtype} {array.shape}; scale floats to 0..255 and convert them"
        )
    array = array.reshape(*array.shape[:2], channels)
    if channels == 4:
        return _composite_on_white(array)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey, under its several names
        values = np.asarray(image, np.float64)
        top = 255.0 if values.max() <= 255 else 65535.0
        return _array_to_rgb((np.clip(values / top, 0, 1) * 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        return _composite_on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _composite_on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    blended = rgba[..., :3] * alpha + 255 * (1 - alpha)
    return (blended + 0.5).astype(np.uint8)
