"""Seconds a frame and peak memory of the full-size reconstructor, as one line of JSON.

    python -m benchmarks.reconstructor_frame [--resolution=128] [--samples=48] [--dtype=float32]
        [--reference=DIR]

A frame is a source encoded, animated, rendered and upscaled to 512²; `driving_seconds` is what each further
frame of the same source costs. Weights are random, which changes no time. Times are the least of `--repeats`;
`cpu_seconds` is the processor time of that run over all threads, which a busy machine distorts less.
`--reference` names a checkout of the public implementation, whose frame (without D_neck, whose assets are
licensed) is then timed in turn with ours; torch and the packages that it imports must be there.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax import assets
from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion_source import ParameterMotion
from p4d_jax.convert.reconstructor import variable_shapes
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.expression_field import build_canonical_frame
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.types import FrameParams


def random_variables(config: ReconstructorConfig) -> dict:
    """Weights of unit gain, seed 0."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        gain = np.sqrt(2 / max(1, np.prod(leaf.shape[:-1])))
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * np.float32(gain))

    return jax.tree.map(draw, variable_shapes(config))


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - wall, time.process_time() - cpu


def reference_frame(folder: Path, resolution: int) -> Callable[[], object]:
    """The public implementation's frame, from a checkout that holds the folder `portrait4d`."""
    sys.path.insert(0, str(folder / "portrait4d"))
    import torch
    from training.reconstructor import triplane_reconstruct as public

    public.DeformationModuleOnlyHead = lambda **_: torch.nn.Identity()
    public.EncoderGlobal = partial(public.EncoderGlobal, encoder_weights=None)
    options = {
        "superresolution_module": "models.stylegan.superresolution.SuperresolutionHybrid8XDC",
        "superresolution_noise_mode": "none",
        "sr_antialias": True,
        "decoder_lr_mul": 1,
        "clamp_mode": "softplus",
        "disparity_space_sampling": False,
        "depth_resolution": 48,
        "depth_resolution_importance": 48,
        "ray_start": "auto-plane",
        "ray_end": "auto-plane",
        "box_warp": 1.3,
    }
    superresolution = {
        "channel_base": 32768,
        "channel_max": 512,
        "fused_modconv_default": "inference_only",
        "use_ws_ones": False,
    }
    network = public.TriPlaneReconstructorNeutralize(
        mot_dims=548, has_background=True, rendering_kwargs=options, sr_kwargs=superresolution
    )
    network = network.eval().requires_grad_(False)
    image, motion = torch.zeros(1, 3, 512, 512), torch.zeros(1, 548)
    label = torch.from_numpy(np.array(look_at_camera(0.0, 0.0, 4.0).to_label()))[None]

    def frame() -> object:
        with torch.no_grad():
            return network.synthesis(
                image, image, motion, motion, label, lambda x: {"canonical": x},
                neural_rendering_resolution=resolution,
            )["image_sr"].numpy()  # fmt: skip

    return frame


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--resolution", type=int, default=128, help="rays a side; 128 makes 512 pixels")
    parser.add_argument("--samples", type=int, default=48, help="coarse samples a ray, and as many fine")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="checkout of the public implementation")
    arguments = parser.parse_args(argv)

    config = ReconstructorConfig(dtype=arguments.dtype)
    model, variables = Reconstructor(config), random_variables(config)
    head = assets.head_model("openhead")
    image = jax.random.uniform(jax.random.key(0), (512, 512, 3), minval=-1.0)
    motion = jnp.zeros(config.motion_size)
    camera = look_at_camera(0.0, 0.0, 4.0)
    params = FrameParams(
        camera, jnp.zeros(300), jnp.zeros(100), jnp.array([0.1, 0.2, 0, 0.1, 0, 0]), jnp.zeros(6)
    )

    frame = build_canonical_frame(head, config.lifted_size)
    model = AvatarModel(model, variables, head, frame, ParameterMotion())  # motion vectors are given
    images, each, motions = jax.tree.map(lambda x: x[None], (image, params, motion))
    samples = (arguments.samples, arguments.samples)

    def encode() -> Avatar:
        return Avatar.encode(
            model, images, each, motions=motions, resolution=arguments.resolution, samples=samples
        )

    def drive(avatar: Avatar):
        return avatar.render(params, motion=motion)

    first, _ = timed(lambda: drive(encode()))
    runs = {"frame": lambda: drive(encode()), "encode": encode}
    avatar = encode()
    runs["animate"] = lambda: avatar.animate(motion)
    runs["driving"] = lambda: drive(avatar)
    if arguments.reference:
        runs["reference"] = reference_frame(arguments.reference, arguments.resolution)
    # In turn, so that what else the machine does falls on all of them alike.
    rounds = [{name: timed(run) for name, run in runs.items()} for _ in range(arguments.repeats)]
    result = {"device": jax.devices()[0].device_kind, "dtype": arguments.dtype}
    for name in runs:
        wall, cpu = min(each[name] for each in rounds)
        result |= {f"{name}_seconds": round(wall, 3), f"{name}_cpu_seconds": round(cpu, 3)}
    result["compile_seconds"] = round(first - result["frame_seconds"], 1)
    result["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    if arguments.reference:
        ratios = [each["frame"][0] / each["reference"][0] for each in rounds]
        result["ratio_to_reference"] = round(float(np.median(ratios)), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
