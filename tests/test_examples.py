"""The examples, README's lines, and an avatar's file, all with one tiny network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from synthetic_reconstructor import save_random_weights

import p4d_jax as p4d
from p4d_jax import assets
from p4d_jax.avatar.file import FORMAT
from p4d_jax.avatar.guessed import guessed_shares
from p4d_jax.avatar.stablehlo import write_stablehlo
from p4d_jax.geometry import orbit
from p4d_jax.imaging.writing import to_alpha, to_image
from p4d_jax.jobs._filming import worst_frames
from p4d_jax.train.devices import compiler_options
from p4d_jax.types import stack

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> p4d.AvatarModel:
    """A network of noise on the head that ships."""
    return p4d.AvatarModel.load(save_random_weights(tmp_path_factory.mktemp("weights") / "tiny.npz"))


@pytest.fixture(scope="module")
def capture(model) -> p4d.Capture:
    return p4d.capture_photo(assets.photo("astronaut"), model.head)


@pytest.fixture(scope="module")
def avatar(model, capture) -> p4d.Avatar:
    """Personalised, so that the file has to hold changed weights and a plane offset."""
    return p4d.Avatar.from_photo(capture, weights=model, personalise=2, samples=(4, 4))


def run_example(path: Path, *arguments, **options) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(*arguments, **options)


def test_examples_are_short_and_numbered():
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))
    assert all(len(path.read_text().splitlines()) < 30 for path in EXAMPLES)


def test_examples_make_what_they_say(model, capture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"weights": model, "personalise": 0, "samples": (4, 4)}
    by_name = {path.stem[3:]: path for path in EXAMPLES}
    run_example(by_name.pop("photo_to_film"), capture, max_frames=2, **options)
    run_example(by_name.pop("turn_and_express"), capture, **options)
    run_example(by_name.pop("save_and_load"), capture, **options)
    run_example(by_name.pop("share_a_motion"))
    run_example(by_name.pop("mesh_and_depth"), capture, resolution=16, **options)
    assert not by_name, "an example that no test runs"
    made = {"film.mp4", "sheet.png", "me.avatar", "loaded.png", "shared.npz", "head.ply", "depth.npy"}
    assert {path.name for path in tmp_path.iterdir()} == made
    assert Image.open("loaded.png").mode == "RGBA"
    size = model.config.picture_size
    assert Image.open("sheet.png").size == (5 * size, 2 * size)


def test_the_lines_of_the_readme_run(model, capture, tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len([line for line in block.splitlines() if line.strip()]) <= 6
    monkeypatch.chdir(tmp_path)
    # The lines as they are, of a smaller network, fewer steps and fewer frames.
    block = block.replace('"me.jpg"', "photo, weights=weights, samples=(4, 4), personalise=1")
    block = block.replace('avatar.drive("clip.mp4")', 'avatar.drive("motion_talk", max_frames=2)')
    names = {"photo": capture, "weights": model}
    exec(block, names)
    assert (tmp_path / "me.mp4").stat().st_size > 0 and (tmp_path / "me.avatar").stat().st_size > 0


def test_a_loaded_avatar_renders_the_same_bits_in_a_fresh_process(avatar, tmp_path):
    file, picture = tmp_path / "me.avatar", tmp_path / "picture.npy"
    avatar.save(file)
    code = (
        "import sys, numpy as np, p4d_jax as p4d\n"
        "frame = p4d.load_avatar(sys.argv[1]).render(expression={'jawOpen': 0.5}, gaze=(0.2, 0.1))\n"
        "np.save(sys.argv[2], np.asarray(frame.image))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file), str(picture)], check=True, cwd=ROOT)
    here = avatar.render(expression={"jawOpen": 0.5}, gaze=(0.2, 0.1))
    np.testing.assert_array_equal(np.load(picture), here.image)
    assert float(abs(here.image - avatar.render().image).max()) > 0


def test_an_avatar_survives_its_file_but_for_what_only_encodes(avatar, tmp_path):
    avatar.save(tmp_path / "me.avatar")
    loaded = p4d.load_avatar(tmp_path / "me.avatar")
    kept = set(loaded.model.variables["params"])
    assert "encoder_global" not in kept and "reenactor" in kept
    params = {name: avatar.model.variables["params"][name] for name in kept}
    lean = avatar.replace(model=avatar.model.replace(variables={**avatar.model.variables, "params": params}))
    assert jax.tree.structure(lean) == jax.tree.structure(loaded)
    jax.tree.map(np.testing.assert_array_equal, lean, loaded)
    assert not [path for path in tmp_path.iterdir() if path.name != "me.avatar"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "no file"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "not an avatar's file, or damaged"),
        (lambda path: path.write_text("hello"), "not an avatar's file, or damaged"),
        (lambda path: np.savez(path.open("wb"), avatar=np.array('{"format": "other"}')), "format 'other'"),
        (
            lambda path: np.savez(
                path.open("wb"),
                avatar=np.array(f'{{"format": "{FORMAT}", "avatar": {{"type": "Path", "fields": {{}}}}}}'),
            ),
            "unknown object 'Path'",
        ),
    ],
)
def test_what_is_no_avatar_is_one_line(avatar, tmp_path, damage, said):
    path = tmp_path / "me.avatar"
    avatar.save(path)
    damage(path)
    with pytest.raises(p4d.UserError, match=said):
        p4d.load_avatar(path)


def test_a_motion_survives_its_file_and_drives_the_same_frames(avatar, tmp_path):
    motion = p4d.Motion.open("motion_talk", max_frames=3)
    motion.save(tmp_path / "m.npz")
    again = p4d.Motion.load(tmp_path / "m.npz")
    first, second = (list(avatar.drive(x, max_frames=2)) for x in (motion, again))
    assert len(first) == len(second) == 2
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def test_expression_by_name_is_the_expression_by_its_coefficients(avatar):
    names = avatar.model.head.expression_names
    coefficients = avatar.params.expression.at[names.index("mouthPucker")].set(0.8)
    a = avatar.render(expression={"mouthPucker": 0.8}).image
    np.testing.assert_array_equal(a, avatar.render(expression=coefficients).image)
    wide, shut = (avatar.act(avatar.params, {"jawOpen": amount}).jaw for amount in (1.0, 0.0))
    opened = wide - shut
    np.testing.assert_allclose(opened, [0.36, 0, 0], atol=1e-6)
    looking = avatar.act(avatar.params, {}, gaze=(0.2, 0.1))
    np.testing.assert_allclose(looking.eyes, [-0.1, 0.2, 0, -0.1, 0.2, 0], atol=1e-6)
    np.testing.assert_array_equal(looking.pose, avatar.params.pose)
    with pytest.raises(p4d.UserError, match="mouthPucker"):
        avatar.render(expression={"mouthPuckr": 1.0})


def test_importing_brings_in_nothing_until_it_is_used():
    code = (
        "import sys, p4d_jax; assert not {'jax', 'numpy', 'flax', 'absl'} & sys.modules.keys();"
        "p4d_jax.Avatar; assert 'jax' in sys.modules;"
        "assert all(hasattr(p4d_jax, name) for name in p4d_jax.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_stablehlo_runs_with_jax_alone_and_gives_the_same(model, capture, tmp_path):
    avatar = p4d.Avatar.from_photo(capture, weights=model, personalise=0, samples=(4, 4))
    sizes = write_stablehlo(tmp_path, avatar)
    assert all((tmp_path / name).stat().st_size == size for name, size in sizes.items())
    size = avatar.size
    params = avatar.act(avatar.params, {"jawOpen": 0.5}, gaze=(0.2, 0.1))
    np.savez(
        tmp_path / "inputs.npz",
        image=to_image(capture.crop, size),
        alpha=to_alpha(capture.alpha, size),
        known=to_alpha(capture.known, size),
        photo=avatar.params.to_vector(),
        params=params.to_vector(),
    )
    code = (
        "import sys; sys.modules['p4d_jax'] = None\n"  # it cannot be imported
        "import jax, numpy as np\n"
        "from jax import export\n"
        f"options = {compiler_options()}\n"
        "program = lambda name: export.deserialize(bytearray(open(name, 'rb').read())).call\n"
        "read = lambda name: jax.jit(program(name), compiler_options=options)\n"
        "given, kept = np.load('inputs.npz'), np.load('weights.npz')\n"
        "weights = tuple(kept[f'arr_{number}'] for number in range(len(kept.files)))\n"
        "photo = (given[name] for name in ('image', 'alpha', 'known', 'photo'))\n"
        "source = read('encode.stablehlo')(weights, *photo)\n"
        "image, alpha, depth = read('frame.stablehlo')(weights, source, given['params'])\n"
        "np.savez('made.npz', image=image, alpha=alpha, depth=depth)\n"
    )
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=os.environ | cache)
    here, made = avatar.render(params), np.load(tmp_path / "made.npz")
    for name in ("image", "alpha", "depth"):
        np.testing.assert_allclose(made[name], getattr(here, name), atol=1e-5)


def test_more_of_a_turned_head_is_guessed(avatar):
    own = avatar.params
    views = [own.replace(camera=orbit(own.camera, yaw)) for yaw in (0.0, 0.4, 0.8)]
    front, turned, side = guessed_shares(avatar, stack(views))
    assert 0 <= front < 0.2 and front + 0.05 < turned and turned + 0.1 < side < 0.8


def test_the_worst_frames_are_not_one_moment():
    guessed = np.zeros(60)
    guessed[20:26], guessed[3], guessed[50] = 0.4, 0.2, 0.3
    assert worst_frames(guessed) == [3, 20, 50]
    assert worst_frames(guessed[:1]) == [0]
    assert worst_frames(guessed[19:21]) == [0, 1]
