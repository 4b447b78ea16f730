"""FID of a training: its statistics, their cache, and the distance of a tiny GenHead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genhead_case import ROOT, tiny_config
from process_tasks import measure_distances
from processes import results

from p4d_jax import main
from p4d_jax.data.samples import Portrait
from p4d_jax.errors import UserError
from p4d_jax.evaluation import fid
from p4d_jax.evaluation.frechet import FeatureStatistics
from p4d_jax.genhead.training import create_genhead_state
from p4d_jax.jobs import train_genhead as job
from p4d_jax.networks.inception import InceptionV3
from p4d_jax.train.devices import replicate
from p4d_jax.train.network_folder import save_converted
from p4d_jax.types import FrameParams

BATCH, COUNT = 8, 12
NETWORK = InceptionV3(divisor=32, image_size=75)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """The folder of a converted network with random weights, and what is loaded from it."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.zeros((1, 75, 75, 3)))

    def draw(path, leaf) -> np.ndarray:
        """Kernels that keep the size of what passes through ReLU; normalisation that changes nothing."""
        if leaf.ndim > 1:
            spread = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return (spread * generator.standard_normal(leaf.shape)).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    folder = tmp_path_factory.mktemp("weights") / "inception_fid"
    about = {"network": "inception_fid", "config": {"divisor": 32, "image_size": 75}}
    save_converted(folder, about, jax.tree_util.tree_map_with_path(draw, shapes))
    return folder, fid.load_inception(str(folder))


@pytest.fixture(scope="module")
def training():
    return job.build_training(tiny_config(BATCH))[0]


@pytest.fixture(scope="module")
def state(training):
    return replicate(create_genhead_state(training, jax.random.key(3)), training.mesh)


def draw_params(number: int) -> FrameParams:
    """Heads at rest before one camera, each of its own shape."""
    one = jax.tree.map(lambda x: x[1], job.demonstration_frames(job.assets.head_model()))
    shape = jax.random.normal(jax.random.key(number % 1000), (BATCH, 300))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (BATCH, *x.shape)), one).replace(shape=shape)


def test_statistics_are_those_of_the_first_pictures(monkeypatch):
    monkeypatch.setattr(fid, "ROWS_AT_ONCE", 7)
    rows = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    found = fid.gather_statistics(lambda x: x, lambda k: rows[4 * k : 4 * k + 4], 4, 18, "rows")
    assert found.count == 18
    np.testing.assert_allclose(found.mean, rows[:18].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(rows[:18].T), atol=1e-6)


def test_statistics_of_the_data_are_gathered_once(tmp_path):
    gathered = []

    def gather():
        gathered.append(FeatureStatistics.of(np.random.default_rng(len(gathered)).standard_normal((9, 4))))
        return gathered[-1]

    about, path = {"seed": 1, "pictures": 9}, tmp_path / "statistics.npz"
    first, again = (fid.cached_statistics(path, about, gather) for _ in range(2))
    assert len(gathered) == 1 and again.count == 9
    np.testing.assert_array_equal(first.scatter, again.scatter)
    fid.cached_statistics(path, about | {"seed": 2}, gather)
    assert len(gathered) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["statistics.npz"]


def test_the_distance_of_a_generator_from_its_own_pictures_is_none(training, state, inception, tmp_path):
    key = jax.random.key(7)
    generate = fid.build_generation(training, draw_params, BATCH, key)

    def own(number):
        return Portrait(generate(state, number - fid.FIRST_NUMBER), None, None)

    def other(number):
        return Portrait(jax.random.uniform(jax.random.key(number), (BATCH, 16, 16, 3)), None, None)

    draws, cache = [own], tmp_path / "statistics.npz"
    evaluate = fid.build_fid(
        training, inception[1], lambda number: draws[0](number), draw_params, BATCH, COUNT, key, cache, {}
    )
    near = evaluate(state)["fid"]
    draws[0] = other
    assert evaluate(state)["fid"] == near  # the data's statistics are those of the file
    cache.unlink()
    far = evaluate(state)["fid"]
    assert abs(near) < 1e-3 * far and np.isfinite(far)
    # Pictures are of codes, and of the moving average: not of what is trained.
    moved = state.replace(average=jax.tree.map(lambda x: x + 0.1, state.average))
    assert evaluate(moved)["fid"] != far
    assert evaluate(state.replace(params=moved.average))["fid"] == far
    assert not np.array_equal(generate(state, 0), generate(state, 1))


def test_two_processes_measure_what_one_measures(tmp_path):
    folders = [tmp_path / name for name in ("together", "alone")]
    for folder in folders:
        folder.mkdir()
    first, second = results("process_tasks:measure_distances", 2, 2, workdir=str(folders[0]))
    alone = measure_distances(str(folders[1]))
    assert first == second and first["gathered"] == 3  # the data's once
    assert first["distances"] == pytest.approx(alone["distances"], rel=1e-4)
    assert first["distances"][0] == first["distances"][1] > 0


def test_features_are_of_pictures_rounded_to_8_bits(training, inception):
    network, variables = inception[1]
    features = fid.build_features(network, variables, training.mesh)
    pictures = np.random.default_rng(1).uniform(-1.2, 1.2, (BATCH, 16, 16, 3)).astype(np.float32)
    stored = np.clip(np.round(pictures * 127.5 + 127.5), 0, 255).astype(np.uint8)
    rounded, exact = features(pictures), features(stored / np.float32(127.5) - 1)
    np.testing.assert_allclose(rounded, exact, atol=1e-5 * np.abs(exact).max())
    assert rounded.shape == (BATCH, 2048 // 32) and (rounded[0] != rounded[1]).any()


def test_without_the_weights_the_command_that_makes_them_is_said(tmp_path, capsys):
    command = ["main.py", f"--config={ROOT}/tests/genhead_case.py", f"--workdir={tmp_path / 'run'}"]
    assert main.main([*command, "--config.inception=nowhere"]) == 2
    said = capsys.readouterr().err
    assert (
        "config.inception: nowhere" in said and "--config=configs/convert.py --config.source=pt_incep" in said
    )
    assert not (tmp_path / "run").exists()

    folder = tmp_path / "other"
    save_converted(folder, {"network": "alexnet", "config": {}}, {"params": {"w": np.zeros(2)}})
    with pytest.raises(UserError, match="holds 'alexnet', not 'inception_fid'"):
        fid.load_inception(str(folder))
