"""A small Portrait4D and a small PD-FGC: files in the released format, and how `convert` reads them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import flax
import numpy as np
from parity_cases import FOLDER
from synthetic_reconstructor import TINY

from benchmarks.released_files import write_checkpoint, write_pickle
from p4d_jax.convert import perception, reconstructor
from p4d_jax.convert.mapping import NetworkImport, Rule, conv, dense
from p4d_jax.networks.motion_encoder import MotionEncoder

ENCODER = MotionEncoder(features=16, depth=1, landmarks=4, hidden=9)
VECTOR = 6 + 30 + 9  # eyes, emotion, mouth
PSI = dataclasses.replace(
    TINY,
    motion_size=VECTOR,
    source_lifting=False,
    deformation="neck",
    refinement_features=(),
    refinement_scale=1,
)
RELEASED_KEYS = {
    "portrait4d-v2": [key for key, _ in json.loads((FOLDER / "state_keys_reconstructor.json").read_text())],
    "motion": [row["key"] for row in json.loads((FOLDER / "motion_encoder.json").read_text())["state"]],
}


def small_networks() -> dict[str, NetworkImport]:
    """The released tables with small sizes."""
    psi = dataclasses.replace(
        reconstructor.NETWORKS["portrait4d-v2"],
        init_shapes=lambda: reconstructor.variable_shapes(PSI),
        config=PSI.to_dict(),
    )
    marks = perception.NETWORKS["motion"].marks
    return {"portrait4d-v2": psi, "motion": perception._network(ENCODER, 224, perception.MOTION, *marks)}


def small_state(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a small network by the released keys of the layers that it has, in PyTorch's layouts."""
    network, rng = small_networks()[name], np.random.default_rng(seed)
    shapes = flax.traverse_util.flatten_dict(network.init_shapes(), sep="/")
    rules = [(re.compile(rule.pattern), rule) for rule in network.rules]
    state = {}
    for key in RELEASED_KEYS[name]:
        match, rule = next((m, r) for p, r in rules if (m := p.fullmatch(key)))
        path = match.expand(rule.path) if isinstance(rule, Rule) else ""
        if path not in shapes:
            continue
        shape = shapes[path].shape
        turned = {conv: lambda x: x.transpose(3, 2, 0, 1), dense: lambda x: x.T}.get(rule.layout, lambda x: x)
        fan_in = max(np.prod(shape) // shape[-1], 1) if len(shape) > 1 else 1
        values = rng.standard_normal(shape) * (15.0 if "decoder.net" in key or "decoder.out" in key else 1.0)
        if path.endswith(("/var", "w_avg")):
            values = np.ones(shape)
        if path.endswith("trunk/squeeze/kernel"):
            values = np.abs(values)  # one number a pixel before a ReLU: it shall not be zero everywhere
        if "trunk/" in path and path.endswith("/bias"):
            values = np.abs(values)
        state[key] = turned(values / np.sqrt(fan_in)).astype(np.float32)
    return state


def write_released(folder: Path) -> list[Path]:
    """The reconstructor's file and the encoder's, under the names of the release."""
    return [
        write_pickle(folder / "portrait4d-v2-vfhq512.pkl", small_state("portrait4d-v2")),
        write_checkpoint(folder / "motion_model.pth", small_state("motion")),
    ]
