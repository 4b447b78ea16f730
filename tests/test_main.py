"""The entry: what is right runs, what is wrong is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import pytest

import p4d_jax as p4d
from p4d_jax import main

CONFIGS = Path(__file__).parents[1] / "configs"


def run(*arguments: str) -> int:
    return main.main(["main.py", *arguments])


def one_error_line(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("p4d_jax: ")
    return lines[0]


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    """Replaces the job's work: the calls of `run` are recorded instead."""
    monkeypatch.chdir(tmp_path)
    from p4d_jax.jobs import reenact

    calls = []
    monkeypatch.setattr(reenact, "run", lambda config, workdir: calls.append((config, workdir)))
    return calls


def test_config_is_loaded_overridden_and_handed_to_its_job(recorder):
    code = run(
        f"--config={CONFIGS}/quickstart.py",
        "--workdir=elsewhere",
        "--config.driving=clip.mp4",
        "--config.max_frames",
        "7",
    )
    assert code == 0
    (config, workdir), *others = recorder
    assert not others
    assert (config.job, config.driving, config.max_frames) == ("reenact", "clip.mp4", 7)
    assert workdir == Path("elsewhere")
    with pytest.raises(AttributeError):
        config.no_such_field = 1  # the config is locked


def test_a_job_runs_from_python_as_from_the_command_line(recorder):
    assert p4d.run("quickstart", driving="clip.mp4") == Path("runs/quickstart")
    assert p4d.run(CONFIGS / "quickstart.py", "elsewhere", **{"max_frames": 7}) == Path("elsewhere")
    (first, workdir), (second, _) = recorder
    assert (first.driving, second.max_frames, workdir) == ("clip.mp4", 7, Path("runs/quickstart"))
    for fields, said in (({"max_frame": 7}, "max_frames"), ({"max_frames": "seven"}, "int")):
        with pytest.raises(p4d.UserError, match=said):
            p4d.run("quickstart", **fields)
    assert len(recorder) == 2


def test_workdir_has_the_name_of_the_config(recorder):
    assert run(f"--config={CONFIGS}/quickstart.py") == 0
    assert recorder[0][1] == Path("runs/quickstart")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.sorce=me.jpg"], ["'sorce'", "did you mean 'source'"]),
        (["--config.xyzzy=1"], ["'xyzzy'", "source", "driving"]),
        (["--config.max_frames=many"], ["max_frames", "many"]),
        (["--config.job=reenakt"], ["'reenakt'", "did you mean 'reenact'"]),
        (["--wrokdir=there"], ["wrokdir", "did you mean 'workdir'"]),
        (["--procesess=2"], ["procesess", "did you mean 'processes'"]),
        (["--processes=2"], ["coordinator and process are missing"]),
        (["--processes=two"], ["processes", "two"]),
        (["stray.jpg"], ["stray.jpg", "usage"]),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said, recorder, capsys):
    assert run(f"--config={CONFIGS}/quickstart.py", *arguments) == 2
    line = one_error_line(capsys)
    for part in said:
        assert part in line
    assert not recorder


def test_missing_config_names_the_nearest(recorder, capsys):
    assert run(f"--config={CONFIGS}/quickstrat.py") == 2
    line = one_error_line(capsys)
    assert "quickstrat.py: no such file" in line and "quickstart.py" in line
    assert run() == 2
    assert "--config is missing" in one_error_line(capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:\n", "SyntaxError"),
        ("import no_such_module\n", "no_such_module"),
        ("x = 1\n", "get_config"),
    ],
)
def test_broken_config_says_what_is_broken(text, said, tmp_path, capsys):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert run(f"--config={path}") == 2
    assert said in one_error_line(capsys)


def test_a_bug_keeps_its_traceback(monkeypatch):
    from p4d_jax.jobs import reenact

    def fail(config, workdir):
        raise ValueError("ours")

    monkeypatch.setattr(reenact, "run", fail)
    with pytest.raises(ValueError, match="ours"):
        run(f"--config={CONFIGS}/quickstart.py")


def test_command_line_as_a_user_types_it(tmp_path):
    command = [
        sys.executable,
        "-m",
        "p4d_jax.main",
        "--config=configs/quickstart.py",
        "--config.sorce=me.jpg",
    ]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_float32_products_are_float32_unless_the_user_says_otherwise():
    before = jax.config.jax_default_matmul_precision
    try:
        for said, meant in ((None, "float32"), ("tensorfloat32", "tensorfloat32")):
            jax.config.update("jax_default_matmul_precision", said)
            main.use_exact_float32()
            assert jax.config.jax_default_matmul_precision == meant
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    from p4d_jax.jobs import reenact

    def stopped(config, workdir):
        raise KeyboardInterrupt

    monkeypatch.setattr(reenact, "run", stopped)
    assert run(f"--config={CONFIGS}/quickstart.py") == 130
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and "Ctrl-C" in lines[0]


def test_a_user_without_a_home_runs_without_a_cache(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    before = jax.config.jax_compilation_cache_dir
    assert main.cache_folder() is None
    main.enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before


def test_the_workdir_may_lie_in_the_user_s_home(recorder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(f"--config={CONFIGS}/quickstart.py", "--workdir=~/films") == 0
    assert recorder[0][1] == tmp_path / "films"
