"""The job `evaluate`: its frames, and its report of a model that makes no mistake."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from p4d_jax import assets, main
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion_source import ParameterMotion
from p4d_jax.capture import capture_photo
from p4d_jax.capture.fit import fit_photo
from p4d_jax.capture.photo import open_photo
from p4d_jax.errors import UserError
from p4d_jax.evaluation import facts, fits, held_out, people, photos, reenacted
from p4d_jax.evaluation.evaluators import EVALUATORS, Evaluator
from p4d_jax.evaluation.people import (
    DRIVEN,
    DRIVEN_NEUTRAL,
    FILM,
    OWN_NEUTRAL,
    TARGET,
    UNCHANGED,
    VIEW_YAWS,
    VIEWS,
    Person,
)
from p4d_jax.evaluation.reenacted import Reenacted
from p4d_jax.evaluation.scores import MEASURES
from p4d_jax.evaluation.statistics import jackknife, net_ratio, ratio
from p4d_jax.evaluation.summary import sort_into_bins, summarise
from p4d_jax.geometry import look_at_camera
from p4d_jax.imaging.video import open_video
from p4d_jax.imaging.writing import resize, save_video
from p4d_jax.jobs import _scores, evaluate
from p4d_jax.jobs._fields import parse_names
from p4d_jax.jobs.settings import EvaluateSettings, TrainReenactSettings
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_shape
from p4d_jax.openheads.portraits import Portraits
from p4d_jax.openheads.sets import SETS, people_set
from p4d_jax.types import FrameParams, stack, take

CONFIG = f"--config={Path(__file__).parents[1]}/configs/evaluate.py"
SIZE, FILM_FRAMES = 128, 3


# The frames that are asked for -----------------------------------------------------------------------------


def frame(rng) -> FrameParams:
    """A random frame, yaw 0.2."""
    camera = jax.tree.map(np.asarray, look_at_camera(0.2, 0.0, 4.0))
    draw = lambda n: rng.normal(size=n).astype(np.float32) * 0.1
    return FrameParams(camera, draw(300), np.abs(draw(100)), draw(6), draw(6))


@pytest.fixture
def noted(rng, monkeypatch) -> tuple[Person, FrameParams, FrameParams]:
    """`render_person` by a renderer that only notes what it is asked for; the two frames; the driver."""

    def note(scene, identity, params, key, size, settings):
        return SimpleNamespace(
            params=params, noise=identity.surroundings.noise, supersample=settings.supersample
        )

    monkeypatch.setattr(people, "render_scene", note)
    monkeypatch.setattr(people, "on_host", lambda tree: tree)
    surroundings = SimpleNamespace(noise=jnp.float32(0.02))
    surroundings.replace = lambda noise: SimpleNamespace(noise=noise)
    identity = SimpleNamespace(
        surroundings=surroundings, replace=lambda surroundings: SimpleNamespace(surroundings=surroundings)
    )
    params, driver = stack([frame(rng), frame(rng)]), frame(rng)
    film = stack([frame(rng) for _ in range(FILM_FRAMES)])
    made = people.render_person(
        None, jax.random.key(0), SETS["held_out"], identity, params, driver, film, SIZE
    )
    return made, params, driver


def test_asked_and_true_frames_are_the_same_from_driven_to_the_views(noted):
    made, params, driver = noted
    assert made.asked.expression.shape[0] == FILM + FILM_FRAMES
    same = slice(DRIVEN, VIEWS + len(VIEW_YAWS))
    jax.tree.map(np.testing.assert_array_equal, take(made.asked, same), take(made.truth.params, same))
    jax.tree.map(np.testing.assert_array_equal, take(made.asked, TARGET), take(params, 1))
    jax.tree.map(np.testing.assert_array_equal, take(made.asked, DRIVEN), driver)
    jax.tree.map(np.testing.assert_array_equal, take(made.asked, slice(FILM, None)), made.film.params)


def test_neutral_faces_keep_camera_and_neck_and_nothing_else(noted):
    made, params, driver = noted
    pairs = (
        (take(made.truth.params, OWN_NEUTRAL), take(params, 1)),
        (take(made.asked, DRIVEN_NEUTRAL), driver),
    )
    for neutral, moved in pairs:
        np.testing.assert_array_equal(neutral.camera.cam2world, moved.camera.cam2world)
        np.testing.assert_array_equal(neutral.neck, moved.neck)
        assert not neutral.expression.any() and not neutral.jaw.any() and not neutral.eyes.any()


def test_unchanged_is_the_source_s_face_in_the_driver_s_pose(noted):
    made, params, driver = noted
    unchanged, source = take(made.truth.params, UNCHANGED), take(params, 0)
    np.testing.assert_array_equal(unchanged.expression, source.expression)
    np.testing.assert_array_equal(unchanged.jaw, source.jaw)
    np.testing.assert_array_equal(unchanged.neck, driver.neck)
    np.testing.assert_array_equal(unchanged.camera.cam2world, driver.camera.cam2world)
    assert made.clip.noise > 0 and made.truth.noise == made.film.noise == 0
    assert made.film.supersample > made.truth.supersample


def test_views_are_thirty_degrees_apart_and_show_the_source_s_face(noted):
    made, params, _ = noted
    views = [take(made.asked, VIEWS + i) for i in range(len(VIEW_YAWS))]
    yaws = [facts.head_yaw(view) for view in views]
    # the camera also looks at a point in front of its pivot, so angles of the face are nearly the camera's
    np.testing.assert_allclose(np.abs(np.diff(yaws)), 30.0, atol=0.8)
    assert yaws[1] == pytest.approx(0, abs=1e-3) and yaws[0] == pytest.approx(-yaws[2], abs=1e-3)
    for view in views:
        np.testing.assert_array_equal(view.expression, take(params, 0).expression)


def test_the_other_set_keeps_the_shape_and_what_moves_and_changes_looks_and_light():
    head = assets.head_model("openhead")
    key = people.person_keys(3, 2)[1]
    shape_key = jax.random.split(jax.random.split(key, 4)[0], 4)[0]
    shape = random_shape(shape_key, head.shape_basis.shape[-1], OpenHeadsSettings())
    scene = SimpleNamespace(head=head)  # all that drawing a person looks at
    identity, params = jax.jit(lambda key: people.draw_person.__wrapped__(scene, key, SETS["other"]))(key)
    np.testing.assert_allclose(identity.shape, shape, atol=1e-6)
    np.testing.assert_array_equal(params.shape, np.stack([identity.shape] * 2))
    assert identity.appearance.freckles >= 0.3 and identity.appearance.mottle >= 1.8
    lamp = identity.surroundings.light.directions[1]
    assert lamp[1] < -0.25 and np.linalg.norm(lamp) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="held_out, other"):
        people_set("others")


def test_film_parts_follow_one_another_and_start_again():
    motion = FrameParams(None, np.zeros(10), np.arange(10.0), np.zeros(10), np.zeros(10))
    parts = [people.film_part(motion, index, 4).expression.tolist() for index in range(4)]
    assert parts[0] == [0, 1, 2, 3] and parts[1] == [4, 5, 6, 7]
    assert all(len(part) == 4 and part[0] + 3 == part[-1] for part in parts)


# The report ------------------------------------------------------------------------------------------------


def portrait(mirrored: bool, mouth: int) -> np.ndarray:
    """The astronaut's face (SIZE, SIZE, 3) in [-1, 1], its chin `mouth` rows lower."""
    face = assets.photo("astronaut")[20:260, 100:340]
    lower = Image.fromarray(face[120:]).resize((240, 120 + mouth), Image.Resampling.BICUBIC)
    face = np.concatenate([face[:120], np.asarray(lower)[:120]])
    face = np.uint8(face[:, ::-1] * np.array([0.9, 0.75, 0.6])) if mirrored else face
    return np.float32(Image.fromarray(face).resize((SIZE, SIZE), Image.Resampling.BOX)) / 127.5 - 1


def portraits(mirrored: bool, mouths: list[int]) -> Portraits:
    images = np.stack([portrait(mirrored, mouth) for mouth in mouths])
    masks = np.ones((len(mouths), SIZE, SIZE, 1), np.float32)
    return Portraits(images, masks, masks, masks, images[0])


def make_person(mirrored: bool, frames: int) -> Person:
    """A person whose pictures are photos, and whose parameters say nothing."""
    rng = np.random.default_rng(0)
    asked = stack([frame(rng)] * (FILM + frames))
    truth = [0, 30, 0, 0, 5, 0, 10]  # a neutral face, the driver's, ..., and unchanged
    film = portraits(mirrored, [0, 10, 30]) if frames else None
    return Person(take(asked, 0), portraits(mirrored, [10, 30]), asked, portraits(mirrored, truth), film)


@pytest.fixture
def one_fit_at_a_time(monkeypatch):
    """Fits by the program that other tests have compiled."""

    def fit(small, points, iris, actions):
        fits = [fit_photo(small, *face) for face in zip(points, iris, actions, strict=True)]
        return jax.tree.map(lambda *x: jnp.stack(x), *fits)

    monkeypatch.setattr(fits, "fit_photos", fit)
    monkeypatch.setattr(fits, "FIT_BATCH", 1)


@pytest.fixture
def without_mistakes(monkeypatch, one_fit_at_a_time):
    """The job on two people, with a model that makes the true pictures."""
    known = {}

    def draw(head, size, set_name, seed, count, motion, frames):
        for index in range(count):
            made = make_person(bool(index % 2), frames)
            known[made.clip.image[0].tobytes()] = made
            yield made

    def reenact(model, source, params, frames, motions, rays, alpha):
        made = known[source.tobytes()]
        shown = [made.clip.image[1:], made.truth.image[DRIVEN:UNCHANGED]]
        return np.concatenate(shown + ([] if made.film is None else [made.film.image]))

    monkeypatch.setattr(held_out, "reenact", reenact)
    for module in (evaluate, held_out):
        monkeypatch.setattr(module, "draw_people", draw)


def test_a_model_without_mistakes_gets_the_best_of_every_figure(without_mistakes, tmp_path, capsys):
    arguments = ("--config.identities=2", f"--config.film_frames={FILM_FRAMES}", "--config.photos=")
    assert main.main(["main.py", CONFIG, f"--workdir={tmp_path / 'run'}", *arguments]) == 0
    assert "cross/expression_ratio" in capsys.readouterr().out
    names = {f"evaluation_held_out_{part}.png" for part in ("self", "cross", "novel")}
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == names | {"evaluation.json", "evaluation.md", "evaluation.html"}
    report = json.loads((tmp_path / "run/evaluation.json").read_text())
    found = {name: value.get("mean") for name, value in report["sets"]["held_out"].items() if name != "bins"}
    assert found["self/psnr"] > 90 and found["self/ssim"] == pytest.approx(1, abs=1e-4)
    for name in ("mouth", "eyes", "mouth_aligned", "pose_degrees", "coefficients"):
        assert found[f"self/{name}"] == pytest.approx(0, abs=1e-3)
        assert found[f"self/{name}"] <= 0.01 * found[f"self/{name}_unchanged"] != 0
    assert found["self/psnr_unchanged"] < 40
    assert found["cross/expression"] == found["cross/expression_truth"] < found["cross/expression_unchanged"]
    assert found["cross/expression_ratio"] == found["cross/expression_ratio_truth"] < 0.9
    assert found["cross/expression_ratio_net"] == 0
    assert found["cross/recognised"] == found["cross/recognised_truth"] == 1
    assert all(found[f"novel/psnr_{yaw:+d}"] > 90 for yaw in VIEW_YAWS)
    assert found["flicker/error"] == 0 < found["flicker/change"]
    assert found["flicker/change"] == pytest.approx(found["flicker/change_truth"])
    assert report["lpips"].startswith("not measured") and report["scores"] is None
    assert "| cross/expression_ratio | " in (tmp_path / "run/evaluation.md").read_text()
    page = (tmp_path / "run/evaluation.html").read_text()
    assert page.count('src="data:image/jpeg') == 3 == page.count("src=") and "http" not in page


@pytest.fixture
def model() -> AvatarModel:
    """A model of which only the size of its pictures is looked at."""
    config = SimpleNamespace(picture_size=SIZE, image_size=SIZE, superresolution_channels=())
    network = SimpleNamespace(config=config)
    return AvatarModel(network, {}, assets.head_model("openhead"), None, ParameterMotion())


def test_training_gets_a_flat_dict_of_numbers(without_mistakes, model):
    evaluator = held_out.build_evaluator(model, people=2)
    state = SimpleNamespace(average={"w": jnp.ones(2)}, buffers={})
    values = evaluator(state)
    assert all(type(value) is float for value in values.values())
    assert values["self/psnr"] > 90 and values["cross/expression"] == values["cross/expression_truth"]
    assert not any(name.startswith("flicker") for name in values)


def test_an_evaluator_of_one_s_own_is_a_function_and_its_name(without_mistakes, tmp_path, monkeypatch):
    def compare_brightness(case):
        yield "self/brightness", float(case.made[TARGET].mean() - case.person.clip.image[0].mean())

    monkeypatch.setitem(EVALUATORS, "brightness", Evaluator(of_person=compare_brightness))
    arguments = ("--config.identities=2", "--config.film_frames=0", "--config.photos=")
    command = ["main.py", CONFIG, f"--workdir={tmp_path}", *arguments, "--config.evaluators=brightness"]
    assert main.main(command) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())["sets"]["held_out"]
    assert set(report) == {"self/brightness", "bins"} and report["self/brightness"]["people"] == 2


def test_the_configs_name_evaluators_that_exist_and_evaluate_names_all():
    names = [parse_names(one.evaluators) for one in (EvaluateSettings, TrainReenactSettings)]
    assert names[0] == list(EVALUATORS) and names[1] == list(held_out.IN_TRAINING)
    assert set(names[1]) < set(names[0])


def test_a_photo_is_captured_and_compared_in_its_alpha(monkeypatch, model):
    def darker(model, image, params, frames, motions, rays, alpha):
        return np.stack([image - 0.02] * len(frames.pose))

    monkeypatch.setattr(photos, "reenact", darker)
    captured = capture_photo(assets.photo("astronaut"), model.head)
    result = photos.measure_photo(model, captured, held_out.Rays())
    assert result.measures["psnr"] == pytest.approx(40.0, abs=0.01)  # 2 of [-1, 1] are the range
    assert [image.shape for image in result.images] == [(SIZE, SIZE, 3)] * (2 + len(VIEW_YAWS))


def test_summary_counts_the_people_that_have_a_measure():
    report = summarise([{"self/psnr": 20.0, "self/mouth": 0.1}, {"self/psnr": 24.0}])
    assert report["self/psnr"] == {"mean": 22.0, "standard_error": 2.0, "people": 2}
    assert report["self/mouth"] == {"mean": 0.1, "standard_error": None, "people": 1}


def test_ratio_of_means_and_its_error(rng):
    below = rng.uniform(1, 2, 400)
    values = np.stack([0.5 * below * np.exp(0.3 * rng.normal(size=400)), below], axis=1)
    found = jackknife(ratio, values)
    draws = [ratio(values[chosen]) for chosen in rng.integers(0, 400, (2000, 400))]  # bootstrap
    assert found["mean"] == pytest.approx(values[:, 0].mean() / below.mean(), abs=1e-5)
    assert found["standard_error"] == pytest.approx(np.std(draws), rel=0.1)


def test_net_ratio_takes_the_measure_s_own_noise_away(rng):
    noise = np.abs(rng.normal(size=5000))
    unchanged = np.sqrt(3.0**2 + noise**2)
    result = np.sqrt(1.5**2 + noise**2)  # half of the unchanged error is left
    assert net_ratio(np.stack([result, unchanged, noise], 1)) == pytest.approx(0.5, abs=1e-6)
    assert net_ratio(np.stack([noise, unchanged, noise], 1)) == 0


def test_bins_hold_everybody_once():
    rows = [
        {"about/source_yaw": yaw, "self/psnr": yaw, "self/ssim": 1.0}
        | {f"about/view_angle_{view:+d}": 10.0 for view in VIEW_YAWS}
        | {f"novel/psnr_{view:+d}": 20.0 for view in VIEW_YAWS}
        for yaw in (0.0, 9.9, 10.0, 29.0, 90.0)
    ]
    bins = sort_into_bins(rows)
    counts = {edges: values["self/psnr"]["people"] for edges, values in bins["source_yaw"].items()}
    assert counts == {"0..10": 2, "10..20": 1, "20..30": 1, "30..90": 1}
    assert bins["view_angle"] == {
        "0..15": {"novel/psnr": {"mean": 20.0, "standard_error": 0.0, "people": 15}}
    }


# Pairs of one's own -----------------------------------------------------------------------------------------

OF_PICTURES = [name for name in MEASURES if name != "consistency"]
WITHOUT_SETS = ("--config.sets=", "--config.photos=")


def face_of(mirrored: bool) -> np.ndarray:
    """The astronaut, (288, 288, 3) uint8, or somebody else, who is her mirror image in other light."""
    face = assets.photo("astronaut")[:288, 64:352]
    return np.uint8(face[:, ::-1] * np.array([0.9, 0.75, 0.6])) if mirrored else face


@pytest.fixture
def my_folder(tmp_path) -> Path:
    """A film, a photo, and two files that cannot be used, of which one is found when it is read."""
    folder = tmp_path / "mine"
    folder.mkdir()
    save_video(folder / "film.mp4", [np.roll(face_of(False), shift, 1) for shift in (0, 2, 4, 6)], fps=10)
    Image.fromarray(face_of(True)).save(folder / "photo.png")
    for name in ("broken.mp4", "broken.jpg"):
        (folder / name).write_bytes(b"neither")
    return folder


@pytest.fixture
def without_networks(model, tmp_path, monkeypatch) -> list[str]:
    """The job with results that are the driver's pictures; arguments that name folders of networks.

    These hold what each says of itself alone; something small is in their place.
    """

    def capture(picture, head, landmarker, square=None):
        crop = resize(open_photo(picture), SIZE)
        return SimpleNamespace(crop=crop, params=frame(np.random.default_rng(0)))

    def capture_film(path, head, landmarker, max_frames):
        crops = [resize(one.picture, SIZE) for one in open_video(path, max_frames)]
        params = stack([frame(np.random.default_rng(0))] * len(crops))
        return Film(crops, params)

    def reenact(model, pair, captured, driver, networks, rendering):
        pictures = np.stack(list(driver.motion.pictures))
        avatar = SimpleNamespace(model=model)
        return Reenacted(pair, driver.frames, captured.crop, pictures, pictures, avatar, networks)

    arguments = list(WITHOUT_SETS)
    for field, name in (
        ("lpips", "lpips_vgg"),
        ("arcface", "arcface50"),
        ("scores.inception", "inception_fid"),
    ):
        (tmp_path / name).mkdir()
        sources = [{"name": f"{name}.pth", "size": 1, "sha256": "0" * 64}]
        about = {"network": name, "config": {}, "sources": sources}
        (tmp_path / name / "about.json").write_text(json.dumps(about))
        arguments.append(f"--config.{field}={tmp_path / name}")
    squared = lambda image, target: np.mean((image - target) ** 2)
    some_pixels = SimpleNamespace(apply=lambda variables, images: images[:, 20:24, 30, 0])
    monkeypatch.setattr(evaluate, "load_lpips", lambda folder: squared)
    monkeypatch.setattr(evaluate, "load_arcface", lambda folder: lambda image, points: image[200, 150:200, 0])
    monkeypatch.setattr(_scores, "load_inception", lambda folder: (some_pixels, {}))
    monkeypatch.setattr(evaluate.AvatarModel, "load", lambda *_: model)
    monkeypatch.setattr(reenacted, "capture_photo", capture)
    monkeypatch.setattr(reenacted, "capture_film", capture_film)
    monkeypatch.setattr(reenacted, "reenact_pair", reenact)
    return arguments


class Film(SimpleNamespace):
    """What is asked of a captured film."""

    def __init__(self, crops, params):
        super().__init__(crops=crops, params=params, errors=np.zeros(len(crops)), crop_matrix=None)

    def __len__(self):
        return len(self.crops)


def test_a_folder_of_one_s_own_becomes_pairs_a_report_and_a_list_to_be_given_back(
    my_folder, without_networks, one_fit_at_a_time, tmp_path, capsys
):
    command = ["main.py", CONFIG, *without_networks, "--config.scores.measures=" + ", ".join(OF_PICTURES)]
    given = f"--config.scores.pairs={my_folder}"
    assert main.main([*command, given, f"--workdir={tmp_path / 'run'}"]) == 0
    said = capsys.readouterr().out
    assert "2 files cannot be used, and 2 pairs are left out" in said and "broken.mp4: video: " in said
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == {"evaluation.json", "evaluation.md", "evaluation.html", "pairs.jsonl"}
    found = json.loads((tmp_path / "run/evaluation.json").read_text())["scores"]
    assert set(found["damaged"]) == {"broken.mp4", "broken.jpg"} and found["picture_size"] == SIZE
    assert found["pairs"] == {"self": 1, "cross": 1} and found["results"]["self"] == 3
    own, other = (
        next(row for row in found["rows"] if row["pair"]["kind"] == kind) for kind in ("self", "cross")
    )
    assert set(own["values"]) == set(OF_PICTURES) - {"ms_ssim", "fid", "kid"}
    assert set(other["values"]) <= {"csim", "aed", "apd", "flicker", "flicker_driver", "face_found"}
    # Results are the truth.
    assert own["values"]["psnr"] > 90 and own["values"]["akd"] == own["values"]["lpips"] == 0
    assert own["values"]["ssim"] == pytest.approx(1, abs=1e-4) and own["values"]["flicker_error"] == 0
    assert own["unchanged"]["psnr"] < 40 and own["unchanged"]["akd"] > 0 < own["unchanged"]["lpips"]
    for name, network in (("lpips", "lpips_vgg"), ("csim", "arcface50"), ("fid", "inception_fid")):
        assert (
            found["measures"][name]["weights"] == f"{network} from {network}.pth (sha256 0000000000000000…)"
        )
    assert "at least 161" in found["measures"]["ms_ssim"]["refused"]
    assert found["measures"]["fid"]["self"] == {"mean": pytest.approx(0, abs=1e-5), "results": 3, "real": 3}
    page = (tmp_path / "run/evaluation.html").read_text()
    assert page.count("<svg") >= 8 and page.count('src="data:image/jpeg') == 2 == page.count("src=")
    assert "http" not in page and "Best: film.mp4 driven by film.mp4" in page
    assert "| PSNR, dB | " in (tmp_path / "run/evaluation.md").read_text()
    # The list again: the same pairs and figures. Where other files have the names, or none, nothing is left.
    given = f"--config.scores.pairs={tmp_path / 'run/pairs.jsonl'}"
    command[-1] = "--config.scores.measures=psnr"
    folder = f"--config.scores.folder={my_folder}"
    assert main.main([*command, given, folder, f"--workdir={tmp_path / 'again'}"]) == 0
    again = json.loads((tmp_path / "again/evaluation.json").read_text())["scores"]
    assert again["measures"]["psnr"] == found["measures"]["psnr"]
    assert (tmp_path / "again/pairs.jsonl").read_text() == (tmp_path / "run/pairs.jsonl").read_text()
    (my_folder / "film.mp4").write_bytes((my_folder / "photo.png").read_bytes())
    capsys.readouterr()
    assert main.main([*command, given, folder, f"--workdir={tmp_path / 'nothing'}"]) == 2
    said = capsys.readouterr()
    assert "is another file than the list's" in said.out
    assert "config.scores.pairs: none of the pairs can be used" in said.err.splitlines()[-1]
    assert not (tmp_path / "nothing").exists()


def test_all_measures_are_taken_unless_told():
    assert parse_names(EvaluateSettings().scores.measures) == list(MEASURES)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.scores.pairs=/nowhere", "config.scores.pairs: '/nowhere': expected a folder, or a list"),
        ("--config.scores.pairs=/nowhere.jsonl", "config.scores.pairs: '/nowhere.jsonl' is no list of pairs"),
        ("--config.scores.frames=0", "config.scores.frames=0"),
        (
            "--config.scores.measures=ssimm",
            "config.scores.measures: no measure 'ssimm'; did you mean 'ssim'?",
        ),
        ("--config.sets=held_outt", "held_out"),
        ("--config.film_frames=2", "at least 3 frames"),
        ("--config.identities=1", "config.identities=1"),
        ("--config.photos=nobody.jpg", "nobody.jpg"),
        ("--config.lpips=/nowhere", "config.lpips: "),
        ("--config.evaluators=picture", "no evaluator 'picture'; did you mean 'pictures'?"),
    ],
)
def test_what_a_user_may_get_wrong(argument, said, tmp_path, capsys):
    assert main.main(["main.py", CONFIG, f"--workdir={tmp_path / 'run'}", argument]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("p4d_jax: ")]
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "run").exists()
