"""Rotations, pinhole cameras and similarity transforms.

Camera space: x right, y up, the camera looks along -z. Image coordinates uv are in [0, 1]^2, u to the right,
v down, (0, 0) the top-left corner of the top-left pixel. Rotations are 3x3 matrices acting on column vectors,
or axis-angle 3-vectors in radians. Lengths are world units (FLAME metres times 3). SPEC sections 1, 2 and 6.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.types import Array, Camera

# Where ArcFace's training crops (112 x 112) hold the left-in-image eye, the other eye, the tip of the nose
# and the corners of the mouth; pixels, y down. Source: insightface, face_align.
ARCFACE_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
# Where PD-FGC's crops (224 x 224) hold the two eyes and the mouth; pixels, y down.
MOTION_TEMPLATE = ((87.0, 59.0), (137.0, 59.0), (112.0, 120.0))
ARCFACE_SIZE = 112
MOTION_SIZE = 224


# Arithmetic ----------------------------------------------------------------------------------------------


def exact_products(function: Callable) -> Callable:
    """The function with matrix products in full float32, on any device and under any setting.

    Accelerators round the factors of float32 products unless told otherwise, GPUs to 10 and TPUs to 7 bits of
    mantissa: too few for places, which are found from differences of squares and turned again and again.
    Networks are free to take the faster products.
    """

    @functools.wraps(function)
    def exact(*args, **kwargs):
        with jax.default_matmul_precision("float32"):
            return function(*args, **kwargs)

    return exact


def round_product(product: Array) -> Array:
    """A product, rounded to float32 before anything is added to it.

    Compilers contract a * b + c into one operation with one rounding, and move constants out of products.
    Where the last bit decides (which of two equally near triangles counts; a pixel coordinate into white
    noise), the roundings must be those of the reference. On a CPU no compiler drops a minimum with the
    largest float, nor rearranges across it. On a GPU a * b + c is contracted nevertheless (seen on an H200,
    JAX 0.11), so that ties fall otherwise there.
    """
    return jnp.minimum(product, jnp.finfo(jnp.float32).max)


def divide_by_one(numerators: Array, divisor: Array) -> Array:
    """Many numbers divided by one positive number, each quotient rounded correctly.

    XLA multiplies by the inverse where all lanes share a divisor; this gives each lane its own.
    """
    return numerators / jnp.maximum(divisor, -jnp.abs(numerators))


def dot_in_order(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """a . b of vectors given by their components, every product and sum rounded, from the first on."""
    total = round_product(a[0] * b[0])
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + round_product(x * y)
    return total


# Rotations -----------------------------------------------------------------------------------------------


def _sinc(squared: Array) -> Array:
    """sin(x) / x as a function of x^2, smooth at zero with all its derivatives."""
    small = squared < 0.1
    x = jnp.sqrt(jnp.where(small, 1.0, squared))
    series = 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42 * (1 - squared / 72)))
    return jnp.where(small, series, jnp.sin(x) / x)


def _cross_matrix(vector: Array) -> Array:
    """The matrix K of (..., 3) vectors with K p = vector x p: (..., 3, 3)."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = jnp.zeros_like(x)
    rows = (zero, -z, y, z, zero, -x, -y, x, zero)
    return jnp.stack(rows, axis=-1).reshape(*vector.shape[:-1], 3, 3)


@exact_products
def axis_angle_to_matrix(axis_angle: Array) -> Array:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), radians (Rodrigues).

    Smooth at zero, derivatives included.
    """
    if axis_angle.shape[-1] != 3:
        raise ValueError(f"axis_angle: the last axis must be 3, got shape {axis_angle.shape}")
    squared = jnp.sum(axis_angle**2, axis=-1)[..., None, None]
    cross = _cross_matrix(axis_angle)
    half = _sinc(squared / 4)
    return jnp.eye(3, dtype=axis_angle.dtype) + _sinc(squared) * cross + 0.5 * half**2 * (cross @ cross)


def _matrix_to_quaternion(matrix: Array) -> Array:
    """Unit quaternion (w, x, y, z), w >= 0, of one rotation matrix (3, 3).

    Row k of the symmetric matrix 4 q q^T is read off the rotation for each k; the row of the largest
    component divides by the largest number and is the accurate one.
    """
    m = matrix
    diagonal = jnp.stack(
        [
            1 + m[0, 0] + m[1, 1] + m[2, 2],
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
        ]
    )
    wx, wy, wz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    outer = jnp.stack(
        [
            jnp.stack([diagonal[0], wx, wy, wz]),
            jnp.stack([wx, diagonal[1], xy, xz]),
            jnp.stack([wy, xy, diagonal[2], yz]),
            jnp.stack([wz, xz, yz, diagonal[3]]),
        ]
    )
    row = outer[jnp.argmax(diagonal)]
    quaternion = row / jnp.linalg.norm(row)
    return jnp.where(quaternion[0] < 0, -quaternion, quaternion)


def matrix_to_axis_angle(matrix: Array) -> Array:
    """Axis-angle vectors (..., 3), of angles in [0, pi], of rotation matrices (..., 3, 3)."""
    if matrix.shape[-2:] != (3, 3):
        raise ValueError(f"matrix: the last axes must be (3, 3), got shape {matrix.shape}")

    def one(rotation: Array) -> Array:
        quaternion = _matrix_to_quaternion(rotation)
        w, vector = quaternion[0], quaternion[1:]
        squared = jnp.sum(vector**2)
        small = squared < 1e-8
        length = jnp.sqrt(jnp.where(small, 1.0, squared))
        scale = jnp.where(small, 2.0 / w, 2.0 * jnp.arctan2(length, w) / length)
        return scale * vector

    flat = matrix.reshape(-1, 3, 3)
    return jax.vmap(one)(flat).reshape(*matrix.shape[:-2], 3)


# Cameras -------------------------------------------------------------------------------------------------


def intrinsics_from_fov(fov_degrees: Array | float = 12.0) -> Array:
    """Intrinsics (3, 3), normalised by image size, of a square image that spans `fov_degrees` edge to edge.

    EG3D's helper of the same purpose measures its angle along the image's diagonal: its focal length is the
    square root of two times longer.
    """
    focal = 0.5 / jnp.tan(jnp.asarray(fov_degrees, jnp.float32) * (math.pi / 360))
    centre = jnp.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
    return centre + jnp.diag(jnp.array([1.0, 1.0, 0.0])) * focal


def _normalize(vector: Array) -> Array:
    return vector / jnp.linalg.norm(vector, axis=-1, keepdims=True)


def look_at_camera(
    yaw: Array | float,
    pitch: Array | float,
    radius: Array | float,
    roll: Array | float = 0.0,
    pivot: Array | tuple[float, float, float] = (0.0, 0.0, 0.0),
    fov_degrees: Array | float = 12.0,
) -> Camera:
    """A camera on a sphere around the world's origin that looks at `pivot`; yaw = pitch = 0 is frontal.

    Args:
      yaw: (...) azimuth in radians; positive moves the camera towards -x.
      pitch: (...) height in EG3D's equal-area measure: the sine of the elevation is 2 pitch / pi, so that
        uniform pitches are uniform on the sphere. Positive lifts the camera. In (-pi/2, pi/2).
      radius: (...) distance from the world's origin, world units.
      roll: (...) radians; positive tilts the camera's up towards its right.
      pivot: (..., 3) the point that projects to the image's centre.
      fov_degrees: see `intrinsics_from_fov`.

    Returns:
      Camera with the broadcast leading axes of the arguments.
    """
    pivot = jnp.asarray(pivot, dtype=jnp.float32)
    yaw, pitch, radius, roll, _ = jnp.broadcast_arrays(
        *(jnp.asarray(value, dtype=jnp.float32) for value in (yaw, pitch, radius, roll)), pivot[..., 0]
    )
    height = 2 * pitch / math.pi
    ground = jnp.sqrt(1 - height**2)
    origin = radius[..., None] * jnp.stack([-ground * jnp.sin(yaw), height, ground * jnp.cos(yaw)], axis=-1)

    forward = _normalize(pivot - origin)
    right = _normalize(jnp.cross(forward, jnp.array([0.0, 1.0, 0.0])))
    up = jnp.cross(right, forward)
    cosine, sine = jnp.cos(roll)[..., None], jnp.sin(roll)[..., None]
    right, up = right * cosine - up * sine, up * cosine + right * sine

    top = jnp.stack([right, up, -forward, origin], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0]), (*yaw.shape, 1, 4))
    intrinsics = jnp.broadcast_to(intrinsics_from_fov(fov_degrees), (*yaw.shape, 3, 3))
    return Camera(cam2world=jnp.concatenate([top, bottom], axis=-2), intrinsics=intrinsics)


@exact_products
def world_to_camera(camera: Camera, points: Array) -> Array:
    """World points (..., 3) in the space of one camera: (..., 3)."""
    return (points - camera.cam2world[:3, 3]) @ camera.cam2world[:3, :3]


def project(camera: Camera, points: Array) -> tuple[Array, Array]:
    """Where one camera sees world points (..., 3).

    Returns:
      uv (..., 2) image coordinates, v down, inside the image when in [0, 1]; z (...) the distance in front of
      the camera along its axis. For points with z <= 0, uv has no meaning.
    """
    local = world_to_camera(camera, points)
    z = -local[..., 2]
    divisor = jnp.where(jnp.abs(z) < 1e-8, 1e-8, z)
    intrinsics = camera.intrinsics
    u = intrinsics[0, 2] + intrinsics[0, 0] * local[..., 0] / divisor
    v = intrinsics[1, 2] - intrinsics[1, 1] * local[..., 1] / divisor
    return jnp.stack([u, v], axis=-1), z


@exact_products
def decompose_neck(camera: Camera, neck_rotation: Array, neck_joint: Array) -> Camera:
    """The camera that sees the head with its neck bent as `camera` sees it straight (SPEC section 2).

    A head without neck rotation under `camera` and the same head, turned by `neck_rotation` about
    `neck_joint`, under the result give one image of everything that turns with the neck.

    Args:
      camera: one total camera, which carries the whole head pose.
      neck_rotation: (3,) axis-angle in radians, or (3, 3).
      neck_joint: (3,) world position of the neck joint.
    """
    rotation = axis_angle_to_matrix(neck_rotation) if neck_rotation.shape == (3,) else neck_rotation
    if rotation.shape != (3, 3):
        raise ValueError(f"neck_rotation: expected shape (3,) or (3, 3), got {neck_rotation.shape}")
    # cam2world turns by R about the joint: the inverse of world2cam R^T with the joint held in place.
    orientation = rotation @ camera.cam2world[:3, :3]
    origin = neck_joint + rotation @ (camera.cam2world[:3, 3] - neck_joint)
    cam2world = camera.cam2world.at[:3, :3].set(orientation).at[:3, 3].set(origin)
    return camera.replace(cam2world=cam2world)


# Similarity transforms of the image plane ------------------------------------------------------------------


@exact_products
def fit_similarity(source: Array, target: Array) -> Array:
    """The scale, rotation and shift that bring `source` (N, 2) nearest to `target` (N, 2): (2, 3).

    Least squares without reflection (Umeyama 1991): in the plane it is linear in (scale cos, scale sin).
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[-1] != 2:
        raise ValueError(f"source, target: both must be (N, 2), got {source.shape} and {target.shape}")
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    spread = jnp.maximum(jnp.sum(s**2), 1e-12)
    a = jnp.sum(s * t) / spread
    b = jnp.sum(s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]) / spread
    linear = jnp.stack([jnp.stack([a, -b]), jnp.stack([b, a])])
    return jnp.concatenate([linear, (target_mean - linear @ source_mean)[:, None]], axis=1)


@exact_products
def invert_affine(matrix: Array) -> Array:
    """The inverse (2, 3) of an affine map (2, 3) of the plane."""
    a, b, c, d = matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1]
    linear = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])]) / (a * d - b * c)
    return jnp.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)


def _unit_steps(count: int) -> np.ndarray:
    """`count` numbers (float32) from -1 to 1, counted from the nearer end and rounded once."""
    step = np.float64(np.float32(2) / np.float32(count - 1))
    index = np.arange(count)
    return np.where(index < count // 2, step * index - 1, 1 - step * (count - 1 - index)).astype(np.float32)


def _source_from_target(matrix: Array, source: tuple[int, int], target: tuple[int, int]) -> Array:
    """The inverse (2, 3) of `matrix` between images of (height, width), where each spans [-1, 1]^2.

    In the order of kornia 0.9: pixels to [-1, 1] on both sides, then the inverse by cofactors.
    """
    width, height = (np.float32(2 / (extent - 1)) for extent in source[::-1])
    to_pixel = height / (width * height), width / (width * height)
    rows = []
    for row, extent in zip(matrix, target[::-1], strict=True):
        scale = np.float32(2 / (extent - 1))
        linear = [round_product(scale * round_product(row[k] * to_pixel[k])) for k in range(2)]
        shift = dot_in_order((row[0], row[1]), to_pixel) + row[2]
        rows.append((*linear, round_product(scale * shift) - 1))
    (a, b, c), (d, e, f) = rows
    determinant = dot_in_order((a, d), (e, -b))
    # One product of these two is contracted there, and left to the compiler here.
    cofactors = ((e, -b, b * f - round_product(c * e)), (-d, a, c * d - round_product(a * f)))
    return jnp.stack([jnp.stack([cofactor / determinant for cofactor in row]) for row in cofactors])


def warp_affine(image: Array, matrix: Array, size: int | tuple[int, int]) -> Array:
    """`image` (H, W, C) moved by `matrix` (2, 3), read bilinearly, zero outside: (height, width, C).

    `matrix` maps source to target pixels (x, y), y down; integer coordinates are pixel centres. Coordinates
    are float32 within [-1, 1] across the image, which places a pixel of 512 to within some 5e-5; their
    roundings are those of kornia 0.9's `warp_affine`, since white noise shows every one of them.
    """
    if image.ndim != 3 or matrix.shape != (2, 3):
        raise ValueError(f"image must be (H, W, C) and matrix (2, 3), got {image.shape} and {matrix.shape}")
    target = (size, size) if isinstance(size, int) else size
    source = image.shape[:2]
    if min(*source, *target) < 2:
        raise ValueError(f"image, size: both need 2 x 2 pixels at least, got {source} and {target}")
    inverse = _source_from_target(matrix, source, target)
    y, x = _unit_steps(target[0])[:, None], _unit_steps(target[1])[None]
    source_x, source_y = (
        round_product((dot_in_order((row[0], row[1]), (x, y)) + row[2] + 1) * ((extent - 1) / 2))
        for row, extent in zip(inverse, source[::-1], strict=True)
    )
    left, top = jnp.floor(source_x), jnp.floor(source_y)
    result = jnp.zeros((*target, image.shape[-1]), image.dtype)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < source[1]) & (row >= 0) & (row < source[0])
        weight = (1 - jnp.abs(source_x - column)) * (1 - jnp.abs(source_y - row)) * inside
        j = jnp.clip(column, 0, source[1] - 1).astype(jnp.int32)
        i = jnp.clip(row, 0, source[0] - 1).astype(jnp.int32)
        result = result + weight[..., None] * image[i, j]
    return result


def arcface_transform(landmarks: Array) -> Array:
    """(2, 3) from pixels (x, y), y down, to ArcFace's 112 x 112 crop, of 70 landmarks (70, 2) in pixels.

    Landmarks: 68 in iBUG order and the centres of the two eyes, the picture's left one first.
    """
    points = _landmarks70(landmarks)[jnp.array([68, 69, 30, 48, 54])]
    return fit_similarity(points, jnp.array(ARCFACE_TEMPLATE))


def motion_transform(landmarks: Array) -> Array:
    """(2, 3) from pixels (x, y), y down, to PD-FGC's 224 x 224 crop, of 70 landmarks (70, 2) in pixels."""
    landmarks = _landmarks70(landmarks)
    centres = [landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[60:68].mean(0)]
    return fit_similarity(jnp.stack(centres), jnp.array(MOTION_TEMPLATE))


def _landmarks70(landmarks: Array) -> Array:
    if landmarks.shape != (70, 2):
        raise ValueError(f"landmarks: expected shape (70, 2), got {landmarks.shape}")
    return landmarks
