"""The jobs around GenHead: measures, and a dataset with its pictures from exported weights."""

import json

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_data_synthesis import CONFIG

from p4d_jax import main as command_line
from p4d_jax.data import p4d_heads
from p4d_jax.geometry import look_at_camera
from p4d_jax.jobs import evaluate_genhead
from p4d_jax.models.checkpoint import load_genhead, load_reconstructor, save_genhead
from p4d_jax.models.genhead import GenHead

COMMAND = ("p4d_jax", "--config=configs/synthesize.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Exported weights of a GenHead that knows nothing."""
    genhead = GenHead(CONFIG)
    blank = (jnp.zeros((1, size)) for size in (4, 25, 5))
    variables = jax.jit(genhead.init)(jax.random.key(1), *blank)
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    save_genhead(path, CONFIG, variables, {"steps": 0, "resolution": 8})
    return path, variables


def test_exported_weights_come_back_as_float16_holds_them(weights):
    path, variables = weights
    genhead, loaded = load_genhead(path)
    assert genhead.config == CONFIG
    for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(np.asarray(one, np.float16), np.asarray(other, np.float16))
    with pytest.raises(ValueError, match="not an exported reconstructor"):
        load_reconstructor(path)


def test_synthesize_writes_a_dataset_a_sheet_a_film_and_goes_on(weights, tmp_path, capfd):
    command = [
        *COMMAND, f"--workdir={tmp_path}", f"--config.weights={weights[0]}",
        "--config.identities=2", "--config.shards=2", "--config.film_frames=2", "--config.settings.motions=2",
        "--config.settings.samples=(4,4)", "--config.settings.points=16",
    ]  # fmt: skip
    assert command_line.main(command) == 0, capfd.readouterr().err
    report = json.loads((tmp_path / "synthesis.json").read_text())
    assert report["samples"] == report["samples_made_now"] == 8 and report["complete"]
    assert iio.imread(tmp_path / "sheet.png").shape == (6 * 32, 6 * 32, 3)
    assert len(iio.imread(tmp_path / "film.mp4")) == 2
    first = [sample["image"] for sample in p4d_heads.read_heads(tmp_path)]
    assert len(first) == 8

    # One shard is lost: the same command makes it again, and only it.
    lost = p4d_heads.shard_path(tmp_path, 1, 2)
    kept = p4d_heads.shard_path(tmp_path, 0, 2).stat().st_mtime_ns
    lost.unlink()
    assert command_line.main(command) == 0
    assert json.loads((tmp_path / "synthesis.json").read_text())["samples_made_now"] == 4
    assert p4d_heads.shard_path(tmp_path, 0, 2).stat().st_mtime_ns == kept
    again = [sample["image"] for sample in p4d_heads.read_heads(tmp_path)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.weights=nowhere.npz", "nowhere.npz"),
        ("--config.shards=0", "at least 1"),
        ("--config.settings.motion=2", "settings.motions"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(weights, tmp_path, capfd, flag, message):
    workdir = tmp_path / "run"
    command = [
        "p4d_jax",
        "--config=configs/synthesize.py",
        f"--workdir={workdir}",
        f"--config.weights={weights[0]}",
    ]
    assert command_line.main([*command, flag]) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1 and not workdir.exists()


# Measures -------------------------------------------------------------------------------------------------


def test_landmark_errors_are_in_eye_distances():
    points = np.random.default_rng(0).uniform(0.2, 0.8, (468, 2))
    points[[263, 362]], points[[33, 133]] = (0.7, 0.4), (0.3, 0.4)
    points[13], points[14] = (0.5, 0.60), (0.5, 0.64)
    indices = np.arange(468)
    assert evaluate_genhead.compare(points, points, indices)["landmarks"] == 0
    moved = evaluate_genhead.compare(points + np.array([0.04, 0.0]), points, indices)
    assert moved["landmarks"] == pytest.approx(0.1) and moved["mouth_opening"] == pytest.approx(0)
    opened = points.copy()
    opened[14, 1] += 0.08
    wide = evaluate_genhead.compare(opened, points, indices)
    assert wide["mouth_opening"] == pytest.approx(0.2) and wide["mouth_opening_asked"] == pytest.approx(0.1)


def test_a_solid_body_has_consistent_depth_and_a_flat_picture_has_not():
    """Views of the true mesh's own depth, against views whose depth is that of a plane facing each camera."""
    from p4d_jax import assets
    from p4d_jax.render.genhead import GenHeadView
    from p4d_jax.render.part_fusion import pose_straight_parts
    from p4d_jax.render.raster import rasterize
    from p4d_jax.types import FrameParams

    head = assets.head_model()
    cameras = tuple(look_at_camera(yaw, 0.0, 4.0, pivot=(0, 0, 0.09)) for yaw in (-0.4, 0.4))
    zeros = FrameParams(cameras[0], jnp.zeros(300), jnp.zeros(100), jnp.zeros(6), jnp.zeros(6))
    mesh = pose_straight_parts(head, zeros.shape, zeros).full
    seen = tuple(rasterize(mesh, head.faces, camera, 64) for camera in cameras)

    def view(depth, opacity):
        return GenHeadView(*[None] * 3, depth, opacity, *[None] * 4)

    solid = tuple(view(mesh.depth, mesh.mask.astype(jnp.float32)) for mesh in seen)
    flat = tuple(view(jnp.full((64, 64), 3.8), jnp.ones((64, 64))) for _ in seen)
    error = lambda views: np.median(evaluate_genhead.reprojected_depth_error(views, seen, cameras))  # noqa: E731
    assert error(solid) < 0.01 < 0.03 < error(flat)
