"""Programs are counted: each once, with those that the cache on disk had."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from p4d_jax import main
from p4d_jax.train.programs import count_programs


@pytest.fixture
def cache(tmp_path):
    """A cache on disk that is empty, for the test alone."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    for name, value in zip(names, (str(tmp_path / "compiled"), 0.0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def triple(scale: float):
    """A new function each time, which JAX knows nothing of; all are one program."""
    return jax.jit(lambda x: scale * x + 1)


def test_a_program_is_compiled_once_and_then_read(cache):
    x = np.ones(3, np.float32)
    with count_programs() as first:
        f = triple(3.0)
        f(x), f(x)
    assert (first.programs, first.from_cache) == (1, 0)
    assert first.compiling > 0 and first.reading == 0
    with count_programs() as again:
        triple(3.0)(x)
        triple(5.0)(x)
    assert (again.programs, again.from_cache) == (2, 1)
    assert again.reading > 0
    triple(7.0)(x)
    assert again.programs == 2  # what comes after the block is not counted
    report = again.report()
    assert report["made"] == report["compiled"] + report["read_from_cache"]


def test_every_job_reports_what_it_compiled(monkeypatch, tmp_path, capsys):
    from p4d_jax.jobs import reenact

    def run(config, workdir):
        (workdir / "new.json").write_text('{"files": ["a.png"]}')
        (workdir / "new.json").replace(workdir / "report.json")
        triple(11.0)(np.ones(5, np.float32))

    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "report.json").write_text('{"of": "an earlier run"}')
    monkeypatch.setattr(reenact, "run", lambda config, workdir: None)
    assert main.main(["p4d", "quickstart", f"--workdir={workdir}"]) == 0
    assert json.loads((workdir / "report.json").read_text()) == {"of": "an earlier run"}
    monkeypatch.setattr(reenact, "run", run)
    assert main.main(["p4d", "quickstart", f"--workdir={workdir}"]) == 0
    report = json.loads((workdir / "report.json").read_text())
    assert report["files"] == ["a.png"]
    assert report["programs"]["made"] == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 program")
