"""FLAME 2020 and 2023, as a user downloads them under FLAME's licence, to a `HeadModel`.

The model file is `generic_model.pkl` (or its male/female siblings, or `flame2023.pkl`). Optional beside it:
the vertex masks (`FLAME_masks.pkl`), the 68-landmark embedding with contour (`landmark_embedding.npy`), the
MediaPipe embedding (`mediapipe_landmark_embedding.npz`), and of the public implementation the decimated mesh
(`simplify_baricentric2.npy`) and the vertex neighbours (`flame_addition_info_new_smallface.npy`). Nothing in
them is executed: `pickles`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from p4d_jax.convert.pickles import read_npy, read_pickle
from p4d_jax.errors import UserError
from p4d_jax.head.model import NECK, NEIGHBOURS, HeadModel
from p4d_jax.npz import open_npz

_SHAPE_SIZE, _EXPRESSION_SIZE = 300, 100
MODEL_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "f")
_DECIMATED_VERTICES = 730  # the size of the public implementation's decimated mesh


def load_flame(
    path: str | Path,
    *,
    masks: str | Path | None = None,
    landmarks: str | Path | None = None,
    mediapipe: str | Path | None = None,
    decimation: str | Path | None = None,
    neighbours: str | Path | None = None,
) -> HeadModel:
    """Reads a FLAME pickle and what belongs to it.

    Args:
      path: FLAME 2020 or 2023 model pickle.
      masks: `FLAME_masks.pkl`, name -> vertex indices. Without it the regions are empty.
      landmarks: `landmark_embedding.npy` with the 68 landmarks (more are left out: the public
        implementation adds the eyes' centres) and the 17 contour points for 79 yaws. Without it the landmark
        arrays are empty.
      mediapipe: `mediapipe_landmark_embedding.npz`. Without it the MediaPipe arrays are empty.
      decimation: `simplify_baricentric2.npy`. Without it the mesh is decimated here.
      neighbours: `flame_addition_info_new_smallface.npy`, which also has the eyelids. Without it a vertex's
        neighbours are its ring.

    Raises:
      UserError: a file is missing, refused or broken, or an array has the wrong shape.
    """
    arrays = _model_arrays(Path(path))
    faces = arrays["f"]
    template = arrays["v_template"]
    regions = _regions(masks, len(template))
    rings = vertex_rings(faces, len(template))
    if neighbours is not None:
        rings, regions["eyelids"] = _neighbours(neighbours, len(template))
    shape_and_expression = arrays["shapedirs"]
    static = _landmarks68(landmarks, faces, template)
    return HeadModel(
        template=_float(template),
        shape_basis=_float(shape_and_expression[..., :_SHAPE_SIZE]),
        expression_basis=_float(shape_and_expression[..., _SHAPE_SIZE:][..., :_EXPRESSION_SIZE]),
        pose_basis=_float(arrays["posedirs"]),
        joint_regressor=_float(arrays["J_regressor"]),
        skinning_weights=_float(arrays["weights"]),
        faces=_int(faces),
        origin=_float(arrays["J_regressor"][NECK] @ template),
        **static,
        **_mediapipe(mediapipe, faces),
        regions=regions,
        neighbours=_int(rings),
        **_decimation(decimation, template, faces),
        uv=jnp.zeros((len(template), 2)),
        name=Path(path).stem,
    )


def vertex_rings(faces: np.ndarray, vertices: int, size: int = NEIGHBOURS) -> np.ndarray:
    """(V, size) int: the vertex itself, then its ring in order of index, padded with V."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    starts = np.searchsorted(edges[:, 0], np.arange(vertices))
    rank = np.arange(len(edges)) - starts[edges[:, 0]] + 1
    rings = np.full((vertices, size), vertices, np.int32)
    rings[:, 0] = np.arange(vertices)
    keep = rank < size
    rings[edges[keep, 0], rank[keep]] = edges[keep, 1]
    return rings


def decimate(vertices: np.ndarray, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertex clustering on the finest cubic grid that leaves at most `target` vertices.

    Returns:
      faces (f, 3) over the kept vertices, and the kept vertices' indices in the full mesh (v,).
    """
    low, high = 0.0, float(np.ptp(vertices, axis=0).max())
    for _ in range(40):
        cell = (low + high) / 2
        low, high = (low, cell) if len(_cluster(vertices, cell)[0]) <= target else (cell, high)
    kept, cluster = _cluster(vertices, high)
    small = cluster[faces]
    distinct = (small[:, 0] != small[:, 1]) & (small[:, 1] != small[:, 2]) & (small[:, 2] != small[:, 0])
    small = small[distinct]
    _, first = np.unique(np.sort(small, axis=1), axis=0, return_index=True)
    return small[np.sort(first)].astype(np.int32), kept


def _cluster(vertices: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Representative vertex of each occupied cell (the one nearest its mean), and each vertex's cluster."""
    keys = np.floor((vertices - vertices.min(0)) / max(cell, 1e-9)).astype(np.int64)
    _, cluster = np.unique(keys, axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    count = cluster.max() + 1
    mean = np.stack([np.bincount(cluster, vertices[:, k], count) for k in range(3)], -1)
    mean /= np.bincount(cluster, minlength=count)[:, None]
    distance = np.square(vertices - mean[cluster]).sum(-1)
    order = np.lexsort((distance, cluster))
    return order[np.searchsorted(cluster[order], np.arange(count))], cluster


def _float(array: Any) -> jnp.ndarray:
    return jnp.asarray(np.asarray(array, np.float32))


def _int(array: Any) -> jnp.ndarray:
    return jnp.asarray(np.asarray(array, np.int32))


def _model_arrays(path: Path) -> dict[str, np.ndarray]:
    model = read_pickle(path)
    if any(name not in model.names for name in MODEL_KEYS):
        raise UserError(f"{path}: not a FLAME model, expected a dict with {', '.join(MODEL_KEYS)}")
    arrays = {name: model.array(name) for name in MODEL_KEYS}
    vertices = len(arrays["v_template"])
    expected = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, _SHAPE_SIZE + _EXPRESSION_SIZE),
        "posedirs": (vertices, 3, 36),
        "J_regressor": (5, vertices),
        "weights": (vertices, 5),
        "f": (len(arrays["f"]), 3),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UserError(f"{path}: {name} has shape {arrays[name].shape}, expected {shape}")
        if not np.isfinite(np.asarray(arrays[name], np.float64)).all():
            raise UserError(f"{path}: {name} holds values that are not finite")
    arrays["f"] = np.asarray(arrays["f"], np.int64)
    _check_indices(path, "f", arrays["f"], vertices)
    return arrays


def _check_indices(path: Any, name: str, indices: np.ndarray, size: int) -> None:
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise UserError(f"{path}: {name} has an index outside 0..{size - 1}")


def _regions(masks: str | Path | None, vertices: int) -> dict[str, jnp.ndarray]:
    if masks is None:
        return {}
    found = read_pickle(masks)
    names = ("face", "left_eyeball", "right_eyeball", "lips", "eye_region")
    if any(name not in found.names for name in names):
        raise UserError(f"{masks}: not FLAME's vertex masks, expected a dict with {', '.join(names)}")
    regions = {str(name): np.asarray(value, np.int64).ravel() for name, value in found.items()}
    for name, indices in regions.items():
        _check_indices(masks, name, indices, vertices)
    # FLAME's masks cover all skin and both eyeballs; the inner mouth is what they leave out. The public
    # implementation's copy of the file says it itself.
    regions["without_inner_mouth"] = (
        regions["noinmouth"] if "noinmouth" in regions else np.unique(np.concatenate(list(regions.values())))
    )
    regions["eyelids"] = np.setdiff1d(
        regions["eye_region"], np.concatenate([regions["left_eyeball"], regions["right_eyeball"]])
    )
    return {name: _int(indices) for name, indices in regions.items()}


def _dict_of_arrays(source: str | Path, kind: str, names: tuple[str, ...]) -> list[np.ndarray]:
    found = read_npy(source)
    if any(name not in found.names for name in names):
        raise UserError(f"{source}: not {kind}, expected a dict with {', '.join(names)}")
    return [found.array(name) for name in names]


def _neighbours(source: str | Path, vertices: int) -> tuple[np.ndarray, jnp.ndarray]:
    """(V, 10) each vertex's neighbours, padded with V; the eyelids' vertices."""
    names = ("vertices_region_idxs", "eyelids_idxs")
    rings, eyelids = _dict_of_arrays(source, "the public implementation's regions", names)
    if rings.shape != (vertices, NEIGHBOURS):
        raise UserError(f"{source}: {names[0]} has shape {rings.shape}, expected {(vertices, NEIGHBOURS)}")
    _check_indices(source, names[0], rings, vertices + 1)
    _check_indices(source, names[1], eyelids, vertices)
    return rings, _int(eyelids)


def _decimation(source: str | Path | None, template: np.ndarray, faces: np.ndarray) -> dict[str, jnp.ndarray]:
    if source is None:
        small, kept = decimate(template, faces, _DECIMATED_VERTICES)
        triangles = np.repeat(kept[:, None], 3, axis=1)
        weights = np.tile([1.0, 0.0, 0.0], (len(kept), 1))
    else:
        names = ("idxs", "baris", "faces")
        triangles, weights, small = _dict_of_arrays(source, "the public implementation's decimation", names)
        if not (triangles.shape == weights.shape == (len(triangles), 3) and small.shape == (len(small), 3)):
            raise UserError(
                f"{source}: {', '.join(names)} have shapes {triangles.shape}, {weights.shape}, {small.shape}"
            )
        _check_indices(source, names[0], triangles, len(template))
        _check_indices(source, names[2], small, len(triangles))
    return {
        "decimated_faces": _int(small),
        "decimated_triangles": _int(triangles),
        "decimated_barycentric": _float(weights),
    }


def _embedding(source: Any, name: str, triangles: Any, weights: Any, faces: np.ndarray) -> tuple[Any, Any]:
    triangles, weights = np.asarray(triangles, np.int64), np.asarray(weights, np.float64)
    if weights.shape != (*triangles.shape, 3):
        raise UserError(
            f"{source}: {name} has {triangles.shape} triangles but weights of shape {weights.shape}"
        )
    _check_indices(source, name, triangles, len(faces))
    return _int(faces[triangles]), _float(weights)


def contour_rows(template: np.ndarray, triangles: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(79,) which row of FLAME's contour table belongs to the head's yaw of -39..39 degrees, in this order.

    FLAME stores 0..39 degrees to one side and then 1..39 to the other. Public readers of the table disagree
    on the sides, so the mesh decides: a head that turns towards its own left (+x) shows its left outline
    nearer to the front of the face.

    Args:
      template: (V, 3).
      triangles, weights: (79, 17, 3) the table as stored, as vertex indices.
    """
    one_side, other_side = np.arange(39, 0, -1), np.arange(40, 79)
    points = np.einsum("rkva,rkv->rka", template[triangles], weights)
    left = points[0, :, 0] > 0
    forward = points[:, left, 2].sum(1)
    if forward[one_side].sum() > forward[other_side].sum():
        return np.concatenate([other_side[::-1], [0], one_side[::-1]])
    return np.concatenate([one_side, [0], other_side])


def _landmarks68(
    source: str | Path | None, faces: np.ndarray, template: np.ndarray
) -> dict[str, jnp.ndarray]:
    if source is None:
        none, none79 = jnp.zeros((0, 3)), jnp.zeros((79, 0, 3))
        return {
            "landmark_triangles": none.astype(jnp.int32),
            "landmark_barycentric": none,
            "contour_triangles": none79.astype(jnp.int32),
            "contour_barycentric": none79,
        }
    found = read_npy(source)
    names = [f"{kind}_lmk_{part}" for kind in ("full", "dynamic") for part in ("faces_idx", "bary_coords")]
    if any(name not in found.names for name in names):
        raise UserError(f"{source}: not a landmark embedding, expected a dict with {', '.join(names)}")
    full_idx, full_bary, contour_idx, contour_bary = (found.array(name) for name in names)
    if full_idx.size < 68 or full_bary.size != 3 * full_idx.size or contour_idx.size != 79 * 17:
        raise UserError(f"{source}: expected 68 landmarks and 79 x 17 contour points")
    full_idx, full_bary = full_idx.reshape(-1)[:68], full_bary.reshape(-1, 3)[:68]
    triangles, weights = _embedding(source, names[0], full_idx, full_bary, faces)
    contour, contour_weights = _embedding(
        source, names[2], contour_idx.reshape(79, 17), contour_bary.reshape(79, 17, 3), faces
    )
    rows = contour_rows(template, np.asarray(contour), np.asarray(contour_weights))
    return {
        "landmark_triangles": triangles,
        "landmark_barycentric": weights,
        "contour_triangles": contour[rows],
        "contour_barycentric": contour_weights[rows],
    }


def _mediapipe(source: str | Path | None, faces: np.ndarray) -> dict[str, jnp.ndarray]:
    if source is None:
        return {
            "mediapipe_indices": jnp.zeros((0,), jnp.int32),
            "mediapipe_triangles": jnp.zeros((0, 3), jnp.int32),
            "mediapipe_barycentric": jnp.zeros((0, 3)),
        }
    with open_npz(source, "MediaPipe's landmark embedding") as found:
        names = ("landmark_indices", "lmk_face_idx", "lmk_b_coords")
        indices, triangles, weights = (found.read(name) for name in names)
    triangles, weights = _embedding(source, "lmk_face_idx", triangles, weights, faces)
    return {
        "mediapipe_indices": _int(indices),
        "mediapipe_triangles": triangles,
        "mediapipe_barycentric": weights,
    }
