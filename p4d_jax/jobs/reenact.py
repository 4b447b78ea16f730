"""The job `reenact`: a photo, or several of one person, and a motion in, a film of the head out.

What happens, in order: inputs are checked; the photos are captured (face, parameters, crop); their avatar is
encoded and personalised; the driving is captured; every frame is rendered; a turntable, a depth map and a
mesh are made; `report.json` says how long it all took and how well it fits. The workdir gets

    reenactment.mp4   source | driving | result
    frame_*.png       stills of it
    turntable.mp4     the head seen from left to right and back
    depth.png         distance from the camera, near is yellow
    mesh.ply          coloured surface of the head at rest
    report.json       timings, scores, versions, the config

all at once at the end, or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

import p4d_jax
from p4d_jax import assets
from p4d_jax.avatar.encode import Avatar, animate_avatar, encode_sources, render_frame
from p4d_jax.avatar.personalise import orbit, personalise
from p4d_jax.capture import Capture, capture_album, capture_film, capture_photo
from p4d_jax.data.motion import MotionFile, load_motion, motion_for_head
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.head.retarget import transfer_motion
from p4d_jax.head.shading import shade_head, vertex_paint
from p4d_jax.imaging import writing as pictures
from p4d_jax.imaging.film import FILM_SUFFIXES, FOLDER_FPS, is_film
from p4d_jax.imaging.reading import PHOTO_SUFFIXES, read_photo
from p4d_jax.jobs._publish import published, write_json
from p4d_jax.reconstructor.field import Frame, radiance_field
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.weights import load_reconstructor
from p4d_jax.render.surface import extract_mesh, write_ply
from p4d_jax.train.losses import psnr
from p4d_jax.types import MOTION_SIZE, Array, FrameParams


@dataclass(frozen=True)
class Inputs:
    """What the user named, found and read.

    Attributes:
      photos: each (H, W, 3) uint8, of one person; the first is the one that comes to life.
      driving: a motion file's contents, or the path of a film, a folder or a photo.
      head: the head model.
      reconstructor, variables: the network.
    """

    photos: list[np.ndarray]
    driving: MotionFile | Path
    head: HeadModel
    reconstructor: Reconstructor
    variables: dict


@dataclass(frozen=True)
class Source:
    """The person.

    Attributes:
      picture: (512, 512, 3) uint8, crop of the first photo.
      alpha: (512, 512, 1) in [0, 1], of the first photo.
      params: what was fitted to the first photo.
      crops: of all photos.
      all_params: of all photos, leading axis K.
    """

    picture: np.ndarray
    alpha: np.ndarray
    params: FrameParams
    crops: list[np.ndarray]
    all_params: FrameParams

    def alpha_at(self, size: int) -> Array:
        """The matte (size, size, 1)."""
        grey = Image.fromarray(self.alpha[..., 0]).resize((size, size), Image.Resampling.BOX)
        return jnp.asarray(np.asarray(grey)[..., None])


@dataclass(frozen=True)
class Driving:
    """How the driver moves: parameters (T, ...), pictures of it (T) and frames a second."""

    params: FrameParams
    pictures: list[np.ndarray]
    fps: float


@dataclass(frozen=True)
class Puppet:
    """An avatar with all that `render_frame` needs besides the driving frame."""

    reconstructor: Reconstructor
    variables: dict
    avatar: Avatar
    head: HeadModel
    source: FrameParams
    plane_offset: Array | None
    samples: tuple[int, int]

    def rest_planes(self) -> Array:
        """The tri-plane of the photo's own motion."""
        planes = animate_avatar(self.reconstructor, self.variables, self.avatar, self.source.motion())
        return planes if self.plane_offset is None else planes + self.plane_offset

    def render(self, driving: FrameParams) -> Frame:
        config = self.reconstructor.config
        return render_frame(
            self.reconstructor,
            self.variables,
            self.avatar,
            self.head,
            self.source,
            driving,
            resolution=config.image_size // 2 ** len(config.superresolution_channels),
            samples=self.samples,
            plane_offset=self.plane_offset,
        )


class Stopwatch:
    """Seconds of each stage, in order; says which one is on."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, said: str):
        print(f"{said} ...", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def run(config: ConfigDict, workdir: Path) -> Puppet:
    """Runs the job; see the file's docstring. Returns the avatar, to be shown in other poses and views."""
    watch, scores = Stopwatch(), {}
    with watch.stage("load", "reading the photo, the driving and the weights"):
        inputs = read_inputs(config, workdir)
    with watch.stage("capture", "looking for the face and fitting the head"):
        source = capture_source(inputs, scores)
    with watch.stage("driving", "reading the driving motion"):
        driving = capture_driving(inputs, config)
    with watch.stage("encode", "encoding the avatar"):
        puppet, image = encode(inputs, source, config)
        scores["psnr_head_encoded"] = score_source(puppet, image, source)
    with watch.stage("personalise", f"personalising it in {config.personalise_steps} steps"):
        puppet = personalise_puppet(puppet, image, source, config, scores)
        scores["psnr_head_personalised"] = score_source(puppet, image, source)
    with published(workdir) as folder:
        with watch.stage("film", f"rendering {len(driving.pictures)} frames"):
            write_film(folder, puppet, source.picture, driving, config)
        with watch.stage("turntable", f"rendering {config.turntable_frames} views around the head"):
            write_turntable(folder, puppet, config, driving.fps)
        with watch.stage("depth_and_mesh", "depth map and mesh"):
            scores["mesh_vertices"] = write_depth_and_mesh(folder, puppet, config)
        write_json(folder / "report.json", report(config, watch, scores, driving))
    print(f"{sum(watch.seconds.values()):.0f} s; see {workdir / 'reenactment.mp4'}")
    return puppet


# What goes in ----------------------------------------------------------------------------------------------


@contextmanager
def user_input(field: str):
    """A ValueError about a file that the user named is the user's to put right."""
    try:
        yield
    except ValueError as error:  # a UserError is one too
        raise UserError(f"config.{field}: {error}") from error


def read_inputs(config: ConfigDict, workdir: Path) -> Inputs:
    """Checks and reads all that the config names, cheapest first."""
    check_numbers(config)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; name a folder")
    with user_input("source"):
        photos = [read_source(name) for name in source_names(config.source)]
    with user_input("head"):
        head = assets.head_model(config.head)
    with user_input("driving"):
        driving = find_driving(config.driving, head)
    with user_input("weights"):
        reconstructor, variables = load_reconstructor(assets.weights(config.weights))
        if reconstructor.config.motion_size != MOTION_SIZE:
            raise UserError(
                f"{config.weights!r} takes {reconstructor.config.motion_size} numbers of a motion encoder,"
                f" where this job knows the {MOTION_SIZE} of the head model; from Python, give"
                " `encode_source` and `render_frame` its motion="
            )
    return Inputs(photos, driving, head, reconstructor, variables)


def check_numbers(config: ConfigDict) -> None:
    """Every number of the config that has a range."""
    ranges = {
        "max_frames": (1, 100_000),
        "fps": (0, 240),
        "personalise_steps": (0, 100_000),
        "neck_share": (0, 1),
        "reference_frame": (0, config.max_frames - 1),
        "coarse_samples": (2, 512),
        "fine_samples": (2, 512),
        "panel": (32, 2048),
        "turntable_frames": (1, 10_000),
        "turntable_yaw": (0, 90),
        "mesh_resolution": (16, 1024),
        "stills": (0, 1000),
    }
    for field, (low, high) in ranges.items():
        if not low <= config[field] <= high:
            raise UserError(f"config.{field}={config[field]}: expected a number from {low} to {high}")
    if config.panel % 2:
        raise UserError(f"config.panel={config.panel}: H.264 needs an even number of pixels")


def source_names(source: str) -> list[str]:
    """The photos that a config names, with commas between them; a file may have a comma in its name."""
    if Path(source).expanduser().exists():
        return [source]
    names = [name.strip() for name in source.split(",")]
    if not all(names):
        raise UserError(f"{source!r}: expected photos with commas between them")
    return names


def read_source(name: str) -> np.ndarray:
    """A photo by its path, or one of the examples in `assets.PHOTOS`."""
    return assets.photo(name) if name in assets.PHOTOS else read_photo(name)


def find_driving(name: str, head: HeadModel) -> MotionFile | Path:
    """A motion file's contents, or the path of a film, a folder or a photo that exists."""
    path = Path(name).expanduser()
    if not path.exists() and path.suffix and path.suffix != ".npz":
        raise UserError(f"no file or folder {name!r}")
    if not path.exists() or path.suffix == ".npz":
        motion = load_motion(assets.motion(name))
        if motion.head != head.name:
            raise UserError(
                f"{name!r} moves the head model {motion.head!r}, not {head.name!r}: their expression numbers"
                f" mean different things; use --config.head={motion.head}"
            )
        return motion_for_head(motion, head.expression_names)
    if not is_film(path) and path.suffix.lower() not in PHOTO_SUFFIXES:
        known = " ".join((*FILM_SUFFIXES, *PHOTO_SUFFIXES, ".npz"))
        raise UserError(f"{name!r} is neither film, photo nor motion; endings that can be read: {known}")
    return path


# Capture ---------------------------------------------------------------------------------------------------


def capture_source(inputs: Inputs, scores: dict) -> Source:
    """The photos' head; notes the error of the fit, the worst of all photos."""
    with user_input("source"):
        captured = capture_album(inputs.photos, inputs.head)
    scores["fit_error_of_eye_distance"] = round(max(float(one.error) for one in captured), 4)
    scores["faces_in_the_photo"] = max(int(one.landmarks.face_count) for one in captured)
    for one in captured:
        if one.note:
            print(one.note)
    return source_of(captured)


def source_of(captured: Sequence[Capture]) -> Source:
    """The person that photos show; the first comes to life."""
    first = captured[0]
    params = jax.tree.map(lambda *x: jnp.stack(x), *[one.params for one in captured])
    return Source(first.crop, first.alpha[..., None], first.params, [one.crop for one in captured], params)


def capture_driving(inputs: Inputs, config: ConfigDict) -> Driving:
    """The driver's motion, whatever it came as."""
    if isinstance(inputs.driving, MotionFile):
        motion = inputs.driving
        params = jax.tree.map(lambda x: x[: config.max_frames], on_host(motion.params))
        driving = Driving(params, picture_motion(inputs.head, params, config.panel), motion.fps)
    else:
        with user_input("driving"):
            read = capture_moving if is_film(inputs.driving) else capture_still
            driving = read(inputs, config)
    frames = len(driving.pictures)
    if config.reference_frame >= frames:
        raise UserError(
            f"config.reference_frame={config.reference_frame}: the driving has frames 0 to {frames - 1}"
        )
    return replace(driving, fps=config.fps or driving.fps)


def capture_moving(inputs: Inputs, config: ConfigDict) -> Driving:
    """A film, or a folder of photos."""
    with tqdm(desc="driving", unit="frame") as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        captured = capture_film(inputs.driving, inputs.head, progress, max_frames=config.max_frames)
    if captured.note:
        print(captured.note)
    shown = [pictures.resize(crop, config.panel) for crop in captured.crops]
    return Driving(captured.params, shown, captured.fps)


def capture_still(inputs: Inputs, config: ConfigDict) -> Driving:
    """One photo: a film of one frame."""
    captured = capture_photo(inputs.driving, inputs.head)
    params = jax.tree.map(lambda x: x[None], on_host(captured.params))
    return Driving(params, [pictures.resize(captured.crop, config.panel)], FOLDER_FPS)


def picture_motion(head: HeadModel, params: FrameParams, size: int) -> list[np.ndarray]:
    """A motion file has no pictures: the head model itself is shown, moving."""
    paint = jnp.asarray(vertex_paint(head))
    shown = []
    for index in tqdm(range(params.expression.shape[0]), desc="driving", unit="frame"):
        shown.append(pictures.to_picture(shade_head(head, paint, take(params, index), size)))
    return shown


def on_host(params: FrameParams) -> FrameParams:
    """Arrays of numpy: a clip is cut into frames there, without a compiled program for each cut."""
    return jax.tree.map(np.asarray, params)


def take(params: FrameParams, index: int) -> FrameParams:
    """One frame of a clip."""
    return jax.tree.map(lambda x: x[index], params)


# The avatar ------------------------------------------------------------------------------------------------


def encode(inputs: Inputs, source: Source, config: ConfigDict) -> tuple[Puppet, Array]:
    """The avatar as the network sees it, and the first photo at the network's size."""
    size = inputs.reconstructor.config.picture_size
    images = [pictures.to_image(crop, size) for crop in source.crops]
    avatar = encode_sources(
        inputs.reconstructor, inputs.variables, jnp.stack(images), source.all_params, inputs.head
    )
    samples = (config.coarse_samples, config.fine_samples)
    puppet = Puppet(inputs.reconstructor, inputs.variables, avatar, inputs.head, source.params, None, samples)
    return puppet, images[0]


def personalise_puppet(
    puppet: Puppet, image: Array, source: Source, config: ConfigDict, scores: dict
) -> Puppet:
    """The avatar fitted to its photo; notes the loss before and after."""
    steps = config.personalise_steps
    if steps == 0:
        return puppet
    with tqdm(total=steps, desc="personalise", unit="step") as bar:
        result = personalise(
            puppet.reconstructor,
            puppet.variables,
            puppet.avatar,
            image,
            source.alpha_at(image.shape[0]),
            puppet.source,
            puppet.head,
            steps=steps,
            key=jax.random.key(config.seed),
            samples=puppet.samples,
            on_step=lambda step, loss: bar.update(),
        )
    scores["personalise_loss"] = [float(result.curve[0]), float(result.curve[-1])]
    return replace(puppet, variables=result.variables, avatar=result.avatar, plane_offset=result.plane_offset)


def score_source(puppet: Puppet, image: Array, source: Source) -> float:
    """PSNR in dB of the photo's own view against the photo, in the head mask."""
    frame = puppet.render(puppet.source)
    return round(float(jax.jit(psnr)(frame.image, image, source.alpha_at(image.shape[0]))), 2)


# What comes out --------------------------------------------------------------------------------------------


def write_film(
    folder: Path, puppet: Puppet, source: np.ndarray, driving: Driving, config: ConfigDict
) -> None:
    """reenactment.mp4 and its stills."""
    moved = on_host(
        transfer_motion(
            puppet.source,
            driving.params,
            config.reference_frame,
            relative=config.relative_motion,
            neck_share=config.neck_share,
            bounded=bool(puppet.head.expression_names),
        )
    )
    count = len(driving.pictures)
    stills = set(np.linspace(0, count - 1, min(config.stills, count)).round().astype(int).tolist())
    with pictures.VideoWriter(folder / "reenactment.mp4", driving.fps) as film:
        for index in tqdm(range(count), desc="film", unit="frame"):
            result = pictures.to_picture(puppet.render(take(moved, index)).image)
            row = pictures.side_by_side((source, driving.pictures[index], result), config.panel)
            film.add(row)
            if index in stills:
                pictures.save_picture(folder / f"frame_{index:04d}.png", row)


def write_turntable(folder: Path, puppet: Puppet, config: ConfigDict, fps: float) -> None:
    """turntable.mp4: the photo's own expression from `turntable_yaw` left to right and back."""
    count = config.turntable_frames
    yaws = np.deg2rad(config.turntable_yaw) * np.sin(np.linspace(0, 2 * np.pi, count, endpoint=False))
    turned = jax.jit(orbit)
    with pictures.VideoWriter(folder / "turntable.mp4", fps) as film:
        for yaw in tqdm(yaws, desc="turntable", unit="frame"):
            view = puppet.source.replace(camera=turned(puppet.source.camera, yaw))
            film.add(pictures.resize(pictures.to_picture(puppet.render(view).image), config.panel))


def write_depth_and_mesh(folder: Path, puppet: Puppet, config: ConfigDict) -> int:
    """depth.png of the photo's view, and mesh.ply of the head at rest; returns the mesh's vertices."""
    frame = puppet.render(puppet.source)
    colors = pictures.color_depth(np.asarray(frame.depth), np.asarray(frame.opacity))
    pictures.save_picture(folder / "depth.png", pictures.resize(colors, config.panel))
    field = radiance_field(
        puppet.reconstructor, puppet.variables, puppet.rest_planes(), None, puppet.avatar.texture
    )
    mesh = extract_mesh(field, config.mesh_resolution)
    write_ply(folder / "mesh.ply", mesh)
    return len(mesh.vertices)


def report(config: ConfigDict, watch: Stopwatch, scores: dict, driving: Driving) -> dict:
    """What report.json holds."""
    frames = len(driving.pictures)
    device = jax.devices()[0]
    return {
        "scores": scores,
        "seconds": watch.seconds,
        "seconds_total": round(sum(watch.seconds.values()), 3),
        "film": {
            "frames": frames,
            "fps": driving.fps,
            "frames_rendered_per_second": round(frames / watch.seconds["film"], 2),
        },
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": {"p4d_jax": p4d_jax.__version__, "jax": jax.__version__, "flax": flax.__version__},
        "config": config.to_dict(),
    }
