"""FLAME files: read as data, refused when they are anything else."""

from __future__ import annotations

import os
import pickle
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from p4d_jax.convert.flame import contour_rows, decimate, load_flame, vertex_rings
from p4d_jax.convert.pickles import read_pickle
from p4d_jax.errors import UserError

RNG = np.random.default_rng(0)


def sphere(n=24):
    """A UV sphere: vertices (V, 3) and outward triangles."""
    theta, phi = np.meshgrid(np.linspace(0.1, np.pi - 0.1, n), np.arange(n) * 2 * np.pi / n, indexing="ij")
    vertices = np.stack([np.sin(theta) * np.cos(phi), np.cos(theta), np.sin(theta) * np.sin(phi)], -1)
    index = np.arange(n * n).reshape(n, n)
    a, b = index[:-1], np.roll(index, -1, 1)[:-1]
    c, d = index[1:], np.roll(index, -1, 1)[1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return vertices.reshape(-1, 3) * 0.1, faces.astype(np.uint32)


@pytest.fixture
def chumpy(monkeypatch):
    """A stand-in for chumpy, as far as pickling goes."""
    module, package = types.ModuleType("chumpy.ch"), types.ModuleType("chumpy")

    class Ch:
        def __init__(self, x):
            self.x = x

    Ch.__module__ = "chumpy.ch"
    Ch.__qualname__ = "Ch"
    module.Ch = Ch
    package.ch = module
    monkeypatch.setitem(sys.modules, "chumpy", package)
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    return Ch


@pytest.fixture
def flame(tmp_path, chumpy):
    vertices, faces = sphere()
    count = len(vertices)
    weights = RNG.random((count, 5))
    regressor = RNG.random((5, count))
    model = {
        "v_template": chumpy(vertices),
        "shapedirs": chumpy(RNG.normal(size=(count, 3, 400))),
        "posedirs": RNG.normal(size=(count, 3, 36)),
        "J_regressor": sparse.csc_matrix(regressor / regressor.sum(1, keepdims=True)),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "f": faces,
        "bs_style": "lbs",
    }
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(model, protocol=2))
    return path, model


def test_model_is_read_exactly(flame):
    path, model = flame
    head = load_flame(path)
    np.testing.assert_allclose(head.template, model["v_template"].x, rtol=1e-6)
    np.testing.assert_allclose(head.shape_basis, model["shapedirs"].x[..., :300], rtol=1e-6)
    np.testing.assert_allclose(head.expression_basis, model["shapedirs"].x[..., 300:], rtol=1e-6)
    np.testing.assert_allclose(head.joint_regressor, model["J_regressor"].toarray(), rtol=1e-6)
    np.testing.assert_array_equal(head.faces, model["f"])
    np.testing.assert_allclose(
        head.origin, model["J_regressor"].toarray()[1] @ model["v_template"].x, atol=1e-6
    )
    assert head.decimated_triangles.shape[0] <= 730


def test_companion_files(flame, tmp_path):
    path, model = flame
    faces = model["f"].astype(int)
    count = model["posedirs"].shape[0]
    masks = {
        n: np.arange(k, k + 5)
        for k, n in enumerate(("face", "left_eyeball", "right_eyeball", "lips", "eye_region"))
    }
    (tmp_path / "masks.pkl").write_bytes(pickle.dumps(masks, protocol=2))
    embedding = {
        "full_lmk_faces_idx": RNG.integers(0, len(faces), (1, 68)),
        "full_lmk_bary_coords": RNG.dirichlet([1, 1, 1], (1, 68)),
        "dynamic_lmk_faces_idx": RNG.integers(0, len(faces), (79, 17)),
        "dynamic_lmk_bary_coords": RNG.dirichlet([1, 1, 1], (79, 17)),
    }
    np.save(tmp_path / "landmarks.npy", embedding, allow_pickle=True)
    mediapipe = {
        "landmark_indices": np.arange(105),
        "lmk_face_idx": RNG.integers(0, len(faces), 105),
        "lmk_b_coords": RNG.dirichlet([1, 1, 1], 105),
    }
    np.savez(tmp_path / "mediapipe.npz", **mediapipe)
    head = load_flame(
        path,
        masks=tmp_path / "masks.pkl",
        landmarks=tmp_path / "landmarks.npy",
        mediapipe=tmp_path / "mediapipe.npz",
    )
    np.testing.assert_array_equal(head.landmark_triangles, faces[embedding["full_lmk_faces_idx"][0]])
    stored = embedding["dynamic_lmk_bary_coords"].astype(np.float32)
    np.testing.assert_array_equal(head.contour_barycentric[39], stored[0])
    assert sorted(float(head.contour_barycentric[k, 0, 0]) for k in (19, 59)) == sorted(
        stored[[20, 59], 0, 0]
    )
    np.testing.assert_array_equal(head.mediapipe_triangles, faces[mediapipe["lmk_face_idx"]])
    assert set(head.regions) >= {"face", "lips", "eyelids", "without_inner_mouth"}
    assert int(max(r.max() for r in head.regions.values())) < count


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("layout", ["csc", "csr", "coo"])
def test_sparse_matrices_of_every_layout_and_protocol(tmp_path, layout, protocol):
    dense = RNG.normal(size=(7, 11)) * (RNG.random((7, 11)) < 0.3)
    path = tmp_path / "sparse.pkl"
    path.write_bytes(pickle.dumps(getattr(sparse, f"{layout}_matrix")(dense), protocol=protocol))
    np.testing.assert_array_equal(read_pickle(path)[""], dense)


class Evil:
    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "payload",
    [
        Evil(os.system, "touch executed"),
        Evil(eval, "open('executed', 'w')"),
        Evil(getattr, "text", "join"),
        {"v_template": [Evil(exec, "open('executed', 'w')")]},
        Evil(np.load, "executed.npy"),
        Evil(np.ndarray, (3,)),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_by_name_and_never_run(tmp_path, monkeypatch, payload, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(payload, protocol=protocol))
    with pytest.raises(UserError) as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_truncated_or_flipped_bytes_are_one_clear_error(tmp_path_factory, data):
    array = {"a": np.arange(12.0).reshape(3, 4), "b": sparse.csc_matrix(np.eye(3)), "c": ["text", 3]}
    raw = bytearray(pickle.dumps(array, protocol=2))
    path = tmp_path_factory.mktemp("broken") / "broken.pkl"
    position = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(raw[:position])
    else:
        raw[position] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(raw)
    try:
        found = read_pickle(path)
        arrays = {key: found.array(key) for key in found if key in "ab"}
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:  # a flipped byte inside the numbers still is a pickle
        assert len(raw) == path.stat().st_size
        assert all(array.nbytes < 1 << 20 for array in arrays.values())


def test_wrong_shape_names_the_array(flame, tmp_path):
    _, model = flame
    path = tmp_path / "wrong.pkl"
    path.write_bytes(pickle.dumps({**model, "weights": np.ones((3, 5))}, protocol=2))
    with pytest.raises(UserError, match=r"weights has shape \(3, 5\)"):
        load_flame(path)


def test_rings_and_decimation():
    vertices, faces = sphere()
    rings = vertex_rings(faces.astype(int), len(vertices))
    assert (rings[:, 0] == np.arange(len(vertices))).all()
    edges = {tuple(e) for f in faces.astype(int) for e in ((f[0], f[1]), (f[1], f[2]), (f[2], f[0]))}
    for vertex in (0, 100, 300):
        expected = {b for a, b in edges if a == vertex} | {a for a, b in edges if b == vertex}
        assert set(rings[vertex][rings[vertex] < len(vertices)]) == expected | {vertex}
    small, kept = decimate(vertices, faces.astype(int), 150)
    assert 80 < len(kept) <= 150 and small.max() < len(kept)
    # every decimated vertex lies on the sphere, and the triangles still face outwards
    corners = vertices[kept][small]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(1)).sum(-1) > 0).mean() > 0.95 or (
        (normals * corners.mean(1)).sum(-1) < 0
    ).mean() > 0.95


@pytest.mark.parametrize("stored_sign", [1, -1])
def test_contour_is_ordered_by_yaw_whichever_side_is_stored_first(stored_sign):
    """On an ellipsoid the outline of a head turned by t has its normal across the line of sight."""
    yaws = stored_sign * np.concatenate([np.arange(40), -np.arange(1, 40)])
    angle = np.radians(yaws)[:, None] + np.where(np.arange(17) < 8, np.pi, 0)
    points = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], -1)
    template = points.reshape(-1, 3)
    triangles = np.repeat(np.arange(79 * 17).reshape(79, 17, 1), 3, -1)
    weights = np.tile([1.0, 0.0, 0.0], (79, 17, 1))
    np.testing.assert_array_equal(yaws[contour_rows(template, triangles, weights)], np.arange(-39, 40))
