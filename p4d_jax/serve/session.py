"""One person's stay on the page: a token, a folder, an avatar, and what moves it.

Everything here but `Sessions` runs in a worker's thread. A session's files lie in a folder of its own, which
is deleted with it; nobody gets at them without the token, which is random and never part of an address.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.file import load_avatar
from p4d_jax.avatar.gltf import write_gltf
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion import Motion
from p4d_jax.avatar.textured_head import build_textured_head
from p4d_jax.capture.landmarks import Landmarker
from p4d_jax.capture.live import LiveCapture
from p4d_jax.capture.photo import capture_photo, open_photo
from p4d_jax.errors import UserError
from p4d_jax.head.shading import shade_head, vertex_paint
from p4d_jax.imaging.reading import split_alpha
from p4d_jax.imaging.sound import has_sound
from p4d_jax.imaging.video import is_video
from p4d_jax.imaging.watermark import mark
from p4d_jax.imaging.writing import color_depth, resize, save_picture, save_video, to_picture
from p4d_jax.serve.view import View, apply_view
from p4d_jax.types import Array, FrameParams, on_host, stack, take

Say = Callable[[str], None]  # tells the person what is being done
MESH_PIXELS = 256
RECORDED = 1500  # pictures of a webcam that a recording keeps, at most


class Stopped(Exception):
    """The session has ended, or the person wants something else, while this was being made."""


@dataclass
class Session:
    """What one person has brought, and what was made of it."""

    model: AvatarModel
    marks: tuple[str, ...] = ()  # of `imaging.watermark.MARKS`, on pictures and films that are taken home
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="p4d_page_")))
    touched: float = field(default_factory=time.monotonic)
    sockets: int = 0  # open connections
    stop: threading.Event = field(default_factory=threading.Event)

    photo: Path | None = None
    note: str = ""  # what is to be said of the photo
    avatar: Avatar | None = None
    is_personalised: bool = False
    faces: list[tuple[float, float, float, float]] = field(default_factory=list)
    motion: Motion | None = None
    motion_name: str = ""
    sound: Path | None = None  # the film that moves the head, if it has sound
    moved: FrameParams | None = None  # the film's frames on this head, leading axis T
    live: FrameParams | None = None  # the webcam's last picture on this head
    _live_capture: LiveCapture | None = None
    _live_start: FrameParams | None = None
    _recorded: list[tuple[float, FrameParams]] | None = None
    _planes: tuple[Avatar, bytes, Array] | None = None  # the last tri-plane, and of whom doing what

    # The head -------------------------------------------------------------------------------------------

    def take_photo(self, path: Path, landmarker: Landmarker, say: Say, person: int | None = None) -> None:
        """Makes the head of a photo; what there was stays if it cannot be made.

        Args:
          person: Of several faces, which one, from 1 at the left; None is the largest.

        Raises:
          UserError: The photo cannot be used.
        """
        say("looking for the face")
        picture = open_photo(path)
        capture = capture_photo(picture, self.model.head, landmarker, person=person)
        faces = self.faces
        if person is None:
            several = capture.landmarks.face_count > 1
            faces = face_boxes(picture, landmarker) if several else []
        self._go_on()
        say("making the head")
        avatar = Avatar.from_captures([capture], self.model)
        self.photo, self.note, self.faces = path, capture.note, faces
        self.take_avatar(avatar)

    def open_avatar(self, path: Path, like: Avatar) -> None:
        """Shows the head of an avatar's file.

        Args:
          like: An avatar of the page's own; others would need other programs, which are made for minutes.

        Raises:
          UserError: It is no avatar's file, or of another kind.
        """
        avatar = _with_all_weights(load_avatar(path), like)
        if not _are_alike(avatar, like):
            raise UserError(
                "avatar: it was made with other weights, at another size or of several photos; give a photo"
            )
        self.photo, self.note, self.faces = None, "", []
        self.take_avatar(avatar, avatar.plane_offset is not None)

    def take_avatar(self, avatar: Avatar, is_personalised: bool = False) -> None:
        """Shows another head; what moved the one before moves this one."""
        self.avatar, self.is_personalised, self.live = avatar, is_personalised, None
        self.moved = None if self.motion is None else self._retarget(self.motion)

    def personalise(self, steps: int, say: Say) -> None:
        """The head after some optimisation towards its photo."""

        def on_step(step: int, loss: float) -> None:
            self._go_on()
            say(f"personalising, step {step + 1} of {steps}")

        say("personalising; the first time its program is compiled, which takes a minute or more")
        self.take_avatar(self._head().personalised(steps, on_step=on_step), True)

    # What moves it --------------------------------------------------------------------------------------

    def take_motion(self, path: Path, name: str, most_frames: int, say: Say) -> None:
        """Reads a film, a photo or a motion file.

        Raises:
          UserError: It cannot be used.
        """

        def progress(done: int, total: int | None) -> None:
            self._go_on()
            if done % 5 == 0:
                say(f"reading the film, frame {done}" + (f" of {total}" if total else ""))

        say("reading the film")
        motion = Motion.open(path, self.model.head, max_frames=most_frames, progress=progress)
        motion = motion.for_head(self.model.head)
        if self.avatar is not None:
            self.moved = self._retarget(motion)
        self.motion, self.motion_name = motion, name
        self.sound = path if is_video(path) and has_sound(path) else None

    def see(self, picture: np.ndarray, landmarker: Landmarker) -> bool:
        """Lets a picture (H, W, 3) uint8 of a webcam move the head; whether it shows a face."""
        if self._live_capture is None:
            self._live_capture = LiveCapture(self.model.head, landmarker)
        params = self._live_capture.see(picture)
        if params is None:
            return False
        params = on_host(params)
        if self._live_start is None:
            self._live_start = params
        if self._recorded is not None and len(self._recorded) < RECORDED:
            self._recorded.append((time.monotonic(), params))
        # The first picture stands for the photo: what changes from it on is what moves the head.
        self.live = take(self._head().retarget(stack([self._live_start, params])), 1)
        return True

    def start_live(self) -> None:
        """The next picture of the webcam is of a face at rest, perhaps of another person."""
        self._live_capture = self._live_start = self.live = None

    def record(self) -> None:
        """From now on keeps how the webcam's face moves."""
        self._recorded = []

    def keep_recorded(self) -> None:
        """What was recorded becomes the film that moves the head.

        Raises:
          UserError: No face was seen in the meantime.
        """
        taken, self._recorded = self._recorded, None
        if not taken:
            raise UserError("recording: no face was seen in it; look into the camera and record again")
        times = np.array([moment for moment, _ in taken])
        last = np.median(np.diff(times)) if len(times) > 1 else 0.1
        edges = np.append(times, times[-1] + last) - times[0]
        head = self.model.head
        fps = len(times) / float(edges[-1])
        params = stack([one for _, one in taken])
        self.motion = Motion(params, fps, head.name, head.expression_names, edges=edges)
        self.motion_name, self.sound = "recording", None
        self.moved = self._retarget(self.motion)

    def _retarget(self, motion: Motion) -> FrameParams:
        start = motion.neutral_frame
        return self._head().retarget(motion.params, relative=motion.is_clip, reference_frame=start)

    # What is seen ---------------------------------------------------------------------------------------

    def picture(self, view: View) -> np.ndarray:
        """(S, S, 3) uint8: what a view asks for.

        Raises:
          UserError: There is no head yet.
        """
        return draw(self.pose(view), view)

    def pose(self, view: View) -> Posed:
        """The head doing what a view asks for, to be drawn: the first half of `picture`.

        Raises:
          UserError: There is no head yet.
        """
        avatar = self._head()
        frame = apply_view(avatar, self._frame(view), view)
        planes = None if view.picture == "mesh" else jax.block_until_ready(self._animate(frame, view.coarse))
        return Posed(avatar, frame, planes)

    def _animate(self, frame: FrameParams, coarse: bool = False) -> Array:
        """The tri-plane of a frame; a turn of camera or neck leaves the one before as it is.

        Where the head model's surface moves the points of space, the network moves little: a coarse picture
        is drawn with the tri-plane that is at hand; from one with its own it differs by 45 dB and more.
        """
        avatar = self._head()
        if avatar.model.motion_source.of_params(frame) is None:
            raise UserError(
                "weights: this network sees motion in pictures; the page shows those that take parameters"
            )
        vector = np.concatenate([np.asarray(part) for part in (frame.expression, frame.jaw, frame.eyes)])
        last = self._planes
        is_of_head = last is not None and last[0] is avatar
        serves = is_of_head and coarse and avatar.model.config.deformation == "expression"
        if not serves and not (is_of_head and last[1] == vector.tobytes()):
            last = self._planes = avatar, vector.tobytes(), avatar.animate(vector)
        return last[2]

    def _frame(self, view: View) -> FrameParams:
        """What the head does beneath the sliders."""
        if view.mover == "live" and self.live is not None:
            return self.live
        if view.mover == "film" and self.moved is not None:
            return take(self.moved, self.film_frame(view.time))
        return self._head().params

    def film_frame(self, seconds: float) -> int:
        """The frame of the film that is shown at a time."""
        motion = self.motion
        if motion.edges is None:
            index = int(seconds * motion.fps)
        else:
            index = int(np.searchsorted(motion.edges - motion.edges[0], seconds, side="right")) - 1
        return int(np.clip(index, 0, len(motion) - 1))

    # What is taken home ---------------------------------------------------------------------------------

    def take_home(self, kind: str, view: View, say: Say) -> Path:
        """Writes a file of one of `HOME`.

        Args:
          view: What was looked at, for the kinds that show it.

        Raises:
          UserError: There is nothing that could be written yet.
        """
        path = self.folder / HOME[kind]
        avatar = self._head()
        if kind == "still":
            save_picture(path, self._marked(self.picture(replace(view, coarse=False))))
        elif kind == "film":
            motion = self._driver()
            save_video(path, self._film_pictures(view, say), motion.fps, motion.edges, self.sound)
        elif kind == "gltf":
            say("writing the mesh")
            write_gltf(path, build_textured_head(avatar))
        elif kind == "motion":
            self._driver().without_identity().save(path)
        else:
            say("writing the avatar")
            avatar.save(path)
        return path

    def _driver(self) -> Motion:
        if self.motion is None:
            raise UserError("film: nothing moves the head yet; give a film, or record the webcam")
        return self.motion

    def _marked(self, picture: np.ndarray) -> np.ndarray:
        return mark(picture, self.marks)

    def _film_pictures(self, view: View, say: Say) -> Iterator[np.ndarray]:
        """Every frame of the film in full, with the sliders and from the side of a view."""
        count = len(self._driver())
        for index in range(count):
            self._go_on()
            say(f"rendering the film, frame {index + 1} of {count}")
            frame = apply_view(self._head(), take(self.moved, index), view)
            yield self._marked(self._head().render(frame, planes=self._animate(frame)).picture)

    # Its end --------------------------------------------------------------------------------------------

    def _head(self) -> Avatar:
        if self.avatar is None:
            raise UserError("there is no head yet; give a photo")
        return self.avatar

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def end(self) -> None:
        """Deletes the files; nothing more is made."""
        self.stop.set()
        shutil.rmtree(self.folder, ignore_errors=True)


HOME = {
    "still": "head.png",
    "film": "film.mp4",
    "gltf": "head.glb",
    "motion": "motion.npz",
    "avatar": "head.avatar",
}


@dataclass(frozen=True)
class Posed:
    """An avatar and what it does; planes: its tri-plane of that, None where only the mesh is wanted."""

    avatar: Avatar
    frame: FrameParams
    planes: Array | None


def draw(posed: Posed, view: View) -> np.ndarray:
    """(S, S, 3) uint8: a posed head as a view asks for it."""
    avatar = posed.avatar
    if view.picture == "mesh":
        paint = jnp.asarray(vertex_paint(avatar.model.head))
        return to_picture(shade_head(avatar.model.head, paint, posed.frame, MESH_PIXELS))
    seen = (coarse_avatar(avatar) if view.coarse else avatar).render(posed.frame, planes=posed.planes)
    if view.picture == "depth":
        colors = color_depth(np.asarray(seen.depth), np.asarray(seen.alpha))
        return resize(colors, seen.image.shape[0])
    if view.picture == "alpha":
        grey = np.round(np.asarray(seen.alpha).clip(0, 1) * 255).astype(np.uint8)
        return resize(np.repeat(grey[..., None], 3, axis=-1), seen.image.shape[0])
    return seen.picture


def _with_all_weights(avatar: Avatar, like: Avatar) -> Avatar:
    """A loaded avatar, whose file holds only weights that draw it, with the rest of the page's network.

    The programs that draw the page's own avatars then draw this one.
    """
    weights = flatten_dict(like.model.variables) | flatten_dict(avatar.model.variables)
    return avatar.replace(model=avatar.model.replace(variables=unflatten_dict(weights)))


def _are_alike(one: Avatar, other: Avatar) -> bool:
    """Whether the same programs render both, personalised or not."""
    one, other = (avatar.replace(plane_offset=None) for avatar in (one, other))
    shapes = lambda avatar: [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in jax.tree.leaves(avatar)]
    return jax.tree.structure(one) == jax.tree.structure(other) and shapes(one) == shapes(other)


def coarse_avatar(avatar: Avatar) -> Avatar:
    """The avatar with half as many rays, and pixels, a side, and half as many samples a ray."""
    coarse, fine = avatar.samples
    return avatar.replace(resolution=avatar.resolution // 2, samples=(coarse // 2, fine // 2))


def face_boxes(picture: np.ndarray, landmarker: Landmarker) -> list[tuple[float, float, float, float]]:
    """Left, top, width and height of each face, from left to right, as shares of the photo's size."""
    colours = split_alpha(picture)[0]
    size = np.array([colours.shape[1], colours.shape[0]], float)
    boxes = []
    for landmarks in landmarker.people(colours):
        low, high = landmarks.points.min(axis=0) / size, landmarks.points.max(axis=0) / size
        boxes.append((*map(float, low), *map(float, high - low)))
    return boxes


class Sessions:
    """Those who are here, by their tokens. Used by the loop's thread alone."""

    def __init__(self, begin: Callable[[], Session], most: int, seconds: float):
        """An empty page.

        Args:
          begin: Makes a session.
          most: How many may be here at once.
          seconds: After which somebody who is no longer connected has gone.
        """
        self._begin, self._most, self._seconds = begin, most, seconds
        self._by_token: dict[str, Session] = {}

    def begin(self) -> Session:
        """A new session.

        Raises:
          UserError: The page is full.
        """
        if len(self._by_token) >= self._most:
            raise UserError(f"the page is full: {self._most} people are here; come back in some minutes")
        session = self._begin()
        self._by_token[session.token] = session
        return session

    def find(self, token: str | None) -> Session | None:
        """The session of a token."""
        session = self._by_token.get(token or "")
        if session is not None:
            session.touched = time.monotonic()
        return session

    def end(self, session: Session) -> None:
        """Ends a session and deletes its files."""
        self._by_token.pop(session.token, None)
        session.end()

    def end_the_gone(self) -> list[Session]:
        """Ends the sessions of those who went away a while ago; which they were."""
        now = time.monotonic()
        gone = [one for one in self.everyone() if not one.sockets and now - one.touched > self._seconds]
        for session in gone:
            self.end(session)
        return gone

    def everyone(self) -> list[Session]:
        """All who are here."""
        return list(self._by_token.values())

    def close(self) -> None:
        """Ends all."""
        for session in self.everyone():
            self.end(session)
