"""Exported programs against the avatar itself, in a process in which this package cannot be imported.

    python -m benchmarks.stablehlo [--photo=me.jpg]

Prints the largest difference of picture, alpha and depth, of a frame with another expression and gaze.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

import p4d_jax as p4d
from p4d_jax.avatar.stablehlo import write_stablehlo
from p4d_jax.imaging.writing import to_alpha, to_image
from p4d_jax.train.devices import compiler_options

PHOTO = flags.DEFINE_string("photo", "astronaut", "a photo")
WEIGHTS = flags.DEFINE_string("weights", "reenact_demo", "weights of the reconstructor")
ALONE = """
import sys; sys.modules['p4d_jax'] = None  # it cannot be imported
import jax, numpy as np
from jax import export
read = lambda name: jax.jit(
    export.deserialize(bytearray(open(name, 'rb').read())).call, compiler_options={options}
)
given, kept = np.load('inputs.npz'), np.load('weights.npz')
weights = tuple(kept[f'arr_{{number}}'] for number in range(len(kept.files)))
photo = (given[name] for name in ('image', 'alpha', 'known', 'photo'))
source = read('encode.stablehlo')(weights, *photo)
image, alpha, depth = read('frame.stablehlo')(weights, source, given['params'])
np.savez('made.npz', image=image, alpha=alpha, depth=depth)
"""


def run(_) -> None:
    p4d.enable_compilation_cache()
    model = p4d.AvatarModel.load(WEIGHTS.value)
    captured = p4d.capture_photo(PHOTO.value, model.head)
    avatar = p4d.Avatar.from_photo(captured, weights=model, personalise=0)
    params = avatar.act(avatar.params, {"jawOpen": 0.5}, gaze=(0.2, 0.1))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sizes = write_stablehlo(folder, avatar)
        print(f"written in {time.perf_counter() - start:.0f} s, bytes: {sizes}", flush=True)
        np.savez(
            Path(folder) / "inputs.npz",
            image=to_image(captured.crop, avatar.size),
            alpha=to_alpha(captured.alpha, avatar.size),
            known=to_alpha(captured.known, avatar.size),
            photo=avatar.params.to_vector(),
            params=params.to_vector(),
        )
        cache = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir or "")}
        code = ALONE.format(options=compiler_options())
        subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=os.environ | cache)
        made, here = np.load(Path(folder) / "made.npz"), avatar.render(params)
        for name in ("image", "alpha", "depth"):
            print(f"{name}: {np.abs(made[name] - np.asarray(getattr(here, name))).max():.1e} apart at most")


if __name__ == "__main__":
    app.run(run)
