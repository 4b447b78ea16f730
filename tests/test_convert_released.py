"""The released models end to end, at small size: files -> convert -> reenact, on both heads."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v2 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from released_case import ENCODER, VECTOR, small_networks, small_state, write_released

import p4d_jax as p4d
from benchmarks.released_files import HEAD_FLAGS, write_flame_like
from p4d_jax import assets, main
from p4d_jax.avatar.motion_source import (
    EncoderMotion,
    ParameterMotion,
    load_motion_source,
    motion_of_frame,
    motion_source_name,
)
from p4d_jax.capture.fit import fit_photo, head_camera
from p4d_jax.capture.landmark_head import landmark_head, pupil_reach
from p4d_jax.data.motion import load_motion, save_motion
from p4d_jax.errors import UserError
from p4d_jax.geometry import axis_angle_to_matrix, project
from p4d_jax.head.landmarks import mediapipe_landmarks, project_landmarks
from p4d_jax.head.loading import load_head_model
from p4d_jax.head.model import WORLD_SCALE
from p4d_jax.head.skinning import head_joints, head_vertices, posed_vertices
from p4d_jax.imaging.writing import resize, to_image
from p4d_jax.jobs import convert
from p4d_jax.networks.motion_encoder import align_for_motion
from p4d_jax.reconstructor.weights import load_reconstructor
from p4d_jax.train.network_folder import read_about

CONFIGS = Path(__file__).parents[1] / "configs"
QUICK = {
    "personalise_steps": 0,
    "turntable_frames": 1,
    "mesh_resolution": 16,
    "max_frames": 2,
    "panel": 64,
    "stills": 2,
    "coarse_samples": 4,
    "fine_samples": 4,
}


def run(job: str, workdir: Path, **fields) -> int:
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return main.main(["main.py", f"--config={CONFIGS / job}.py", f"--workdir={workdir}", *flags])


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The workdir of one `convert` of both files."""
    folder = tmp_path_factory.mktemp("released")
    files = write_released(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "known_networks", small_networks)
        assert run("convert", folder / "weights", source=",".join(map(str, files))) == 0
    return folder / "weights"


@pytest.fixture(scope="module")
def flame(tmp_path_factory) -> Path:
    """A head file that `convert` made of FLAME's files with OpenHead in them."""
    folder = tmp_path_factory.mktemp("flame")
    files = write_flame_like(folder / "files")
    flags = {name: files[name] for name in ("source", *HEAD_FLAGS)}
    assert run("convert", folder, **flags) == 0
    return folder / "flame/head.npz"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two pictures of a face that differ."""
    folder = tmp_path_factory.mktemp("clip") / "frames"
    folder.mkdir()
    face = assets.photo("astronaut")[:320, 60:380]
    for index, picture in enumerate((face, face[:, ::-1])):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("head", ["openhead", "flame"])
def test_released_files_become_a_film_that_equals_the_library_s(head, weights, flame, clip, tmp_path):
    head = "openhead" if head == "openhead" else str(flame)
    folder = weights / "portrait4d-v2"
    assert run("reenact", tmp_path / "film", weights=folder, head=head, driving=clip, **QUICK) == 0
    report = json.loads((tmp_path / "film/report.json").read_text())
    assert 0 < report["scores"]["fit_error_of_eye_distance"] < 0.1
    avatar = p4d.Avatar.from_photo("astronaut", weights=folder, head=head, personalise=0, samples=(4, 4))
    frames = [np.asarray(frame.picture) for frame in avatar.drive(p4d.Motion.open(clip, avatar.model.head))]
    assert frames[0].shape == (64, 64, 3) and np.abs(frames[0].astype(int) - frames[1]).max() > 0
    for index, frame in enumerate(frames):
        still = imageio.imread(tmp_path / f"film/frame_{index:04d}.png")
        np.testing.assert_array_equal(still[:, -64:], resize(frame, 64))


def test_the_workdir_of_convert_is_the_weights_and_names_their_motion_source(weights):
    network, _ = load_reconstructor(weights)
    assert network.config.motion_size == VECTOR
    assert read_about(weights / "portrait4d-v2")["motion_source"] == "pdfgc"
    for path in (weights, weights / "portrait4d-v2"):
        source = load_motion_source(network.config, path)
        assert (source.name, source.size) == ("pdfgc", VECTOR) and source.encoder == ENCODER
    kernel = source.variables["params"]["to_mouth"]["dense0"]["kernel"]
    np.testing.assert_array_equal(kernel, small_state("motion")["to_mouth.0.weight"].T)


# Motion vectors --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(weights) -> EncoderMotion:
    return load_motion_source(load_reconstructor(weights)[0].config, weights)


@pytest.fixture(scope="module")
def captured():
    return p4d.capture_photo(assets.photo("astronaut"), assets.head_model())


def test_the_encoder_sees_the_crop_that_the_fitted_head_s_landmarks_align(source, captured):
    """Against the same parts by hand."""
    head, params = assets.head_model(), captured.params
    picture = to_image(captured.crop, 512)
    points = project_landmarks(head, posed_vertices(head, params.shape, params), params.neck, params.camera)
    aligned = jax.jit(align_for_motion)(picture, points * 512)
    see = jax.jit(lambda variables, faces: ENCODER.apply(variables, faces, method="motion_vector"))
    expected = see(source.variables, aligned[None])[0]
    found = motion_of_frame(source, head, params, picture=picture)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    other = motion_of_frame(source, head, params, picture=picture[:, ::-1])
    assert np.abs(other - found).max() > 1e-3 * np.abs(found).max()  # ten times the bound above


def test_parameters_suffice_for_models_of_parameters_and_not_for_the_encoder(source, captured):
    head, params = assets.head_model(), captured.params
    np.testing.assert_array_equal(motion_of_frame(ParameterMotion(), head, params), params.motion())
    ignored = motion_of_frame(ParameterMotion(), head, params, vector=jnp.zeros(3))
    np.testing.assert_array_equal(ignored, params.motion())
    with pytest.raises(UserError, match=r"45 numbers.*film or photo, or by a motion with motion_vectors"):
        motion_of_frame(source, head, params)
    vector = jnp.arange(45.0)
    np.testing.assert_array_equal(motion_of_frame(source, head, params, vector=vector), vector)
    with pytest.raises(UserError, match=r"vector: shape \(44,\).*\(45,\) of pdfgc"):
        motion_of_frame(source, head, params, vector=vector[1:])
    with pytest.raises(ValueError, match=r"picture: expected \(S, S, 3\)"):
        motion_of_frame(source, head, params, picture=jnp.zeros((3, 64, 64)))


def test_a_motion_file_drives_by_the_vectors_that_it_carries(weights, captured, tmp_path):
    avatar = p4d.Avatar.from_captures([captured], p4d.AvatarModel.load(weights), samples=(4, 4))
    params = jax.tree.map(lambda x: jnp.stack([x, x]), captured.params)
    vectors = np.random.default_rng(0).standard_normal((2, VECTOR)).astype(np.float32)
    save_motion(tmp_path / "with.npz", params, 25.0, "openhead", (), vectors)
    save_motion(tmp_path / "without.npz", params, 25.0, "openhead")
    np.testing.assert_array_equal(load_motion(tmp_path / "with.npz").motion_vectors, vectors)
    assert load_motion(tmp_path / "without.npz").motion_vectors is None
    again = tmp_path / "again.npz"
    p4d.Motion.load(tmp_path / "with.npz").save(again)
    np.testing.assert_array_equal(load_motion(again).motion_vectors, vectors)
    first = next(avatar.drive(tmp_path / "with.npz"))
    moved = jax.tree.map(lambda x: x[0], avatar.retarget(params))
    np.testing.assert_array_equal(first.image, avatar.render(moved, motion=vectors[0]).image)
    with pytest.raises(UserError, match="motion_vectors"):
        next(avatar.drive(tmp_path / "without.npz"))
    for bad in (vectors[:1], vectors[0]):
        with pytest.raises(ValueError, match="motion_vectors"):
            save_motion(tmp_path / "bad.npz", params, 25.0, "openhead", (), bad)
        arrays = dict(np.load(tmp_path / "with.npz")) | {"motion_vectors": bad}
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(ValueError, match="motion_vectors of shape"):
            load_motion(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", **arrays | {"motion_vectors": vectors * np.nan})
    with pytest.raises(ValueError, match="not finite"):
        load_motion(tmp_path / "bad.npz")


def test_an_encoder_that_is_not_there_and_sources_that_are_unknown_are_one_clear_line(weights, tmp_path):
    config = load_reconstructor(weights)[0].config
    alone = tmp_path / "portrait4d-v2"
    alone.symlink_to(weights / "portrait4d-v2")
    with pytest.raises(UserError, match=r"PD-FGC's encoder.*none beside.*motion_model\.pth"):
        load_motion_source(config, alone)
    with pytest.raises(UserError, match="no folder"):
        load_motion_source(config, alone, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds the network 'portrait4d-v2', not 'motion'"):
        load_motion_source(config, alone, weights / "portrait4d-v2")
    assert load_motion_source(config, alone, weights / "motion").size == VECTOR
    with pytest.raises(UserError, match="motion_size=45: no source"):
        motion_source_name(config)
    for size, name in ((109, "parameters"), (548, "pdfgc")):
        sized = type(config)(motion_size=size)
        assert motion_source_name(sized) == name
        if name == "pdfgc":
            with pytest.raises(UserError, match=r"motion_size=548.*another length"):
                load_motion_source(sized, None, weights / "motion")


# A FLAME-like head -----------------------------------------------------------------------------------------


def test_a_flame_head_is_fitted_to_its_own_landmarks(flame):
    """By the 105 points of the embedding alone; the face is where it was, seen from where it was."""
    head = load_head_model(flame)
    small = landmark_head(head)
    assert len(head.mediapipe_indices) == 105 and not head.expression_names
    rng = np.random.default_rng(0)
    rotation = jnp.array([0.1, -0.3, 0.05])
    shape = jnp.zeros(300).at[:20].set(jnp.asarray(0.7 * rng.standard_normal(20), jnp.float32))
    openhead = assets.head_model().expression_names
    smile = [openhead.index(name) for name in ("mouthSmileLeft", "mouthSmileRight", "browInnerUp")]
    expression = jnp.zeros(100).at[jnp.array(smile)].set(0.6)
    pose = jnp.array([0.0, 0.0, 0.0, 0.15, 0.0, 0.0])
    posed = jax.jit(head_vertices)
    vertices = posed(head, shape, expression, pose, jnp.zeros(6))
    pupils = head_joints(head, shape, expression, pose, jnp.zeros(6))[3:]
    pupils = pupils.at[:, 2].add(WORLD_SCALE * pupil_reach(head))
    seen = lambda x: 500 * np.asarray(project(head_camera(rotation), x)[0]) + 50
    points = jnp.zeros((468, 2)).at[head.mediapipe_indices].set(seen(mediapipe_landmarks(head, vertices)))
    fit = fit_photo(small, points, jnp.asarray(seen(pupils)))
    assert fit.error < 0.01
    np.testing.assert_allclose(fit.rotation, rotation, atol=0.06)
    np.testing.assert_allclose(fit.side, 500, rtol=0.08)
    np.testing.assert_allclose(fit.jaw[0], 0.15, atol=0.1)
    moved = lambda expression: np.asarray(head.expression_basis @ expression)[
        np.asarray(head.regions["face"])
    ]
    truth, found = moved(expression), moved(fit.expression)
    assert np.linalg.norm(found - truth) < 0.6 * np.linalg.norm(truth)
    turned = axis_angle_to_matrix(fit.rotation) @ axis_angle_to_matrix(rotation).T
    assert np.trace(turned) > 1 + 2 * np.cos(0.08)


def test_a_flame_head_without_mediapipe_s_embedding_says_how_it_gets_one(flame):
    head = load_head_model(flame)
    none = head.replace(mediapipe_triangles=jnp.zeros((0, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"mediapipe_landmark_embedding\.npz"):
        landmark_head(none)


def test_a_flame_head_stands_where_openhead_stands_in_a_photo(flame, captured):
    """Other points of the same mesh: the two fits see the astronaut's face in one place."""
    head = load_head_model(flame)
    found = p4d.capture_photo(assets.photo("astronaut"), head)
    assert found.error < 0.06
    outline = lambda head, params: np.asarray(
        project_landmarks(head, posed_vertices(head, params.shape, params), params.neck, params.camera)
    )
    theirs, ours = outline(assets.head_model(), captured.params)[17:], outline(head, found.params)[17:]
    to_photo = lambda capture, points: (
        np.linalg.inv(np.vstack([capture.crop_matrix, [0, 0, 1]]))
        @ np.c_[512 * points, np.ones(len(points))].T
    ).T[:, :2]
    distance = np.linalg.norm(to_photo(captured, theirs) - to_photo(found, ours), axis=-1)
    eyes = np.linalg.norm(to_photo(captured, theirs)[-2] - to_photo(captured, theirs)[-1])
    assert distance.mean() < 0.1 * eyes
