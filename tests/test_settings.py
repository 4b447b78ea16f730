"""Settings: dataclasses to configs and back, their help and their reference, the configs that ship."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import typing
import zipfile
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from p4d_jax import main
from p4d_jax.errors import UserError
from p4d_jax.jobs.settings import SETTINGS, TrainReenactSettings
from p4d_jax.settings import comments, describe, from_config, help_text, part, to_config
from tools import config_reference

ROOT = Path(__file__).parents[1]
NAMES = sorted(main.shipped_configs())


@dataclasses.dataclass(frozen=True)
class Inner:
    """Settings of a lower room.

    Attributes:
      width: Width of the thing.
      bound: Its bound, or None: a comment that goes on
        in a second line.
      stages: Pairs.
      unseen: What the job fills in.
    """

    width: int = 3
    bound: float | None = 2.0
    stages: tuple[tuple[int, int], ...] = ((0, 64),)
    unseen: str = ""

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width={self.width}: expected at least 1")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table."""

    weight: float
    last: float = 9.0
    fades: bool = False

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError("a weight is not negative")


@dataclasses.dataclass(frozen=True)
class Outer:
    """Settings of a job.

    Attributes:
      rate: A number.
      flag: Yes or no.
      name: A text.
      pair: Two whole numbers.
      table: Rows by name.
      inner: What is below.
    """

    rate: float = 1.0
    flag: bool = False
    name: str = "x"
    pair: tuple[int, int] = (1, 2)
    table: dict[str, Row] = part({"a": Row(1.0), "c": Row(0.5, fades=True)})
    inner: Inner = part(Inner(), without=("unseen",))


def flattened(config: ConfigDict) -> dict:
    """The leaves of a config by their dotted names."""
    names = main.field_names(config)
    values = {name: functools.reduce(getattr, name.split("."), config) for name in names}
    return {name: value for name, value in values.items() if not isinstance(value, ConfigDict)}


def nested_settings() -> list[type]:
    """The settings of all jobs and all that are in them."""
    found = list(SETTINGS.values())
    for cls in found:
        inner = [hint for hint in typing.get_type_hints(cls).values() if dataclasses.is_dataclass(hint)]
        found += [hint for hint in inner if hint not in found]
    return found


# To a config and back ---------------------------------------------------------------------------------------


def test_a_config_becomes_the_settings_it_was_made_of():
    settings = Outer(rate=0.5, inner=Inner(bound=None, stages=((0, 8), (5, 16))))
    config = to_config(settings)
    assert config.inner.width == 3 and "unseen" not in config.inner
    assert (config.table.a, config.table.c) == ((1.0,), (0.5, 9.0, True))
    assert from_config(Outer, config) == settings
    config.rate, config.pair, config.table.b, config.inner.bound = 2, [3, 4], (2, 1), 7
    read = from_config(Outer, config)
    assert (read.rate, read.pair, read.inner.bound) == (2.0, (3, 4), 7.0)
    assert read.table == {"a": Row(1.0), "b": Row(2.0, 1.0), "c": Row(0.5, fades=True)}
    assert all(type(value) is float for value in (read.rate, read.inner.bound, read.table["b"].weight))


@pytest.mark.parametrize("name", NAMES)
def test_every_config_that_ships_is_one_of_settings(name):
    config = main.load_config(main.shipped_configs()[name])
    settings = from_config(SETTINGS[config.job], config)
    assert flattened(to_config(settings)) == flattened(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": "fast"}, "config.rate='fast': expected a number"),
        ({"flag": 1}, "config.flag=1: expected True or False"),
        ({"pair": (1, 2, 3)}, "config.pair=(1, 2, 3): expected a tuple of 2: a whole number, a whole number"),
        ({"pair": (1, 2.5)}, "config.pair=(1, 2.5): expected a tuple of 2"),
        ({"table": {"a": ("much",)}}, "config.table.a=('much',): expected (weight, last, fades)"),
        ({"table": {"a": ()}}, "config.table.a=(): expected (weight, last, fades)"),
        ({"table": {"a": (1, 2, True, 4)}}, "config.table.a=(1, 2, True, 4): expected (weight, last, fades)"),
        ({"table": {"a": (-1,)}}, "config.table.a=(-1,): a weight is not negative"),
        ({"inner": {"bound": "far"}}, "config.inner.bound='far': expected a number or None"),
        ({"inner": {"stages": (5,)}}, "config.inner.stages=(5,): expected a tuple, each a tuple of 2"),
        ({"inner": {"widht": 4}}, "config.inner.widht: there is no such field; did you mean 'width'?"),
        ({"inner": {"width": 0}}, "config.inner.width=0: expected at least 1"),
        ({"inner": 3}, "config.inner=3: expected (width, bound, stages, unseen)"),
    ],
)
def test_a_wrong_value_is_named(change, said):
    values = to_config(Outer()).to_dict()
    for name, value in change.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    with pytest.raises(UserError) as caught:
        from_config(Outer, ConfigDict(values))
    assert str(caught.value).startswith(said)


# The command line -------------------------------------------------------------------------------------------


def config_of(*arguments: str) -> ConfigDict:
    return main.parse_command_line(["p4d", *arguments]).config


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        ("portrait4d", "model.plane_channels=16", 16),
        ("genhead_ffhq512", "model.plane_channels=16", 16),
        ("reenact_v2_demo", "model.fusion_heads=2", 2),
        ("genhead_demo", "discriminator.clamp=None", None),
        ("genhead_demo", "discriminator.clamp=64", 64.0),
        ("reenact_demo", "step.samples=(8,8)", (8, 8)),
        ("portrait4d", "step.stages=((0,32),(5,64))", ((0, 32), (5, 64))),
        ("portrait4d", "openheads.yaw=(0.5,1.0)", (0.5, 1.0)),
        ("genhead_demo", "openheads.shape_scale=1.2", 1.2),
        ("synthesize", "settings.pivot_jitter=0", 0.0),
        ("reenact_demo", "loop.profile=(10,5)", (10, 5)),
        ("quickstart", "relative_motion=False", False),
    ],
)
def test_every_field_can_be_set(name, flag, value):
    for prefix in ("--", "--config."):
        config = config_of(f"--config={ROOT}/configs/{name}.py", prefix + flag)
        settings = from_config(SETTINGS[config.job], config)
        for part_name in flag.partition("=")[0].split("."):
            settings = getattr(settings, part_name)
        assert settings == value and type(settings) is type(value)


def test_the_two_entries_are_one():
    long = main.parse_command_line(
        ["main.py", f"--config={ROOT}/configs/reenact.py", "--workdir=w", "--config.source=me.jpg",
         "--config.max_frames", "7", "--config.relative_motion=False"]
    )  # fmt: skip
    short = main.parse_command_line(
        ["p4d", "reenact", "--source=me.jpg", "--workdir=w", "--max_frames", "7", "--relative_motion=False"]
    )
    assert flattened(long.config) == flattened(short.config) and long.workdir == short.workdir
    assert (short.config.source, short.config.max_frames, short.config.relative_motion) == (
        "me.jpg",
        7,
        False,
    )
    assert main.parse_command_line(["p4d", "quickstart"]).workdir == Path("runs/quickstart")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quikstart"], ["'quikstart' is not a config", "did you mean 'quickstart'"]),
        (["xyzzy"], ["'xyzzy' is not a config", "reenact", "portrait4d"]),
        (["reenact", "--sorce=me.jpg"], ["--sorce", "did you mean 'source'"]),
        (["portrait4d", "--model.plane_chanels=16"], ["did you mean 'model.plane_channels'"]),
        (["--config=quickstrat"], ["'quickstrat' is not a config", "did you mean 'quickstart'"]),
        (["--config=elsewhere/quickstart.py"], ["no such file", "did you mean 'quickstart'"]),
        ([], ["--config is missing", "usage"]),
    ],
)
def test_what_is_unknown_is_one_line_with_the_nearest_name(arguments, said, capsys):
    assert main.main(["p4d", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    for words in said:
        assert words in shown.err


# Help and reference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", nested_settings())
def test_every_field_has_a_comment(cls):
    said = comments(cls)
    fields = [field.name for field in dataclasses.fields(cls)]
    assert sorted(said) == sorted(fields)
    assert all(text.endswith(".") for text in said.values()), cls


def test_help_lists_every_field_with_its_value_and_comment():
    done = subprocess.run(
        [sys.executable, "-m", "p4d_jax.main", "--help", "--config=configs/portrait4d.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    lines, words = done.stdout.splitlines(), " ".join(done.stdout.split())
    config = main.load_config(ROOT / "configs/portrait4d.py")
    values = flattened(config)
    for name, value in values.items():
        assert f"  --config.{name}={value!r}" in lines
    for line in describe(TrainReenactSettings, config):
        assert line.comment in words
        assert line.comment or line.name.split(".")[0] in ("data", "terms")
    for name in main.field_names(config):
        assert name in values or f"{name}:" in lines


def test_help_shows_what_the_command_line_changes(capsys):
    assert main.main(["p4d", "quickstart", "--stills=9", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "  --config.stills=9\n" in shown and "  --config.personalise_steps=0\n" in shown


def test_help_alone_names_configs_and_jobs_and_imports_no_jax():
    code = "import sys; from p4d_jax import main; main.main(['p4d', '--help']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    for name in (*NAMES, *SETTINGS):
        assert name in done.stdout


def test_help_wraps_and_indents():
    text = help_text(Outer, to_config(Outer()))
    assert "\ninner:\n  What is below.\n  --config.inner.width=3\n      Width of the thing.\n" in text
    assert "      Its bound, or None: a comment that goes on in a second line.\n" in text
    assert "unseen" not in text


def test_every_job_has_settings():
    jobs = {path.stem for path in (ROOT / "p4d_jax/jobs").glob("[!_]*.py")} - {"settings"}
    assert jobs == set(SETTINGS)
    assert all(cls().job == name for name, cls in SETTINGS.items())


def test_the_reference_is_current():
    assert config_reference.PAGE.read_text() == config_reference.text(), (
        "run: python -m tools.config_reference"
    )


# Configs that ship ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder in which a wheel of this tree is unpacked, without the embedded data."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("out")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("p4d_jax", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", out]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(out / "site")
    return out / "site"


def test_configs_are_installed_and_known_by_name(installed, tmp_path):
    shipped = sorted(path.name for path in (installed / "p4d_jax/configs").glob("*.py"))
    assert shipped == sorted(path.name for path in (ROOT / "configs").glob("*.py"))
    (entries,) = installed.glob("*.dist-info/entry_points.txt")
    assert "p4d = p4d_jax.main:main" in entries.read_text()
    (tmp_path / "own.py").write_text(
        "from p4d_jax.configs import reenact\n\n\ndef get_config():\n"
        "    config = reenact.get_config()\n    config.stills = 77\n    return config\n"
    )
    code = """
from p4d_jax import main
for arguments in (["reenact_v2_demo"], ["--config=quickstart"], ["own.py"]):
    command = main.parse_command_line(["p4d", *arguments])
    print(main.__file__, command.workdir, command.config.job, command.config.get("stills"))
"""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    file = installed / "p4d_jax/main.py"
    assert done.stdout.splitlines() == [
        f"{file} runs/reenact_v2_demo train_reenact None",
        f"{file} runs/quickstart reenact 5",
        f"{file} runs/own reenact 77",
    ]
