"""`Avatar`: a head with a photo's appearance that one can render, drive, save and load.

    avatar = Avatar.from_photo("me.jpg")
    for frame in avatar.drive("clip.mp4"):
        show(frame.picture)

An avatar is a pytree of arrays: it passes through `jax.jit`, and `avatar.replace(...)` gives a changed one.
Images are in [-1, 1], S pixels a side, R rays a side, M the length of motion vectors.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.avatar.encode import EncodedSource, encode_photos
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion import Motion
from p4d_jax.avatar.motion_source import motion_of_frame
from p4d_jax.avatar.personalise import personalise
from p4d_jax.capture.album import capture_album
from p4d_jax.capture.crop import CROP_SIZE
from p4d_jax.capture.photo import Capture
from p4d_jax.errors import UserError, nearest
from p4d_jax.head.actions import ARKIT, action_columns, compose_motion
from p4d_jax.head.model import HeadModel
from p4d_jax.head.retarget import Factors, transfer_motion
from p4d_jax.head.strength import Strength
from p4d_jax.imaging.writing import to_alpha, to_image
from p4d_jax.reconstructor.deformation import build_field
from p4d_jax.reconstructor.field import Frame, HeadField, driven_meshes, render_view
from p4d_jax.reconstructor.several_photos import SourceTextures
from p4d_jax.reconstructor.texture import detail_of_photo
from p4d_jax.render.surface import Mesh, extract_mesh
from p4d_jax.train.devices import fast_jit
from p4d_jax.types import Array, Camera, FrameParams, on_host, stack, take

FRAMES_AT_ONCE = 8  # side by side on an accelerator
PARTS = 4  # of a picture's rays and pixels, of which a CPU leaves out what shows no person
PHOTOS = (str, Path, np.ndarray, Capture)  # what one photo may be given as


@struct.dataclass
class Avatar:
    """One person, encoded once, seen in any motion from any camera.

    Attributes:
      model: Network, weights (an avatar's own, where it was personalised) and head model.
      source: What the network keeps of the photo, or photos.
      params: Parameters of the first photo: its shape is the avatar's identity, its camera the usual view.
      motion: (M,) motion vector of the first photo.
      photo: (512, 512, 3) uint8 crop of the first photo.
      alpha: (512, 512) in [0, 1], the person in it.
      plane_offset: (3, PT, PT, C) added to every tri-plane by personalisation, or None.
      resolution: R; another one than the network was made for changes the size of the picture.
      samples: Coarse and fine samples a ray.
    """

    model: AvatarModel
    source: EncodedSource
    params: FrameParams
    motion: Array
    photo: Array
    alpha: Array
    plane_offset: Array | None = None
    resolution: int = struct.field(pytree_node=False, default=64)
    samples: tuple[int, int] = struct.field(pytree_node=False, default=(16, 16))

    # Made -----------------------------------------------------------------------------------------------

    @classmethod
    def from_photo(
        cls,
        photo: str | Path | np.ndarray | Capture | Sequence,
        *,
        weights: str | Path | AvatarModel = "reenact_demo",
        head: str | Path | HeadModel = "openhead",
        personalise: int = 25,
        size: int | None = None,
        samples: tuple[int, int] = (16, 16),
        seed: int = 0,
    ) -> Avatar:
        """Makes the avatar of a photo, or of several photos of one person.

        Args:
          photo: A path, the name of an example ('astronaut'), uint8 (H, W, 3), a finished `Capture`, or a
            list of these; the first one comes to life.
          weights: The name of embedded weights, a file, a folder of a converted network, or an `AvatarModel`,
            which is read once and makes many avatars.
          head: The head model that is fitted; an `AvatarModel` has its own.
          personalise: Steps of optimisation for this one photo; 0 leaves what the network makes of it.
          size: Pixels a side of its pictures: None is what the network was trained with, on an accelerator
            512 for a network that refines its picture.
          samples: Coarse and fine samples a ray.
          seed: Of the samples of personalisation.

        Raises:
          UserError: A photo cannot be read or shows no face, or the weights are not there.
        """
        model = weights if isinstance(weights, AvatarModel) else AvatarModel.load(weights, head)
        photos = [photo] if isinstance(photo, PHOTOS) else list(photo)
        avatar = cls.from_captures(capture_photos(photos, model.head), model, size=size, samples=samples)
        return avatar.personalised(personalise, key=jax.random.key(seed))

    @classmethod
    def from_captures(
        cls,
        captures: Sequence[Capture],
        model: AvatarModel,
        *,
        size: int | None = None,
        samples: tuple[int, int] = (16, 16),
    ) -> Avatar:
        """Makes the avatar of captured photos of one person, not personalised; size: see `from_photo`."""
        size = size or usual_size(model)
        images = np.stack([to_image(one.crop, size) for one in captures])
        alphas = np.stack([to_alpha(one.alpha, size) for one in captures])
        known = np.stack([to_alpha(one.known, size) for one in captures])
        params = stack([on_host(one.params) for one in captures])
        first = captures[0]
        return cls.encode(
            model,
            images,
            params,
            alphas=alphas,
            known=known,
            photo=first.crop,
            alpha=first.alpha,
            samples=samples,
        )

    @classmethod
    def encode(
        cls,
        model: AvatarModel,
        images: Array,
        params: FrameParams,
        *,
        motions: Array | None = None,
        alphas: Array | None = None,
        known: Array | None = None,
        photo: np.ndarray | None = None,
        alpha: np.ndarray | None = None,
        resolution: int | None = None,
        samples: tuple[int, int] = (16, 16),
    ) -> Avatar:
        """Makes an avatar of K pictures (K, S, S, 3) in [-1, 1] with fitted parameters (K, ...).

        Args:
          motions: (K, M) motion vectors; None lets the model's motion source make them.
          alphas: (K, S, S, 1) in [0, 1], the person in each; None leaves it to the network.
          known: (K, S, S, 1) in [0, 1], where each is the photo, not its continuation; None is everywhere.
          photo, alpha: Crop and alpha of the first picture; None: the picture itself, and the first of
            `alphas` or opaque everywhere.
          resolution: R; None is what the network was made for.
        """
        each = [take(params, k) for k in range(len(images))]
        if motions is None:
            see = functools.partial(motion_of_frame, model.motion_source, model.head)
            motions = stack([see(p, picture=x) for p, x in zip(each, images, strict=True)])
        if photo is None:
            photo = np.round(np.asarray(images[0]) * 127.5 + 127.5).astype(np.uint8)
        if alpha is None:
            alpha = jnp.ones(photo.shape[:2]) if alphas is None else alphas[0, ..., 0]
        source = encode_photos(model, images, params, motions, alphas, known)
        rays = resolution or model.resolution
        first, motion = jax.device_put((each[0], motions[0]))
        avatar = cls(model, source, first, motion, photo, alpha, None, rays, samples)
        return avatar if alphas is None else _with_detail(avatar, alphas, each, motions)

    def personalised(
        self, steps: int, *, key: Array | None = None, on_step: Callable[[int, float], None] | None = None
    ) -> Avatar:
        """The avatar after some optimisation towards its photo (`avatar.personalise`); 0 steps: as it is.

        Args:
          steps: Of Adam.
          key: Of the ray samples.
          on_step: Called with the number and the loss of each step.
        """
        if steps == 0:
            return self
        tuned = personalise(self, steps, key=jax.random.key(0) if key is None else key, on_step=on_step)
        if self.source.texture.detail is None:
            return tuned
        return _with_detail(tuned, self.image_alpha()[None], [self.params], [self.motion])

    # Seen -----------------------------------------------------------------------------------------------

    def render(
        self,
        frame: FrameParams | None = None,
        *,
        expression: Array | Mapping[str, float] | None = None,
        pose: Array | None = None,
        gaze: Array | None = None,
        camera: Camera | None = None,
        motion: Array | None = None,
        planes: Array | None = None,
        background: bool = True,
    ) -> Frame:
        """One picture, with alpha and depth.

        Args:
          frame: Expression, pose, gaze and camera to show; None: the photo's own. Its shape is ignored.
          expression: (100,) coefficients in place of the frame's, or amounts of ARKit's actions by name, as
            {"jawOpen": 0.5}; the actions that are not named stay as they are.
          pose: (6,) neck and jaw in place of the frame's, axis-angle in radians.
          gaze: (2,) radians to the person's left, and up, in place of the frame's.
          camera: In place of the frame's.
          motion: (M,) motion vector; None lets the model's motion source make it of the parameters.
          planes: (3, PT, PT, C) what `animate` made of the motion vector, where it is at hand: other cameras
            and other rotations of the neck share it. None makes it.
          background: False shows the head before black.

        Raises:
          UserError: The network sees motion in pictures, and the motion vector of this frame is not given.
        """
        changed = any(x is not None for x in (frame, expression, pose, gaze))
        frame = self.params if frame is None else frame
        if isinstance(expression, Mapping) or gaze is not None:
            frame = self.act(frame, expression if isinstance(expression, Mapping) else {}, gaze)
        if expression is not None and not isinstance(expression, Mapping):
            frame = frame.replace(expression=jnp.asarray(expression, jnp.float32))
        if pose is not None:
            frame = frame.replace(pose=jnp.asarray(pose, jnp.float32))
        if camera is not None:
            frame = frame.replace(camera=camera)
        if motion is None and planes is None:
            see = motion_of_frame
            motion = see(self.model.motion_source, self.model.head, frame) if changed else self.motion
        return self._render(frame, motion, background, planes)

    def act(self, frame: FrameParams, actions: Mapping[str, float], gaze: Array | None = None) -> FrameParams:
        """A frame with amounts of ARKit's actions, by name, and a gaze (left, up) in the place of its own.

        Raises:
          UserError: There is no such action, or the head model's expression does not consist of them.
        """
        names = self.model.head.expression_names
        frame = jax.device_put(frame)
        if unknown := [name for name in actions if name not in ARKIT]:
            raise UserError(f"expression: no action {unknown[0]!r}{nearest(unknown[0], ARKIT)}")
        if not set(ARKIT) <= set(names):
            raise UserError(
                f"expression: the head model {self.model.head.name!r} does not know ARKit's actions; give its"
                " coefficients as an array, and the gaze as eyes of a frame"
            )
        before = frame.expression[action_columns(names)]
        after = before
        for name, amount in actions.items():
            after = after.at[ARKIT.index(name)].set(amount)
        looks = jnp.stack([frame.eyes[1], -frame.eyes[0]])
        old = compose_motion(before, looks, frame.neck, names)
        new = compose_motion(after, looks if gaze is None else jnp.asarray(gaze), frame.neck, names)
        # What is not asked for stays as it was fitted, which actions alone would not give back.
        columns = np.asarray([names.index(name) for name in actions], int)
        expression = frame.expression.at[columns].set(new.expression[columns])
        if gaze is not None:
            looking = np.asarray([names.index(name) for name in ARKIT if name.startswith("eyeLook")])
            expression = expression.at[looking].set(new.expression[looking])
        return frame.replace(
            expression=expression,
            pose=frame.pose + (new.pose - old.pose),
            eyes=frame.eyes if gaze is None else new.eyes,
        )

    def drive(
        self,
        motion: Motion | str | Path,
        *,
        relative: bool | None = None,
        reference_frame: int | None = None,
        neck_share: float = 1.0,
        strength: Strength | None = None,
        at: FrameParams | None = None,
        max_frames: int | None = None,
    ) -> Iterator[Frame]:
        """The avatar moving as somebody does, frame by frame; none is kept.

        Args:
          motion: A `Motion`, or what `Motion.open` reads.
          relative: Adds the driver's change since the reference frame to the photo's own pose, expression and
            gaze; False takes the driver's as they are. None: of a clip the change, of photos what they show.
          reference_frame: The frame of the motion that stands for the photo; None: the most neutral one.
          neck_share: Fraction of the head's rotation that the neck makes (1: the shoulders stay still; 0: the
            whole bust rotates).
          strength: How much of the motion is shown, part by part; Strength(pose=0) is expression without head
            motion. None is all of it.
          at: Parameters (T, ...) whose cameras and necks are taken as they are, instead of the driver's head
            motion: those of a film of this person that the pictures are pasted into.
          max_frames: Ends after so many.

        Raises:
          UserError: The motion cannot be read or moves another head model; or the network sees motion in
            pictures, and the motion has neither pictures nor motion vectors.
        """
        if not isinstance(motion, Motion):
            motion = Motion.open(motion, self.model.head, max_frames=max_frames)
        motion = motion.for_head(self.model.head).first(max_frames)
        moved = self.retarget(
            motion.params,
            relative=motion.is_clip if relative is None else relative,
            reference_frame=motion.neutral_frame if reference_frame is None else reference_frame,
            neck_share=neck_share,
            strength=strength,
            at=at,
        )
        vectors = enumerate(self.driving_vectors(motion, moved))
        yield from _one_ahead(self.render(take(moved, index), motion=vector) for index, vector in vectors)

    def retarget(
        self,
        driving: FrameParams,
        *,
        relative: bool = True,
        reference_frame: int = 0,
        neck_share: float = 1.0,
        strength: Strength | None = None,
        at: FrameParams | None = None,
    ) -> FrameParams:
        """A driver's clip (T, ...) as parameters of this person; see `drive`."""
        names = self.model.head.expression_names
        moved = transfer_motion(
            self.params,
            driving,
            reference_frame,
            relative=relative,
            neck_share=neck_share,
            bounded=bool(names),
            factors=Factors.of(strength or Strength(), names),
        )
        moved = on_host(moved)
        if at is None:
            return moved
        at = on_host(take(at, slice(len(moved.expression))))
        return moved.replace(camera=at.camera, pose=np.concatenate([at.neck, moved.jaw], axis=-1))

    def driving_vectors(self, motion: Motion, moved: FrameParams) -> Iterator[Array]:
        """Motion vectors of a driver's frames: of its own pictures or vectors, or of the moved parameters."""
        source, head = self.model.motion_source, self.model.head
        frames = [take(moved, i) for i in range(len(motion))]
        if source.of_params(frames[0]) is not None:  # a film need not be read for its pictures
            yield from map(source.of_params, frames)
            return
        vectors = itertools.repeat(None) if motion.vectors is None else motion.vectors
        pictures = itertools.repeat(None) if motion.pictures is None else motion.pictures
        for index, vector, picture in zip(range(len(motion)), vectors, pictures, strict=False):
            image = None if picture is None else to_image(picture, picture.shape[0])
            yield motion_of_frame(source, head, motion[index], picture=image, vector=vector)

    def render_many(self, frames: FrameParams, motions: Array | None = None) -> Array:
        """Pictures (F, S, S, 3) of frames (F, ...), in one program.

        Args:
          motions: (F, M) motion vectors; None lets the model's motion source make them of the parameters.
        """
        # One after another keeps a CPU's caches warm; accelerators want several side by side.
        together = None if jax.default_backend() == "cpu" else FRAMES_AT_ONCE
        return _render_many(self, frames, motions, together)

    def mesh(self, resolution: int = 128) -> Mesh:
        """The coloured surface of the head at rest, from a grid of so many densities a side."""
        return extract_mesh(self.rest_field(), resolution)

    def rest_field(self) -> HeadField:
        """The radiance field of the photo's own motion, in canonical space."""
        return HeadField(
            self.model.network, self.model.variables, self.animate(self.motion), self.source.texture
        )

    def animate(self, motion: Array) -> Array:
        """Tri-plane (3, PT, PT, C) of a motion vector (M,)."""
        planes = _animate(self.model, self.source, motion)
        return planes if self.plane_offset is None else planes + self.plane_offset

    @property
    def size(self) -> int:
        """S, pixels a side of the photo as the network is given it, and of its pictures."""
        return self.source.texture.image.shape[-2]

    def image(self) -> Array:
        """(S, S, 3) the first photo as the network is given it, in [-1, 1]."""
        return self.source.texture.image

    def image_alpha(self) -> Array:
        """(S, S, 1) the person in it."""
        return to_alpha(self.alpha, self.size)

    def _render(
        self,
        frame: FrameParams,
        motion: Array | None,
        background: bool = True,
        planes: Array | None = None,
    ) -> Frame:
        behind = self.source.features.background
        behind = behind if background else jnp.zeros_like(behind)
        meshes = driven_meshes(self.model.head, self.params.shape, frame)
        planes = self.animate(motion) if planes is None else planes
        return _render_posed(
            self.model, planes, self.source.texture, behind, meshes, frame,
            resolution=self.resolution, samples=self.samples,
        )  # fmt: skip

    # Kept -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the avatar as one file, which holds arrays and their names and no code (`avatar.file`)."""
        from p4d_jax.avatar.file import save_avatar

        save_avatar(path, self)


def _one_ahead(frames: Iterator[Frame]) -> Iterator[Frame]:
    """The same frames, each given out when the next one has been asked for.

    JAX returns before a frame is drawn: while whoever takes it waits for its pixels, or writes them to a
    film, the next one is drawn.
    """
    for frame, _ in itertools.pairwise(itertools.chain(frames, [None])):
        yield frame


def usual_size(model: AvatarModel) -> int:
    """Pixels a side of the pictures of an avatar for which none is asked."""
    size = model.config.picture_size
    can_be_larger = model.config.refinement_features and jax.default_backend() != "cpu"
    return max(size, CROP_SIZE // size * size) if can_be_larger else size


def capture_photos(photos: Sequence, head: HeadModel) -> list[Capture]:
    """Captures of photos of one person; those that are captures already stay as they are.

    Raises:
      UserError: Captures and photos are mixed, or a photo cannot be used.
    """
    if not photos:
        raise UserError("photo: at least one is needed, got an empty list")
    done = [isinstance(one, Capture) for one in photos]
    if all(done):
        return list(photos)
    if any(done):
        raise UserError("photo: give either finished captures or photos, not both in one list")
    return capture_album(photos, head)


@fast_jit
def _animate(model: AvatarModel, source: EncodedSource, motion: Array) -> Array:
    return model.network.apply(model.variables, source.features, motion[None], jnp.ones(1), method="animate")[
        0
    ]


@functools.partial(fast_jit, static_argnames=("resolution", "samples", "parts"))
def _render_posed(
    model, planes, texture, background, meshes, frame, *, resolution, samples, parts: int | None = None
) -> Frame:
    """A view of a tri-plane whose observed mesh, and the one without the neck's rotation, are `meshes`.

    background: (1, b, b, F) features of what is behind the head, in [0, 1]. parts: Of `render_view`; None is
    what is fastest.
    """
    camera = frame.camera
    deformation = build_field(model.config, model.frame, *meshes, frame.neck, camera)
    field = HeadField(model.network, model.variables, planes, texture, deformation)
    if parts is None:  # where a photo's alpha empties the field; an accelerator takes all at once
        carved = model.config.photo_features and texture.alpha is not None
        parts = PARTS if carved and jax.default_backend() == "cpu" else 1
    return render_view(field, background[0], camera, resolution=resolution, samples=samples, parts=parts)


def _with_detail(avatar: Avatar, alphas: Array, params: Sequence[FrameParams], motions: Array) -> Avatar:
    """The avatar with what its pictures of its photos lack of them, for other views to show too.

    Of several photos those after the first may be left out; their detail then stays. A network that does not
    refine its picture does not look into the photo, and stays as it is.

    Args:
      alphas: (K, S, S, 1). params: K frames. motions: (K, M).
    """
    if not avatar.model.config.refinement_features:
        return avatar
    texture = avatar.source.texture
    several = isinstance(texture, SourceTextures)
    textures = texture.textures if several else texture

    def detailed(detail: Array) -> Avatar:
        new = textures.replace(detail=detail)
        new = SourceTextures(new, texture.trust) if several else new
        return avatar.replace(source=avatar.source.replace(texture=new))

    if textures.detail is None:  # zeros, so that one program renders these pictures and all that follow
        shape = (*textures.image.shape[:-1], 6)
        textures = textures.replace(detail=jax.device_put(np.zeros(shape, np.float32)))
    seen = detailed(textures.detail)
    made = [seen._render(*one).image for one in zip(params, motions, strict=True)]
    return detailed(_add_detail(textures.detail, textures.depth, textures.image, alphas, made))


@jax.jit
def _add_detail(detail: Array, depth: Array, image: Array, alphas: Array, made: list[Array]) -> Array:
    """`SourceTexture.detail` with what the pictures `made` of the first photos lack; K photos, or one."""
    count = len(made)
    several = lambda x: x.reshape(-1, *x.shape[-3:])
    depth = depth.reshape(-1, *depth.shape[-2:])
    lacks = several(image)[:count] - jnp.stack(made)
    more = jax.vmap(detail_of_photo)(depth[:count], lacks, alphas)
    return several(detail).at[:count].add(more).reshape(detail.shape)


@functools.partial(fast_jit, static_argnames="together")
def _render_many(avatar: Avatar, frames: FrameParams, motions: Array | None, together: int | None) -> Array:
    def one(seen: tuple[FrameParams, Array | None]) -> Array:
        frame, motion = seen
        if motion is None:
            motion = motion_of_frame(avatar.model.motion_source, avatar.model.head, frame)
        return avatar._render(frame, motion).image

    return jax.lax.map(one, (frames, motions), batch_size=together)
