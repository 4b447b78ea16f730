"""Reading photos: any common file or array to upright 8-bit sRGB.

What a viewer would show is what comes out: EXIF rotation is applied, colours of a profile (Display P3,
ProPhoto, CMYK) become sRGB, grey becomes three equal channels, of an animation the first frame is taken. Two
things are kept that 8 opaque bits do not show. Values of more bits are scaled by what they hold, so that 12
bits in a 16-bit file are not black. Transparency stays as a fourth channel, in which `BEHIND` shows through
already: the first three channels of any picture can be looked at as they are.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from p4d_jax.errors import UserError

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".apng", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
    *HEIF_SUFFIXES,
)
SMALLEST_SIDE = 16
BEHIND = (255, 255, 255)  # the colour behind what is transparent
MOST_PIXELS = 64_000_000  # what is larger is reduced, JPEG while it is decoded
REFUSED_PIXELS = 1_000_000_000
HEIF_HINT = "pip install pillow-heif (or p4d_jax[heif]) reads HEIC; a phone can also share the photo as JPEG"


def read_photo(path: str | Path) -> np.ndarray:
    """Photo file -> (H, W, 3) uint8, upright; (H, W, 4) with alpha, if some of it is transparent.

    Raises:
      UserError: no such file, not an image, damaged, or of more than a thousand million pixels.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"photo: {str(path)!r} is a folder; give the path of one image file")
    if not path.is_file():
        raise UserError(f"photo: no file {str(path)!r}; give the path of an image file")
    try:
        with open_image(path) as image:
            return _to_picture(_load(image, path))
    except UnidentifiedImageError as error:
        if path.suffix.lower() in HEIF_SUFFIXES and not _heif_is_there():
            raise UserError(
                f"photo: {str(path)!r} is HEIC, which needs one more package; {HEIF_HINT}"
            ) from error
        raise UserError(
            f"photo: {str(path)!r} is not an image that Pillow can read (JPEG, PNG, ...)"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        if isinstance(error, PermissionError):
            raise UserError(f"photo: {str(path)!r} may not be read ({error.strerror})") from error
        raise UserError(
            f"photo: {str(path)!r} is truncated or damaged ({error}); export or download it again"
        ) from error


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """An image file, of any size and of every format that is installed; nothing is decoded yet."""
    _heif_is_there()
    # Pillow's own limit is made for servers, and is below what a phone's sensor gives; ours is checked here.
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > REFUSED_PIXELS:
                raise UserError(f"photo: {str(path)!r} has {width}x{height} pixels; give a smaller copy")
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = before


def as_photo(image: np.ndarray | str | Path) -> np.ndarray:
    """A path, or uint8 or uint16 (H, W), (H, W, 1), (H, W, 3), (H, W, 4) -> what `read_photo` gives."""
    photo = read_photo(image) if isinstance(image, str | Path) else _array_to_picture(np.asarray(image))
    if min(photo.shape[:2]) < SMALLEST_SIDE:
        height, width = photo.shape[:2]
        raise UserError(f"photo: {width}x{height} pixels are too few to show a face; give a larger one")
    return photo


def split_alpha(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H, W, 3) uint8 and alpha (H, W) uint8 of a picture that was read; None if it is opaque."""
    if picture.shape[2] == 3:
        return picture, None
    return np.ascontiguousarray(picture[..., :3]), np.ascontiguousarray(picture[..., 3])


def show_behind(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 with `BEHIND` in its colours where it is transparent; (H, W, 3) if it is opaque."""
    if (rgba[..., 3] == 255).all():
        return np.ascontiguousarray(rgba[..., :3])
    alpha = rgba[..., 3:].astype(np.float32) / 255
    blended = rgba[..., :3] * alpha + np.float32(BEHIND) * (1 - alpha)
    return np.concatenate([(blended + 0.5).astype(np.uint8), rgba[..., 3:]], axis=-1)


def scale_by_content(values: np.ndarray) -> np.ndarray:
    """Numbers of any type -> uint8 of the same shape, by the range that they fill.

    Whole numbers fill 8, 10, 12, 14 or 16 bits, the fewest that hold the largest; other numbers [0, 1] if
    none is larger. Beyond 16 bits, or 1, white is the largest. What is not a number is black.
    """
    whole = values.dtype.kind in "iu"
    values = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    tops = [2.0**bits - 1 for bits in (8, 10, 12, 14, 16)] if whole else [1.0]
    largest = float(values.max(initial=0))
    top = next((top for top in tops if largest <= top), largest)
    return (np.clip(values / top, 0, 1) * 255 + 0.5).astype(np.uint8)


@functools.cache
def _heif_is_there() -> bool:
    """Whether HEIC can be read: by `pillow-heif`, where that is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _load(image: Image.Image, path: Path) -> Image.Image:
    """The decoded image, upright, of no more than about `MOST_PIXELS`."""
    about = {"icc_profile": image.info.get("icc_profile"), "exif": image.getexif().tobytes()}
    if _is_deep(image, path):
        image = _decode_deep(path)
    share = (MOST_PIXELS / (image.width * image.height)) ** 0.5
    if share < 1:
        image.draft(None, (int(image.width * share), int(image.height * share)))  # JPEG alone heeds it
    image.load()
    if image.width * image.height > MOST_PIXELS:
        grey = image.convert("L") if image.mode == "1" else image
        image = grey.reduce(int(np.ceil((image.width * image.height / MOST_PIXELS) ** 0.5)))
    image.info |= {key: value for key, value in about.items() if value}
    return ImageOps.exif_transpose(image)


def _is_deep(image: Image.Image, path: Path) -> bool:
    """Whether the file has colours of more than 8 bits, of which Pillow keeps the upper 8."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] > 8  # the header's bit depth
    return image.format == "TIFF" and max(image.tag_v2.get(258, (8,))) > 8  # BitsPerSample


def _decode_deep(path: Path) -> Image.Image:
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
    has_alpha = any(component.is_alpha for component in frame.format.components)
    values = frame.to_ndarray(format="rgba64le" if has_alpha else "rgb48le")
    colours = scale_by_content(values[..., :3])
    return Image.fromarray(np.dstack([colours, scale_by_content(values[..., 3])]) if has_alpha else colours)


def _to_picture(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":  # grey of more than 8 bits, under its several names
        return _array_to_picture(scale_by_content(np.asarray(image)))
    if not image.has_transparency_data:
        return np.array(_to_srgb(image))
    rgba = image.convert("RGBA")
    colours = rgba.convert("RGB")
    colours.info["icc_profile"] = image.info.get("icc_profile")
    return show_behind(np.dstack([np.asarray(_to_srgb(colours)), np.asarray(rgba.getchannel("A"))]))


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB as a viewer shows it: by the image's profile, if it has one that can be used."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    if image.mode not in ("RGB", "CMYK", "L", "LAB"):
        image = image.convert("RGB")
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, given, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):  # a damaged profile, or one of other channels
        return image.convert("RGB")


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _array_to_picture(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint16:
        array = scale_by_content(array)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(
            f"image: expected uint8 or uint16 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"got {array.dtype} {array.shape}; scale floats to 0..255 and convert them"
        )
    array = array.reshape(*array.shape[:2], channels)
    if channels == 4:
        return show_behind(array)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
