"""Folders of photos: pictures, masks of the person, and the 437 numbers of each, as data to train on.

    FOLDER/images/NAME.png        or .jpg, .jpeg, .webp; NAME may have folders in it
           masks/NAME.png         white where the person is, as large as the picture
           parameters.npz         without pickled objects:
      format           the string "p4d_jax.photos.1"
      head             name of the head model whose coefficients the frames hold, e.g. "openhead"
      expressions      (E,) strings, names of the leading expression coefficients, or empty
      pictures         (N,) strings, NAME of each
      frames           (N, 437) float32, `FrameParams.to_vector` (docs/concepts/conventions.md): camera 25,
                       shape 300, expression 100, pose 6, eyes 6
      mirrored_frames  (N, 437) float32 of the flipped pictures; needed where the head has no exact mirror

`write_photos` writes one; `python -m p4d_jax.data.photos FOLDER CAPTURE...` makes one of the workdirs of the
job `capture`, of photos and of films: frames of those are named CLIP/FRAME (`reconstructor.film_pairs`).
Pictures are square and at least as large as the model's, to which they are reduced.

What a step sees depends on the seed and the step's number alone: grain shuffles each pass through the data by
itself, and number k of the whole, endless order is found without what comes before. So a run goes on where it
stopped with nothing but its step, and every process reads its own rows of the same batch, whatever their
number (`genhead.sources`). Letters: N photos, M samples (2 N with their mirror images), B a batch of all
processes, S image size.

grain (extra `train`) is imported by the functions that need it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from p4d_jax.data.motion import load_motion
from p4d_jax.errors import UserError
from p4d_jax.geometry import camera_for_bent_neck
from p4d_jax.head.mirror import build_mirror
from p4d_jax.head.model import NECK, HeadModel
from p4d_jax.head.skinning import head_joints
from p4d_jax.npz import read_npz
from p4d_jax.types import FRAME_VECTOR_SIZE, FrameParams, VectorParts

PHOTOS_FORMAT = "p4d_jax.photos.1"
PARAMETERS = "parameters.npz"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of 8 bits
SCALES = (0.25, 3.0)  # share of the picture that a world unit takes; a head is half a unit wide
LOOK = "a folder of photos has images/, masks/ and parameters.npz (docs/howto/train_genhead.md)"


# Writing ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Photo:
    """One photo to write: its name, image (S, S, 3) and mask (S, S), uint8, and frame (437,).

    `mirrored_frame` (437,) is that of the flipped picture, or None; all photos of a folder have one, or none.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    frame: np.ndarray
    mirrored_frame: np.ndarray | None = None


def write_photos(folder: Path, photos: Iterable[Photo], head: str, expressions: tuple[str, ...] = ()) -> int:
    """Writes a folder of photos, one after the other, then the parameters; the number of photos.

    Args:
      head, expressions: Name of the head model, and its `expression_names`.
    """
    names, frames, mirrored = [], [], []
    for photo in photos:
        for part, pixels in (("images", photo.image), ("masks", photo.mask)):
            path = Path(folder) / part / f"{photo.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        names.append(photo.name)
        frames.append(photo.frame)
        if photo.mirrored_frame is not None:
            mirrored.append(photo.mirrored_frame)
    if len(mirrored) not in (0, len(names)):
        raise ValueError(f"photos: {len(mirrored)} of {len(names)} have a mirrored_frame; all must, or none")
    arrays = {"frames": frames, "mirrored_frames": mirrored} if mirrored else {"frames": frames}
    np.savez_compressed(
        Path(folder) / PARAMETERS,
        format=np.array(PHOTOS_FORMAT),
        head=np.array(head),
        expressions=np.array(expressions, np.str_),
        pictures=np.array(names, np.str_),
        **{name: np.stack(value).astype(np.float32) for name, value in arrays.items()},
    )
    return len(names)


def write_captures(folder: Path, workdirs: Iterable[Path]) -> int:
    """Writes a folder of photos from workdirs of the job `capture`; the number of pictures.

    A photo is named as its workdir, a film's frames are that name/00000 and so on: those with an alpha. A
    workdir of many photos and films stands for all that were captured there.

    Raises:
      UserError: A workdir has no crops or no alphas, or is of another head.
    """
    workdirs = [one for workdir in workdirs for one in captured_workdirs(Path(workdir))]
    if not workdirs:
        raise UserError("no workdirs of the job `capture` were given")
    names, counts = np.unique([workdir.name for workdir in workdirs], return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{counts.max()} workdirs are named {str(names[counts.argmax()])!r}, as pictures are")

    def motion(workdir: Path):
        try:
            return load_motion(workdir / "motion.npz")
        except ValueError as error:
            raise UserError(str(error)) from None

    first = motion(workdirs[0])

    def read(workdir: Path) -> Iterator[Photo]:
        found = motion(workdir)
        if (found.head, found.names) != (first.head, first.names):
            raise UserError(f"{workdir}: fitted with head {found.head!r}, {workdirs[0]} with {first.head!r}")
        frames = np.asarray(found.params.to_vector())
        for name, crop, alpha, frame in captured_pictures(workdir, frames):
            image, mask = read_picture(crop), read_picture(alpha).convert("L")
            yield Photo(name, np.asarray(image), np.asarray(mask), frame)

    photos = itertools.chain.from_iterable(map(read, workdirs))
    return write_photos(folder, photos, first.head, first.names)


def captured_workdirs(workdir: Path) -> list[Path]:
    """A workdir of one photo or film, or the folders that one of many holds."""
    report = workdir / "report.json"
    told = json.loads(report.read_text()) if report.is_file() else {}
    return [workdir / name for name in told["captured"]] if "captured" in told else [workdir]


def captured_pictures(workdir: Path, frames: np.ndarray) -> list[tuple[str, Path, Path, np.ndarray]]:
    """Name, crop, alpha and frame (437,) of the photo that a workdir captured, or of each frame of a film."""
    if len(frames) == 1 and not (workdir / "crops").is_dir():
        return [(workdir.name, workdir / "crop.png", workdir / "alpha.png", frames[0])]
    pictures = []
    for number, frame in enumerate(frames):
        crop, alpha = (workdir / part / f"{number:05d}.png" for part in ("crops", "alphas"))
        if alpha.is_file():
            pictures.append((f"{workdir.name}/{number:05d}", crop, alpha, frame))
    if not pictures:
        raise UserError(
            f"{workdir}: a film without alphas; capture it again with write_alphas=True and write_crops=True"
        )
    return pictures


# Reading ----------------------------------------------------------------------------------------------------


class Pictures(Protocol):
    """N pictures with their masks, wherever they lie."""

    def read(self, photo: int) -> tuple[Image.Image, Image.Image]:
        """A picture, RGB, and its mask, grey, of one size.

        Raises:
          UserError: It is damaged; the message names it.
        """


@dataclasses.dataclass(frozen=True)
class PictureFiles:
    """`Pictures` that are two files each."""

    pictures: tuple[Path, ...]
    masks: tuple[Path, ...]

    def read(self, photo: int) -> tuple[Image.Image, Image.Image]:
        """See `Pictures`."""
        return read_picture(self.pictures[photo]), read_picture(self.masks[photo]).convert("L")


@dataclasses.dataclass(frozen=True)
class Photos:
    """Photos that were checked.

    Attributes:
      names: N.
      pictures: N.
      frames: (M, 437) float32: of the pictures, then of the flipped ones if there are any.
      size: S, to which pictures are reduced.
      left_out: Number of pictures in the folder of which there are no parameters.
      damaged: How many damaged files may be passed over, those at opening included.
      unreadable: Names of those that were, each with what is wrong with it.
    """

    names: tuple[str, ...]
    pictures: Pictures
    frames: np.ndarray
    size: int
    left_out: int
    damaged: int = 0
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.frames)

    def summary(self) -> str:
        """How much there is, in words."""
        flipped = ", and as many flipped" if len(self) > len(self.names) else ""
        left_out = f"; {self.left_out} without parameters are left out" if self.left_out else ""
        if self.unreadable:
            left_out += f"; {len(self.unreadable)} damaged are left out"
        return f"{len(self.names)} photos{flipped}{left_out}"

    def read_sound(self, sample: int) -> tuple[int, np.ndarray, np.ndarray]:
        """The sample, or the next one that is not damaged: its number, picture and mask; see `read`.

        Raises:
          UserError: More than `damaged` files are.
        """
        for one in range(sample, sample + len(self)):
            if (found := self.read_if_sound(one % len(self))) is not None:
                return one % len(self), *found
        raise UserError("not one picture can be read")

    def read_if_sound(self, sample: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Picture and mask as of `read`, or None where they are damaged.

        Raises:
          UserError: More than `damaged` files are.
        """
        try:
            return self.read(sample)
        except UserError as error:
            pass_over(self.unreadable, self.names[sample % len(self.names)], str(error), self.damaged)
            return None

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (S, S, 3) and mask (S, S), uint8, of one of the M samples.

        Raises:
          UserError: A file is damaged.
        """
        mirrored, photo = divmod(sample, len(self.names))
        picture, mask = self.pictures.read(photo)
        size = (self.size, self.size)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
            mask = mask.resize(size, Image.Resampling.BILINEAR)
        pair = np.asarray(picture), np.asarray(mask)
        return tuple(x[:, ::-1] for x in pair) if mirrored else pair


def pass_over(unreadable: dict[str, str], name: str, problem: str, most: int) -> None:
    """Notes a damaged photo, once.

    Raises:
      UserError: there are more of them than `most`.
    """
    if name in unreadable:
        return
    if len(unreadable) >= most:
        more = f"; {len(unreadable)} others are damaged too, and at most {most} may be" if most else ""
        raise UserError(f"{problem}{more}")
    unreadable[name] = problem
    print(f"left out: {problem}", flush=True)


def open_photos(
    folder: str | Path, head: HeadModel, size: int, mirror: bool = True, damaged: int = 0
) -> Photos:
    """A folder of photos whose necks are straight, as GenHead is trained; see `open_bent_photos`."""
    return straightened(open_bent_photos(folder, head, size, mirror, damaged), head)


def straightened(photos: Photos, head: HeadModel) -> Photos:
    """The same photos, seen by cameras of straight necks."""
    return dataclasses.replace(photos, frames=straighten_necks(head, photos.frames))


def open_bent_photos(
    folder: str | Path, head: HeadModel, size: int, mirror: bool = True, damaged: int = 0
) -> Photos:
    """Reads the parameters of a folder, and checks it whole, the headers of all pictures included.

    Args:
      head: The head model to which the frames belong.
      size: S of the model.
      mirror: Whether each picture is a second sample, flipped.
      damaged: How many damaged pictures are left out, here and where they are read; with more it is an error.

    Raises:
      UserError: The folder is not of this format; says the first thing that is wrong.
    """
    folder = Path(folder)
    stored = load_parameters(folder / PARAMETERS, head)
    names, frames = tuple(stored["pictures"].tolist()), stored["frames"]
    found, masks = (list_pictures(folder / part) for part in ("images", "masks"))
    for name in names:
        for part, files in (("images", found), ("masks", masks)):
            if name not in files:
                raise UserError(f"{folder}: {PARAMETERS} names {name!r}, but {part}/ has no such picture")
    pictures, masks = (tuple(files[name] for name in names) for files in (found, masks))
    with ThreadPoolExecutor(16) as pool:  # on a network drive each takes its time
        problems = pool.map(lambda pair: picture_problem(*pair, size), zip(pictures, masks, strict=True))
        found_problems = list(problems)
    unreadable: dict[str, str] = {}
    for name, problem in zip(names, found_problems, strict=True):
        if problem:
            pass_over(unreadable, name, problem, damaged)
    sound = np.array([not problem for problem in found_problems])
    if not sound.any():
        raise UserError(f"{folder}: not one picture can be read")
    choose = lambda values: tuple(value for value, is_sound in zip(values, sound, strict=True) if is_sound)
    left_out = len(found) - len(names)
    files = PictureFiles(choose(pictures), choose(masks))
    frames = (mirrored_too(stored, head) if mirror else frames[None])[:, sound].reshape(-1, FRAME_VECTOR_SIZE)
    return Photos(choose(names), files, frames, size, left_out, damaged, unreadable)


def mirrored_too(stored: dict[str, np.ndarray], head: HeadModel) -> np.ndarray:
    """(2, N, 437) frames of pictures and of the flipped ones, of the arrays of a parameters.npz."""
    frames = stored["frames"]
    return np.stack(
        [frames, stored["mirrored_frames"] if "mirrored_frames" in stored else build_mirror(head)(frames)]
    )


def clip_of(name: str) -> str:
    """The clip in the name of a film's frame, '' if there is none."""
    return name.rpartition("/")[0]


def load_parameters(path: Path, head: HeadModel) -> dict[str, np.ndarray]:
    """The arrays of a parameters.npz, checked."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; {LOOK}")
    stored = read_npz(path, "a folder's parameters", (), finite=False)  # `check_frames` names the picture
    if missing := {"format", "head", "expressions", "pictures", "frames"} - set(stored):
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}; {LOOK}")
    if str(stored["format"]) != PHOTOS_FORMAT:
        raise UserError(f"{path}: format is {str(stored['format'])!r}, expected {PHOTOS_FORMAT!r}")
    if str(stored["head"]) != head.name:
        raise UserError(
            f"{path}: fitted with head {str(stored['head'])!r}, but the head in use is {head.name!r}"
        )
    expressions = tuple(stored["expressions"].tolist())
    if expressions and expressions != head.expression_names[: len(expressions)]:
        raise UserError(f"{path}: expressions are not those of head {head.name!r}, in its order")
    pictures = stored["pictures"]
    if pictures.ndim != 1 or pictures.dtype.kind != "U" or not len(pictures):
        raise UserError(f"{path}: pictures must be (N,) strings, at least one, got {pictures.shape}")
    names, counts = np.unique(pictures, return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{path}: pictures names {str(names[counts.argmax()])!r} {counts.max()} times")
    for name in ("frames", "mirrored_frames"):
        if name in stored:
            stored[name] = check_frames(f"{path}: {name}", stored[name], pictures)
    return stored


def check_frames(where: str, frames: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """frames as float32, if they are what the format says."""
    if frames.shape != (len(pictures), FRAME_VECTOR_SIZE) or frames.dtype.kind != "f":
        expected = f"({len(pictures)}, {FRAME_VECTOR_SIZE}) of floats"
        raise UserError(f"{where} must be {expected}, got {frames.shape} of {frames.dtype}")

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            raise UserError(f"{where} of {str(pictures[bad.argmax()])!r}: {what}; {bad.sum()} are so")

    refuse(~np.isfinite(frames).all(1), "a number is not finite")
    cam2world = frames[:, VectorParts.CAM2WORLD].reshape(-1, 4, 4)
    intrinsics = frames[:, VectorParts.INTRINSICS].reshape(-1, 3, 3)
    rotation = cam2world[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    rigid = (off < 1e-3) & (np.linalg.det(rotation) > 0) & (cam2world[:, 3] == [0, 0, 0, 1]).all(1)
    refuse(~rigid, "cam2world, the first 16 numbers, is no rigid transform")
    focal, centre = intrinsics[:, [0, 1], [0, 1]], intrinsics[:, :2, 2]
    sound = (focal > 0).all(1) & (np.abs(centre - 0.5) < 1).all(1) & (intrinsics[:, 2] == [0, 0, 1]).all(1)
    refuse(~sound, "intrinsics, numbers 16 to 24, are not divided by the picture's size")
    eye = np.einsum("nji,nj->ni", rotation, -cam2world[:, :3, 3])  # the world's origin in camera space
    scale = focal[:, 0] / np.maximum(-eye[:, 2], 1e-6)
    place = centre + focal * eye[:, :2] * [1, -1] / np.maximum(-eye[:, 2:], 1e-6)
    seen = (np.abs(place - 0.5) < 1).all(1) & (scale > SCALES[0]) & (scale < SCALES[1])
    refuse(~seen, "the camera does not see the head; it looks along -z, and units are FLAME's metres times 3")
    return frames.astype(np.float32)


def straighten_necks(head: HeadModel, frames: np.ndarray) -> np.ndarray:
    """Frames (N, 437) with straight necks, whose cameras see each head as before: how GenHead is trained."""
    bent = np.flatnonzero(frames[:, VectorParts.NECK].any(1))
    if not bent.size:
        return frames

    def straighten(vector):
        params = FrameParams.from_vector(vector)
        joint = head_joints(head, params.shape, params.expression, params.pose, params.eyes)[NECK]
        camera = camera_for_bent_neck(params.camera, -params.neck, joint)
        return params.replace(camera=camera, pose=params.pose.at[:3].set(0)).to_vector()

    frames = frames.copy()
    straighten_all = jax.jit(jax.vmap(straighten))
    for some in np.array_split(bent, -(-len(bent) // 256)):
        frames[some] = straighten_all(frames[some])
    return frames


def list_pictures(folder: Path) -> dict[str, Path]:
    """Name -> file of all pictures below a folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {LOOK}")
    files = {}
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen:  # a link into a folder above it
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        for name in sorted(names):
            path = Path(place) / name
            if path.suffix.lower() in PICTURE_SUFFIXES:
                files[path.relative_to(folder).with_suffix("").as_posix()] = path
    return files


def picture_problem(picture: Path, mask: Path, size: int) -> str | None:
    """What is wrong with the headers of a picture and its mask, if anything is."""
    found = []
    for path in (picture, mask):
        try:
            with Image.open(path) as image:
                found.append(image.size)
                mode = image.mode
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            return f"{path} is not a picture that can be read ({error})"
        if mode not in MODES:
            return f"{path}: pixels of type {mode}, expected 8 bits a channel, RGB or grey"
    width, height = found[0]
    if width != height or width < size:
        return f"{picture}: {width} x {height} pixels; expected a square of at least {size} x {size}"
    if found[1] != found[0]:
        return f"{mask}: {found[1][0]} x {found[1][1]} pixels, its picture has {width} x {height}"
    return None


def read_picture(path: Path) -> Image.Image:
    """A picture as RGB, upright, transparency on white.

    Raises:
      UserError: It is missing or damaged.
    """
    try:
        with Image.open(path) as stored:
            image = ImageOps.exif_transpose(stored)
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                white.alpha_composite(image.convert("RGBA"))
                image = white
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: missing, truncated or damaged ({error})") from None


# Batches ----------------------------------------------------------------------------------------------------


def sample_order(count: int, seed: int):
    """An endless `grain.MapDataset` of 0..count-1, each pass through them in an order of its own."""
    try:
        import grain
    except ImportError as error:
        raise UserError(f"stored data are read with grain ({error}): pip install '.[train]'") from None
    return grain.MapDataset.range(count).shuffle(seed % 2**32).repeat()


def numbered_samples(count: int, batch: int, seed: int):
    """A `grain.MapDataset`: number -> the next (B,) of `sample_order`."""
    return sample_order(count, seed).batch(batch)


def numbered_photos(photos: Photos, batch: int, seed: int, rows: np.ndarray):
    """A `grain.MapDataset`: number -> the given rows of the batch (B,) of that number, read from disk.

    An element has `image` (n, S, S, 3) and `mask` (n, S, S, 1), uint8, and `frames` (n, 437).
    """

    def read(samples: np.ndarray) -> dict[str, np.ndarray]:
        own, images, masks = zip(*(photos.read_sound(int(sample)) for sample in samples[rows]), strict=True)
        return {
            "image": np.stack(images),
            "mask": np.stack(masks)[..., None],
            "frames": photos.frames[np.array(own)],
        }

    return numbered_samples(len(photos), batch, seed).map(read)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m p4d_jax.data.photos FOLDER CAPTURE...")
    try:
        print(write_captures(Path(sys.argv[1]), sys.argv[2:]), "pictures")
    except UserError as error:
        sys.exit(f"p4d_jax: {error}")
