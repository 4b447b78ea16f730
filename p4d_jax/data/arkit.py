"""Tables of ARKit's facial actions, as iPhone apps such as Live Link Face write them.

A CSV with one row a frame: `Timecode` (hours:minutes:seconds:frame.fraction), `BlendShapeCount` (61), the 52
actions in [0, 1], and nine angles in radians, yaw, pitch and roll of `Head`, `LeftEye` and `RightEye`. Names
begin with capitals; capitals and order of columns do not matter when reading.

Angles are right-handed about y (yaw: positive turns to the person's left), x (pitch: positive looks down) and
z (roll: positive tilts to the person's right), applied as yaw, pitch and roll, each in the turned frame. Apps
do not document theirs; this is how importers of such tables apply them. The head's is that before the camera.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from p4d_jax.data.motion import MotionFile
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.actions import ARKIT, GAZE_DOWN, GAZE_SIDE, GAZE_UP, JAW_OPEN, JAW_SIDE, action_columns
from p4d_jax.types import CAMERA_PIVOT, CAMERA_RADIUS, EXPRESSION_SIZE, SHAPE_SIZE, Camera, FrameParams

ANGLES = [f"{part}{angle}" for part in ("Head", "LeftEye", "RightEye") for angle in ("Yaw", "Pitch", "Roll")]
COLUMNS = [name[0].upper() + name[1:] for name in ARKIT] + ANGLES
RATES = (24, 25, 30, 48, 50, 60, 90, 100, 120)  # frames a second that timecodes count
USUAL_RATE = 60  # of these apps


def save_arkit(path: str | Path, params: FrameParams, fps: float, names: tuple[str, ...]) -> None:
    """Writes a clip as such a table.

    Args:
      path: Of the file.
      params: Parameters (T, ...).
      fps: Frames a second; timecodes count the nearest of `RATES`.
      names: Of the head model's expression components, ARKit's actions among them.

    Raises:
      ValueError: The expression does not consist of ARKit's actions.
    """
    actions = np.asarray(params.expression)[:, action_columns(names)].clip(0, 1)
    world2cam = np.asarray(params.camera.cam2world)[:, :3, :3].swapaxes(1, 2)
    head = Rotation.from_matrix(world2cam) * Rotation.from_rotvec(np.asarray(params.neck))
    eyes = np.asarray(params.eyes).reshape(-1, 2, 3)
    angles = [head.as_euler("YXZ"), *(Rotation.from_rotvec(eyes[:, side]).as_euler("YXZ") for side in (0, 1))]
    rate = min(RATES, key=lambda rate: abs(rate - fps))
    with Path(path).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Timecode", "BlendShapeCount", *COLUMNS])
        for index, values in enumerate(np.concatenate([actions, *angles], axis=1)):
            # Starts at the last frame of a second, so that short clips, too, show how many a second has.
            second, frame = divmod(round(index * rate / fps * 1000) + (rate - 1) * 1000, rate * 1000)
            clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
            timecode = f"{clock}:{frame // 1000:02d}.{frame % 1000:03d}"
            table.writerow([timecode, len(COLUMNS), *(f"{value:.7g}" for value in values)])


def load_arkit(path: str | Path, head: str, names: tuple[str, ...]) -> MotionFile:
    """Reads such a table. Rows without values, where the app saw no face, are filled in between.

    Args:
      path: Of the file.
      head: Name of the head model that the motion is for, and `names` those of its expression components.

    Raises:
      ValueError: It is no such table, or the head's expression does not consist of ARKit's actions.
    """
    times, values, rate = read_table(path)
    frames = np.arange(times[0], times[-1] + 0.5)  # of the timecode's rate
    even = np.stack([np.interp(frames, times, column) for column in values.T], axis=1)
    actions, angles = even[:, : len(ARKIT)].clip(0, 1), even[:, len(ARKIT) :].reshape(-1, 3, 3)
    of = {name: actions[:, index] for index, name in enumerate(ARKIT)}
    expression = np.zeros((len(frames), EXPRESSION_SIZE), np.float32)
    expression[:, action_columns(names)] = actions
    zero = np.zeros(len(frames))
    jaw = np.stack([JAW_OPEN * of["jawOpen"], JAW_SIDE * (of["jawLeft"] - of["jawRight"]), zero], axis=-1)
    # The lids follow the actions, so the eyes do, too; apps give both.
    eyes = []
    for side, outward in (("Left", 1.0), ("Right", -1.0)):
        across = outward * GAZE_SIDE * (of[f"eyeLookOut{side}"] - of[f"eyeLookIn{side}"])
        up = GAZE_UP * of[f"eyeLookUp{side}"] - GAZE_DOWN * of[f"eyeLookDown{side}"]
        eyes += [-up, across, zero]
    params = FrameParams(
        camera_of_head(Rotation.from_euler("YXZ", angles[:, 0])),
        np.zeros((len(frames), SHAPE_SIZE), np.float32),
        expression,
        np.concatenate([np.zeros((len(frames), 3)), jaw], axis=-1).astype(np.float32),
        np.stack(eyes, axis=-1).astype(np.float32),
    )
    return MotionFile(params, float(rate), head, tuple(names))


def camera_of_head(turn: Rotation) -> Camera:
    """Cameras (T, ...) that see a head turned by T rotations about its pivot, at the usual distance."""
    usual = look_at_camera(0.0, 0.0, CAMERA_RADIUS, pivot=CAMERA_PIVOT)
    start, pivot = np.asarray(usual.cam2world, np.float64), np.asarray(CAMERA_PIVOT)
    back = turn.inv().as_matrix()
    cam2world = np.broadcast_to(np.eye(4), (len(back), 4, 4)).astype(np.float32)
    cam2world[:, :3, :3] = back @ start[:3, :3]
    cam2world[:, :3, 3] = pivot + back @ (start[:3, 3] - pivot)
    return Camera(cam2world, np.broadcast_to(np.asarray(usual.intrinsics), (len(back), 3, 3)))


def read_table(path: str | Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Times (T,) of the rows with values, in frames, the values (T, 61) of `COLUMNS`, and frames a second."""
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a table ({error})") from error
    places = {name.strip().lower(): index for index, name in enumerate(header)}
    if missing := [name for name in COLUMNS[: len(ARKIT)] if name.lower() not in places]:
        raise ValueError(
            f"{str(path)!r} is no table of ARKit's actions: it has no column {missing[0]!r}"
            f" ({len(missing)} of {len(ARKIT)} are missing)"
        )
    chosen = [places.get(name.lower()) for name in COLUMNS]  # angles may be missing
    codes, values = [], []
    for number, row in enumerate(rows, start=2):
        cells = ["0" if index is None else row[index] if index < len(row) else "" for index in chosen]
        if not any(row) or not all(cells[: len(ARKIT)]):
            continue
        try:
            values.append([float(cell or 0) for cell in cells])
        except ValueError as error:
            raise ValueError(f"{str(path)!r}, line {number}: {error}") from error
        codes.append(row[places["timecode"]] if "timecode" in places else "")
    if not values or not np.isfinite(values).all():
        raise ValueError(f"{str(path)!r} has no rows with values, or values that are not finite")
    times, rate = frames_of_timecodes(codes)
    if not (np.diff(times) > 0).all():
        raise ValueError(f"{str(path)!r}: its timecodes do not run forwards")
    return times, np.asarray(values), rate


def frames_of_timecodes(codes: list[str]) -> tuple[np.ndarray, int]:
    """Times (T,) in frames, and frames a second; without timecodes rows are frames of `USUAL_RATE`.

    What the frames are counted by is not written in a timecode: the least of `RATES` that is larger than
    every number of a frame. A clip within one second is too short to tell.
    """
    parts = [re.fullmatch(r"(\d+):(\d+):(\d+):(\d+(?:\.\d+)?)", code.strip()) for code in codes]
    if not all(parts):
        return np.arange(len(codes), dtype=np.float64), USUAL_RATE
    clock = np.array([[float(number) for number in part.groups()] for part in parts])
    seconds, frames = clock[:, :3] @ [3600, 60, 1], clock[:, 3]
    larger = [rate for rate in RATES if rate > frames.max()]
    rate = USUAL_RATE if np.ptp(seconds) == 0 or not larger else larger[0]
    return seconds * rate + frames, rate
