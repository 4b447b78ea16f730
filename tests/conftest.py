"""Tests run on the CPU, and keep compiled programs in the user's cache folder from one run to the next."""

import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiling is most of the suite's time, and takes half as long so as with LLVM's first level of optimisation:
# arrays are small, and convolutions and matrix products are libraries' in any case.
# jaxlib 0.12 has no flag of fusion emitters, and XLA ends the process at a flag that it does not know.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    + "--xla_cpu_use_fusion_emitters=false " * (tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12))
    + os.environ.get("XLA_FLAGS", "")
)

import jax
import numpy as np
import pytest
import shape_checks

shape_checks.install()  # before the package is imported
# torch looks for triton, which no test needs; to load it ended a process that held JAX by a signal.
sys.modules["triton"] = None

if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p4d_jax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# Tracing makes hundreds of thousands of objects that live, among which the collector finds nothing.
gc.freeze()
gc.set_threshold(200_000, 50, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, lest one of them keep a single core busy at the end."""
    # Not test_genhead_synthesis, which runs what test_jobs_synthesize has compiled by then.
    slowest = (
        "test_reconstructor_step", "test_colabs", "test_genhead_step", "test_convert_released",
        "test_train_processes", "test_jobs_synthesize", "test_evaluation_fid", "test_openheads",
        "test_jobs_train_genhead", "test_jobs_reenact", "test_examples", "test_train_loop",
    )  # fmt: skip
    place = {name: index for index, name in enumerate(slowest)}
    items.sort(key=lambda item: place.get(item.path.stem, len(slowest)))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def key() -> jax.Array:
    """A JAX key with a fixed seed."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """The public-domain astronaut, (512, 512, 3) uint8."""
    from skimage import data

    return data.astronaut()


@pytest.fixture(scope="session")
def landmarker():
    """The landmark networks, which take a second to load."""
    from p4d_jax.capture import Landmarker

    return Landmarker()


@pytest.fixture(scope="session")
def landmarks(photo, landmarker):
    """The astronaut's landmarks."""
    return landmarker.detect(photo)
