"""A contact sheet of the embedded head: eight identities by eight expressions, each in another pose.

    python benchmarks/openhead_sheet.py docs/images/openhead.png

Rows are random identities (unit-variance coefficients, seeded), columns are actions. Skin, brows and hair are
one flat colour each: this shows the shapes.
"""

from __future__ import annotations

import sys

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax import assets
from p4d_jax.geometry import look_at_camera, unit, vertex_normals
from p4d_jax.head.skinning import head_vertices
from p4d_jax.imaging.resizing import average_blocks
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.types import CAMERA_RADIUS
from tools.landmark_embedding import paint

SIZE, SAMPLES = 144, 2
BOTH = ("Left", "Right")
# actions, jaw angle, gaze (pitch, yaw), camera (yaw, pitch)
COLUMNS = (
    ({}, 0.0, (0.0, 0.0), (0.0, 0.0)),
    ({"mouthSmile": 0.9, "cheekSquint": 0.7, "eyeSquint": 0.3}, 0.03, (0.0, 0.0), (0.45, 0.0)),
    ({"eyeBlink": 1.0}, 0.0, (0.0, 0.0), (-0.3, 0.1)),
    ({"jawOpen": 1.0, "browInnerUp": 0.9, "eyeWide": 0.7}, 0.36, (0.0, 0.0), (0.15, -0.05)),
    ({"mouthPucker": 0.9}, 0.0, (0.0, 0.35), (0.9, 0.0)),
    ({"browDown": 0.9, "noseSneer": 0.7, "mouthFrown": 0.7}, 0.0, (0.0, 0.0), (-0.6, -0.1)),
    ({"mouthUpperUp": 0.6, "mouthLowerDown": 0.6, "mouthStretch": 0.4}, 0.1, (0.1, -0.3), (0.0, 0.3)),
    ({"mouthLeft": 0.8, "eyeBlinkLeft": 1.0, "cheekPuff": 0.4}, 0.0, (0.0, 0.0), (-1.1, 0.05)),
)


def coefficients(head, actions: dict[str, float]) -> jax.Array:
    """(100,) from action names, where 'eyeBlink' stands for both sides."""
    values = np.zeros(100, np.float32)
    for name, amount in actions.items():
        for full in (name, *(name + side for side in BOTH)):
            if full in head.expression_names:
                values[head.expression_names.index(full)] = amount
    return jnp.asarray(values)


@jax.jit
def draw(head, shape, expression, jaw, gaze, view, colours):
    """(SIZE, SIZE, 3) in [0, 1] of one head."""
    eyes = jnp.concatenate([gaze, jnp.zeros(1), gaze, jnp.zeros(1)])
    vertices = head_vertices(head, shape, expression, jnp.zeros(6).at[3].set(jaw), eyes)
    camera = look_at_camera(view[0], view[1], CAMERA_RADIUS)
    raster = rasterize(vertices, head.faces, camera, SIZE * SAMPLES, True)
    seen = interpolate(raster, jnp.concatenate([colours, vertex_normals(vertices, head.faces)], -1))
    facing = unit(seen[..., 3:])
    # A key light and a weak fill light that come with the camera.
    lights = camera.cam2world[:3, :3] @ jnp.array([[0.45, -0.7], [0.5, 0.1], [0.74, 0.7]])
    light = 0.3 + jax.nn.relu(facing @ lights) @ jnp.array([0.65, 0.2])
    image = jnp.where(raster.mask[..., None], seen[..., :3] * light[..., None], jnp.array([0.72, 0.76, 0.8]))
    return jnp.clip(average_blocks(image, SAMPLES), 0, 1)


def main(path: str) -> None:
    head, rng = assets.head_model("openhead"), np.random.default_rng(11)
    regions = {name: np.asarray(index) for name, index in head.regions.items()}
    rows = []
    for _ in range(8):
        shape = jnp.asarray(rng.normal(size=300), jnp.float32)
        rest = head_vertices(head, shape, jnp.zeros(100), jnp.zeros(6), jnp.zeros(6)) / 3.0
        colours = paint(np.asarray(rest), regions)
        colours[regions["teeth"]], colours[regions["tongue"]] = [0.9, 0.87, 0.8], [0.6, 0.3, 0.3]
        skin = np.isin(np.arange(len(colours)), regions["face"]) & (colours[:, 0] > 0.5)
        colours[skin] *= rng.uniform(0.6, 1.15) * np.array(
            [1.0, rng.uniform(0.92, 1.0), rng.uniform(0.85, 1.0)]
        )
        row = [
            draw(head, shape, coefficients(head, actions), jaw, jnp.array(gaze), jnp.array(view), colours)
            for actions, jaw, gaze, view in COLUMNS
        ]
        rows.append(np.concatenate([np.asarray(image) for image in row], axis=1))
    iio.imwrite(path, np.round(np.concatenate(rows) * 255).astype(np.uint8))


if __name__ == "__main__":
    main(sys.argv[1])
