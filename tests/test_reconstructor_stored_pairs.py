"""Pairs from disk: a step sees what is stored, the same from any step and by any number of processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from psi_case import tiny_config
from test_data_photos import bomb, cut

from p4d_jax import assets
from p4d_jax.capture import FilmCapture, clip
from p4d_jax.capture.outside import Cutout
from p4d_jax.data.motion import save_motion
from p4d_jax.data.photos import Photo, clip_of, write_captures, write_photos
from p4d_jax.data.records import write_shard
from p4d_jax.data.samples import HeadPair
from p4d_jax.errors import UserError
from p4d_jax.genhead import p4d_heads
from p4d_jax.genhead.synthesis import SyntheticHead
from p4d_jax.geometry import look_at_camera
from p4d_jax.jobs import capture as capture_job
from p4d_jax.jobs import train_reenact as job
from p4d_jax.reconstructor import sources
from p4d_jax.reconstructor.config import ReconstructorConfig, StepConfig
from p4d_jax.reconstructor.film_pairs import open_films
from p4d_jax.reconstructor.losses import check_data
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.pairs import pair_of_synthetic
from p4d_jax.reconstructor.stored_pairs import numbered_pairs, open_stored_heads
from p4d_jax.reconstructor.training import LossNetworks, ReconstructorTraining
from p4d_jax.train.config import Term
from p4d_jax.train.devices import build_mesh, own_rows
from p4d_jax.types import FrameParams

SIZE, RAYS, BATCH = 32, 8, 4
SAMPLES = {"dynamic": (4, 3, 2), "static": (3, 1, 3)}  # samples, motions, views
CLIPS = {"a": 3, "more/b": 2, "c": 4}  # frames


def random_sample(seed: int, motions: int, views: int) -> SyntheticHead:
    rng = np.random.default_rng(seed)
    of_view = {
        "image": (SIZE, SIZE, 3), "opacity": (RAYS, RAYS), "depth": (RAYS, RAYS), "features": (RAYS, RAYS, 5),
        "correspondence": (SIZE, SIZE, 3), "landmarks": (70, 2), "points": (6, 3), "plane_features": (6, 4),
        "motion": (109,), "params": (437,),
    }  # fmt: skip
    shapes = {name: (motions, views, *shape) for name, shape in of_view.items()}
    shapes |= {"background": (RAYS, RAYS, 5), "latent": (7,), "conditioning": (25,)}
    values = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    values["correspondence"] *= rng.uniform(size=(motions, views, SIZE, SIZE, 1)) < 0.5
    return SyntheticHead(**values | {"params": FrameParams.from_vector(values["params"])})


def write_heads(folder, kind: str, samples: list[SyntheticHead]) -> None:
    made = p4d_heads.heads_set(folder, kind)
    made.start({"head": "openhead"})
    spec = p4d_heads.record_spec(samples[0])
    records = [jax.tree.map(np.asarray, p4d_heads.encode_sample(sample)) for sample in samples]
    write_shard(made.shard_path(0, 1), spec, records)
    made.finish(spec, [len(records)])


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """A finished data set of both kinds."""
    folder = tmp_path_factory.mktemp("heads")
    for place, (kind, (count, motions, views)) in enumerate(SAMPLES.items()):
        write_heads(folder, kind, [random_sample(100 * place + i, motions, views) for i in range(count)])
    return folder


def random_frames(count: int) -> np.ndarray:
    """(count, 437) of heads with bent necks."""
    rng = np.random.default_rng(7)
    uniform = lambda size, width: rng.uniform(-width, width, (count, size)).astype(np.float32)
    camera = look_at_camera(*uniform(2, 0.4).T, 4.0 + uniform(1, 0.3)[:, 0], uniform(1, 0.2)[:, 0])
    params = FrameParams(camera, uniform(300, 1.0), uniform(100, 0.0), uniform(6, 0.1), uniform(6, 0.3))
    return np.asarray(params.to_vector())


def write_films(folder, clips: dict[str, int]) -> None:
    head, rng = assets.head_model(), np.random.default_rng(3)
    names = [f"{clip}/{number:05d}" for clip, count in clips.items() for number in range(count)]
    pixels = lambda *shape: rng.integers(0, 256, shape).astype(np.uint8)
    photos = [
        Photo(name, pixels(SIZE, SIZE, 3), pixels(SIZE, SIZE), frame)
        for name, frame in zip(names, random_frames(len(names)), strict=True)
    ]
    write_photos(folder, photos, head.name, head.expression_names)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write_films(folder, CLIPS)
    return folder


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def open_heads(folder, static_share=0.5, count=BATCH):
    return open_stored_heads(folder, "openhead", SIZE, count, static_share, seed=5)


def open_pairs(folder, mirror=True, damaged=0):
    return open_films(folder, assets.head_model(), SIZE, mirror, damaged, BATCH, seed=5)


# p4d_heads --------------------------------------------------------------------------------------------------


def place_of(samples: list[SyntheticHead], image: np.ndarray) -> tuple[int, int, int]:
    """Sample, motion and view of a picture, found by its pixels."""
    errors = np.stack([np.abs(np.asarray(sample.image) - image).max((2, 3, 4)) for sample in samples])
    assert errors.min() < 1e-6
    return tuple(int(i) for i in np.unravel_index(errors.argmin(), errors.shape))


def test_a_pair_is_three_views_of_one_stored_sample(heads):
    source = open_heads(heads)
    assert source.summary() == "4 dynamic samples and 3 static samples"
    samples = {
        kind: [as_numpy(p4d_heads.decode_sample(source.heads[kind][i])) for i in range(count)]
        for kind, (count, _, _) in SAMPLES.items()
    }
    convert, expected_pair = jax.jit(source.convert), jax.jit(pair_of_synthetic)
    seen = []
    for number in range(4):
        pairs = as_numpy(convert(numbered_pairs(source, np.arange(BATCH))[number]))
        assert pairs.scale.tolist() == [1, 0, 1, 0]
        for row in range(BATCH):
            pair = jax.tree.map(lambda x, row=row: x[row], pairs)
            kind = "static" if pair.scale == 0 else "dynamic"
            found = [place_of(samples[kind], x) for x in (pair.source, pair.image, pair.driving)]
            (who, before, first), (_, after, second), (_, driven, third) = found
            assert len({sample for sample, _, _ in found}) == 1 and driven == after
            if kind == "static":
                assert before == after and first != second == third
            else:
                assert before != after and second != third
            seen.append((kind, *found))
            # The same by the way of samples that are drawn: those three views as a sample of 2 x 2.
            motions, views = (
                np.array([[before] * 2, [after] * 2]),
                np.array([[first, third], [second, third]]),
            )
            if kind == "static":
                motions, views = motions[:1], np.array([[first, second]])
            sample = samples[kind][who]
            chosen = {
                name: jax.tree.map(lambda x, m=motions, v=views: x[m, v], getattr(sample, name))
                for name in (*SyntheticHead.__dataclass_fields__,)
                if name not in ("background", "latent", "conditioning")
            }
            expected = expected_pair(sample.replace(**chosen), jnp.asarray(kind == "static"))
            assert jax.tree.structure(pair) == jax.tree.structure(expected)
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), pair, expected)
    assert len(set(seen)) > len(seen) // 2  # motions and views vary


def test_a_pass_shows_each_sample_once_and_shares_are_kept(heads):
    for share, kinds in ((0.0, {"dynamic"}), (0.25, {"dynamic", "static"}), (1.0, {"static"})):
        source = open_heads(heads, share)
        assert set(source.heads) == kinds and source.static.sum() == share * BATCH
    shown = [open_heads(heads, 0.0).read(number, row)["background"] for number in (0, 1) for row in range(4)]
    whole = [{x.tobytes() for x in shown[4 * k : 4 * k + 4]} for k in (0, 1)]
    assert len(whole[0]) == SAMPLES["dynamic"][0] and whole[0] == whole[1]


# Films ------------------------------------------------------------------------------------------------------


def test_a_pair_is_two_frames_of_one_clip(films):
    source = open_pairs(films)
    photos, clips = source.photos, []
    assert source.summary() == "9 photos, and as many flipped, in 3 clips"
    assert photos.frames[:, 425:428].any()  # bent necks
    for number in range(3):  # two passes: 3 clips, and 3 flipped
        stored = numbered_pairs(source, np.arange(BATCH))[number]
        pairs = as_numpy(source.convert(stored))
        assert pairs.driving is None and pairs.depth is None and pairs.scale.tolist() == [1] * BATCH
        for row in range(BATCH):
            first, second = (
                int(np.abs(photos.frames - stored[name][row]).sum(1).argmin())
                for name in ("source_frame", "frame")
            )
            assert first != second
            for sample, image, vectors in (
                (first, pairs.source[row], np.asarray(pairs.source_params.to_vector())),
                (second, pairs.image[row], np.asarray(pairs.params.to_vector())),
            ):
                np.testing.assert_allclose(image, photos.read(sample)[0] / 127.5 - 1, atol=1e-6)
                np.testing.assert_array_equal(vectors[row], photos.frames[sample])
            np.testing.assert_allclose(pairs.mask[row, ..., 0], photos.read(second)[1] / 255, atol=1e-6)
            of = [(sample // 9, clip_of(photos.names[sample % 9])) for sample in (first, second)]
            assert of[0] == of[1]
            clips.append(of[0])
    assert sorted(clips[:6]) == sorted(clips[6:]) == sorted((i, name) for i in (0, 1) for name in CLIPS)


def test_damaged_frames_are_left_out_up_to_a_limit(tmp_path, capsys):
    write_films(tmp_path, CLIPS)
    whole = open_pairs(tmp_path, mirror=False)
    bomb(tmp_path / "images/more/b/00000.png")  # seen when the folder is opened: a clip has one frame left
    cut(tmp_path / "images/a/00001.png")  # seen when it is read
    with pytest.raises(UserError, match="not a picture that can be read"):
        open_pairs(tmp_path)
    source = open_pairs(tmp_path, mirror=False, damaged=2)
    assert source.summary() == "8 photos; 1 damaged are left out, in 2 clips"
    sound = {"a/00000", "a/00002", *(f"c/{number:05d}" for number in range(4))}
    expected = np.stack([whole.photos.frames[whole.photos.names.index(name)] for name in sorted(sound)])
    for number in range(8):
        batch = numbered_pairs(source, np.arange(BATCH))[number]
        for field in ("source_frame", "frame"):
            assert all((expected == frame).all(1).any() for frame in batch[field])
        again = numbered_pairs(open_pairs(tmp_path, mirror=False, damaged=2), np.arange(BATCH))[number]
        jax.tree.map(np.testing.assert_array_equal, again, batch)
    assert sorted(source.photos.unreadable) == ["a/00001", "more/b/00000"]
    assert "left out: " in capsys.readouterr().out
    cut(tmp_path / "masks/c/00003.png")
    with pytest.raises(UserError, match=r"2 others are damaged too, and at most 2 may be"):
        for number in range(8):
            numbered_pairs(source, np.arange(BATCH))[number]


def test_films_that_were_captured_become_a_folder(tmp_path):
    head, frames = assets.head_model(), random_frames(3)
    workdir = tmp_path / "talk"
    for part in ("crops", "alphas"):
        (workdir / part).mkdir(parents=True)
    params = FrameParams.from_vector(jnp.asarray(frames))
    save_motion(workdir / "motion.npz", params, 25.0, head.name, head.expression_names)
    for number in range(3):
        Image.new("RGB", (SIZE, SIZE), (10 + number, 20, 30)).save(workdir / f"crops/{number:05d}.png")
    with pytest.raises(UserError, match=r"talk: a film without alphas; .*write_alphas=True"):
        write_captures(tmp_path / "out", [workdir])
    for number in (0, 2):  # no face was seen in the other
        Image.new("L", (SIZE, SIZE), 200 + number).save(workdir / f"alphas/{number:05d}.png")
    assert write_captures(tmp_path / "out", [workdir]) == 2
    photos = open_pairs(tmp_path / "out", mirror=False).photos
    assert photos.names == ("talk/00000", "talk/00002")
    np.testing.assert_array_equal(photos.frames, frames[[0, 2]])
    image, mask = photos.read(1)
    assert tuple(image[3, 3]) == (12, 20, 30) and mask[0, 0] == 202
    with pytest.raises(UserError, match="2 workdirs are named 'talk'"):
        write_captures(tmp_path / "out", [workdir, workdir])


def test_alphas_are_written_where_a_face_was_seen(tmp_path, monkeypatch):
    flat = np.full((512, 512), 0.5, np.float32)
    half = lambda *_: Cutout(np.zeros((512, 512, 3), np.uint8), flat, 1 + 0 * flat)
    monkeypatch.setattr(clip, "cut_out", half)
    film = FilmCapture(
        FrameParams.from_vector(jnp.asarray(random_frames(3))),
        np.arange(4) / 25,
        np.array([0.01, np.nan, 0.02]),
        np.eye(2, 3),
        [np.zeros((64, 64, 3), np.uint8)] * 3,
    )
    capture_job.write_cutouts(film, assets.head_model(), None, tmp_path / "alphas")
    written = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "alphas").iterdir()}
    assert sorted(written) == ["00000.png", "00002.png"]
    assert all(mask.shape == (512, 512) and (mask == 127).all() for mask in written.values())


# Both -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["heads", "films"])
def test_two_processes_read_the_batch_of_one(kind, request):
    folder = request.getfixturevalue(kind)
    open_source = {"heads": open_heads, "films": open_pairs}[kind]
    whole = numbered_pairs(open_source(folder), own_rows(BATCH, build_mesh(1)))[10**7]
    halves = [numbered_pairs(open_source(folder), rows)[10**7] for rows in np.split(np.arange(BATCH), 2)]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *halves)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)
    other = numbered_pairs(open_source(folder), np.arange(BATCH))[10**7 + 1]
    assert any(
        not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True)
    )


def build_case(terms=(), face_weight=0.0, **fields):
    """A config and a Psi that is not trained, for a draw."""
    config = tiny_config(BATCH)
    config.data = {"openheads": 0, "stored": 0, "real_films": 0} | fields.pop("data")
    config.update(fields)
    reconstructor = Reconstructor(ReconstructorConfig.from_dict(config.model.to_dict()))
    step = StepConfig(terms=terms, face_weight=face_weight)
    return config, ReconstructorTraining(reconstructor, step, build_mesh(), optimizer=None)


def drawn_pairs(batch) -> HeadPair:
    """Instead of a renderer: pairs that know their keys, and depth at the picture's size."""
    keys, static = batch
    count = len(static)
    image = jnp.broadcast_to(keys[:, :1, None, None] / 2.0**32, (count, SIZE, SIZE, 3))
    mask = image[..., :1]
    params = FrameParams.from_vector(jnp.zeros((count, 437)))
    scale = 1.0 - static.astype(jnp.float32)
    return HeadPair(image, params, image, params, mask, scale, depth=mask, face_mask=mask)


def open_drawn(settings, head, mesh, count) -> sources.DrawnPairs:
    return sources.DrawnPairs(drawn_pairs, count)


def test_sources_are_mixed_and_a_run_goes_on_from_any_step(heads, films, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "openheads", open_drawn)
    data = {"openheads": 1, "stored": 2, "real_films": 1}
    config, training = build_case(data=data, stored=str(heads), real_films=str(films), readers=2)
    draw = job.build_mixture(config, training, assets.head_model())
    shown = [draw(number) for number in range(3)]
    assert shown[0].scale.tolist() == [1, 1, 1, 0]  # drawn, films, stored
    known = {name for name in HeadPair.__dataclass_fields__ if getattr(shown[0], name) is not None}
    assert known == {"source", "source_params", "image", "params", "mask", "scale"}
    again = job.build_mixture(config, training, assets.head_model())
    for number in (1, 2, 0):
        jax.tree.map(np.testing.assert_array_equal, again(number), shown[number])
    form = lambda x: (x.shape, x.dtype)
    assert jax.tree.map(form, draw.shapes) == jax.tree.map(form, shown[0])


def test_depth_maps_of_two_sizes_become_one(heads, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "openheads", open_drawn)
    config, training = build_case(data={"openheads": 2, "stored": 2}, stored=str(heads))
    draw = job.build_mixture(config, training, assets.head_model())
    alone = draw.read[0].convert(draw.streams[0](0))
    step = SIZE // RAYS
    np.testing.assert_array_equal(draw(0).depth[2:, step // 2 :: step, step // 2 :: step], alone.depth)


def test_terms_are_refused_before_anything_runs(heads, films):
    both = {"stored": str(heads), "real_films": str(films)}
    for data, missing in (({"stored": 4}, None), ({"stored": 2, "real_films": 2}, "plane_features|points")):
        config, training = build_case(data=data, terms=(("triplane", Term(0.1)),), **both)
        draw = job.build_mixture(config, training, assets.head_model())
        if missing is None:
            check_data(training.config, draw.shapes, LossNetworks())
            continue
        with pytest.raises(UserError, match=missing):
            check_data(training.config, draw.shapes, LossNetworks())
    config, training = build_case(data={"real_films": 4}, face_weight=2.0, **both)
    with pytest.raises(UserError, match=r"face_weight: this data does not know face_mask"):
        draw = job.build_mixture(config, training, assets.head_model())
        check_data(training.config, draw.shapes, LossNetworks())


# At the door ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": {"stored": 4}}, r"config\.stored='': name the folder of this source"),
        ({"data": {"real_films": 4}}, r"config\.real_films='': name the folder"),
        ({"data": {"stored": 4}, "stored": "nowhere"}, "no finished data set p4d_heads/dynamic in 'nowhere'"),
        ({"data": {"real_films": 4}, "real_films": "nowhere"}, "nowhere.*no such file"),
        ({"data": {"real_films": 4}, "real_films": "x", "readers": 0}, "readers=0: expected at least 1"),
        ({"data": {"real_films": 3}}, "together are config.batch=4"),
        (
            {"data": {"photos": 4}},
            "no source 'photos'; there are openheads, films, genhead, stored, real_films",
        ),
    ],
)
def test_a_config_that_names_no_data_is_one_line(fields, message):
    config, training = build_case(**fields)
    with pytest.raises(UserError, match=message) as caught:
        job.build_mixture(config, training, assets.head_model())
    assert "\n" not in str(caught.value)


def test_samples_of_which_no_pair_can_be_made_are_refused(tmp_path, heads):
    with pytest.raises(UserError, match="pictures of 32², the model takes 64²"):
        open_stored_heads(heads, "openhead", 64, BATCH, 0.5, 0)
    with pytest.raises(UserError, match=r"made with the head 'openhead', .* is '/data/flame\.npz'"):
        open_stored_heads(heads, "/data/flame.npz", SIZE, BATCH, 0.5, 0)
    write_heads(tmp_path, "dynamic", [random_sample(0, 1, 2)])
    write_heads(tmp_path, "static", [random_sample(0, 1, 1)])
    with pytest.raises(UserError, match="1 motion of a sample; a dynamic pair needs two"):
        open_heads(tmp_path, 0.0)
    with pytest.raises(UserError, match="1 view of a motion; a static pair needs two"):
        open_heads(tmp_path, 1.0)


def test_kinds_of_two_forms_are_refused(tmp_path):
    write_heads(tmp_path, "dynamic", [random_sample(0, 2, 2)])
    sample = random_sample(1, 1, 2)
    fewer = sample.replace(points=sample.points[..., :4, :], plane_features=sample.plane_features[..., :4, :])
    write_heads(tmp_path, "static", [fewer])
    with pytest.raises(UserError, match=r"points of a view is .*; synthesize both with the same settings"):
        open_heads(tmp_path)


def test_a_clip_of_one_frame_is_refused(tmp_path):
    write_films(tmp_path, {"a": 3, "b": 1})
    with pytest.raises(UserError, match="clip 'b' has 1 frame, a pair needs 2; 1 of 2 clips are so"):
        open_pairs(tmp_path)


def test_a_frame_without_a_clip_is_refused(tmp_path):
    head = assets.head_model()
    blank = np.zeros((SIZE, SIZE, 3), np.uint8)
    photos = [Photo(name, blank, blank[..., 0], random_frames(1)[0]) for name in ("a/0", "a/1", "alone")]
    write_photos(tmp_path, photos, head.name, head.expression_names)
    with pytest.raises(UserError, match="'alone' belongs to no clip"):
        open_pairs(tmp_path)
