"""Folders of photos: what is written is read, the same by any number of processes and from any step."""

import dataclasses
import struct
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genhead_case import tiny_config
from PIL import Image
from process_tasks import open_silent_events

from p4d_jax import assets
from p4d_jax.data.motion import save_motion
from p4d_jax.data.photos import Photo, numbered_photos, open_photos, write_captures, write_photos
from p4d_jax.errors import UserError
from p4d_jax.genhead.sources import PhotoStream, photo_draws
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.head.actions import ARKIT
from p4d_jax.head.mirror import build_mirror
from p4d_jax.head.skinning import head_vertices
from p4d_jax.jobs import train_genhead as job
from p4d_jax.train import journal
from p4d_jax.train.devices import build_mesh, own_rows
from p4d_jax.train.state import TrainState
from p4d_jax.types import FrameParams

COUNT, SIZE, BATCH = 6, 16, 4


@pytest.fixture(scope="module")
def head():
    return assets.head_model()


def random_frames(count: int, neck: float = 0.0) -> np.ndarray:
    """(count, 437) of heads that differ in everything."""
    rng = np.random.default_rng(7)
    uniform = lambda size, width: rng.uniform(-width, width, (count, size)).astype(np.float32)
    camera = look_at_camera(*uniform(2, 0.4).T, 4.0 + uniform(1, 0.3)[:, 0], uniform(1, 0.2)[:, 0])
    camera = camera.replace(intrinsics=camera.intrinsics.at[:, :2, 2].add(uniform(2, 0.02)))
    shape, expression = uniform(300, 1.0), uniform(100, 0.0)
    expression[:, : len(ARKIT)] = rng.uniform(0, 0.5, (count, len(ARKIT)))
    pose = np.concatenate([uniform(3, neck), uniform(3, 0.1)], axis=1)
    return np.asarray(FrameParams(camera, shape, expression, pose, uniform(6, 0.3)).to_vector())


def random_photos(size: int = SIZE, **more) -> list[Photo]:
    rng, frames = np.random.default_rng(3), random_frames(COUNT, **more)
    pixels = lambda *shape: rng.integers(0, 256, shape).astype(np.uint8)
    return [Photo(f"0/{i}.b", pixels(size, size, 3), pixels(size, size), frames[i]) for i in range(COUNT)]


@pytest.fixture
def folder(tmp_path, head):
    write_photos(tmp_path, random_photos(), head.name, head.expression_names)
    return tmp_path


# The folder -----------------------------------------------------------------------------------------------


def test_what_is_written_is_read(folder, head):
    photos = open_photos(folder, head, SIZE)
    assert len(photos) == 2 * COUNT and photos.summary() == "6 photos, and as many flipped"
    for number, photo in enumerate(random_photos()):
        image, mask = photos.read(number)
        np.testing.assert_array_equal(image, photo.image)
        np.testing.assert_array_equal(mask, photo.mask)
        np.testing.assert_array_equal(photos.frames[number], photo.frame)
        for flipped, kept in zip(photos.read(number + COUNT), (image, mask), strict=True):
            np.testing.assert_array_equal(flipped, kept[:, ::-1])
    assert len(open_photos(folder, head, SIZE, mirror=False)) == COUNT
    Image.new("RGB", (3, 3)).save(folder / "images" / "more.png")
    assert open_photos(folder, head, SIZE).left_out == 1


def test_large_pictures_are_reduced_whatever_their_kind(tmp_path, head):
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    photos = [Photo("a", np.stack([ramp] * 3, -1), ramp, random_frames(1)[0])]
    write_photos(tmp_path, photos, head.name)
    for part, mode in (("images", "L"), ("masks", "RGB")):
        Image.open(tmp_path / part / "a.png").convert(mode).save(tmp_path / part / "a.png")
    image, mask = open_photos(tmp_path, head, SIZE).read(0)
    expected = ramp.reshape(16, 4, 16, 4).mean((1, 3))
    assert image.shape == (16, 16, 3) and mask.shape == (16, 16)
    np.testing.assert_allclose(image[:, 1:-1, 1], expected[:, 1:-1], atol=1.5)
    np.testing.assert_allclose(mask[:, 1:-1], expected[:, 1:-1], atol=1.5)


def spoil(folder, **arrays):
    stored = dict(np.load(folder / "parameters.npz"))
    stored |= {k: v(stored[k]) if callable(v) else v for k, v in arrays.items()}
    np.savez(folder / "parameters.npz", **{k: v for k, v in stored.items() if v is not None})


def with_number(column, value):
    def change(frames):
        frames = frames.copy()
        frames[2, column] = value
        return frames

    return change


def save_wide(path):
    Image.new("RGB", (20, 16)).save(path)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "parameters.npz").unlink(), "parameters.npz: no such file"),
        (lambda f: (f / "parameters.npz").write_bytes(b"PK"), "not a folder's parameters, or damaged"),
        (lambda f: spoil(f, frames=None), "lacks frames"),
        (lambda f: spoil(f, format="other.1"), "format is 'other.1'"),
        (lambda f: spoil(f, head="flame2020"), "head 'flame2020', but the head in use is 'openhead'"),
        (lambda f: spoil(f, expressions=np.array(["x"])), "expressions are not those"),
        (lambda f: spoil(f, pictures=np.array(["a"] * COUNT)), "names 'a' 6 times"),
        (lambda f: spoil(f, pictures=np.array([], "U1")), "at least one"),
        (lambda f: spoil(f, frames=lambda x: x[:, 1:]), r"must be \(6, 437\) of floats"),
        (lambda f: spoil(f, mirrored_frames=np.zeros((1, 437))), r"mirrored_frames must be \(6, 437\)"),
        (lambda f: spoil(f, frames=with_number(400, np.nan)), "'0/2.b': a number is not finite"),
        (lambda f: spoil(f, frames=with_number(0, 2.0)), "'0/2.b': cam2world"),
        (lambda f: spoil(f, frames=with_number(18, 256.0)), "'0/2.b': intrinsics"),
        (lambda f: spoil(f, frames=with_number(11, -4.0)), "'0/2.b': the camera does not see the head"),
        (lambda f: spoil(f, frames=with_number(11, 1.3)), "'0/2.b': the camera does not see the head"),
        (lambda f: (f / "masks/0/3.b.png").unlink(), "names '0/3.b', but masks/ has no"),
        (lambda f: (f / "images").rename(f / "pictures"), "images: no such folder"),
        (lambda f: (f / "images/0/3.b.png").write_bytes(b"no"), "3.b.png is not a picture"),
        (lambda f: save_wide(f / "images/0/3.b.png"), "20 x 16 pixels; expected a square of at least 16"),
        (lambda f: save_wide(f / "masks/0/3.b.png"), "20 x 16 pixels, its picture has 16 x 16"),
        (lambda f: Image.new("I;16", (16, 16)).save(f / "masks/0/3.b.png"), "expected 8 bits"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(folder, head, break_it, message):
    break_it(folder)
    with pytest.raises(UserError, match=message) as caught:
        open_photos(folder, head, SIZE)
    assert "\n" not in str(caught.value)


def test_a_picture_that_is_cut_off_is_named_when_it_is_read(folder, head):
    path = folder / "images" / "0" / "1.b.png"
    path.write_bytes(path.read_bytes()[:-200])
    stream = PhotoStream(open_photos(folder, head, SIZE), build_mesh(1), BATCH, 0, 2)
    with pytest.raises(UserError, match=r"1\.b\.png: missing, truncated or damaged"):
        for number in range(4):
            stream(number)


def test_workdirs_of_capture_become_a_folder(tmp_path, head):
    frames = random_frames(2)
    for number, frame in enumerate(frames):
        workdir = tmp_path / f"photo{number}"
        workdir.mkdir()
        params = FrameParams.from_vector(jnp.asarray(frame[None]))
        save_motion(workdir / "motion.npz", params, 25.0, head.name, head.expression_names)
        Image.new("RGB", (16, 16), (10 + number, 20, 30)).save(workdir / "crop.png")
        Image.new("L", (16, 16), 200 + number).save(workdir / "alpha.png")
    assert write_captures(tmp_path / "out", [tmp_path / "photo0", tmp_path / "photo1"]) == 2
    photos = open_photos(tmp_path / "out", head, SIZE, mirror=False)
    np.testing.assert_array_equal(photos.frames, frames)
    image, mask = photos.read(1)
    assert tuple(image[3, 3]) == (11, 20, 30) and mask[0, 0] == 201
    with pytest.raises(UserError, match=r"no file .*nowhere"):
        write_captures(tmp_path / "out", [tmp_path / "nowhere"])


# Mirror images and necks ----------------------------------------------------------------------------------


@jax.jit
def seen_points(head, vector):
    """uv (V, 2) of all vertices of a frame."""
    params = FrameParams.from_vector(vector)
    vertices = head_vertices(head, params.shape, params.expression, params.pose, params.eyes)
    return project(params.camera, vertices)[0]


def test_a_mirrored_frame_is_seen_as_the_flipped_picture(head):
    template = np.asarray(head.template)
    there = np.array([((template - point) ** 2).sum(1).argmin() for point in template * [-1, 1, 1]])
    mirror = build_mirror(head)
    for frame in random_frames(3, neck=0.2):
        flipped = np.array([1.0, 0.0]) + np.array([-1.0, 1.0]) * seen_points(head, frame)
        off = np.linalg.norm(seen_points(head, mirror(frame))[there] - flipped, axis=1)
        assert off.mean() < 2e-4 and off.max() < 6e-3  # the head's expressions are not quite symmetric
        for kept in (slice(0, 16), slice(16, 25), slice(25, 325), slice(325, 425), slice(425, 437)):
            half = mirror(frame)
            half[kept] = frame[kept]  # every part is needed
            worse = np.linalg.norm(seen_points(head, half)[there] - flipped, axis=1)
            assert worse.mean() > 3 * off.mean()


def test_mirrored_twice_is_the_same(head):
    mirror, frames = build_mirror(head), random_frames(COUNT)
    assert np.abs(mirror(frames) - frames).max() > 0.1
    np.testing.assert_allclose(mirror(mirror(frames)), frames, atol=1e-7)


def test_a_head_without_a_mirror_needs_mirrored_frames(folder, head):
    plain = head.replace(name="flame", expression_names=())
    spoil(folder, head="flame", expressions=np.array([], "U1"))
    with pytest.raises(UserError, match=r"no exact mirror.*mirrored_frames.*mirror=False"):
        open_photos(folder, plain, SIZE)
    assert len(open_photos(folder, plain, SIZE, mirror=False)) == COUNT
    spoil(folder, mirrored_frames=random_frames(COUNT)[::-1])
    photos = open_photos(folder, plain, SIZE)
    np.testing.assert_array_equal(photos.frames[COUNT:], random_frames(COUNT)[::-1])
    skew = head.replace(shape_basis=jnp.abs(head.shape_basis))
    with pytest.raises(UserError, match="shape component"):
        build_mirror(skew)


def test_a_bent_neck_becomes_part_of_the_camera(tmp_path, head):
    bent = random_photos(neck=0.3)
    write_photos(tmp_path, bent, head.name, head.expression_names)
    photos = open_photos(tmp_path, head, SIZE, mirror=False)
    assert not photos.frames[:, 425:428].any()
    face = np.asarray(head.regions["left_eyeball"])
    for photo, straight in zip(bent, photos.frames, strict=True):
        before, after = seen_points(head, photo.frame)[face], seen_points(head, straight)[face]
        np.testing.assert_allclose(after, before, atol=1e-4)
        assert np.abs(photo.frame[:16] - straight[:16]).max() > 0.01


# Batches --------------------------------------------------------------------------------------------------


def test_every_pass_shows_each_sample_once_in_another_order(folder, head):
    photos = open_photos(folder, head, SIZE)
    batches = numbered_photos(photos, BATCH, 5, np.arange(BATCH))
    passes = [np.concatenate([batches[3 * k + i]["frames"] for i in range(3)]) for k in range(2)]
    order = [np.array([np.abs(photos.frames - row).sum(1).argmin() for row in one]) for one in passes]
    assert all(sorted(one) == list(range(2 * COUNT)) for one in order)
    assert not np.array_equal(*order)
    again = numbered_photos(photos, BATCH, 5, np.arange(BATCH))[10**7]
    for name, value in batches[10**7].items():
        np.testing.assert_array_equal(value, again[name])
    other = numbered_photos(photos, BATCH, 6, np.arange(BATCH))[0]
    assert not np.array_equal(other["frames"], batches[0]["frames"])


def test_two_processes_read_the_batch_of_one(folder, head):
    photos = open_photos(folder, head, SIZE)
    whole = numbered_photos(photos, BATCH, 1, own_rows(BATCH, build_mesh(1)))[2]
    halves = [numbered_photos(photos, BATCH, 1, rows)[2] for rows in (np.arange(2), np.arange(2, 4))]
    assert whole["image"].shape == (BATCH, SIZE, SIZE, 3) and halves[0]["mask"].shape == (2, SIZE, SIZE, 1)
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), value)


def test_a_stream_goes_on_from_any_step(folder, head):
    photos, mesh = open_photos(folder, head, SIZE), build_mesh(1)
    stream, params = photo_draws(photos, mesh, BATCH, 2, readers=2)
    shown = [stream(number) for number in range(5)]
    again, params_again = photo_draws(photos, mesh, BATCH, 2, readers=3)
    for number in (3, 4, 1):
        for one, other in zip(jax.tree.leaves(shown[number]), jax.tree.leaves(again(number)), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(params(number).to_vector(), params_again(number).to_vector())
    # Pictures and parameters belong together, in the ranges that training takes.
    rows = np.asarray(shown[0].params.to_vector())
    for row, image, mask in zip(rows, shown[0].image, shown[0].mask, strict=True):
        pixels, alpha = photos.read(int(np.abs(photos.frames - row).sum(1).argmin()))
        np.testing.assert_allclose(image, pixels / 127.5 - 1, atol=1e-6)
        np.testing.assert_allclose(mask[..., 0], alpha / 255, atol=1e-6)
    # Frames to generate are other photos than those that D sees.
    assert not np.array_equal(params(0).to_vector(), rows)


# The job --------------------------------------------------------------------------------------------------


def blank_state(gan, key) -> TrainState:
    """A state whose networks have nothing to initialise and to compile."""
    empty = {field.name: {"w": jnp.zeros(1)} for field in dataclasses.fields(TrainState)}
    numbers = {"step": jnp.zeros((), jnp.int32), "seconds": jnp.zeros(()), "augment": jnp.zeros(())}
    return TrainState(**{**empty, **numbers, "key": jax.random.key_data(key)})


def test_the_job_trains_on_a_folder(folder, head, tmp_path, monkeypatch, capsys):
    """Its own loop and draws; in the place of G's and D's programs, what they are given is recorded."""
    config = tiny_config(BATCH)
    config.data, config.readers = str(folder), 2
    config.loop.update(steps=3)
    constants = []

    def build_step(gan, draw_real, draw_params, batch, work):
        assert batch == BATCH and work.rate > 0

        def step(state, rate):
            number = int(state.step)
            constants.append((draw_real(number), draw_params(3 * number)))
            return state.replace(step=state.step + 1), {"loss": rate}

        return step

    grid = lambda gan, people, config, key: lambda state: np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setattr(journal, "open_events", open_silent_events)
    monkeypatch.setattr(job, "create_genhead_state", blank_state)
    monkeypatch.setattr(job, "save_genhead", lambda path, *content: path.touch())
    monkeypatch.setattr(job, "build_genhead_step", build_step)
    monkeypatch.setattr(job, "build_grid", grid)
    job.run(config, tmp_path / "run")
    assert "6 photos, and as many flipped" in capsys.readouterr().out
    config.loop.update(steps=5)
    job.run(config, tmp_path / "run")
    assert len(constants) == 5
    stream, params = photo_draws(open_photos(folder, head, SIZE), build_mesh(1), BATCH, config.seed, 1)
    for number, (real, frames) in enumerate(constants):
        np.testing.assert_array_equal(real.image, stream(number).image)
        np.testing.assert_array_equal(frames.to_vector(), params(3 * number).to_vector())


def test_a_folder_that_is_not_there_stops_the_job(tmp_path):
    config = tiny_config(BATCH)
    config.data = str(tmp_path / "nowhere")
    gan, _ = job.build_training(config)
    with pytest.raises(UserError, match=r"nowhere.*no such file"):
        job.choose_data(gan, config)


# Damaged photos --------------------------------------------------------------------------------------------


def bomb(path: Path) -> None:
    """A PNG of 20000 x 20000 pixels, as small as its header."""
    data = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damaged_photos_are_left_out_up_to_a_limit(folder, head, capsys):
    whole = open_photos(folder, head, SIZE)
    bomb(whole.pictures.pictures[1])  # seen when the folder is opened
    cut(whole.pictures.pictures[3])  # seen when it is read
    with pytest.raises(UserError, match="not a picture that can be read"):
        open_photos(folder, head, SIZE)
    photos = open_photos(folder, head, SIZE, damaged=2)
    assert len(photos) == len(whole) - 2 and "1 damaged are left out" in photos.summary()
    kept = [k for k in range(COUNT) if k != 1]
    np.testing.assert_array_equal(photos.frames[: len(kept)], whole.frames[kept])
    for _ in range(2):
        number, image, mask = photos.read_sound(2)  # it was the fourth
        assert number == 3 and image.shape[:2] == mask.shape
    out = capsys.readouterr().out
    assert (
        out.count("left out: ") == 2
        and str(whole.pictures.pictures[3]) in out
        and str(whole.pictures.pictures[1]) in out
    )
    for batch in (numbered_photos(photos, 4, 0, np.arange(4))[k] for k in range(3)):
        assert batch["image"].shape == (4, SIZE, SIZE, 3) and len(batch["frames"]) == 4
    with pytest.raises(UserError, match="truncated or damaged"):
        open_photos(folder, head, SIZE, damaged=1).read_sound(2)


def test_a_link_into_its_own_folder_ends(folder, head):
    (folder / "images" / "loop").symlink_to(folder / "images", target_is_directory=True)
    assert open_photos(folder, head, SIZE).left_out == 0
