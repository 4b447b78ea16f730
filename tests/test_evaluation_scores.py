"""The scores that papers report, against references in torch and float64, and lists of pairs."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from p4d_jax.capture.landmarks import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, Landmarks
from p4d_jax.errors import UserError, find_named
from p4d_jax.evaluation import pairs, scores
from p4d_jax.evaluation.fits import HeadFit
from p4d_jax.evaluation.kernel import kernel_distance
from p4d_jax.evaluation.looks import Look, PictureNetworks
from p4d_jax.evaluation.pairs import Pair
from p4d_jax.evaluation.pictures import MS_SSIM_LEAST, SCALE_WEIGHTS, ms_ssim
from p4d_jax.evaluation.reenacted import Reenacted, Unchanged
from p4d_jax.evaluation.scores import MEASURES, PairScores, ScoreNetworks, score_pairs
from p4d_jax.imaging.writing import save_video

SIDE = 180
HEAD = SimpleNamespace(expression_basis=np.zeros((3, 3, 20)))


# Pictures ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Results and truths (2, SIDE, SIDE, 3) uint8: smooth, one slightly spoiled, one much."""
    rng = np.random.default_rng(0)
    small = rng.uniform(0, 255, (2, 12, 12, 3)).astype(np.uint8)
    truth = np.stack([np.asarray(Image.fromarray(x).resize((SIDE, SIDE), Image.BICUBIC)) for x in small])
    noise = rng.normal(size=truth.shape) * np.array([5, 60])[:, None, None, None]
    return np.clip(truth + noise, 0, 255).astype(np.uint8), truth


def case_of(made, driving, *, kind="self", frames=None, faces=None, name="a") -> Reenacted:
    """A pair whose pictures are given; faces: of source, driver and result."""
    frames = np.arange(1, 1 + len(made)) if frames is None else np.array(frames)
    pair = Pair(kind, name, "driver", 0, tuple(int(number) for number in frames))
    avatar = SimpleNamespace(model=SimpleNamespace(head=HEAD))
    case = Reenacted(pair, frames, driving[0], driving, made, avatar, PictureNetworks())
    if faces is not None:
        case.source_face, case.driving_faces, case.made_faces = faces
    return case


def torch_ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang's multi-scale SSIM by convolutions in torch, float64."""
    place = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(place**2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    window = window.expand(3, 1, 11, 11)
    blur = lambda x: F.conv2d(x, window, groups=3)
    a, b = (torch.tensor(x, dtype=torch.float64).permute(2, 0, 1)[None] for x in (a, b))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    result = torch.ones(3, dtype=torch.float64)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        mean_a, mean_b = blur(a), blur(b)
        covariance = blur(a * b) - mean_a * mean_b
        spread = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
        factor = (2 * covariance + c2) / (spread + c2)
        if scale == 4:
            factor = factor * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        result *= F.relu(factor.mean((0, 2, 3))) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return float(result.mean())


def test_psnr_ssim_and_ms_ssim_are_those_of_scikit_image_and_torch(pictures):
    case = case_of(*pictures)
    both = list(zip(*pictures, strict=True))
    wanted = {
        "psnr": [peak_signal_noise_ratio(true, made) for made, true in both],
        "ssim": [
            structural_similarity(
                true, made, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False,
            )
            for made, true in both
        ],
        "ms_ssim": [torch_ms_ssim(made, true) for made, true in both],
    }  # fmt: skip
    for name, values in wanted.items():
        assert MEASURES[name].of_pair(case) == pytest.approx(np.mean(values), abs=1e-4)
    assert ms_ssim(pictures[1][0], pictures[1][0]) == pytest.approx(1)
    with pytest.raises(ValueError, match=f"at least {MS_SSIM_LEAST} x {MS_SSIM_LEAST}"):
        ms_ssim(pictures[0][0, :160], pictures[1][0, :160])


def test_lpips_is_the_mean_of_the_network_s_distances_of_results_and_truths(pictures):
    """The network itself is compared with torch in `test_networks`."""
    case = case_of(*pictures)
    case.networks = PictureNetworks(lpips=lambda made, true: np.mean((made - true) ** 2))
    wanted = np.mean((pictures[0] / 127.5 - pictures[1] / 127.5) ** 2)
    assert MEASURES["lpips"].of_pair(case) == pytest.approx(wanted, rel=1e-5)


def test_flicker_takes_frames_that_follow_one_another(rng):
    truth = rng.integers(50, 200, (7, 20, 20, 3)).astype(np.uint8)
    made = truth.copy()
    made[[1, 5]] += 1  # the middle frames of both runs are a grey level lighter
    case = case_of(made, truth, frames=[1, 2, 3, 7, 10, 11, 12])
    assert MEASURES["flicker_error"].of_pair(case) == pytest.approx(2, rel=1e-4)
    change = np.abs(np.diff(truth.astype(float)[[0, 1, 2]], 2, axis=0)).mean()
    change += np.abs(np.diff(truth.astype(float)[[4, 5, 6]], 2, axis=0)).mean()
    assert MEASURES["flicker_driver"].of_pair(case) == pytest.approx(change / 2, rel=1e-4)
    assert MEASURES["flicker"].of_pair(case_of(made, truth, frames=[1, 2, 4, 5, 7, 8, 10])) is None


# Faces ------------------------------------------------------------------------------------------------------


def face(points: np.ndarray, embedding: np.ndarray | None = None) -> Look:
    return Look(Landmarks(points, np.zeros((2, 5, 2)), 1.0), np.zeros(3), embedding)


@pytest.fixture
def points(rng) -> np.ndarray:
    points = rng.normal(size=(468, 2)) * 20 + 190
    points[list(LEFT_EYE_CORNERS)], points[list(RIGHT_EYE_CORNERS)] = [240.0, 190.0], [140.0, 190.0]
    return points


def test_keypoints_are_apart_in_pixels_of_256_and_faces_that_are_missing_are_left_out(points, rng):
    blank = np.zeros((3, 16, 16, 3), np.uint8)
    moved = rng.normal(size=(468, 2))
    made = [face(points + moved), None, face(points)]
    case = case_of(blank, blank, faces=(face(points), [face(points)] * 3, made))
    wanted = np.linalg.norm(moved, axis=1).mean() * 256 / 384 / 2
    assert MEASURES["akd"].of_pair(case) == pytest.approx(wanted)
    assert MEASURES["face_found"].of_pair(case) == pytest.approx(2 / 3)
    nobody = case_of(blank, blank, faces=(None, [None] * 3, [None] * 3))
    assert MEASURES["akd"].of_pair(nobody) is None and MEASURES["csim"].of_pair(nobody) is None


def test_csim_is_torch_s_cosine_of_result_and_source(points, rng):
    blank = np.zeros((2, 16, 16, 3), np.uint8)
    source, *made = rng.normal(size=(3, 512))
    faces = (face(points, source), [None] * 2, [face(points, one) for one in made])
    wanted = F.cosine_similarity(torch.tensor(np.stack(made)), torch.tensor(source)[None]).mean()
    assert MEASURES["csim"].of_pair(case_of(blank, blank, faces=faces)) == pytest.approx(
        float(wanted), abs=1e-6
    )


def turned(degrees: float, expression: float) -> HeadFit:
    """A head that looks to the side, all of whose coefficients are one number; those it lacks are wild."""
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return HeadFit(rotation, np.concatenate([np.full(20, expression), np.full(80, 9.0 * expression)]))


def test_aed_and_apd_are_of_the_fits_to_result_and_driver():
    blank = np.zeros((2, 16, 16, 3), np.uint8)
    case = case_of(blank, blank, kind="cross")
    case.made_fits, case.driving_fits = [turned(5, 0.3), turned(0, 0.0)], [turned(-5, 0.1), None]
    assert MEASURES["apd"].of_pair(case) == pytest.approx(10, abs=1e-6)
    assert MEASURES["aed"].of_pair(case) == pytest.approx(0.2, abs=1e-9)


# Sets -------------------------------------------------------------------------------------------------------


def torch_kid(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate with whole matrices, as torch-fidelity writes it."""
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    within = [(kernel(x, x).sum() - kernel(x, x).diag().sum()) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(sum(within) - 2 * kernel(a, b).mean())


def torch_fid(a: np.ndarray, b: np.ndarray) -> float:
    """By the eigenvalues of the product of covariances, as torchmetrics has it."""
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    root = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).sqrt().real.sum()
    return float(
        ((a.mean(0) - b.mean(0)) ** 2).sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * root
    )


def test_fid_and_kid_are_those_of_torch(rng, monkeypatch):
    a = np.maximum(rng.normal(size=(50, 16)), 0).astype(np.float32)
    b = np.maximum(1.3 * rng.normal(size=(70, 16)) + 0.2, 0).astype(np.float32)
    monkeypatch.setattr("p4d_jax.evaluation.kernel.ROWS_AT_ONCE", 7)
    assert MEASURES["kid"].of_sets(a, b) == pytest.approx(torch_kid(a, b), rel=1e-3)
    assert MEASURES["fid"].of_sets(a, b) == pytest.approx(torch_fid(a, b), rel=1e-3)
    halves = [kernel_distance(*np.split(rng.permutation(a), 2)) for _ in range(200)]
    assert abs(np.mean(halves)) < 3 * np.std(halves) / np.sqrt(200) + 0.02  # unbiased, and 0 of one set
    with pytest.raises(ValueError, match=r"N, M >= 2, got \(1, 16\)"):
        kernel_distance(a[:1], b)


def test_features_are_of_each_result_and_of_each_real_picture_once(rng):
    made, real = rng.integers(0, 256, (2, 9, 4, 4, 3)).astype(np.uint8)
    cases = [case_of(made[:5], real[:5], kind="cross"), case_of(made[5:], real[:4], kind="cross", name="b")]
    batches = []

    def extract(images):
        batches.append(len(images))
        return images.reshape(len(images), -1)[:, :6]

    networks = ScoreNetworks(extract, {"inception": "random weights"})
    found = score_pairs(cases, {"kid": MEASURES["kid"]}, networks, lambda *_: None)["measures"]["kid"]
    # Five frames of the driver, the first of which also is the source of both pairs.
    assert (found["cross"]["results"], found["cross"]["real"]) == (9, 7) and set(batches) == {8}
    features = lambda x: (np.float32(x) / 127.5 - 1).reshape(len(x), -1)[:, :6]
    wanted = kernel_distance(features(made), features(np.concatenate([real[:5], real[[0, 0]]])))
    assert found["cross"]["mean"] == pytest.approx(wanted, abs=1e-5) and "self" not in found


# The report -------------------------------------------------------------------------------------------------


def test_a_measure_says_its_source_and_its_weights_and_refuses_without(pictures):
    rows = []
    chosen = {name: MEASURES[name] for name in ("psnr", "lpips", "csim", "fid", "kid", "ms_ssim")}
    made, driving = (x[:, :64, :64] for x in pictures)
    report = score_pairs([case_of(made, driving)], chosen, ScoreNetworks(), lambda _, row: rows.append(row))
    found = report["measures"]
    assert found["psnr"]["weights"] == "none" and "Ghanbari" in found["psnr"]["source"]
    assert found["psnr"]["self"]["pairs"] == 1 and "cross" not in found["psnr"]
    for name, network in (
        ("lpips", "LPIPS"),
        ("csim", "ArcFace"),
        ("fid", "Inception"),
        ("kid", "Inception"),
    ):
        assert network in found[name]["refused"] and not {"self", "cross"} & set(found[name])
        assert found[name]["weights"] == "not given"
    assert "at least 161" in found["ms_ssim"]["refused"]
    assert set(rows[0].values) == {"psnr"}
    # Doing nothing: the source is the truth's first frame.
    unchanged = Unchanged(case_of(made, driving))
    assert rows[0].unchanged["psnr"] == pytest.approx(MEASURES["psnr"].of_pair(unchanged), abs=1e-5)
    with pytest.raises(UserError, match="none of the pairs"):
        score_pairs([], chosen, ScoreNetworks(), lambda *_: None)
    with pytest.raises(UserError, match="no measure 'ssimm'; did you mean 'ssim'"):
        find_named(MEASURES, ["ssimm"], "measure")


def test_cases_are_ranked_by_what_is_better():
    rows = [
        PairScores(Pair("self", "a", "a"), 1, {"psnr": v, "lpips": v}, {}) for v in (2.0, 5.0, 1.0, 4.0, 3.0)
    ]
    assert scores.rank_cases(rows, "self", "psnr") == {"best": 1, "median": 4, "worst": 2}
    assert scores.rank_cases(rows, "self", "lpips") == {"best": 2, "median": 4, "worst": 1}
    assert scores.rank_cases(rows[:1], "self", "psnr") == {"best": 0}
    assert scores.rank_cases(rows, "cross", "psnr") == {}


# Lists ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two films, a folder of frames, a photo, and what cannot be used."""
    path = tmp_path_factory.mktemp("mine")
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
    for name in ("a.mp4", "b.mp4"):
        save_video(path / name, frames[:6], fps=10)
    (path / "clip").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"clip/{number}.png")
    Image.fromarray(frames[0]).save(path / "photo.jpg")
    (path / "damaged.mp4").write_bytes(b"no film")
    (path / "notes.txt").write_text("nothing")
    (path / "empty").mkdir()
    return path


def draw(folder, **changes):
    return pairs.draw_pairs(folder, **{"seed": 0, "count": 9, "frames": 3, "max_frames": 100} | changes)


def test_films_drive_themselves_and_everybody_drives_somebody_else_once(folder):
    drawn, damaged = draw(folder)
    assert list(damaged) == ["damaged.mp4"]
    own = [pair for pair in drawn if pair.kind == "self"]
    assert [(pair.source, pair.driving) for pair in own] == [(n, n) for n in ("a.mp4", "b.mp4", "clip")]
    assert all(0 not in pair.frames and pair.source_frame == 0 for pair in own)
    cross = [pair for pair in drawn if pair.kind == "cross"]
    names = sorted(["a.mp4", "b.mp4", "clip", "photo.jpg"])
    assert sorted(p.source for p in cross) == sorted(p.driving for p in cross) == names
    assert all(pair.source != pair.driving for pair in cross)
    drivers = [pair.driving for pair in drawn]
    assert drivers == sorted(drivers)  # each film is read once
    assert draw(folder)[0] == drawn != draw(folder, seed=1)[0]
    assert len(draw(folder, count=2)[0]) == 4


def test_frames_come_in_runs_of_three_within_the_film():
    assert pairs.spread_runs(1, 6, 12) == (1, 2, 3, 4, 5)
    frames = pairs.spread_runs(1, 100, 12)
    assert frames[:3] == (1, 2, 3) and frames[-3:] == (97, 98, 99) and len(frames) == 12
    assert [part.stop - part.start for part in pairs.consecutive_runs(frames)] == [3] * 4
    assert pairs.spread_runs(1, 100, 1) == (1,) and pairs.spread_runs(0, 1, 5) == (0,)


def test_a_list_comes_back_as_it_was_written_and_knows_its_files(folder, tmp_path):
    drawn, _ = draw(folder)
    pairs.write_pairs(tmp_path / "pairs.jsonl", drawn)
    assert pairs.read_pairs(tmp_path / "pairs.jsonl") == drawn
    assert drawn[0].sha256[drawn[0].driving] == pairs.digest(folder / drawn[0].driving)
    assert pairs.digest(folder / "clip") != pairs.digest(folder / "photo.jpg")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: no pair"),
        ("[1]", "line 2: no pair"),
        ('{"kind": "both", "source": "a", "driving": "b"}', "'both', expected one of self, cross"),
        ('{"kind": "self", "source": "../a", "driving": "b"}', "outside of the list's folder"),
        ('{"kind": "self", "source": "/a", "driving": "b"}', "outside of the list's folder"),
        ('{"kind": "self", "source": "a", "driving": "b", "frames": [3, 1]}', "ascending"),
        ('{"kind": "self", "source": "a", "driving": "b", "frames": ["1"]}', "whole numbers"),
        ('{"kind": "self", "source": "a", "driving": 3}', "driving: 3"),
        ('{"kind": "self", "source": "a", "driving": "b", "colour": 1}', "line 2: no pair"),
        ("[" * 5000, "line 2: no pair"),
    ],
)
def test_a_line_that_is_no_pair_is_named(line, said, tmp_path):
    good = json.dumps(dataclasses.asdict(Pair("self", "a", "b")))
    (tmp_path / "list.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match="line 2") as caught:
        pairs.read_pairs(tmp_path / "list.jsonl")
    assert said in str(caught.value)


def test_a_folder_with_nothing_to_pair_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="nothing to pair"):
        draw(tmp_path)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "one.png")
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"nothing to pair; 1 cannot be used: .*bad\.mp4"):
        draw(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        draw(tmp_path / "nowhere")
