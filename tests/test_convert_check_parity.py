"""check_parity as a command, the cases it reads, and the rules that turn a state into variables."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from parity_cases import FOLDER

from p4d_jax.convert.check_parity import CASES, main
from p4d_jax.convert.mapping import Rule, Unused, below, conv, convert_state, dense
from p4d_jax.convert.parity.fixtures import load_case
from p4d_jax.errors import UserError

CHEAP = ("lbs", "rays", "volume", "rasterizer")


def run(capsys, folder, *names: str) -> tuple[int, list[str], str]:
    """Exit code, lines of stdout, stderr."""
    code = main([f"--fixtures={folder}", *names])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def copy(tmp_path, name: str, change=lambda description, arrays: None):
    """A folder with the case `name`, after `change` has had its JSON and its arrays in hand."""
    description = json.loads((FOLDER / f"{name}.json").read_text())
    arrays = dict(np.load(FOLDER / f"{name}.npz"))
    change(description, arrays)
    (tmp_path / f"{name}.json").write_text(json.dumps(description))
    np.savez(tmp_path / f"{name}.npz", **arrays)
    return tmp_path


def test_cases_are_within_bounds_and_each_output_has_its_line(capsys):
    code, lines, _ = run(capsys, FOLDER, *CHEAP)
    assert code == 0
    expected = [(name, output) for name in CHEAP for output in load_case(name, FOLDER).outputs]
    assert [tuple(line.split()[:2]) for line in lines] == expected
    for line in lines:
        name, _, figure, *what = line.split()
        assert " ".join(what) == ("share of pixels" if name == "rasterizer" else "relative error")
        assert float(figure) <= (5e-3 if name == "rasterizer" else 1e-4)


@pytest.mark.parametrize(
    "name, output, factor, code",
    [
        ("lbs", "joints", 0.9e-4, 0),
        ("lbs", "joints", 1.2e-4, 1),
        ("lbs", "joints", np.nan, 1),
        ("rasterizer", "depth_all", 0.004, 0),
        ("rasterizer", "depth_all", 0.006, 1),
    ],
)
def test_a_perturbed_reference_exceeds_beyond_its_bound_only(capsys, tmp_path, name, output, factor, code):
    """Of the rasterizer's 64^2 pixels a share is changed, of others a value by a share of the largest."""

    def change(description, arrays):
        values = arrays[f"out_{output}"].reshape(-1)
        if name == "rasterizer":
            values[: round(factor * values.size)] += 1
        else:
            values[np.abs(values).argmin()] += factor * np.abs(values).max()

    found, lines, _ = run(capsys, copy(tmp_path, name, change), name)
    assert found == code
    assert [line.split()[1] for line in lines if line.endswith("EXCEEDS")] == [output] * code


def refuse(capsys, folder, *names: str) -> str:
    """The one line with which the command refuses."""
    code, lines, err = run(capsys, folder, *names)
    assert code == 2 and lines == [] and err.count("\n") == 1 and err.startswith("check_parity: ")
    return err


def test_an_unknown_case_is_refused_before_any_runs(capsys, tmp_path):
    assert "'neck_deformaton' is not known; did you mean 'neck_deformation'?" in refuse(
        capsys, FOLDER, "lbs", "neck_deformaton"
    )
    (tmp_path / "mystery.npz").write_bytes(b"")
    assert "'mystery'" in refuse(capsys, tmp_path)


def test_a_case_that_breaks_is_a_line_and_hides_no_other(capsys, tmp_path, monkeypatch):
    def broken(case):
        raise TypeError("radiance_field() missing 1 required\npositional argument")

    monkeypatch.setitem(CASES, "rays", broken)
    copy(tmp_path, "lbs", lambda description, arrays: arrays.update(out_joints=arrays["out_joints"] * 2))
    for name in ("rays", "volume"):
        copy(tmp_path, name)
    (tmp_path / "rasterizer.npz").write_bytes(b"")
    code, lines, err = run(capsys, tmp_path)
    assert code == 2
    assert {line.split()[0] for line in lines} == {"lbs", "volume"}
    unreadable, breaks = err.splitlines()
    assert "'rasterizer'" in unreadable
    assert "'rays' breaks (TypeError: radiance_field() missing 1 required positional argument" in breaks
    assert Path(__file__).name in breaks


def test_an_unknown_output_and_other_joints_are_refused(capsys, tmp_path):
    def rename(description, arrays):
        description["outputs"]["joint"] = description["outputs"].pop("joints")
        arrays["out_joint"] = arrays.pop("out_joints")
        del description["outputs"]["vertices"]

    assert "did you mean 'joints'?" in refuse(capsys, copy(tmp_path, "lbs", rename), "lbs")

    def turn(description, arrays):
        arrays["in_parents"] = arrays["in_parents"][::-1]

    assert "parents" in refuse(capsys, copy(tmp_path, "lbs", turn), "lbs")


def test_missing_and_broken_files_are_refused_in_one_line(capsys, tmp_path):
    assert "no case" in refuse(capsys, tmp_path / "nowhere")
    assert "lbs.json is missing" in refuse(capsys, tmp_path, "lbs")
    folder = copy(tmp_path, "lbs")
    whole = (folder / "lbs.npz").read_bytes()
    for broken in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:2000] + b"?" * 3000 + whole[5000:]):
        (folder / "lbs.npz").write_bytes(broken)
        assert "'lbs'" in refuse(capsys, folder, "lbs")
    (folder / "lbs.npz").unlink()
    assert "lbs.npz is missing" in refuse(capsys, folder, "lbs")
    shutil.copy(FOLDER / "lbs.npz", folder)
    for text in ("{", "[]", "{}", '{"seed": 1, "inputs": {"x": [1]}, "outputs": {}, "state": []}', "\0\xff"):
        (folder / "lbs.json").write_text(text)
        assert "'lbs'" in refuse(capsys, folder, "lbs")


def test_arrays_must_have_the_shapes_of_the_json(capsys, tmp_path):
    def cut(description, arrays):
        arrays["out_joints"] = arrays["out_joints"][:2]

    assert "out_joints has shape (2, 5, 3), its JSON says (3, 5, 3)" in refuse(
        capsys, copy(tmp_path, "lbs", cut), "lbs"
    )


def test_objects_in_an_array_are_not_unpickled(capsys, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    folder = copy(tmp_path, "lbs")
    arrays = dict(np.load(folder / "lbs.npz")) | {"in_pose": np.array([Trap()], object)}
    np.savez(folder / "lbs.npz", **arrays)
    assert "'lbs'" in refuse(capsys, folder, "lbs")


def test_error_looks_at_every_stride_th_row_and_column_and_pixels_at_channels():
    case = load_case("alignment", FOLDER)
    reference = case.outputs["warp"]
    whole = np.zeros((2, 3, 112, 112), np.float32)
    whole[..., ::2, ::2] = reference
    assert case.error("warp", whole) == 0
    whole[0, 1, 4, 6] += 0.5 * np.abs(reference).max()
    assert case.error("warp", whole) == pytest.approx(0.5)
    whole[0, 2, 4, 6] += 1
    assert case.share_of_pixels("warp", whole) == pytest.approx(1 / (2 * 56 * 56))
    with pytest.raises(ValueError, match="shape"):
        case.error("warp", whole[:1])
    empty = dataclasses.replace(case, outputs={"warp": np.zeros_like(reference)})
    assert empty.error("warp", np.zeros_like(whole)) == 0


def test_every_case_is_of_this_package_s_own_list():
    assert {
        "lbs",
        "rays",
        "volume",
        "rasterizer",
        "neck_deformation",
        "part_deformation",
        "alignment",
    } <= set(CASES)


# Rules ----------------------------------------------------------------------------------------------------

RULES = [
    Rule(r"fc(\d)\.weight", r"params/dense_\1/kernel", dense),
    Rule(r"fc(\d)\.bias", r"params/dense_\1/bias"),
    Rule(r"stem\.weight", "params/stem/kernel", conv),
    Unused(r".*\.num_batches_tracked", "a counter of training"),
]
EXPECTED = {
    "params": {
        "dense_0": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)},
        "stem": {"kernel": np.zeros((3, 5, 4, 6))},
    }
}


def state(**changes) -> dict[str, np.ndarray]:
    """A state that fits `EXPECTED`; a change to None takes a key out."""
    rng = np.random.default_rng(0)
    shapes = {"fc0.weight": (2, 3), "fc0.bias": (2,), "stem.weight": (6, 4, 3, 5)}
    values = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    values["bn.num_batches_tracked"] = np.array(7)
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in values.items() if value is not None}


def test_rules_turn_axes_and_list_what_is_unused():
    constants = state()
    converted = convert_state(constants, RULES, EXPECTED, "toy, size 2")
    params = converted.variables["params"]
    np.testing.assert_array_equal(params["dense_0"]["kernel"], constants["fc0.weight"].T.astype(np.float32))
    np.testing.assert_array_equal(params["dense_0"]["bias"], constants["fc0.bias"].astype(np.float32))
    assert params["stem"]["kernel"][2, 4, 1, 5] == np.float32(constants["stem.weight"][5, 1, 2, 4])
    assert params["dense_0"]["kernel"].dtype == np.float32
    assert converted.unused == {"bn.num_batches_tracked": "a counter of training"}


def test_the_first_rule_that_matches_decides_and_matches_whole_keys():
    rules = [Unused(r"fc0\.bias", "frozen"), *RULES]
    expected = {"params": {**EXPECTED["params"], "dense_0": {"kernel": np.zeros((3, 2))}}}
    assert "fc0.bias" in convert_state(state(), rules, expected, "toy").unused
    with pytest.raises(UserError, match=r"'fc0\.bias\.ema' that this network does not know"):
        convert_state(state(fc0__bias__ema=np.zeros(2)), RULES, EXPECTED, "toy")


def test_rules_of_a_part_become_those_of_the_whole():
    whole = below("encoder.x.", "encoder", RULES)
    inside = {f"encoder.x.{key}": value for key, value in state().items()}
    converted = convert_state(inside, whole, {"params": {"encoder": EXPECTED["params"]}}, "toy")
    assert set(converted.variables["params"]["encoder"]) == {"dense_0", "stem"}
    assert converted.unused == {"encoder.x.bn.num_batches_tracked": "a counter of training"}
    with pytest.raises(UserError, match="does not know"):  # the prefix' dots are dots
        convert_state({key.replace(".x.", "_x_"): v for key, v in inside.items()}, whole, EXPECTED, "toy")
    assert convert_state(state(), below("", "", RULES), EXPECTED, "toy").variables["params"].keys() == {
        "dense_0",
        "stem",
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"mystery": np.zeros(1)},
            "toy, size 2: the source has a key 'mystery' that this network does not know",
        ),
        ({"fc0__bias": None}, "toy, size 2: the source has nothing for 'params/dense_0/bias'"),
        (
            {"fc0__bias": None, "stem__weight": None},
            "toy, size 2: the source has nothing for 'params/dense_0/bias' and 1 more",
        ),
        ({"fc1__bias": np.zeros(2)}, "toy, size 2: key 'fc1.bias' would be 'params/dense_1/bias', which"),
        (
            {"fc0__weight": np.zeros((2, 4))},
            "toy, size 2: key 'fc0.weight' of shape (2, 4) becomes 'params/dense_0/kernel' of shape (4, 2),"
            " where this config has (3, 2)",
        ),
        (
            {"stem__weight": np.zeros((6, 4))},
            "toy, size 2: key 'stem.weight' of shape (6, 4) becomes 'params/stem/kernel' of shape (6, 4),"
            " where this config has (3, 5, 4, 6)",
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(changes, message):
    with pytest.raises(UserError) as error:
        convert_state(state(**changes), RULES, EXPECTED, "toy, size 2")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_two_keys_for_one_variable_are_refused():
    rules = [*RULES, Rule(r"module\.fc0\.bias", "params/dense_0/bias")]
    with pytest.raises(UserError, match=r"'fc0\.bias' and 'module\.fc0\.bias' are the same variable"):
        convert_state(state(module__fc0__bias=np.zeros(2)), rules, EXPECTED, "toy")
