"""Files in the formats of the public implementation, made of seeds: networks, and a head model like FLAME.

The networks' weights are normal numbers of the sizes that reference cases give (tests/parity). The head model
is OpenHead's mesh and bases in the files of FLAME: a pickle of the model, its masks, the embeddings of 68
landmarks and of 105 of MediaPipe's, decimation and neighbours. Points that OpenHead's embeddings put beside
the mesh's triangles go to the nearest place on one of them, for FLAME's files name triangles.
"""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from p4d_jax import assets
from p4d_jax.capture.fit import EYELIDS, LIPS, OUTLINE
from p4d_jax.convert.parity.fixtures import seeded_state
from p4d_jax.head.landmarks import YAW_LIMIT
from p4d_jax.head.model import HeadModel

PARITY = Path(__file__).parents[1] / "tests" / "parity"
EMBEDDED_POINTS = 105  # MediaPipe points of the published embedding
HEAD_FILES = {
    "source": "generic_model.pkl",
    "masks": "FLAME_masks.pkl",
    "landmarks": "landmark_embedding_with_eyes.npy",
    "mediapipe": "mediapipe_landmark_embedding.npz",
    "decimation": "simplify_baricentric2.npy",
    "neighbours": "flame_addition_info_new_smallface.npy",
}
HEAD_FLAGS = tuple(HEAD_FILES)[1:]  # of `convert`, beside its source


# Networks --------------------------------------------------------------------------------------------------


def full_size_state(case: str) -> dict[str, np.ndarray]:
    """The state of a reference case: every key with the weights that its seed gives."""
    return seeded_state(json.loads((PARITY / f"{case}.json").read_text()))


def write_pickle(path: Path, state: dict[str, np.ndarray]) -> Path:
    """A reconstructor's file: a pickle of its training, in which G_ema is the network."""
    with open(path, "wb") as file:
        pickle.dump({"training_set_kwargs": {}, "G_ema": as_tensors(state)}, file, protocol=4)
    return path


def write_checkpoint(path: Path, state: dict[str, np.ndarray]) -> Path:
    """A plain state, as `torch.save` writes it."""
    import torch

    torch.save(as_tensors(state), path)
    return path


def as_tensors(state: dict[str, np.ndarray]) -> OrderedDict:
    """The state as torch's tensors."""
    import torch

    return OrderedDict((key, torch.from_numpy(np.array(value))) for key, value in state.items())


# The head model --------------------------------------------------------------------------------------------


def write_flame_like(folder: Path) -> dict[str, Path]:
    """FLAME's files with OpenHead in them. The model is "source", the others have their flags."""
    head = assets.head_model("openhead")
    template, faces = np.asarray(head.template, np.float64), np.asarray(head.faces, np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    pad = lambda basis, size: np.pad(np.asarray(basis), ((0, 0), (0, 0), (0, size - basis.shape[-1])))
    model = {
        "v_template": template,
        "shapedirs": np.concatenate([pad(head.shape_basis, 300), pad(head.expression_basis, 100)], -1),
        "posedirs": np.asarray(head.pose_basis),
        "J_regressor": sparse.csc_matrix(np.asarray(head.joint_regressor, np.float64)),
        "weights": np.asarray(head.skinning_weights),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "f": faces.astype(np.uint32),
        "bs_style": "lbs",
    }
    region = lambda name: np.asarray(head.regions[name], np.int64)
    masks = {name: region(name) for name in ("face", "left_eyeball", "right_eyeball", "lips")}
    masks["eye_region"] = np.concatenate([region(n) for n in ("eyelids", "left_eyeball", "right_eyeball")])
    masks["noinmouth"] = region("without_inner_mouth")
    nearest = NearestOnMesh(template, faces)
    landmarks, contour = embed_landmarks(head, nearest), embed_contour(head, nearest)
    chosen = choose_mediapipe(np.asarray(head.mediapipe_indices))
    points = corners(template, head.mediapipe_triangles, head.mediapipe_barycentric)[chosen]
    mediapipe = dict(zip(("lmk_face_idx", "lmk_b_coords"), nearest(points), strict=True))
    mediapipe["landmark_indices"] = np.asarray(head.mediapipe_indices)[chosen]
    decimation = {
        "idxs": np.asarray(head.decimated_triangles),
        "baris": np.asarray(head.decimated_barycentric),
        "faces": np.asarray(head.decimated_faces),
    }
    neighbours = {"vertices_region_idxs": np.asarray(head.neighbours), "eyelids_idxs": region("eyelids")}
    paths = {flag: folder / name for flag, name in HEAD_FILES.items()}
    for flag, value in (("source", model), ("masks", masks)):
        paths[flag].write_bytes(pickle.dumps(value, protocol=2))
    for flag, value in (
        ("landmarks", landmarks | contour),
        ("decimation", decimation),
        ("neighbours", neighbours),
    ):
        np.save(paths[flag], value, allow_pickle=True)
    np.savez(paths["mediapipe"], **mediapipe)
    return paths


def corners(template: np.ndarray, triangles, weights) -> np.ndarray:
    """Points (..., 3) of triangles and weights (..., 3)."""
    return np.einsum("...ka,...k->...a", template[np.asarray(triangles)], np.asarray(weights, np.float64))


def embed_landmarks(head: HeadModel, nearest: NearestOnMesh) -> dict[str, np.ndarray]:
    """The 68 landmarks, as `landmark_embedding.npy` holds them."""
    points = corners(nearest.vertices, head.landmark_triangles, head.landmark_barycentric)
    triangles, weights = nearest(points)
    return {"full_lmk_faces_idx": triangles[None], "full_lmk_bary_coords": weights[None]}


def embed_contour(head: HeadModel, nearest: NearestOnMesh) -> dict[str, np.ndarray]:
    """17 points of the contour for each yaw: 0, then 1 to 39 degrees to one side, then to the other."""
    points = corners(nearest.vertices, head.contour_triangles, head.contour_barycentric)
    side = np.arange(1, YAW_LIMIT + 1)
    order = YAW_LIMIT + np.concatenate([[0], side, -side])
    triangles, weights = nearest(points.reshape(-1, 3))
    return {
        "dynamic_lmk_faces_idx": triangles.reshape(len(points), -1)[order],
        "dynamic_lmk_bary_coords": weights.reshape(*points.shape[:2], 3)[order],
    }


def choose_mediapipe(indices: np.ndarray) -> np.ndarray:
    """Places of 105 of a head's MediaPipe points: lids and lips, then others, but none of the face's outline.

    The published embedding has none of the outline either, for those points slide along the skin.
    """
    first = [k for k, index in enumerate(indices) if index in {*EYELIDS, *LIPS}]
    others = [k for k, index in enumerate(indices) if index not in {*EYELIDS, *LIPS, *OUTLINE}]
    spread = np.linspace(0, len(others) - 1, EMBEDDED_POINTS - len(first)).round().astype(int)
    return np.array(first + [others[k] for k in spread])


class NearestOnMesh:
    """Points (N, 3) -> the triangle (N,) and the weights (N, 3) of the nearest places on a mesh."""

    CANDIDATES = 24  # triangles whose middles are nearest

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self.vertices, self.faces = vertices, faces
        self.middles = cKDTree(vertices[faces].mean(1))

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        near = self.middles.query(points, self.CANDIDATES)[1]
        a, b, c = np.moveaxis(self.vertices[self.faces[near]], 2, 0)
        weights = nearest_weights(points[:, None], a, b, c)
        places = np.einsum("nkc,nkca->nka", weights, np.stack([a, b, c], 2))
        best = np.argmin(((places - points[:, None]) ** 2).sum(-1), axis=1)
        rows = np.arange(len(points))
        return near[rows, best], weights[rows, best]


def nearest_weights(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Weights (..., 3) of the point of triangles a, b, c (..., 3) that is nearest to p."""
    dot = lambda x, y: (x * y).sum(-1)
    along = lambda s, t: np.clip(dot(t - s, p - s) / np.maximum(dot(t - s, t - s), 1e-30), 0, 1)
    ab, ac, bc = along(a, b), along(a, c), along(b, c)
    zero = np.zeros_like(ab)
    e, f, g = b - a, c - a, p - a
    determinant = np.maximum(dot(e, e) * dot(f, f) - dot(e, f) ** 2, 1e-30)
    v = (dot(f, f) * dot(g, e) - dot(e, f) * dot(g, f)) / determinant
    w = (dot(e, e) * dot(g, f) - dot(e, f) * dot(g, e)) / determinant
    inside = np.stack([1 - v - w, v, w], -1)
    options = [
        np.stack([1 - ab, ab, zero], -1),
        np.stack([1 - ac, zero, ac], -1),
        np.stack([zero, 1 - bc, bc], -1),
    ]
    options.append(np.where((inside >= 0).all(-1, keepdims=True), inside, options[0]))
    options = np.stack(options)
    places = options[..., :1] * a + options[..., 1:2] * b + options[..., 2:] * c
    best = np.argmin(((places - p) ** 2).sum(-1), axis=0)
    return np.take_along_axis(options, best[None, ..., None], axis=0)[0]
