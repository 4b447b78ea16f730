"""The data set `p4d_heads`: TFDS gives back, bit for bit, what was put in; what is not whole is not there."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax.data.records import read_shard, record_bytes, write_shard
from p4d_jax.errors import UserError
from p4d_jax.genhead import p4d_heads
from p4d_jax.genhead.p4d_heads import heads_set
from p4d_jax.genhead.synthesis import SyntheticHead
from p4d_jax.types import FrameParams

GRID = (2, 3)  # motions, views
SHAPES = {
    "image": (*GRID, 8, 8, 3), "opacity": (*GRID, 4, 4), "depth": (*GRID, 4, 4), "features": (*GRID, 4, 4, 5),
    "correspondence": (*GRID, 8, 8, 3), "landmarks": (*GRID, 70, 2), "points": (*GRID, 6, 3),
    "plane_features": (*GRID, 6, 4), "motion": (*GRID, 109), "params": (*GRID, 437),
    "background": (4, 4, 5), "latent": (7,), "conditioning": (25,),
}  # fmt: skip


def random_sample(seed: int) -> SyntheticHead:
    rng = np.random.default_rng(seed)
    values = {name: jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32) for name, shape in SHAPES.items()}
    return SyntheticHead(**values | {"params": FrameParams.from_vector(values["params"])})


def record(seed: int) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, p4d_heads.encode_sample(random_sample(seed)))


@pytest.fixture(scope="module")
def spec():
    return p4d_heads.record_spec(random_sample(0))


@pytest.fixture(scope="module")
def stored(tmp_path_factory, spec):
    """A finished data set of two shards of two records."""
    folder = tmp_path_factory.mktemp("data")
    made = heads_set(folder, "dynamic")
    made.start({"seed": 0})
    for shard in range(2):
        write_shard(made.shard_path(shard, 2), spec, [record(2 * shard), record(2 * shard + 1)])
    made.finish(spec, [2, 2])
    return folder


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() == SHAPES.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == SHAPES[name], name
        assert found[name].tobytes() == value.tobytes(), name


def test_tfds_reads_every_field_bit_for_bit_without_this_package(stored):
    import tensorflow_datasets as tfds

    source = tfds.data_source("p4d_heads/dynamic", split="train", data_dir=str(stored))
    assert len(source) == 4
    for number in (3, 0, 2, 1):
        assert_same(source[number], record(number))
    builder = tfds.builder_from_directory(str(heads_set(stored, "dynamic").path))
    assert builder.name == "p4d_heads" and builder.info.splits["train"].shard_lengths == [2, 2]
    features = {name: (feature.shape, feature.np_dtype) for name, feature in builder.info.features.items()}
    assert features == {name: (SHAPES[name], record(0)[name].dtype) for name in SHAPES}
    assert_same(heads_set(stored, "dynamic").open()[1], record(1))


def test_bits_of_any_number_survive(tmp_path, spec):
    """Infinities, NaNs with payload, subnormals, minus zero."""
    rng = np.random.default_rng(0)
    wild = {
        name: np.frombuffer(rng.bytes(leaf.size * leaf.dtype.itemsize), leaf.dtype).reshape(leaf.shape)
        for name, leaf in spec.items()
    }
    path = tmp_path / "shard"
    write_shard(path, spec, [wild])
    assert_same(read_shard(path, spec)[0], wild)


def test_a_record_loses_what_is_documented_and_no_more(spec):
    sample = random_sample(0)
    back = p4d_heads.decode_sample(record(0))
    for name in p4d_heads.EXACT:
        for ours, theirs in zip(
            jax.tree.leaves(getattr(back, name)), jax.tree.leaves(getattr(sample, name)), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(back.image, sample.image, atol=0.5 / 127.5 + 1e-6)
    for name in ("opacity", "features", "correspondence", "plane_features", "background"):
        np.testing.assert_allclose(getattr(back, name), getattr(sample, name), rtol=2**-11, atol=2**-24)
    bright = p4d_heads.encode_sample(sample.replace(image=jnp.full(SHAPES["image"], 1.7)))
    assert (bright["image"] == 255).all()  # a network's output beyond the range is cut, not wrapped
    assert record_bytes(spec) == sum(value.nbytes for value in record(0).values())


def test_a_shard_that_is_not_whole_is_not_there(tmp_path, spec):
    made = heads_set(tmp_path, "static")
    made.start({"seed": 0})

    def broken():
        yield record(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(made.shard_path(0, 2), spec, broken())
    assert [path.name for path in made.path.iterdir()] == ["recipe.json"]
    write_shard(made.shard_path(1, 2), spec, [record(0)])
    assert made.missing_shards([1, 1]) == [0]
    with pytest.raises(ValueError, match="1 of 2 are missing"):
        made.finish(spec, [1, 1])
    with pytest.raises(UserError, match="no finished data set p4d_heads/static"):
        made.open()


def test_records_of_another_form_are_refused(tmp_path, spec):
    with pytest.raises(ValueError, match="depth"):
        write_shard(tmp_path / "shard", spec, [record(0) | {"depth": np.zeros((4, 4), np.float32)}])
    assert not list(tmp_path.iterdir())


def test_shards_of_two_recipes_do_not_mix(tmp_path):
    recipe = {"seed": 0, "settings": {"samples": (4, 4)}}
    made = heads_set(tmp_path, "static")
    made.start(recipe)
    made.start(recipe)
    with pytest.raises(UserError, match="seed=0, not 1"):
        made.start(recipe | {"seed": 1})


DAMAGES = {
    "empty": lambda data: b"",
    "a third": lambda data: data[: len(data) // 3],
    "a byte short": lambda data: data[:-1],
    "a byte more": lambda data: data + b"x",
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"hello" * 30_000,
    "start gone": lambda data: data[1 << 16 :],
    "folder": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_and_made_again(tmp_path, stored, spec, damage, capsys):
    shutil.copytree(stored, tmp_path / "data")
    made = heads_set(tmp_path / "data", "dynamic")
    path, change = made.shard_path(1, 2), DAMAGES[damage]
    whole = path.read_bytes()
    path.unlink()
    if change is None:
        path.mkdir()
    else:
        path.write_bytes(change(whole))
    with pytest.raises(UserError, match=r"00001-of-00002 is damaged .*synthesize"):
        made.open()
    assert made.missing_shards([2, 2]) == [1]
    assert "00001-of-00002 is damaged" in capsys.readouterr().out
    if change is None:
        path.rmdir()
    write_shard(path, spec, [record(2), record(3)])
    assert made.missing_shards([2, 2]) == [] and path.read_bytes() == whole
    source = made.open()
    assert len(source) == 4
    assert_same(source[3], record(3))


def test_a_shard_with_other_records_than_promised_is_damaged(stored):
    assert heads_set(stored, "dynamic").missing_shards([3, 3]) == [0, 1]


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    made = heads_set(tmp_path, "static")
    made.path.mkdir(parents=True)
    old, young = (made.path / f".shard.{name}.part" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    made.start({"seed": 0})
    assert not old.exists() and young.exists()
