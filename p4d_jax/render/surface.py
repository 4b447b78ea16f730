"""From a density field to a coloured triangle mesh, and PLY and OBJ files.

The grid covers the box [-box_warp / 2, box_warp / 2]^3; axis 0 of a grid is x, axis 1 y, axis 2 z; its points
are the box's corners and evenly between. Runs on the host: a mesh's size is not known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from skimage import measure

from p4d_jax.render.volume import Field
from p4d_jax.types import BOX_WARP, Array

CHUNK = 1 << 16  # points evaluated at once


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
      vertices: (V, 3) float32 vertices, world units.
      faces: (F, 3) int32 triangles, counter-clockwise seen from outside.
      colors: (V, 3) uint8 RGB of the vertices.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray


def evaluate_field(field: Field, points: Array) -> tuple[Array, Array]:
    """`field` at points (P, 3), a chunk at a time: densities (P, 1) and features (P, C). Jittable."""
    count = points.shape[0]
    chunk = min(CHUNK, count)
    chunks = -(-count // chunk)
    padded = jnp.pad(points, ((0, chunks * chunk - count), (0, 0))).reshape(chunks, chunk, 3)
    densities, features = jax.lax.map(lambda chunk: field(chunk[:, None]), padded)  # each its own ray
    return densities.reshape(-1, 1)[:count], features.reshape(chunks * chunk, -1)[:count]


def density_grid(field: Field, resolution: int, box_warp: float = BOX_WARP) -> Array:
    """Raw densities (N, N, N) of `field` on a grid over its box. Jittable."""
    axis = jnp.linspace(-box_warp / 2, box_warp / 2, resolution)
    points = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return evaluate_field(field, points)[0].reshape(resolution, resolution, resolution)


def largest_component(density: np.ndarray, level: float) -> np.ndarray:
    """`density` (N, N, N) with all but the largest connected part above `level` lowered below it."""
    labels = measure.label(density > level)
    sizes = np.bincount(labels.ravel())[1:]
    keep = labels == 1 + int(np.argmax(sizes)) if sizes.size else labels > 0
    return np.where((labels > 0) & ~keep, np.minimum(density.min(), level - 1), density)


def marching_cubes(density: Array, level: float, box_warp: float = BOX_WARP) -> tuple[np.ndarray, np.ndarray]:
    """The surface density = level of a grid (N, N, N): vertices (V, 3) world, faces (F, 3).

    Closed: where the inside reaches the box's side, the side becomes surface. Only the largest connected part
    is kept.
    """
    density = np.asarray(density, np.float32)
    if not density.min() < level < density.max():
        raise ValueError(
            f"level: no surface at density {level}; the grid holds {density.min():.3g} to"
            f" {density.max():.3g}, choose a level between them"
        )
    density = largest_component(density, level)
    # One layer of outside all round closes the mesh; half a density step puts it close to the box's side.
    padded = np.pad(density, 1, constant_values=density.min())
    spacing = box_warp / (density.shape[0] - 1)
    vertices, faces, _, _ = measure.marching_cubes(padded, level, spacing=(spacing,) * 3)
    vertices = np.clip(vertices - spacing - box_warp / 2, -box_warp / 2, box_warp / 2)
    return vertices.astype(np.float32), faces[:, ::-1].astype(np.int32)


def extract_mesh(
    field: Field, resolution: int = 128, level: float = 10.0, box_warp: float = BOX_WARP
) -> Mesh:
    """The surface of `field` where its raw density is `level`, coloured by its first three features."""
    vertices, faces = marching_cubes(
        jax.jit(lambda: density_grid(field, resolution, box_warp))(), level, box_warp
    )
    # Padded to a round size: neighbouring meshes then share one compiled program.
    padding = -len(vertices) % CHUNK
    points = jnp.asarray(np.pad(vertices, ((0, padding), (0, 0))))
    rgb = np.asarray(jax.jit(lambda p: evaluate_field(field, p)[1][:, :3])(points))[: len(vertices)]
    return Mesh(vertices, faces, np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8))


def write_obj(path: str | Path, mesh: Mesh) -> None:
    """Writes `mesh` as Wavefront OBJ with the colours behind the coordinates, as most programs read them."""
    values = np.concatenate([mesh.vertices, mesh.colors / np.float32(255)], axis=1)
    with Path(path).open("w") as file:
        np.savetxt(file, values, fmt="v %.6f %.6f %.6f %.4f %.4f %.4f")
        np.savetxt(file, mesh.faces + 1, fmt="f %d %d %d")


def write_ply(path: str | Path, mesh: Mesh) -> None:
    """Writes `mesh` as binary little-endian PLY with a colour per vertex."""
    vertices = np.empty(len(mesh.vertices), [("position", "<f4", 3), ("color", "u1", 3)])
    vertices["position"], vertices["color"] = mesh.vertices, mesh.colors
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    text = "\n".join(header) + "\n"
    Path(path).write_bytes(text.encode("ascii") + vertices.tobytes() + faces.tobytes())
