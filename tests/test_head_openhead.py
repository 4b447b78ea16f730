"""The embedded head: what its anatomy promises, measured on the mesh; and what its loader refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax import assets
from p4d_jax.errors import UserError
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.geometry.similarity import ARCFACE_TEMPLATE, arcface_transform
from p4d_jax.head.landmarks import landmarks70, mediapipe_landmarks
from p4d_jax.head.loading import load_head_model, save_head_model
from p4d_jax.head.model import JAW, NECK, REGIONS
from p4d_jax.head.skinning import canonical_origin, head_joints, head_vertices
from p4d_jax.render.raster import rasterize

MEGABYTE = 2**20

pose_head = jax.jit(head_vertices)
landmarks_of = jax.jit(mediapipe_landmarks)
rasterized = jax.jit(rasterize, static_argnums=(3, 4))


@pytest.fixture(scope="module")
def head():
    return assets.head_model("openhead")


def pose(head, *, shape=None, jaw=0.0, eyes=None, **actions):
    """Posed vertices (V, 3), world units, as numpy."""
    expression = np.zeros(100, np.float32)
    for name, amount in actions.items():
        expression[head.expression_names.index(name)] = amount
    shape, eyes = np.zeros(300) if shape is None else shape, np.zeros(6) if eyes is None else eyes
    of_jaw = np.float32([0, 0, 0, jaw, 0, 0])
    return np.asarray(pose_head(head, np.float32(shape), expression, of_jaw, np.float32(eyes)))


def mediapipe(head, vertices):
    """MediaPipe index -> (3,) place."""
    points = np.asarray(landmarks_of(head, vertices))
    return dict(zip(np.asarray(head.mediapipe_indices).tolist(), points, strict=True))


def visible_eyeball(head, vertices, camera=(0.0, 0.0), resolution=256):
    """Pixels in which a camera sees an eyeball."""
    eyes = np.zeros(len(vertices), bool)
    eyes[np.asarray(head.regions["left_eyeball"])] = True
    eyes[np.asarray(head.regions["right_eyeball"])] = True
    raster = rasterized(vertices, head.faces, look_at_camera(*camera, 4.05), resolution, True)
    seen = eyes[np.asarray(head.faces)].all(1)[np.asarray(raster.face_index)] & np.asarray(raster.mask)
    return int(seen.sum())


def test_sizes(head):
    vertices = head.template.shape[0]
    assert 4000 <= vertices <= 6500
    assert head.shape_basis.shape[-1] >= 100
    assert len(head.expression_names) == head.expression_basis.shape[-1] == 52
    assert len(np.asarray(head.mediapipe_indices)) >= 120
    assert set(REGIONS) <= set(head.regions)
    assert assets.embedded("openhead.npz").stat().st_size <= 12 * MEGABYTE


def test_skinning_weights_and_joint_regressor_are_affine(head):
    weights = np.asarray(head.skinning_weights)
    assert weights.min() >= -1e-6
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(np.asarray(head.joint_regressor).sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(canonical_origin(head), head.origin, atol=1e-6)


def test_a_new_identity_keeps_its_neck_joint(head):
    rng = np.random.default_rng(0)
    for _ in range(4):
        shape = jnp.asarray(rng.normal(size=300), jnp.float32)
        joints = head_joints(head, shape, jnp.zeros(100), jnp.zeros(6), jnp.zeros(6))
        assert np.abs(np.asarray(joints)[NECK]).max() < 0.03  # 1 cm


def test_the_default_camera_sees_the_whole_head(head):
    vertices = pose(head)
    skull = vertices[np.setdiff1d(np.arange(len(vertices)), np.asarray(head.regions["neck"]))]
    uv, _ = project(look_at_camera(0.0, 0.0, 4.05), jnp.asarray(skull[skull[:, 1] > -0.25]))
    assert float(uv.min()) > 0.02 and float(uv.max()) < 0.98
    assert np.abs(vertices).max() < 0.65  # the tri-plane's box


def test_identities_are_of_human_size(head):
    rng = np.random.default_rng(1)
    for _ in range(6):
        found = mediapipe(head, pose(head, shape=rng.normal(size=300).astype(np.float32)))
        between = np.linalg.norm((found[33] + found[133] - found[263] - found[362]) / 2) / 3
        assert 0.045 < between < 0.075  # metres between the eyes
        height = (found[168] - found[152])[1] / 3 if 152 in found else (found[168] - found[18])[1] / 3
        assert 0.05 < height < 0.14


@pytest.mark.parametrize("camera", [(0.0, 0.0), (0.5, 0.0), (0.0, -0.3)])
def test_a_blink_hides_the_eyeballs(head, camera):
    opened = visible_eyeball(head, pose(head), camera)
    half = visible_eyeball(head, pose(head, eyeBlinkLeft=0.5, eyeBlinkRight=0.5), camera)
    closed = visible_eyeball(head, pose(head, eyeBlinkLeft=1.0, eyeBlinkRight=1.0), camera)
    assert opened > 100
    assert 0.05 * opened < half < 0.7 * opened
    assert closed < 0.02 * opened


def test_a_blink_brings_the_lid_rims_together(head):
    rest = mediapipe(head, pose(head))
    closed = mediapipe(head, pose(head, eyeBlinkLeft=1.0, eyeBlinkRight=1.0))
    for upper, lower in ((159, 145), (386, 374), (160, 144), (385, 380)):
        # Signed: a lid that overlaps the other is closed.
        assert rest[upper][1] - rest[lower][1] > 0.012
        assert closed[upper][1] - closed[lower][1] < 0.1 * (rest[upper][1] - rest[lower][1])


def test_the_jaw_opens_the_mouth(head):
    rest, opened = (mediapipe(head, pose(head, jaw=angle)) for angle in (0.0, 0.3))
    assert (rest[13] - rest[14])[1] < 0.01
    assert (opened[13] - opened[14])[1] > 0.06  # 2 cm
    np.testing.assert_allclose(opened[13], rest[13], atol=0.012)  # the upper lip stays
    joints = head.joint_regressor @ head.template
    ears = np.asarray(head.template)[np.asarray(head.regions["ears"])].mean(0)
    assert np.linalg.norm(np.asarray(joints[JAW] - ears) * [0, 1, 1]) < 0.04  # the hinge is near the ears


def test_eyeballs_turn_about_their_centre(head):
    rest = pose(head)
    turned = pose(head, eyes=[0, 0.3, 0, 0, 0.3, 0])
    for name in ("left_eyeball", "right_eyeball"):
        ball = np.asarray(head.regions[name])
        front = ball[rest[ball, 2].argmax()]
        assert (turned - rest)[front, 0] > 0.005  # about +y: looks to +x
        radius = [np.linalg.norm(v[ball] - v[ball].mean(0), axis=1) for v in (rest, turned)]
        np.testing.assert_allclose(*radius, atol=1e-5)
    others = np.setdiff1d(
        np.arange(len(rest)),
        np.union1d(*(np.asarray(head.regions[f"{side}_eyeball"]) for side in ("left", "right"))),
    )
    np.testing.assert_allclose(turned[others], rest[others], atol=1e-6)


def test_landmarks_of_the_mean_face_are_symmetric(head):
    found = mediapipe(head, pose(head))
    pairs = ((33, 263), (133, 362), (159, 386), (145, 374), (61, 291), (78, 308), (82, 312), (87, 317))
    for right, left in (*pairs, (105, 334), (50, 280)):
        np.testing.assert_allclose(found[right], found[left] * [-1, 1, 1], atol=0.006)  # 2 mm
    for middle in (13, 14, 0, 17, 1, 168):
        assert abs(found[middle][0]) < 0.006
    points = np.asarray(landmarks70(head, jnp.asarray(pose(head)), 0.0))
    np.testing.assert_allclose(points[:17], points[16::-1][:17] * [-1, 1, 1], atol=0.02)
    np.testing.assert_allclose(points[68], points[69] * [-1, 1, 1], atol=0.002)
    # As ArcFace's crop wants them: it finds eyes, nose and mouth near their places.
    seen = jnp.asarray(points[:, :2] * [200, -200] + 256)
    crop = arcface_transform(seen)
    found = seen[jnp.array([68, 69, 30, 48, 54])] @ crop[:, :2].T + crop[:, 2]
    np.testing.assert_allclose(found, ARCFACE_TEMPLATE, atol=6)


def test_the_68_landmarks_are_where_a_face_has_them(head):
    points = np.asarray(landmarks70(head, jnp.asarray(pose(head)), 0.0))
    brows, eyes, nose, mouth, chin = points[17:27], points[36:48], points[30], points[48:68], points[8]
    assert brows[:, 1].min() > eyes[:, 1].max() > eyes[:, 1].min() > nose[1] > mouth[:, 1].max()
    assert mouth[:, 1].min() > chin[1]
    assert (np.diff(points[[0, 36, 39, 42, 45, 16], 0]) > 0).all()
    assert nose[2] == points[17:68, 2].max()
    assert (np.diff(points[48:55, 0]) > 0).all() and (np.diff(points[60:65, 0]) > 0).all()


def test_the_contour_follows_the_silhouette(head):
    vertices = jnp.asarray(pose(head))
    frontal, left = (np.asarray(landmarks70(head, vertices, yaw))[:17] for yaw in (0.0, 30.0))
    across = frontal @ [np.cos(np.pi / 6), 0, np.sin(np.pi / 6)]
    turned = left @ [np.cos(np.pi / 6), 0, np.sin(np.pi / 6)]
    assert (turned[9:] >= across[9:] - 1e-6).all() and (turned[11:] > across[11:]).any()
    np.testing.assert_allclose(left[:9], frontal[:9], atol=1e-6)


def test_barycentric_points_lie_on_the_mesh(head):
    vertices = head.template.shape[0]
    for name in ("landmark", "contour", "mediapipe", "decimated"):
        weights = np.asarray(getattr(head, f"{name}_barycentric"))
        assert weights.min() >= -1e-5
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
        assert np.asarray(getattr(head, f"{name}_triangles")).max() < vertices
    assert 500 <= len(head.decimated_triangles) <= 900
    assert np.asarray(head.decimated_faces).max() < len(head.decimated_triangles)


def test_neighbours_are_the_ring(head):
    rings, faces = np.asarray(head.neighbours), np.asarray(head.faces)
    np.testing.assert_array_equal(rings[:, 0], np.arange(len(rings)))
    for vertex in (0, 100, 2500, len(rings) - 1):
        ring = set(faces[(faces == vertex).any(1)].ravel().tolist())
        assert set(rings[vertex].tolist()) - {len(rings)} <= ring


def test_a_saved_head_reads_back(head, tmp_path):
    save_head_model(tmp_path / "again.npz", head)
    again = load_head_model(tmp_path / "again.npz")
    np.testing.assert_array_equal(again.faces, head.faces)
    np.testing.assert_allclose(again.shape_basis, head.shape_basis, atol=1e-6)
    assert again.expression_names == head.expression_names


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("skinning_weights", lambda a: a[:, :4], "skinning_weights has shape"),
        ("template", lambda a: a * np.nan, "template holds values that are not finite"),
        ("faces", lambda a: a + 1, "faces must hold indices"),
        ("regions/lips", None, "lacks regions/lips"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, name, change, said):
    with np.load(assets.embedded("openhead.npz")) as stored:
        arrays = dict(stored)
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    np.savez(tmp_path / "broken.npz", **arrays)
    with pytest.raises(UserError, match=said):
        load_head_model(tmp_path / "broken.npz")
