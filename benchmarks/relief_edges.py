"""How well a relief tells the person from the background, as the network gives it and with the photo's edges.

    python -m benchmarks.relief_edges [--weights=reenact_demo] [--people=24]

Of held-out OpenHeads people, before blurred backgrounds and before ones in focus: mean absolute error of the
opacity that the network gives a source's pixels, and of it settled (`imaging.alpha.refine_alpha`), against
the true mask; then the time that settling takes, as a share of encoding the source.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax import assets
from p4d_jax.data.motion import random_motion
from p4d_jax.evaluation.people import person_keys
from p4d_jax.head.expression_field import build_canonical_frame
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.imaging.alpha import refine_alpha
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.main import enable_compilation_cache
from p4d_jax.openheads.people import random_cameras, random_identity
from p4d_jax.openheads.portraits import render_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.openheads.sets import people_set
from p4d_jax.reconstructor.field import network_inputs
from p4d_jax.reconstructor.texture import build_source_texture
from p4d_jax.reconstructor.weights import load_reconstructor
from p4d_jax.types import FrameParams

ROUNDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="reenact_demo")
    parser.add_argument("--people", type=int, default=24)
    arguments = parser.parse_args()
    enable_compilation_cache()
    head, settings = assets.head_model(), people_set("held_out").settings
    reconstructor, variables = load_reconstructor(arguments.weights)
    config, scene = reconstructor.config, prepare_scene(head)
    frame = build_canonical_frame(head, config.lifted_size)

    @functools.partial(jax.jit, static_argnames="settings")
    def draw(key, settings):
        keys = jax.random.split(key, 4)
        identity, motion = (
            random_identity(keys[0], scene, settings),
            random_motion(keys[1], 1, head.expression_names),
        )
        shape = identity.shape[None]
        params = FrameParams(
            random_cameras(keys[2], 1, settings), shape, motion.expression, motion.pose, motion.eyes
        )
        shown = render_scene(scene, identity, params, keys[3], config.picture_size, settings)
        return shown.image[0], shown.mask[0], jax.tree.map(lambda x: x[0], params)

    @jax.jit
    def find_opacity(image, params):
        posed = posed_vertices(head, params.shape, params)
        texture = build_source_texture(image, frame, posed, params.neck, params.camera)
        photo, lifted, mesh = jax.tree.map(lambda x: x[None], network_inputs(reconstructor, texture))
        motion = params.motion()[None]
        return reconstructor.apply(
            variables, photo, motion, lifted, jnp.ones(1), mesh, method="encode"
        ).photo[0, ..., -1:]

    @jax.jit
    def settle(image, opacity):
        return refine_alpha(resize_antialiased(image, opacity.shape[0]), opacity)

    for sharp in (0.0, 1.0):
        wanted = dataclasses.replace(settings, sharp_backgrounds=sharp)
        errors = []
        for key in person_keys(0, arguments.people):
            image, mask, params = draw(key, wanted)
            opacity = find_opacity(image, params)
            true = resize_antialiased(mask, opacity.shape[0])
            errors.append([jnp.abs(x - true).mean() for x in (opacity, settle(image, opacity))])
        errors = np.array(errors)
        spread = errors.std(0, ddof=1) / len(errors) ** 0.5
        names = ("network", "settled")
        print(
            json.dumps(
                {"sharp_backgrounds": sharp, "people": len(errors)}
                | {name: round(float(value), 4) for name, value in zip(names, errors.mean(0), strict=True)}
                | {f"{name}_error": round(float(x), 4) for name, x in zip(names, spread, strict=True)}
            )
        )

    def seconds(function, *inputs) -> float:
        function(*inputs).block_until_ready()
        start = time.perf_counter()
        for _ in range(ROUNDS):
            function(*inputs).block_until_ready()
        return (time.perf_counter() - start) / ROUNDS

    taken, whole = seconds(settle, image, opacity), seconds(find_opacity, image, params)
    print(json.dumps({"settling_ms": round(1e3 * taken, 1), "share_of_encoding": round(taken / whole, 3)}))


if __name__ == "__main__":
    main()
